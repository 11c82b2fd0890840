//! st_ino: one number for one inode, for as long as it lives, and after a remount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use crate::common::{Tmpfs, Union, needs_root, overwrite, sh, stat, text};

fn number(union: &Union, path: &str) -> u64 {
    stat(union.at(path)).ino()
}

#[test]
fn a_copy_up_changes_no_number() {
    let mut union = Union::builder()
        .lower(|b| b.file("d/f", "text").symlink("d/s", "f").fifo("d/p").dir("d/sub"))
        .lower(|b| b.file("d/g", "text").dir("d/sub"))
        .mount();
    let paths = ["d", "d/f", "d/s", "d/p", "d/sub", "d/g"];
    let before = paths.map(|path| number(&union, path));
    let open = File::open(union.at("d/f")).unwrap();
    overwrite(union.at("d/f"), 0, "T");
    overwrite(union.at("d/g"), 0, "T");
    sh(union.root(), "touch -h -d 2001-01-01 d/s d/p d/sub; chmod 750 d");
    assert_eq!(paths.map(|path| number(&union, path)), before, "at once");
    assert_eq!(open.metadata().unwrap().ino(), before[1], "by a handle from before");
    drop(open);
    union.remount();
    assert_eq!(paths.map(|path| number(&union, path)), before, "after a remount");
}

#[test]
fn numbers_are_unique_over_all_branches() {
    let union = Union::builder()
        .upper(|b| b.file("d/upper1", "").file("d/upper2", "").file("upper3", ""))
        .lower(|b| b.file("d/first1", "").file("d/first2", "").dir("d/first_dir"))
        .lower(|b| b.file("d/second1", "").file("e/second2", "").dir("d/second_dir"))
        .mount();
    overwrite(union.at("d/first1"), 0, "x");
    overwrite(union.at("d/second1"), 0, "x");
    sh(union.root(), "for i in 1 2 3 4 5 6 7 8 9; do echo $i > new$i; done; mkdir -p a/b/c");
    assert_unique(&union);
}

#[test]
fn numbers_are_unique_over_branches_on_several_disks() {
    needs_root!("tmpfs");
    let (one, other, upper) = (Tmpfs::of_kib(1024), Tmpfs::of_kib(1024), Tmpfs::of_kib(1024));
    // A fresh tmpfs counts from the same number each time.
    for disk in [&one, &other] {
        sh(disk.dir("lower"), "for i in 1 2 3 4 5 6 7 8 9; do mkdir d$i; touch d$i/$$ f$i-$$; done");
    }
    let union = Union::builder()
        .writable_in(upper.path())
        .lower_at(one.dir("lower"))
        .lower_at(other.dir("lower"))
        .mount();
    let before = assert_unique(&union);
    sh(union.root(), "for f in f*; do echo x >> $f; done; for i in 1 2 3 4; do touch new$i; done");
    let after = assert_unique(&union);
    for (path, number) in before {
        assert_eq!(after[&path], number, "{path}");
    }
}

/// Each path's number; two paths with one number are a failure.
fn assert_unique(union: &Union) -> BTreeMap<String, u64> {
    let listing = sh(union.root(), "find . -printf '%i %p\\n'");
    let numbers: BTreeMap<_, _> = listing
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(number, path)| (path.to_owned(), number.parse::<u64>().unwrap()))
        .collect();
    let mut owners = BTreeMap::new();
    for (path, number) in &numbers {
        if let Some(other) = owners.insert(*number, path) {
            panic!("{path} and {other} both have number {number}");
        }
    }
    numbers
}

#[test]
fn a_successor_has_another_number_than_a_file_that_is_still_open() {
    let union = Union::over(|b| b.file("f", "lower"));
    let mut held = vec![File::open(union.at("f")).unwrap()];
    for _ in 0..20 {
        fs::remove_file(union.at("f")).unwrap();
        fs::write(union.at("f"), "successor").unwrap();
        let new = number(&union, "f");
        for old in &held {
            assert_ne!(old.metadata().unwrap().ino(), new);
        }
        held.push(File::open(union.at("f")).unwrap());
    }
}

#[test]
fn a_number_does_not_change_while_the_mount_lives() {
    let union = Union::over(|b| b.file("d/f", "").dir("other"));
    let before = number(&union, "d/f");
    sh(union.root(), "find . > /dev/null; mv d/f other/g; mv other moved; mv moved/g h");
    assert_eq!(number(&union, "h"), before);
    sh(union.root(), "ln h i; rm h; mv i d/f; chmod 600 d/f; echo x > d/f");
    assert_eq!(number(&union, "d/f"), before);
}

#[test]
fn new_files_keep_their_numbers_after_a_remount() {
    let mut union = Union::over(|b| b.dir("d"));
    sh(union.root(), "touch a d/b; mkdir c; ln a e; mkfifo d/p");
    let paths = ["a", "d/b", "c", "e", "d/p", "d", "."];
    let before = paths.map(|path| number(&union, path));
    union.remount();
    assert_eq!(paths.map(|path| number(&union, path)), before);
}

#[test]
fn a_crash_changes_no_number_and_no_link() {
    let mut union = Union::over(|b| b.file("f", "text").file("d/a", "linked").link("d/a", "d/b"));
    overwrite(union.at("f"), 0, "T");
    overwrite(union.at("d/a"), 0, "L");
    sh(union.root(), "mv f g; touch new");
    let paths = ["g", "new", "d", "d/a", "d/b"];
    let before = paths.map(|path| number(&union, path));
    union.crash_and_remount();
    assert_eq!(paths.map(|path| number(&union, path)), before);
    assert_eq!(stat(union.at("d/a")).nlink(), 2);
    overwrite(union.at("d/b"), 1, "I");
    assert_eq!(text(union.at("d/a")), "LInked");
}
