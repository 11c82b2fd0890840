//! Extended attributes: kept by every copy-up, and never a way to plant a marker.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, listxattr_query, removexattr, setxattr};
use rustix::io::Errno;

use crate::common::{CAP_NET_RAW, Union, names, needs_root, overwrite, refused, text};

fn set(path: impl AsRef<Path>, name: &str, value: &[u8]) -> Result<(), Errno> {
    setxattr(path.as_ref(), name, value, XattrFlags::empty())
}

fn get(path: impl AsRef<Path>, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65_536];
    let len = getxattr(path.as_ref(), name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

/// The names of all user xattrs.
fn list(path: impl AsRef<Path>) -> Vec<String> {
    let mut buffer = vec![0; 65_536];
    let len = listxattr(path.as_ref(), &mut buffer).unwrap();
    let mut all: Vec<_> = buffer[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect();
    all.sort();
    all
}

#[test]
fn set_get_list_and_remove_work_on_files_and_directories_of_any_branch() {
    let mut union = Union::builder()
        .upper(|b| b.file("upper", "").dir("upper_dir"))
        .lower(|b| b.file("lower", "text").file("lower_dir/child", ""))
        .mount();
    for path in ["upper", "lower", "upper_dir", "lower_dir"] {
        assert_eq!(get(union.at(path), "user.a"), Err(Errno::NODATA), "{path}");
        set(union.at(path), "user.a", b"1").unwrap();
        set(union.at(path), "user.b", b"").unwrap();
        set(union.at(path), "user.a", b"one").unwrap();
        assert_eq!(get(union.at(path), "user.a").unwrap(), b"one", "{path}");
        assert_eq!(get(union.at(path), "user.b").unwrap(), b"", "{path}");
        assert_eq!(list(union.at(path)), ["user.a", "user.b"], "{path}");
        removexattr(union.at(path), "user.a").unwrap();
        assert_eq!(get(union.at(path), "user.a"), Err(Errno::NODATA), "{path}");
    }
    union.remount();
    for path in ["upper", "lower", "upper_dir", "lower_dir"] {
        assert_eq!(list(union.at(path)), ["user.b"], "{path}");
    }
    assert_eq!(text(union.at("lower")), "text");
    assert_eq!(names(union.at("lower_dir")), ["child"]);
}

#[test]
fn a_lowers_xattrs_are_shown_and_copied_up() {
    let union =
        Union::over(|b| b.file("f", "text").xattr("f", "user.one", "1").xattr("f", "user.two", [0, 255, 0]));
    assert_eq!(get(union.at("f"), "user.two").unwrap(), [0, 255, 0]);
    overwrite(union.at("f"), 0, "T");
    for path in [union.at("f"), union.upper("f")] {
        assert_eq!(list(&path), ["user.one", "user.two"]);
        assert_eq!(get(&path, "user.one").unwrap(), b"1");
        assert_eq!(get(&path, "user.two").unwrap(), [0, 255, 0]);
    }
}

#[test]
fn removing_a_lowers_xattr_copies_up_without_it() {
    let mut union = Union::over(|b| b.file("f", "").xattr("f", "user.a", "1").xattr("f", "user.b", "2"));
    removexattr(union.at("f"), "user.a").unwrap();
    for _ in 0..2 {
        assert_eq!(list(union.at("f")), ["user.b"]);
        union.remount();
    }
}

#[test]
fn what_fails_copies_nothing_up() {
    let union = Union::over(|b| b.file("f", "").xattr("f", "user.there", "1"));
    let path = union.at("f");
    refused(setxattr(&path, "user.there", b"2", XattrFlags::CREATE), Errno::EXIST);
    refused(setxattr(&path, "user.missing", b"2", XattrFlags::REPLACE), Errno::NODATA);
    refused(removexattr(&path, "user.missing"), Errno::NODATA);
    refused(set(&path, "nonsense.name", b"2"), Errno::OPNOTSUPP);
    // More than an ext4 block, and more than the 64 KiB that the kernel lets through.
    refused(set(&path, "user.big", &vec![1; 70_000]), Errno::TOOBIG);
    assert!(union.in_upper().is_empty());
}

#[test]
fn create_and_replace_do_as_they_are_told() {
    let union = Union::over(|b| b.file("f", ""));
    setxattr(union.at("f"), "user.a", b"1", XattrFlags::CREATE).unwrap();
    setxattr(union.at("f"), "user.a", b"2", XattrFlags::REPLACE).unwrap();
    assert_eq!(get(union.at("f"), "user.a").unwrap(), b"2");
    refused(setxattr(union.at("f"), "user.a", b"3", XattrFlags::CREATE), Errno::EXIST);
}

#[test]
fn a_buffer_too_small_is_told() {
    let union = Union::over(|b| b.file("f", "").xattr("f", "user.a", "0123456789"));
    refused(getxattr(union.at("f"), "user.a", &mut [0; 5]), Errno::RANGE);
    refused(listxattr(union.at("f"), &mut [0; 3]), Errno::RANGE);
    // No buffer at all asks for the size.
    assert_eq!(getxattr_query(union.at("f"), "user.a"), Ok(10));
    assert_eq!(listxattr_query(union.at("f")), Ok("user.a\0".len()));
}

#[test]
fn overlays_own_xattrs_are_neither_shown_nor_settable() {
    needs_root!("trusted xattrs");
    let union = Union::over(|b| {
        b.file("d/f", "")
            .xattr("d", "trusted.overlay.origin", "x")
            .xattr("d", "user.overlay.impure", "y")
            .xattr("d", "user.fuseoverlayfs.origin", "z")
            .xattr("d", "user.mine", "1")
    });
    assert_eq!(list(union.at("d")), ["user.mine"]);
    let markers = [
        "trusted.overlay.opaque",
        "user.overlay.opaque",
        "user.overlay.whiteout",
        "user.fuseoverlayfs.opaque",
    ];
    for name in markers {
        assert!(set(union.at("d"), name, b"y").is_err(), "{name} was set");
        assert!(set(union.at("d/f"), name, b"y").is_err(), "{name} was set");
    }
    let there = ["trusted.overlay.origin", "user.overlay.impure", "user.fuseoverlayfs.origin"];
    for name in there {
        assert!(get(union.at("d"), name).is_err(), "{name} was read");
        assert!(removexattr(union.at("d"), name).is_err(), "{name} was removed");
    }
    assert!(union.in_upper().is_empty());
    // Nor do they come along: in the upper they would be markers.
    fs::write(union.at("d/new"), "").unwrap();
    assert_eq!(list(union.upper("d")), ["user.mine"]);
}

#[test]
fn trusted_xattrs_and_capabilities_are_copied_up() {
    needs_root!("trusted xattrs, file capabilities");
    let union = Union::over(|b| {
        b.file("f", "program").mode("f", 0o755).xattr("f", "trusted.note", "kept").xattr(
            "f",
            "security.capability",
            CAP_NET_RAW,
        )
    });
    fs::rename(union.at("f"), union.at("g")).unwrap();
    assert_eq!(get(union.at("g"), "trusted.note").unwrap(), b"kept");
    assert_eq!(get(union.upper("g"), "security.capability").unwrap(), CAP_NET_RAW);
    // A write takes a capability away, as on any disk.
    overwrite(union.at("g"), 0, "P");
    assert_eq!(get(union.at("g"), "security.capability"), Err(Errno::NODATA));
}

#[test]
fn xattrs_can_be_set_by_an_open_handle() {
    let union = Union::over(|b| b.file("f", "text"));
    let file = File::open(union.at("f")).unwrap();
    rustix::fs::fsetxattr(&file, "user.a", b"1", XattrFlags::empty()).unwrap();
    assert_eq!(get(union.at("f"), "user.a").unwrap(), b"1");
    assert_eq!(get(union.upper("f"), "user.a").unwrap(), b"1");
}

#[test]
fn a_big_value_is_kept() {
    let value = crate::common::pattern(5, 3000);
    let union = Union::over(|b| b.file("f", "").xattr("f", "user.big", &value));
    overwrite(union.at("f"), 0, "x");
    assert_eq!(get(union.upper("f"), "user.big").unwrap(), value);
    assert_eq!(get(union.at("f"), "user.big").unwrap(), value);
}

#[test]
fn setting_an_xattr_leaves_data_and_modification_time_alone() {
    let union = Union::over(|b| b.file("f", "text").mtime("f", 1_000_000_000, 7));
    set(union.at("f"), "user.a", b"1").unwrap();
    assert_eq!(crate::common::mtime(union.at("f")), (1_000_000_000, 7));
    assert_eq!(text(union.upper("f")), "text");
}
