//! size=, inodes=: the upper holds so much and no more.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::common::{Branch, FaultyFs, Union, overwrite, refused, text};

const MIB: usize = 1 << 20;

/// What df(1) shows: size, free, all inodes, free ones.
fn df(union: &Union) -> (u64, u64, u64, u64) {
    let disk = statvfs(union.root()).unwrap();
    (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize, disk.f_files, disk.f_ffree)
}

fn writable(lower: impl FnOnce(Branch) -> Branch) -> Union {
    Union::builder().option("size=4m,inodes=8").lower(lower).mount()
}

#[test]
fn data_beyond_the_size_is_refused() {
    let mut union = writable(|b| b.file("big", vec![1; 3 * MIB]).file("small", "x"));
    assert_eq!(df(&union), (4 << 20, 4 << 20, 8, 8));
    fs::write(union.at("two"), vec![2; 2 * MIB]).unwrap();
    assert_eq!(df(&union).1, 2 << 20);
    // A copy-up is a write like any other, and one that fails leaves the lower's file.
    refused(File::options().append(true).open(union.at("big")).unwrap().write(b"more"), Errno::NOSPC);
    assert_eq!((fs::read(union.at("big")).unwrap().len(), df(&union).1), (3 * MIB, 2 << 20));
    let mut more = File::create(union.at("more")).unwrap();
    refused(more.write_all(&vec![3; 3 * MIB]), Errno::NOSPC);
    assert_eq!(more.metadata().unwrap().len(), 2 << 20, "as much as there was room for");
    refused(fallocate(&more, FallocateFlags::empty(), 0, 4 << 20), Errno::NOSPC);
    // What is there can be written over, and made less.
    overwrite(union.at("two"), 0, "over");
    refused(File::options().write(true).open(union.at("small")).unwrap().write_at(b"y", 0), Errno::NOSPC);
    more.set_len(MIB as u64).unwrap();
    drop(more);
    overwrite(union.at("small"), 0, "y");
    union.remount();
    assert_eq!(df(&union).1, (1 << 20) - 4096);
    fs::remove_file(union.at("two")).unwrap();
    crate::common::eventually(|| df(&union).1 == (3 << 20) - 4096);
}

#[test]
fn an_unlinked_file_counts_for_as_long_as_it_is_open() {
    let union = writable(|b| b);
    for _ in 0..3 {
        let mut file = File::create(union.at("f")).unwrap();
        fs::remove_file(union.at("f")).unwrap();
        file.write_all(&vec![1; 3 * MIB]).unwrap();
        refused(fs::write(union.at("g"), vec![2; 2 * MIB]), Errno::NOSPC);
        drop(file);
        fs::remove_file(union.at("g")).unwrap();
        // The kernel says that it is closed a moment later.
        crate::common::eventually(|| df(&union).1 == 4 << 20);
    }
    fs::write(union.at("g"), vec![2; 3 * MIB]).unwrap();
    fs::write(union.at("h"), "h").unwrap();
    fs::rename(union.at("h"), union.at("g")).unwrap();
    crate::common::eventually(|| df(&union).1 == (4 << 20) - 4096);
}

#[test]
fn inodes_beyond_the_limit_are_refused() {
    let mut union = writable(|b| b.file("low/f", "text").file("low/g", "text"));
    let free = |union: &Union| df(union).3;
    for name in ["a", "b", "c"] {
        fs::write(union.at(name), name).unwrap();
    }
    fs::create_dir(union.at("d")).unwrap();
    std::os::unix::fs::symlink("a", union.at("s")).unwrap();
    fs::hard_link(union.at("a"), union.at("a2")).unwrap();
    assert_eq!(free(&union), 3);
    // With its directory.
    overwrite(union.at("low/f"), 0, "TEXT");
    assert_eq!(free(&union), 1);
    fs::write(union.at("last"), "").unwrap();
    refused(fs::write(union.at("none"), ""), Errno::NOSPC);
    refused(fs::create_dir(union.at("none")), Errno::NOSPC);
    refused(File::options().write(true).open(union.at("low/g")).unwrap().write_at(b"T", 0), Errno::NOSPC);
    assert_eq!(text(union.at("low/g")), "text");
    // All whiteouts are one inode, which does not count.
    fs::remove_file(union.at("low/g")).unwrap();
    fs::remove_file(union.at("a")).unwrap();
    assert_eq!(free(&union), 0, "it has another name");
    fs::remove_file(union.at("a2")).unwrap();
    fs::remove_dir(union.at("d")).unwrap();
    crate::common::eventually(|| free(&union) == 2);
    union.remount();
    assert_eq!(free(&union), 2 - whiteouts());
}

/// After a remount the markers in the upper are counted with the rest.
fn whiteouts() -> u64 {
    1
}

#[test]
fn an_upper_that_holds_more_already_can_be_emptied() {
    let union = Union::builder()
        .option("size=1m,inodes=1")
        .lower(|b| b)
        .upper(|b| b.file("f", vec![0; 2 * MIB]).file("g", ""))
        .mount();
    assert_eq!((df(&union).1, df(&union).3), (0, 0));
    refused(fs::write(union.at("new"), "x"), Errno::NOSPC);
    fs::remove_file(union.at("f")).unwrap();
    fs::remove_file(union.at("g")).unwrap();
    crate::common::eventually(|| (df(&union).1, df(&union).3) == (1 << 20, 1));
    fs::write(union.at("new"), "x").unwrap();
}

/// What fails halfway gives back what it took.
#[test]
fn a_failure_takes_nothing() {
    let disk = FaultyFs::new();
    let mut union = Union::builder()
        .writable_in(disk.path())
        .option("size=4m,inodes=8")
        .lower(|b| b.file("f", vec![1; MIB]))
        .mount();
    let before = df(&union);
    for after in 0..8 {
        disk.fail_change(after, Errno::IO);
        let outcome = File::options().write(true).open(union.at("f")).and_then(|file| file.write_at(b"x", 0));
        disk.recover();
        if outcome.is_ok() {
            // A directory's time of modification may be a casualty.
            return union.remount_as_changed();
        }
        assert_eq!(df(&union), before, "after {after} changes");
    }
    panic!("a copy-up takes more than eight changes");
}
