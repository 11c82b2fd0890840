//! Markers: every format that unions leave on disk is read, in every branch; none can be planted.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;

use crate::common::{Branch, Union, exists, names, needs_root, refused, stat, text};

/// Hides the file `d/f` of the branches below.
type Hide = fn(Branch) -> Branch;

fn whiteouts() -> Vec<(&'static str, Hide)> {
    vec![
        ("OCI, AUFS", |b| b.whiteout("d/f")),
        ("overlayfs", |b| b.dir("d").char_device("d/f", 0, 0)),
        ("overlayfs in overlayfs", |b| {
            b.file("d/f", "").xattr("d/f", "trusted.overlay.whiteout", "").xattr(
                "d",
                "trusted.overlay.opaque",
                "x",
            )
        }),
        ("overlayfs in overlayfs, userxattr", |b| {
            b.file("d/f", "").xattr("d/f", "user.overlay.whiteout", "").xattr("d", "user.overlay.opaque", "x")
        }),
    ]
}

/// Makes `d` hide what the branches below have in it.
fn opaque_directories() -> Vec<(&'static str, Hide)> {
    vec![
        ("OCI, AUFS", |b| b.opaque("d")),
        ("overlayfs", |b| b.dir("d").xattr("d", "trusted.overlay.opaque", "y")),
        ("overlayfs, userxattr", |b| b.dir("d").xattr("d", "user.overlay.opaque", "y")),
        ("fuse-overlayfs", |b| b.dir("d").xattr("d", "user.fuseoverlayfs.opaque", "y")),
    ]
}

#[test]
fn every_whiteout_hides_a_file_in_the_lowers_below() {
    needs_root!("trusted xattrs, devices");
    for (format, hide) in whiteouts() {
        for above in [0, 2] {
            let mut builder = Union::builder();
            for index in 0..above {
                builder = builder.lower(|b| b.file(&format!("d/above{index}"), ""));
            }
            let union = builder
                .lower(hide)
                .lower(|b| b.file("d/f", "hidden").file("d/other", ""))
                .lower(|b| b.file("d/f", "hidden too"))
                .mount();
            refused(fs::read(union.at("d/f")), Errno::NOENT);
            let seen = names(union.at("d"));
            assert!(seen.contains(&"other".to_owned()), "{format}, {above} above: {seen:?}");
            assert_eq!(seen.len(), 1 + above, "{format}, {above} above: {seen:?}");
            // The name is free, and a file of that name goes again without a trace.
            fs::write(union.at("d/f"), "new").unwrap();
            assert_eq!(text(union.at("d/f")), "new", "{format}");
            fs::remove_file(union.at("d/f")).unwrap();
            assert!(!exists(union.at("d/f")), "{format}");
        }
    }
}

#[test]
fn every_whiteout_hides_a_whole_directory() {
    let union = Union::builder()
        .lower(|b| b.whiteout("d").whiteout("sub/d"))
        .lower(|b| b.char_device("e", 0, 0))
        .lower(|b| b.file("d/f", "").file("e/f", "").file("sub/d/f", "").file("sub/g", ""))
        .mount();
    assert_eq!(names(union.root()), ["sub"]);
    assert_eq!(names(union.at("sub")), ["g"]);
    refused(fs::metadata(union.at("d/f")), Errno::NOENT);
}

#[test]
fn every_opaque_marker_hides_the_directorys_namesakes_below() {
    needs_root!("trusted xattrs");
    for (format, hide) in opaque_directories() {
        for above in [0, 2] {
            let mut builder = Union::builder();
            for index in 0..above {
                builder = builder.lower(|b| b.file(&format!("d/above{index}"), ""));
            }
            let mut union = builder
                .lower(|b| hide(b).file("d/own", "").file("d/sub/own", ""))
                .lower(|b| b.file("d/hidden", "").file("d/sub/hidden", ""))
                .mount();
            assert_eq!(names(union.at("d")).len(), 2 + above, "{format}, {above} above");
            assert_eq!(names(union.at("d/sub")), ["own"], "{format}, {above} above");
            assert!(!exists(union.at("d/hidden")), "{format}, {above} above");
            // What is made in it now merges with what shows, and with nothing else.
            fs::write(union.at("d/new"), "").unwrap();
            union.remount();
            assert_eq!(names(union.at("d")).len(), 3 + above, "{format}, {above} above");
        }
    }
}

#[test]
fn an_upper_with_markers_of_any_format_is_read_as_it_was_meant() {
    needs_root!("trusted xattrs");
    let (whiteouts, opaque) = (whiteouts(), opaque_directories());
    // The one exception is overlayfs' device: see below.
    let all = whiteouts.iter().chain(&opaque).filter(|(format, _)| *format != "overlayfs");
    for (format, hide) in all.chain(opaque.iter().filter(|(format, _)| *format == "overlayfs")) {
        let union = Union::builder().upper(hide).lower(|b| b.file("d/f", "hidden")).mount();
        assert!(!exists(union.at("d/f")), "{format}");
        assert!(names(union.at("d")).is_empty(), "{format}");
    }
}

#[test]
fn a_device_0_0_in_the_upper_is_a_node_and_in_a_lower_a_whiteout() {
    needs_root!("devices");
    let union = Union::builder()
        .upper(|b| b.char_device("in_upper", 0, 0))
        .lower(|b| b.char_device("in_lower", 0, 0))
        .lower(|b| b.file("in_upper", "").file("in_lower", ""))
        .mount();
    assert_eq!(names(union.root()), ["in_upper"]);
    assert_eq!(stat(union.at("in_upper")).rdev(), 0);
}

#[test]
fn other_devices_and_empty_files_are_no_whiteouts() {
    needs_root!("devices");
    let union = Union::builder()
        .lower(|b| {
            b.char_device("null", 1, 3)
                .file("empty", "")
                // Without the directory's mark, the file's own means nothing.
                .file("d/f", "")
                .xattr("d/f", "user.overlay.whiteout", "")
                // And a file with content is a file.
                .file("e/f", "content")
                .xattr("e/f", "user.overlay.whiteout", "")
                .xattr("e", "user.overlay.opaque", "x")
        })
        .lower(|b| b.file("null", "").file("empty", "lower").file("d/f", "").file("e/g", ""))
        .mount();
    assert_eq!(names(union.root()), ["d", "e", "empty", "null"]);
    assert_eq!(text(union.at("empty")), "");
    assert!(exists(union.at("d/f")));
    // `x` marks where whiteouts may be; it does not make opaque.
    assert_eq!(names(union.at("e")), ["f", "g"]);
}

#[test]
fn a_real_entry_beside_its_own_whiteout_shows_and_hides_what_is_below() {
    for in_upper in [true, false] {
        let fill = |b: Branch| b.file("f", "real").whiteout("f").file("d/own", "").whiteout("d");
        let builder = Union::builder();
        let builder = if in_upper { builder.upper(fill) } else { builder.lower(fill) };
        let union = builder.lower(|b| b.file("f", "lower").file("d/lower", "")).mount();
        assert_eq!(text(union.at("f")), "real", "in the upper: {in_upper}");
        assert_eq!(names(union.at("d")), ["own"], "in the upper: {in_upper}");
        fs::remove_file(union.at("f")).unwrap();
        assert!(!exists(union.at("f")), "in the upper: {in_upper}");
    }
}

#[test]
fn a_marker_hides_nothing_in_the_branches_above() {
    let union = Union::builder()
        .upper(|b| b.file("d/upper", ""))
        .lower(|b| b.file("f", "shown").file("d/first", ""))
        .lower(|b| b.whiteout("f").opaque("d").file("d/second", ""))
        .lower(|b| b.file("f", "").file("d/third", ""))
        .mount();
    assert_eq!(text(union.at("f")), "shown");
    assert_eq!(names(union.at("d")), ["first", "second", "upper"]);
}

#[test]
fn a_whiteout_in_the_middle_hides_a_directory_that_a_branch_above_has_again() {
    let mut union = Union::builder()
        .lower(|b| b.file("d/new", ""))
        .lower(|b| b.whiteout("d"))
        .lower(|b| b.file("d/secret", ""))
        .mount();
    assert_eq!(names(union.at("d")), ["new"]);
    refused(fs::read(union.at("d/secret")), Errno::NOENT);
    fs::write(union.at("d/secret"), "mine").unwrap();
    fs::remove_file(union.at("d/secret")).unwrap();
    union.remount();
    assert_eq!(names(union.at("d")), ["new"]);
}

#[test]
fn names_that_only_begin_like_a_marker_hide_nothing() {
    let odd = [".wh.", ".wh..", ".wh...", ".wh..wh.aufs", ".wh..wh.orph", ".wh..wh.f"];
    let union = Union::builder()
        .lower(|mut b| {
            for name in odd {
                b = b.file(name, "").file(&format!("d/{name}"), "");
            }
            b
        })
        .lower(|b| b.file("f", "").file("aufs", "").file("orph", "").file("d/g", ""))
        .mount();
    assert_eq!(names(union.root()), ["aufs", "d", "f", "orph"]);
    assert_eq!(names(union.at("d")), ["g"]);
    for name in odd {
        refused(fs::metadata(union.at(name)), Errno::NOENT);
    }
}

#[test]
fn names_that_only_resemble_a_marker_are_ordinary() {
    let ordinary = [".WH.f", ".wh", ".whiteout", "..wh.f", "f.wh.", "wh.f"];
    let union = Union::over(|mut b| {
        for name in ordinary {
            b = b.file(&format!("lower/{name}"), "");
        }
        b.file("f", "").dir("upper")
    });
    for name in ordinary {
        fs::write(union.at("upper").join(name), "").unwrap();
        fs::write(union.at(name), "").unwrap();
        fs::remove_file(union.at(name)).unwrap();
    }
    let mut expected = ordinary;
    expected.sort();
    assert_eq!(names(union.at("lower")), expected);
    assert_eq!(names(union.at("upper")), expected);
    assert_eq!(names(union.root()), ["f", "lower", "upper"]);
}

#[test]
fn no_name_that_begins_like_a_marker_can_be_made() {
    let union = Union::over(|b| b.file("foo", "victim").file("d/secret", "victim"));
    fs::write(union.at("mine"), "").unwrap();
    fs::create_dir(union.at("my_dir")).unwrap();
    let reserved = [".wh.foo", ".wh..wh..opq", "d/.wh..wh..opq", ".wh..wh.plnk", ".wh.", ".wh.x"];
    for name in reserved {
        let at = union.at(name);
        refused(File::create(&at), Errno::INVAL);
        refused(File::options().write(true).create_new(true).open(&at), Errno::INVAL);
        refused(fs::create_dir(&at), Errno::INVAL);
        refused(mknodat(CWD, &at, FileType::Fifo, Mode::RWXU, 0), Errno::INVAL);
        refused(mknodat(CWD, &at, FileType::RegularFile, Mode::RWXU, 0), Errno::INVAL);
        refused(symlink("foo", &at), Errno::INVAL);
        refused(fs::hard_link(union.at("mine"), &at), Errno::INVAL);
        refused(fs::rename(union.at("mine"), &at), Errno::INVAL);
        refused(fs::rename(union.at("my_dir"), &at), Errno::INVAL);
        refused(fs::hard_link(union.at("foo"), &at), Errno::INVAL);
        refused(fs::rename(union.at("d"), &at), Errno::INVAL);
        for flags in [RenameFlags::NOREPLACE, RenameFlags::WHITEOUT] {
            refused(renameat_with(CWD, union.at("foo"), CWD, &at, flags), Errno::INVAL);
        }
        // There is nothing that could change places.
        for (one, other) in [(union.at("mine"), at.clone()), (at.clone(), union.at("my_dir"))] {
            refused(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE), Errno::NOENT);
        }
        refused(fs::metadata(&at), Errno::NOENT);
    }
    assert_eq!(text(union.at("foo")), "victim");
    assert_eq!(text(union.at("d/secret")), "victim");
    assert_eq!(union.in_upper(), ["mine", "my_dir"]);
}

#[test]
fn a_marker_cannot_be_reached_by_its_name() {
    let mut union = Union::over(|b| b.file("f", "").file("d/child", ""));
    fs::remove_file(union.at("f")).unwrap();
    fs::remove_dir_all(union.at("d")).unwrap();
    fs::create_dir(union.at("d")).unwrap();
    for name in [".wh.f", "d/.wh..wh..opq"] {
        assert!(exists(union.upper(name)));
        refused(fs::metadata(union.at(name)), Errno::NOENT);
        refused(fs::read(union.at(name)), Errno::NOENT);
        refused(fs::remove_file(union.at(name)), Errno::NOENT);
        refused(fs::rename(union.at(name), union.at("found")), Errno::NOENT);
    }
    union.remount();
    assert_eq!(names(union.root()), ["d"]);
}

#[test]
fn an_upper_of_ours_works_as_a_lower() {
    let first = crate::common::temp_dir();
    let image = first.path().join("image");
    fs::create_dir_all(image.join("d/sub")).unwrap();
    fs::write(image.join("f"), "image").unwrap();
    fs::write(image.join("d/old"), "").unwrap();
    fs::write(image.join("d/sub/old"), "").unwrap();
    let written = {
        let union = Union::builder().writable_in(first.path()).lower_at(image.clone()).mount();
        fs::remove_file(union.at("f")).unwrap();
        fs::remove_dir_all(union.at("d")).unwrap();
        fs::create_dir(union.at("d")).unwrap();
        fs::write(union.at("d/new"), "layer").unwrap();
        union.upper("")
    };
    let union = Union::builder().lower(|b| b).lower_at(written).lower_at(image).mount();
    assert_eq!(names(union.root()), ["d"]);
    assert_eq!(names(union.at("d")), ["new"]);
}
