//! open with `O_CREAT`: new files, in the upper, and only where the name is free.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::common::{Union, exists, mode, mtime, names, refused, stat, text};

#[test]
fn a_new_file_is_made_in_the_upper() {
    let union = Union::over(|b| b.dir("d"));
    fs::write(union.at("f"), "new").unwrap();
    fs::write(union.at("d/f"), "deeper").unwrap();
    assert_eq!(union.in_upper(), ["d", "d/f", "f"]);
    assert_eq!(text(union.upper("d/f")), "deeper");
    let stat = stat(union.at("f"));
    assert_eq!((stat.nlink(), stat.len()), (1, 3));
}

#[test]
fn the_mode_asked_for_is_the_mode_that_is_made() {
    let union = Union::over(|b| b);
    for asked in [0o600, 0o400, 0o444, 0o755] {
        let name = format!("{asked:o}");
        File::options().write(true).create_new(true).mode(asked).open(union.at(&name)).unwrap();
        assert_eq!(mode(union.at(&name)), asked);
        assert_eq!(mode(union.upper(&name)), asked);
    }
}

#[test]
fn exclusive_creation_refuses_a_name_that_any_branch_shows() {
    let union = Union::builder()
        .upper(|b| b.file("upper", "").symlink("dangling", "nowhere"))
        .lower(|b| b.file("lower", "").dir("dir"))
        .mount();
    for name in ["upper", "lower", "dir", "dangling"] {
        let outcome = File::options().write(true).create_new(true).open(union.at(name));
        refused(outcome, Errno::EXIST);
    }
    assert_eq!(union.in_upper(), ["dangling", "upper"]);
}

#[test]
fn creation_without_exclusion_opens_what_is_there() {
    let union = Union::over(|b| b.file("f", "lower text"));
    let mut file = File::options().read(true).append(true).create(true).open(union.at("f")).unwrap();
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "lower text");
    assert!(union.in_upper().is_empty());
    file.write_all(b" and more").unwrap();
    assert_eq!(text(union.at("f")), "lower text and more");
}

#[test]
fn a_deleted_name_is_free_again_and_its_marker_goes() {
    let union = Union::builder()
        .upper(|b| b.file("in_both", "upper"))
        .lower(|b| b.file("in_lower", "lower").file("in_both", "lower"))
        .mount();
    for name in ["in_lower", "in_both"] {
        fs::remove_file(union.at(name)).unwrap();
        let mut file = File::options().write(true).create_new(true).open(union.at(name)).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(text(union.at(name)), "new");
    }
    assert_eq!(union.in_upper(), ["in_both", "in_lower"], "no marker is left");
}

#[test]
fn a_file_may_take_the_place_of_a_deleted_directory() {
    let mut union = Union::over(|b| b.file("d/child", ""));
    fs::remove_dir_all(union.at("d")).unwrap();
    fs::write(union.at("d"), "a file now").unwrap();
    assert_eq!(text(union.at("d")), "a file now");
    union.remount();
    assert_eq!(text(union.at("d")), "a file now");
    refused(fs::metadata(union.at("d/child")), Errno::NOTDIR);
}

#[test]
fn there_is_no_creation_without_a_parent_directory() {
    let union = Union::over(|b| b.file("file", "").dir("deleted").dir("dir"));
    fs::remove_dir(union.at("deleted")).unwrap();
    refused(File::create(union.at("missing/f")), Errno::NOENT);
    refused(File::create(union.at("deleted/f")), Errno::NOENT);
    refused(File::create(union.at("file/f")), Errno::NOTDIR);
    refused(File::create(union.at("dir")), Errno::ISDIR);
}

#[test]
fn the_parents_times_change_and_its_attributes_stay() {
    let union = Union::over(|b| {
        b.dir("d").mode("d", 0o1770).xattr("d", "user.note", "kept").mtime("d", 1_000_000_000, 5)
    });
    fs::write(union.at("d/new"), "").unwrap();
    assert_eq!(mode(union.at("d")), 0o1770);
    assert_eq!(mode(union.upper("d")), 0o1770);
    assert!(mtime(union.at("d")).0 > 1_000_000_000, "a new entry changes its directory");
}

#[test]
fn the_longest_name_can_be_made_and_removed() {
    let union = Union::over(|b| b);
    for len in 250..=255 {
        let name = "n".repeat(len);
        fs::write(union.at(&name), "x").unwrap();
        assert_eq!(names(union.root()), [name.as_str()]);
        fs::remove_file(union.at(&name)).unwrap();
    }
    refused(File::create(union.at("n".repeat(256))), Errno::NAMETOOLONG);
    assert!(union.in_upper().is_empty());
}

#[test]
fn truncating_creation_empties_a_lower_file() {
    let union = Union::over(|b| b.file("f", "lower text").mode("f", 0o640));
    File::create(union.at("f")).unwrap();
    assert_eq!(text(union.at("f")), "");
    assert_eq!(text(union.upper("f")), "");
    assert_eq!(mode(union.at("f")), 0o640, "the mode is the file's own");
}

#[test]
fn nameless_files_are_refused_as_unsupported() {
    let union = Union::over(|b| b);
    let outcome = openat(CWD, union.root(), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    refused(outcome, Errno::OPNOTSUPP);
}

#[test]
fn of_many_that_create_one_name_exclusively_one_wins() {
    let union = Union::over(|b| b.file("f", "lower"));
    for _ in 0..20 {
        fs::remove_file(union.at("f")).unwrap();
        let create = || File::options().write(true).create_new(true).open(union.at("f")).is_ok();
        let winners = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(winners, 1);
    }
    assert!(!exists(union.upper(".wh.f")));
}
