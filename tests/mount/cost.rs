//! What a look may cost, counted in the kernel's messages to the daemon and in the daemon's system calls on the
//! branches: no clock, no luck.

use std::fs;
use std::path::Path;

use crate::common::{Union, exists, names, needs_root, stat, text, traced};

/// Calls that name a file, and calls that list a directory.
const LOOKS: &str = "%file,getdents64";

/// How many messages the mount has had so far, without those that ask for this: of one kind, or of all.
fn messages(union: &Union, kind: Option<&str>) -> u64 {
    let mut text = vec![0; 4096];
    let length = rustix::fs::getxattr(union.root(), "user.plyfs.messages", &mut text[..]).unwrap();
    let text = String::from_utf8(text[..length].to_vec()).unwrap();
    let counts = text.lines().map(|line| line.split_once(' ').unwrap());
    counts
        .filter(|(name, _)| kind.map_or(*name != "GETXATTR", |kind| kind == *name))
        .map(|(_, count)| count.parse::<u64>().unwrap())
        .sum()
}

/// Stats every entry beneath a directory, and reads every file. Says how many there were.
fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let visit = |path: std::path::PathBuf| {
        if stat(&path).is_dir() {
            return 1 + walk(&path);
        }
        text(&path);
        1
    };
    entries.map(visit).sum()
}

#[test]
fn a_walk_asks_for_directories_and_not_for_each_name() {
    let union = Union::over(|mut b| {
        for index in 0..600 {
            b = b.file(&format!("d{}/{index}", index % 3), "text");
        }
        b
    });
    let before = (messages(&union, Some("LOOKUP")), messages(&union, Some("READDIRPLUS")));
    assert_eq!(walk(union.root()), 603);
    let lookups = messages(&union, Some("LOOKUP")) - before.0;
    let listings = messages(&union, Some("READDIRPLUS")) - before.1;
    assert_eq!(lookups, 0, "the listing has told all names");
    assert!(listings < 40, "{listings} messages for 4 directories");
}

#[test]
fn a_walk_over_what_the_kernel_knows_sends_no_message() {
    let union = Union::builder()
        .lower(|b| b.file("d/f", "text").symlink("d/s", "f"))
        .lower(|b| b.file("d/g", "text").file("e/h", "more"))
        .mount();
    walk(union.root());
    // The first pass has outdated the access times.
    walk(union.root());
    let before = messages(&union, None);
    walk(union.root());
    assert_eq!(messages(&union, None) - before, 0);
}

#[test]
fn a_stat_in_a_big_directory_does_not_list_it() {
    needs_root!("strace of a running process");
    let union = Union::over(|mut b| {
        for index in 0..1000 {
            b = b.file(&format!("d/{index}"), "");
        }
        b
    });
    let Some(calls) = traced(union.pid(), LOOKS, || assert!(exists(union.at("d/500")))) else { return };
    assert!(!calls.iter().any(|call| call.contains("getdents64(")), "{calls:#?}");
    assert!(calls.len() < 20, "{calls:#?}");
}

#[test]
fn a_miss_is_looked_for_once() {
    needs_root!("strace of a running process");
    let union = Union::over(|b| b.file("d/f", ""));
    assert!(!exists(union.at("d/missing")));
    let look_again = || assert!((0..100).all(|_| !exists(union.at("d/missing"))));
    let Some(calls) = traced(union.pid(), LOOKS, look_again) else { return };
    assert!(calls.is_empty(), "{calls:#?}");
}

#[test]
fn a_miss_is_looked_for_only_where_the_directory_is() {
    needs_root!("strace of a running process");
    let mut builder = Union::builder();
    for index in 0..64 {
        builder = builder.lower(|b| if index == 40 { b.file("d/f", "") } else { b.file("other", "") });
    }
    let union = builder.mount();
    stat(union.at("d/f"));
    let miss = || assert!((0..10).all(|index| !exists(union.at(format!("d/{index}")))));
    let Some(calls) = traced(union.pid(), LOOKS, miss) else { return };
    assert!(calls.len() <= 30, "{} calls for 10 misses\n{calls:#?}", calls.len());
}

#[test]
fn what_was_read_or_listed_is_read_or_listed_again_without_a_look() {
    needs_root!("strace of a running process");
    let union = Union::builder()
        .lower(|b| b.file("d/f", "text").symlink("d/s", "f"))
        .lower(|b| b.file("d/g", "text"))
        .mount();
    let look = || {
        assert_eq!(names(union.at("d")), ["f", "g", "s"]);
        assert_eq!(text(union.at("d/s")), "text");
        assert_eq!(text(union.at("d/g")), "text");
        stat(union.at("d/f"));
    };
    look();
    // The first read of a file has outdated its access time.
    look();
    let Some(calls) = traced(union.pid(), LOOKS, look) else { return };
    assert!(calls.is_empty(), "{calls:#?}");
}

#[test]
fn a_listing_takes_few_calls_however_long_it_is() {
    needs_root!("strace of a running process");
    let union = Union::over(|mut b| {
        for index in 0..5000 {
            b = b.file(&format!("d/{index}"), "");
        }
        b
    });
    let list = || assert_eq!(fs::read_dir(union.at("d")).unwrap().count(), 5000);
    let Some(calls) = traced(union.pid(), "getdents64", list) else { return };
    assert!(calls.len() < 20, "{} calls", calls.len());
}
