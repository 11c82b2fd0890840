//! What a look may cost, counted in the daemon's system calls on the branches: no clock, no luck.

use std::fs;

use crate::common::{Union, exists, names, needs_root, stat, text, traced};

/// Calls that name a file, and calls that list a directory.
const LOOKS: &str = "%file,getdents64";

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
