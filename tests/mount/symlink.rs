//! symlink, readlink: a link's text is kept to the byte, and a link is never followed by us.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::common::{ALICE, Union, exists, mtime, needs_root, refused, stat, text};

#[test]
fn a_new_link_is_made_in_the_upper() {
    let union = Union::over(|b| b.file("d/f", "text"));
    symlink("f", union.at("d/s")).unwrap();
    assert_eq!(fs::read_link(union.at("d/s")).unwrap(), Path::new("f"));
    assert_eq!(fs::read_link(union.upper("d/s")).unwrap(), Path::new("f"));
    assert_eq!(text(union.at("d/s")), "text");
    refused(symlink("f", union.at("d/f")), Errno::EXIST);
    refused(symlink("f", union.at("missing/s")), Errno::NOENT);
}

#[test]
fn a_lower_link_leads_to_what_the_union_shows() {
    let union = Union::builder()
        .upper(|b| b.file("f", "upper"))
        .lower(|b| b.file("f", "lower").symlink("s", "f").symlink("dangling", "nowhere"))
        .mount();
    assert_eq!(text(union.at("s")), "upper");
    refused(fs::read(union.at("dangling")), Errno::NOENT);
    assert!(exists(union.at("dangling")));
    assert_eq!(fs::read_link(union.at("dangling")).unwrap(), Path::new("nowhere"));
}

/// A link in a branch that leads out of it must not lead the daemon out of it.
#[test]
fn a_link_in_a_branch_is_never_followed_by_the_daemon() {
    let outside = crate::common::temp_dir();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    let union = Union::builder()
        .lower(|b| b.symlink("d", outside.path().to_str().unwrap()))
        .lower(|b| b.file("d/hidden", ""))
        .mount();
    assert!(stat(union.at("d")).is_symlink());
    // The kernel follows it, for the user, to the real place.
    assert_eq!(text(union.at("d/secret")), "outside");
    fs::write(union.at("d/new"), "").unwrap();
    assert!(outside.path().join("new").exists());
    assert!(union.in_upper().is_empty());
}

#[test]
fn the_text_may_be_anything_up_to_4095_bytes() {
    let union = Union::over(|b| b);
    for target in [b"/absolute".to_vec(), b"\xff\xfe\n".to_vec(), vec![b'x'; 4095]] {
        symlink(OsStr::from_bytes(&target), union.at("s")).unwrap();
        assert_eq!(fs::read_link(union.at("s")).unwrap().as_os_str().as_bytes(), target);
        assert_eq!(stat(union.at("s")).len(), target.len() as u64);
        fs::remove_file(union.at("s")).unwrap();
    }
}

#[test]
fn a_link_takes_the_place_of_a_deleted_file() {
    let mut union = Union::over(|b| b.file("f", "lower"));
    fs::remove_file(union.at("f")).unwrap();
    symlink("elsewhere", union.at("f")).unwrap();
    assert_eq!(union.in_upper(), ["f"]);
    union.remount();
    assert_eq!(fs::read_link(union.at("f")).unwrap(), Path::new("elsewhere"));
}

#[test]
fn changing_the_owner_copies_the_link_up_not_its_target() {
    needs_root!("chown");
    let union = Union::over(|b| b.file("f", "").symlink("s", "f").mtime("s", 1_000_000_000, 77));
    std::os::unix::fs::lchown(union.at("s"), Some(ALICE), Some(ALICE)).unwrap();
    assert_eq!(union.in_upper(), ["s"]);
    assert_eq!(stat(union.at("s")).uid(), ALICE);
    assert_ne!(stat(union.at("f")).uid(), ALICE);
    assert_eq!(mtime(union.at("s")), (1_000_000_000, 77), "a link keeps its time");
    assert_eq!(fs::read_link(union.at("s")).unwrap(), Path::new("f"));
}

/// Peers answer this by a request to their own mount, and wait for themselves.
#[test]
fn an_xattr_on_a_link_answers_as_on_disk() {
    let union = Union::over(|b| b.file("f", "").symlink("s", "f"));
    for (link, name) in [("s", "user.x"), ("new", "user.x")] {
        if link == "new" {
            symlink("f", union.at("new")).unwrap();
        }
        let outcome = rustix::fs::lsetxattr(union.at(link), name, b"v", XattrFlags::empty());
        refused(outcome, Errno::PERM);
    }
    assert_eq!(union.in_upper(), ["new"], "what fails copies nothing up");
}

#[test]
fn root_can_put_a_trusted_xattr_on_a_link() {
    needs_root!("trusted xattrs");
    let union = Union::over(|b| b.file("f", "").symlink("s", "f"));
    rustix::fs::lsetxattr(union.at("s"), "trusted.x", b"v", XattrFlags::empty()).unwrap();
    let mut value = [0; 8];
    assert_eq!(rustix::fs::lgetxattr(union.upper("s"), "trusted.x", &mut value), Ok(1));
}
