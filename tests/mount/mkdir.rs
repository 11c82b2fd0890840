//! mkdir: new directories, which never merge with what was deleted before.

use std::fs;

use rustix::io::Errno;

use crate::common::{Union, exists, mode, names, refused, text};

#[test]
fn a_new_directory_is_made_in_the_upper_without_a_marker() {
    let union = Union::over(|b| b.dir("d"));
    fs::create_dir(union.at("new")).unwrap();
    fs::create_dir(union.at("d/new")).unwrap();
    assert_eq!(union.in_upper(), ["d", "d/new", "new"]);
    assert!(names(union.at("new")).is_empty());
}

#[test]
fn the_mode_asked_for_is_the_mode_that_is_made() {
    use std::os::unix::fs::DirBuilderExt;
    let union = Union::over(|b| b);
    for asked in [0o700, 0o755, 0o500, 0o1755] {
        let name = format!("{asked:o}");
        fs::DirBuilder::new().mode(asked).create(union.at(&name)).unwrap();
        assert_eq!(mode(union.at(&name)), asked);
        assert_eq!(mode(union.upper(&name)), asked);
    }
}

#[test]
fn a_directory_made_over_a_deleted_one_is_opaque_and_empty() {
    let mut union = Union::over(|b| b.file("d/child", "").file("d/sub/grandchild", ""));
    fs::remove_dir_all(union.at("d")).unwrap();
    assert_eq!(union.in_upper(), [".wh.d"]);
    fs::create_dir(union.at("d")).unwrap();
    assert!(names(union.at("d")).is_empty());
    assert_eq!(union.in_upper(), ["d", "d/.wh..wh..opq"]);
    union.remount();
    assert!(names(union.at("d")).is_empty(), "the old children are back");
    assert!(!exists(union.at("d/sub/grandchild")));
}

#[test]
fn the_same_one_level_deeper() {
    let mut union = Union::over(|b| b.file("s/d/child", "").file("s/other", ""));
    fs::remove_dir_all(union.at("s/d")).unwrap();
    fs::create_dir(union.at("s/d")).unwrap();
    fs::write(union.at("s/d/new"), "new").unwrap();
    assert_eq!(union.in_upper(), ["s", "s/d", "s/d/.wh..wh..opq", "s/d/new"]);
    union.remount();
    assert_eq!(names(union.at("s/d")), ["new"]);
    assert_eq!(names(union.at("s")), ["d", "other"]);
}

#[test]
fn the_same_when_the_new_directory_is_moved_afterwards() {
    let mut union = Union::over(|b| b.file("d/child", ""));
    fs::remove_dir_all(union.at("d")).unwrap();
    fs::create_dir(union.at("d")).unwrap();
    fs::rename(union.at("d"), union.at("moved")).unwrap();
    union.remount();
    assert!(!exists(union.at("d")));
    assert!(names(union.at("moved")).is_empty());
    fs::rename(union.at("moved"), union.at("d")).unwrap();
    union.remount();
    assert!(names(union.at("d")).is_empty(), "the old children are back");
}

#[test]
fn a_directory_made_over_a_deleted_file_is_an_ordinary_one() {
    let mut union = Union::over(|b| b.file("f", "a file"));
    fs::remove_file(union.at("f")).unwrap();
    fs::create_dir(union.at("f")).unwrap();
    fs::write(union.at("f/child"), "").unwrap();
    union.remount();
    assert_eq!(names(union.at("f")), ["child"]);
    assert!(!exists(union.upper(".wh.f")));
}

#[test]
fn again_and_again_is_as_once() {
    let mut union = Union::over(|b| b.file("d/child", "lower"));
    for round in 0..4 {
        fs::remove_dir_all(union.at("d")).unwrap();
        assert!(!exists(union.at("d")), "round {round}");
        fs::create_dir(union.at("d")).unwrap();
        fs::write(union.at("d/mine"), round.to_string()).unwrap();
        if round % 2 == 0 {
            union.remount();
        }
        assert_eq!(names(union.at("d")), ["mine"], "round {round}");
    }
    assert_eq!(text(union.at("d/mine")), "3");
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let union = Union::builder().upper(|b| b.dir("upper")).lower(|b| b.dir("lower").file("file", "")).mount();
    for name in ["upper", "lower", "file"] {
        refused(fs::create_dir(union.at(name)), Errno::EXIST);
    }
    refused(fs::create_dir(union.at("missing/d")), Errno::NOENT);
    refused(fs::create_dir(union.at("file/d")), Errno::NOTDIR);
    assert_eq!(union.in_upper(), ["upper"]);
}

#[test]
fn a_whole_path_is_made_in_a_lower_directory() {
    let union = Union::over(|b| b.file("a/b/f", "lower"));
    fs::create_dir_all(union.at("a/b/c/d/e")).unwrap();
    assert_eq!(names(union.at("a/b")), ["c", "f"]);
    assert_eq!(union.in_upper(), ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/e"]);
}
