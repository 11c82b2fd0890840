//! link: both names are one file, wherever it came from.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;

use crate::common::{Union, overwrite, refused, stat, text};

#[test]
fn a_linked_lower_file_is_one_inode_under_both_names() {
    let mut union = Union::over(|b| b.file("a", "lower").dir("d"));
    let before = stat(union.at("a")).ino();
    fs::hard_link(union.at("a"), union.at("d/b")).unwrap();
    for _ in 0..2 {
        let (a, b) = (stat(union.at("a")), stat(union.at("d/b")));
        assert_eq!((a.ino(), b.ino()), (before, before));
        assert_eq!((a.nlink(), b.nlink()), (2, 2));
        union.remount();
    }
    overwrite(union.at("d/b"), 0, "B");
    assert_eq!(text(union.at("a")), "Bower");
    overwrite(union.at("a"), 4, "A");
    assert_eq!(text(union.at("d/b")), "BoweA");
    assert_eq!(stat(union.upper("a")).ino(), stat(union.upper("d/b")).ino());
}

#[test]
fn a_linked_upper_file_is_one_inode_under_both_names() {
    let union = Union::over(|b| b);
    fs::write(union.at("a"), "new").unwrap();
    fs::hard_link(union.at("a"), union.at("b")).unwrap();
    assert_eq!(stat(union.at("a")).ino(), stat(union.at("b")).ino());
    assert_eq!(stat(union.at("a")).nlink(), 2);
    fs::remove_file(union.at("a")).unwrap();
    assert_eq!(stat(union.at("b")).nlink(), 1);
    assert_eq!(text(union.at("b")), "new");
}

#[test]
fn a_handle_on_one_name_sees_what_the_other_writes() {
    let union = Union::over(|b| b.file("a", "lower"));
    let reading = File::open(union.at("a")).unwrap();
    fs::hard_link(union.at("a"), union.at("b")).unwrap();
    let mut writing = File::options().append(true).open(union.at("b")).unwrap();
    writing.write_all(b" and upper").unwrap();
    assert_eq!(std::io::read_to_string(reading).unwrap(), "lower and upper");
}

#[test]
fn a_link_clears_the_marker_of_a_deleted_name() {
    let mut union = Union::over(|b| b.file("a", "a").file("b", "b"));
    fs::remove_file(union.at("b")).unwrap();
    fs::hard_link(union.at("a"), union.at("b")).unwrap();
    assert_eq!(union.in_upper(), ["a", "b"]);
    fs::remove_file(union.at("b")).unwrap();
    union.remount();
    assert_eq!(crate::common::names(union.root()), ["a"], "the old b is back");
}

#[test]
fn what_link_refuses_on_a_disk_it_refuses_here() {
    let union = Union::over(|b| b.file("a", "").file("b", "").dir("d"));
    refused(fs::hard_link(union.at("a"), union.at("b")), Errno::EXIST);
    refused(fs::hard_link(union.at("d"), union.at("e")), Errno::PERM);
    refused(fs::hard_link(union.at("missing"), union.at("e")), Errno::NOENT);
    refused(fs::hard_link(union.at("a"), union.at("missing/e")), Errno::NOENT);
    assert_eq!(stat(union.at("a")).nlink(), 1);
}

#[test]
fn a_symbolic_link_itself_can_be_linked() {
    let union = Union::over(|b| b.symlink("s", "target"));
    linkat(CWD, union.at("s"), CWD, union.at("t"), AtFlags::empty()).unwrap();
    assert_eq!(fs::read_link(union.at("t")).unwrap().to_str(), Some("target"));
    assert_eq!(stat(union.at("s")).ino(), stat(union.at("t")).ino());
}

#[test]
fn the_new_name_survives_the_old_one() {
    let mut union = Union::over(|b| b.file("a", "lower"));
    fs::hard_link(union.at("a"), union.at("b")).unwrap();
    fs::remove_file(union.at("a")).unwrap();
    assert_eq!(stat(union.at("b")).nlink(), 1);
    union.remount();
    assert_eq!(text(union.at("b")), "lower");
    assert_eq!(union.in_upper(), [".wh.a", "b"]);
}

/// The name that was seen last is not the only one by which a file can be found.
#[test]
fn a_file_can_be_linked_once_more_when_its_newest_name_is_gone() {
    let union = Union::over(|b| b.file("a", "lower"));
    fs::hard_link(union.at("a"), union.at("b")).unwrap();
    fs::remove_file(union.at("b")).unwrap();
    fs::hard_link(union.at("a"), union.at("c")).unwrap();
    assert_eq!(stat(union.at("a")).ino(), stat(union.at("c")).ino());
    assert_eq!(stat(union.at("c")).nlink(), 2);
}

/// The way to save a file whose name is gone: link it by its descriptor.
#[test]
fn an_open_file_can_be_linked_by_its_descriptor() {
    let union = Union::over(|b| b.file("a", "lower"));
    let file = File::open(union.at("a")).unwrap();
    let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    linkat(CWD, descriptor, CWD, union.at("b"), AtFlags::SYMLINK_FOLLOW).unwrap();
    assert_eq!(text(union.at("b")), "lower");
    assert_eq!(stat(union.at("a")).ino(), stat(union.at("b")).ino());
}

/// As git stores its objects: written under one name, linked to another, the first removed.
#[test]
fn a_name_that_goes_costs_no_descriptor_if_another_is_left() {
    let union = Union::over(|b| b.dir("d"));
    let open = || fs::read_dir(format!("/proc/{}/fd", union.pid())).unwrap().count();
    // Files that were opened for writing stay at hand, up to a bound: these are none.
    for i in 0..400 {
        rustix::fs::mknodat(CWD, union.at("t"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        fs::hard_link(union.at("t"), union.at(format!("d/{i}"))).unwrap();
        fs::remove_file(union.at("t")).unwrap();
    }
    assert!(open() < 100, "{} descriptors for files that nobody has open", open());
}
