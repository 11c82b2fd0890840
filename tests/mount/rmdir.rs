//! rmdir: a directory goes when users see nothing in it, whatever is in it on disk.

use std::fs;

use rustix::io::Errno;

use crate::common::{Union, exists, names, refused};

#[test]
fn an_empty_lower_directory_is_hidden_by_a_whiteout() {
    let mut union = Union::over(|b| b.dir("d"));
    fs::remove_dir(union.at("d")).unwrap();
    assert!(!exists(union.at("d")));
    assert_eq!(union.in_upper(), [".wh.d"]);
    union.remount();
    assert!(names(union.root()).is_empty());
}

#[test]
fn an_upper_directory_leaves_no_marker() {
    let union = Union::over(|b| b);
    fs::create_dir(union.at("d")).unwrap();
    fs::remove_dir(union.at("d")).unwrap();
    assert!(union.in_upper().is_empty());
}

#[test]
fn a_directory_is_empty_when_all_its_lower_entries_are_deleted() {
    let mut union = Union::builder()
        .upper(|b| b.file("d/upper", ""))
        .lower(|b| b.file("d/first", "").dir("d/sub"))
        .lower(|b| b.file("d/second", ""))
        .mount();
    for name in ["upper", "first", "second"] {
        refused(fs::remove_dir(union.at("d")), Errno::NOTEMPTY);
        fs::remove_file(union.at("d").join(name)).unwrap();
    }
    refused(fs::remove_dir(union.at("d")), Errno::NOTEMPTY);
    fs::remove_dir(union.at("d/sub")).unwrap();
    fs::remove_dir(union.at("d")).unwrap();
    assert_eq!(union.in_upper(), [".wh.d"], "its markers went with it");
    union.remount();
    assert!(!exists(union.at("d")));
}

#[test]
fn an_opaque_directory_with_nothing_else_in_it_is_empty() {
    let mut union = Union::builder().upper(|b| b.opaque("d")).lower(|b| b.file("d/hidden", "")).mount();
    fs::remove_dir(union.at("d")).unwrap();
    assert_eq!(union.in_upper(), [".wh.d"]);
    union.remount();
    assert!(!exists(union.at("d")));
}

#[test]
fn files_of_aufs_itself_do_not_count() {
    let union = Union::over(|b| b.dir("d/.wh..wh.plnk").file("d/.wh..wh.aufs", "").file("d/.wh.", ""));
    assert!(names(union.at("d")).is_empty());
    fs::remove_dir(union.at("d")).unwrap();
    assert_eq!(union.in_upper(), [".wh.d"]);
}

#[test]
fn a_directory_with_entries_in_any_branch_is_refused() {
    let union = Union::builder()
        .upper(|b| b.dir("d").file("in_upper/f", ""))
        .lower(|b| b.file("d/f", "").dir("in_upper"))
        .mount();
    refused(fs::remove_dir(union.at("d")), Errno::NOTEMPTY);
    refused(fs::remove_dir(union.at("in_upper")), Errno::NOTEMPTY);
    assert_eq!(union.in_upper(), ["d", "in_upper", "in_upper/f"]);
}

#[test]
fn what_rmdir_refuses_on_a_disk_it_refuses_here() {
    let union = Union::over(|b| b.file("f", "").symlink("s", "d").dir("d"));
    refused(fs::remove_dir(union.at("f")), Errno::NOTDIR);
    refused(fs::remove_dir(union.at("s")), Errno::NOTDIR);
    refused(fs::remove_dir(union.at("missing")), Errno::NOENT);
    refused(rustix::fs::rmdir(union.at("d/.")), Errno::INVAL);
    assert!(exists(union.at("d")));
}

#[test]
fn a_lower_name_too_long_for_a_marker_is_refused_and_stays() {
    let name = "d".repeat(252);
    let union = Union::over(|b| b.dir(&name));
    refused(fs::remove_dir(union.at(&name)), Errno::NAMETOOLONG);
    assert_eq!(names(union.root()), [name]);
}

#[test]
fn a_whole_merged_tree_can_be_removed() {
    let mut union = Union::builder()
        .upper(|b| b.file("t/a/upper", "").file("t/new/f", ""))
        .lower(|b| b.file("t/a/b/c/f", "").symlink("t/s", "a"))
        .lower(|b| b.file("t/a/b/g", "").file("t/z", ""))
        .mount();
    fs::remove_dir_all(union.at("t")).unwrap();
    assert_eq!(union.in_upper(), [".wh.t"]);
    union.remount();
    assert!(names(union.root()).is_empty());
}

/// A directory that is deleted has no entries, and gets none.
#[test]
fn nothing_can_be_made_in_a_removed_directory_that_is_still_open() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let union = Union::over(|b| b.dir("d"));
    let dir = openat(CWD, union.at("d"), OFlags::DIRECTORY, Mode::empty()).unwrap();
    fs::remove_dir(union.at("d")).unwrap();
    refused(mkdirat(&dir, "child", Mode::RWXU), Errno::NOENT);
    refused(openat(&dir, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU), Errno::NOENT);
    drop(dir);
    assert_eq!(union.in_upper(), [".wh.d"]);
}
