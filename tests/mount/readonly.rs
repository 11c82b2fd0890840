//! Without an upper nothing can be changed, and everything can be read.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_NOW, XattrFlags, access, mknodat,
    utimensat,
};
use rustix::io::Errno;

use crate::common::{Union, names, refused, text};

fn union() -> Union {
    Union::builder()
        .read_only()
        .lower(|b| b.file("f", "first").file("d/first", "").whiteout("gone"))
        .lower(|b| b.file("f", "second").file("d/second", "").file("gone", "").symlink("s", "f"))
        .mount()
}

#[test]
fn the_lowers_are_merged_as_ever() {
    let union = union();
    assert_eq!(text(union.at("f")), "first");
    assert_eq!(text(union.at("s")), "first");
    assert_eq!(names(union.at("d")), ["first", "second"]);
    assert_eq!(names(union.root()), ["d", "f", "s"]);
}

#[test]
fn every_change_is_refused_as_on_a_read_only_filesystem() {
    let union = union();
    let (f, d, new) = (union.at("f"), union.at("d"), union.at("new"));
    refused(File::create(&new), Errno::ROFS);
    refused(File::create(&f), Errno::ROFS);
    refused(File::options().write(true).open(&f), Errno::ROFS);
    refused(File::options().append(true).open(&f), Errno::ROFS);
    refused(fs::create_dir(&new), Errno::ROFS);
    refused(mknodat(CWD, &new, FileType::Fifo, Mode::RWXU, 0), Errno::ROFS);
    refused(symlink("f", &new), Errno::ROFS);
    refused(fs::hard_link(&f, &new), Errno::ROFS);
    refused(fs::remove_file(&f), Errno::ROFS);
    refused(fs::remove_dir(&d), Errno::ROFS);
    refused(fs::rename(&f, &new), Errno::ROFS);
    refused(fs::rename(&d, &new), Errno::ROFS);
    refused(fs::set_permissions(&f, Permissions::from_mode(0o600)), Errno::ROFS);
    refused(rustix::fs::chown(&f, None, Some(rustix::fs::Gid::ROOT)), Errno::ROFS);
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    refused(utimensat(CWD, &f, &times, AtFlags::empty()), Errno::ROFS);
    refused(rustix::fs::setxattr(&f, "user.a", b"1", XattrFlags::empty()), Errno::ROFS);
    refused(access(&f, Access::WRITE_OK), Errno::ROFS);
    assert_eq!(text(&f), "first");
}

#[test]
fn one_lower_alone_is_enough() {
    let union = Union::builder().read_only().lower(|b| b.file("f", "text")).mount();
    assert_eq!(text(union.at("f")), "text");
    refused(fs::remove_file(union.at("f")), Errno::ROFS);
}
