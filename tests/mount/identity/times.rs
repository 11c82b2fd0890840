//! Access times: as the disk keeps them, or not at all where that is asked for.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use crate::common::{Tmpfs, Union, names, needs_root, overwrite, stat, text};

/// P4: a time that no clock shows any more.
const LONG_AGO: i64 = 1_000_000_000;

fn set_access_time(path: impl AsRef<Path>) {
    let access = Timespec { tv_sec: LONG_AGO, tv_nsec: 0 };
    let modification = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: access, last_modification: modification };
    utimensat(CWD, path.as_ref(), &times, AtFlags::empty()).unwrap();
}

fn is_long_ago(path: impl AsRef<Path>) -> bool {
    stat(path).atime() == LONG_AGO
}

/// On a disk that sets an access time at every read.
fn union(disk: &Tmpfs, option: &str) -> Union {
    let union = Union::builder()
        .option(option)
        .writable_in(disk.path())
        .upper(|b| b.file("old", "upper").file("d/in_upper", ""))
        .lower(|b| b.file("copied", "lower").file("d/in_lower", "").file("lower_only/f", "lower"))
        .mount();
    // Some files are open for writing by then, and some are not.
    overwrite(union.at("copied"), 0, "UPP");
    fs::write(union.at("new"), "new").unwrap();
    fs::write(union.at("d/new"), "").unwrap();
    for path in ["old", "copied", "new", "d"] {
        set_access_time(union.at(path));
        assert!(is_long_ago(union.upper(path)), "{path}");
    }
    union
}

#[test]
fn a_read_moves_an_upper_files_access_time_as_on_the_disk() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::with_access_times();
    let union = union(&disk, "rw");
    for path in ["old", "copied", "new"] {
        text(union.at(path));
        assert!(!is_long_ago(union.upper(path)), "{path} on the disk");
        assert!(!is_long_ago(union.at(path)), "{path}");
    }
}

#[test]
fn a_listing_moves_an_upper_directorys_access_time_as_on_the_disk() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::with_access_times();
    let union = union(&disk, "rw");
    assert_eq!(names(union.at("d")), ["in_lower", "in_upper", "new"]);
    assert!(!is_long_ago(union.upper("d")), "on the disk");
    assert!(!is_long_ago(union.at("d")));
}

#[test]
fn with_noatime_nothing_moves_an_access_time() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::with_access_times();
    let mut union = union(&disk, "noatime");
    for round in ["at once", "after a remount"] {
        for path in ["old", "copied", "new"] {
            text(union.at(path));
            assert!(is_long_ago(union.upper(path)), "{path} on the disk, {round}");
            assert!(is_long_ago(union.at(path)), "{path}, {round}");
        }
        assert_eq!(names(union.at("d")), ["in_lower", "in_upper", "new"]);
        assert!(is_long_ago(union.upper("d")), "a directory on the disk, {round}");
        assert!(is_long_ago(union.at("d")), "a directory, {round}");
        union.remount();
    }
}

/// A file that was written is open for writing, and is read by that descriptor.
#[test]
fn with_noatime_a_handle_that_wrote_moves_no_access_time() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::with_access_times();
    let union = union(&disk, "noatime");
    for path in ["old", "copied", "new"] {
        let file = File::options().read(true).write(true).open(union.at(path)).unwrap();
        file.write_all_at(b"X", 0).unwrap();
        set_access_time(union.at(path));
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut bytes = [0; 3];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(is_long_ago(union.upper(path)), "{path} on the disk");
        assert!(is_long_ago(union.at(path)), "{path}");
    }
}
