//! What a mount tells of itself, to whom, and what it does for whom: attributes of its root.

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::common::{ALICE, Union, as_user, needs_root, overwrite, refused, traced};

const ASKED: [&str; 2] = ["user.plyfs.branches", "user.plyfs.messages"];
const SYNC: &str = "user.plyfs.sync";

fn open_to_all() -> Union {
    Union::builder().option("allow_other").upper(|b| b.mode("", 0o777)).lower(|b| b.file("f", "text")).mount()
}

#[test]
fn branches_and_messages_are_told_to_the_mounter_only() {
    needs_root!("another user");
    let union = open_to_all();
    for key in ASKED {
        assert!(getxattr(union.root(), key, &mut [0; 4096]).unwrap() > 0, "{key}");
        as_user(ALICE, || refused(getxattr(union.root(), key, &mut [0; 4096]), Errno::NODATA));
    }
}

#[test]
fn they_are_not_listed_and_no_other_directory_has_them() {
    let union = Union::over(|b| b.file("d/f", ""));
    for key in ASKED.into_iter().chain([SYNC]) {
        refused(getxattr(union.at("d"), key, &mut [0; 4096]), Errno::NODATA);
    }
    assert_eq!(rustix::fs::listxattr(union.root(), &mut [0; 4096]), Ok(0));
}

#[test]
fn the_mounter_can_have_everything_synced() {
    let union = Union::over(|b| b.file("f", "text"));
    overwrite(union.at("f"), 0, "T");
    let sync = || setxattr(union.root(), SYNC, b"", XattrFlags::empty()).unwrap();
    let Some(calls) = traced(union.pid(), "syncfs", sync) else { return };
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].contains("/upper"), "{calls:?}");
    // It is a wish and no attribute.
    refused(getxattr(union.root(), SYNC, &mut [0; 8]), Errno::NODATA);
    assert!(union.in_upper() == ["f"]);
}

#[test]
fn nobody_else_can_keep_the_disk_busy_by_it() {
    needs_root!("another user");
    let union = open_to_all();
    as_user(ALICE, || refused(setxattr(union.root(), SYNC, b"", XattrFlags::empty()), Errno::PERM));
}

#[test]
fn a_clean_unmount_syncs_the_upper_unless_it_is_volatile() {
    needs_root!("an unmount that is watched: fusermount3 has no rights then");
    for (option, expected) in [("", 1), ("volatile", 0)] {
        let builder = Union::builder().lower(|b| b.file("f", "text"));
        let builder = if option.is_empty() { builder } else { builder.option(option) };
        let mut union = builder.mount();
        overwrite(union.at("f"), 0, "T");
        let pid = union.pid();
        let Some(calls) = traced(pid, "syncfs", || union.end_by(Signal::TERM)) else {
            return union.mount();
        };
        let synced = calls.iter().filter(|call| call.contains("syncfs(") && call.contains("/upper")).count();
        assert_eq!(synced, expected, "{option}: {calls:?}");
        union.mount();
    }
}
