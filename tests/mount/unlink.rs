//! unlink: what is removed stays removed, and leaves a marker only where a lower holds the name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use crate::common::{Union, exists, mode, mtime, names, refused, stat, text};

#[test]
fn a_lower_file_is_hidden_by_a_whiteout() {
    let mut union = Union::over(|b| b.file("d/f", "lower").file("d/other", ""));
    fs::remove_file(union.at("d/f")).unwrap();
    refused(fs::metadata(union.at("d/f")), Errno::NOENT);
    assert_eq!(names(union.at("d")), ["other"]);
    assert_eq!(union.in_upper(), ["d", "d/.wh.f"]);
    assert_eq!(stat(union.upper("d/.wh.f")).len(), 0);
    union.remount();
    assert!(!exists(union.at("d/f")));
}

#[test]
fn markers_take_one_inode_together() {
    let union = Union::over(|b| b.file("a", "").file("d/b", "").dir("e"));
    fs::remove_file(union.at("a")).unwrap();
    fs::remove_file(union.at("d/b")).unwrap();
    fs::remove_dir(union.at("e")).unwrap();
    let inodes: BTreeSet<_> =
        [".wh.a", "d/.wh.b", ".wh.e"].iter().map(|marker| stat(union.upper(marker)).ino()).collect();
    assert_eq!(inodes.len(), 1);
    assert_eq!(mode(union.upper(".wh.a")), 0o644);
}

#[test]
fn an_upper_file_leaves_no_marker() {
    let union = Union::over(|b| b.dir("d"));
    fs::write(union.at("d/f"), "").unwrap();
    fs::remove_file(union.at("d/f")).unwrap();
    assert_eq!(union.in_upper(), ["d"]);
}

#[test]
fn a_file_of_both_leaves_a_marker_and_nothing_else() {
    let union = Union::builder().upper(|b| b.file("f", "upper")).lower(|b| b.file("f", "lower")).mount();
    fs::remove_file(union.at("f")).unwrap();
    assert!(!exists(union.at("f")));
    assert_eq!(union.in_upper(), [".wh.f"]);
}

/// A fresh name over a deleted one, deleted again: peers then show the lower's old content.
#[test]
fn a_name_recreated_and_deleted_again_stays_deleted() {
    let mut union = Union::over(|b| b.file("f", "lower").file("d/f", "lower"));
    for name in ["f", "d/f"] {
        for _ in 0..3 {
            fs::remove_file(union.at(name)).unwrap();
            assert!(!exists(union.at(name)));
            fs::write(union.at(name), "new").unwrap();
            assert_eq!(text(union.at(name)), "new");
        }
        fs::remove_file(union.at(name)).unwrap();
        assert!(!exists(union.at(name)));
    }
    union.remount();
    assert!(!exists(union.at("f")) && !exists(union.at("d/f")));
}

#[test]
fn a_name_that_a_lower_has_deleted_itself_needs_no_marker() {
    let union = Union::builder().lower(|b| b.whiteout("f")).lower(|b| b.file("f", "bottom")).mount();
    fs::write(union.at("f"), "new").unwrap();
    fs::remove_file(union.at("f")).unwrap();
    assert!(!exists(union.at("f")));
    assert!(union.in_upper().is_empty());
}

#[test]
fn inside_an_opaque_directory_no_marker_is_needed() {
    let union = Union::over(|b| b.file("a/d/f", "lower").file("a/d/sub/f", "lower"));
    fs::remove_dir_all(union.at("a/d")).unwrap();
    fs::create_dir_all(union.at("a/d/sub")).unwrap();
    for name in ["a/d/f", "a/d/sub/f"] {
        fs::write(union.at(name), "new").unwrap();
        fs::remove_file(union.at(name)).unwrap();
        assert!(!exists(union.at(name)), "{name}");
    }
    assert_eq!(union.in_upper(), ["a", "a/d", "a/d/.wh..wh..opq", "a/d/sub"]);
}

/// The directory above the opaque one still merges: there a marker is needed.
#[test]
fn beside_an_opaque_directory_a_marker_is_needed() {
    let mut union = Union::over(|b| b.file("a/d/f", "").file("a/e/f", ""));
    fs::remove_dir_all(union.at("a/d")).unwrap();
    fs::create_dir(union.at("a/d")).unwrap();
    fs::remove_file(union.at("a/e/f")).unwrap();
    union.remount();
    assert!(names(union.at("a/d")).is_empty());
    assert!(names(union.at("a/e")).is_empty());
    assert!(exists(union.upper("a/e/.wh.f")));
}

#[test]
fn what_unlink_refuses_on_a_disk_it_refuses_here() {
    let union = Union::over(|b| b.file("f", "").dir("d"));
    refused(fs::remove_file(union.at("d")), Errno::ISDIR);
    refused(fs::remove_file(union.at("missing")), Errno::NOENT);
    refused(fs::remove_file(union.at("f/x")), Errno::NOTDIR);
    fs::remove_file(union.at("f")).unwrap();
    refused(fs::remove_file(union.at("f")), Errno::NOENT);
}

/// `.wh.` and such a name are more than a disk can hold.
#[test]
fn a_lower_name_too_long_for_a_marker_is_refused_and_stays() {
    let fits = "f".repeat(251);
    let too_long = ["a".repeat(252), "b".repeat(255)];
    let mut union = Union::over(|b| b.file(&fits, "x").file(&too_long[0], "x").file(&too_long[1], "x"));
    for name in &too_long {
        refused(fs::remove_file(union.at(name)), Errno::NAMETOOLONG);
        assert_eq!(text(union.at(name)), "x");
        fs::write(union.at(name), "changed").unwrap();
        refused(fs::remove_file(union.at(name)), Errno::NAMETOOLONG);
        assert_eq!(text(union.at(name)), "changed", "a refusal has no side effect");
    }
    fs::remove_file(union.at(&fits)).unwrap();
    union.remount();
    assert_eq!(names(union.root()), too_long);
}

#[test]
fn removing_changes_the_parents_time_and_nothing_else_of_it() {
    let union = Union::over(|b| b.file("d/f", "").mode("d", 0o2770).mtime("d", 1_000_000_000, 0));
    fs::remove_file(union.at("d/f")).unwrap();
    assert_eq!(crate::common::mode(union.at("d")), 0o2770);
    assert!(mtime(union.at("d")).0 > 1_000_000_000);
}

#[test]
fn every_kind_of_lower_entry_can_be_removed() {
    let mut union = Union::over(|b| b.symlink("symlink", "nowhere").fifo("fifo").file("file", ""));
    for name in ["symlink", "fifo", "file"] {
        fs::remove_file(union.at(name)).unwrap();
    }
    union.remount();
    assert!(names(union.root()).is_empty());
    assert_eq!(union.in_upper(), [".wh.fifo", ".wh.file", ".wh.symlink"]);
}
