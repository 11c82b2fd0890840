//! fsync: works on everything that can be opened, and copies nothing up.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::fs::{CWD, Mode, OFlags, fdatasync, fsync, openat, syncfs};

use crate::common::{Union, names, needs_root, overwrite, text, traced};

#[test]
fn what_was_only_read_is_synced_without_a_copy() {
    let union = Union::over(|b| b.file("d/f", "text"));
    let file = File::options().read(true).write(true).open(union.at("d/f")).unwrap();
    fsync(&file).unwrap();
    fdatasync(&file).unwrap();
    fsync(File::open(union.at("d/f")).unwrap()).unwrap();
    for dir in ["d", "."] {
        fsync(openat(CWD, union.at(dir), OFlags::DIRECTORY, Mode::empty()).unwrap()).unwrap();
    }
    syncfs(&file).unwrap();
    assert!(union.in_upper().is_empty());
}

#[test]
fn what_was_written_is_on_the_branch_after_a_sync() {
    let union = Union::over(|b| b.file("f", "lower"));
    let file = File::options().write(true).open(union.at("f")).unwrap();
    file.write_all_at(b"UPPER", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(text(union.upper("f")), "UPPER");
    file.write_all_at(b"again", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(text(union.upper("f")), "again");
}

#[test]
fn a_removed_file_can_still_be_synced() {
    let union = Union::over(|b| b.file("f", "lower"));
    let file = File::options().write(true).open(union.at("f")).unwrap();
    fs::remove_file(union.at("f")).unwrap();
    file.write_all_at(b"UPPER", 0).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_directory_is_synced_after_every_kind_of_change() {
    let union = Union::over(|b| b.file("d/f", "").file("d/g", ""));
    let dir = openat(CWD, union.at("d"), OFlags::DIRECTORY, Mode::empty()).unwrap();
    fs::remove_file(union.at("d/f")).unwrap();
    fsync(&dir).unwrap();
    fs::rename(union.at("d/g"), union.at("d/h")).unwrap();
    fsync(&dir).unwrap();
    fs::write(union.at("d/new"), "").unwrap();
    fsync(&dir).unwrap();
    assert_eq!(names(union.at("d")), ["h", "new"]);
}

#[test]
fn a_volatile_mount_behaves_the_same() {
    let mut union = Union::builder().option("volatile").lower(|b| b.file("f", "lower").file("g", "")).mount();
    overwrite(union.at("f"), 0, "UPPER");
    File::open(union.at("f")).unwrap().sync_all().unwrap();
    fs::remove_file(union.at("g")).unwrap();
    union.remount();
    assert_eq!(text(union.at("f")), "UPPER");
    assert_eq!(names(union.root()), ["f"]);
}

const SYNCS: [&str; 4] = ["fsync(", "fdatasync(", "syncfs(", "sync_file_range("];
const CALLS: &str = "fsync,fdatasync,syncfs,sync_file_range,linkat,renameat,renameat2";

fn is_sync(call: &str) -> bool {
    SYNCS.iter().any(|sync| call.contains(sync))
}

/// Otherwise a power loss leaves an empty file that hides the lower's.
#[test]
fn the_data_of_a_copied_up_file_is_on_disk_before_its_name_is_in_the_upper() {
    needs_root!("strace of a running process");
    let union = Union::over(|b| b.file("victim", vec![b'.'; 100_000]));
    let Some(calls) = traced(union.pid(), CALLS, || overwrite(union.at("victim"), 0, "x")) else { return };
    let named = calls.iter().position(|call| call.contains("\"victim\""));
    let synced = calls.iter().position(|call| is_sync(call));
    assert!(synced.is_some() && synced < named, "{calls:#?}");
}

#[test]
fn a_directory_that_is_copied_up_is_synced_as_a_whole_and_not_file_by_file() {
    needs_root!("strace of a running process");
    let union = Union::over(|mut b| {
        for index in 0..100 {
            b = b.file(&format!("victim/{}/{index}", index % 3), "content");
        }
        b
    });
    let act = || fs::rename(union.at("victim"), union.at("moved")).unwrap();
    let Some(calls) = traced(union.pid(), CALLS, act) else { return };
    let moved = calls.iter().rposition(|call| call.contains("\"moved\"")).unwrap();
    let syncs = calls[..moved].iter().filter(|call| is_sync(call)).count();
    assert!((1..10).contains(&syncs), "{syncs} syncs\n{calls:#?}");
}

#[test]
fn a_volatile_mount_syncs_nothing() {
    needs_root!("strace of a running process");
    let union =
        Union::builder().option("volatile").lower(|b| b.file("f", "text").file("d/g", "text")).mount();
    let act = || {
        overwrite(union.at("f"), 0, "T");
        File::open(union.at("f")).unwrap().sync_all().unwrap();
        fs::rename(union.at("d"), union.at("e")).unwrap();
    };
    let Some(calls) = traced(union.pid(), CALLS, act) else { return };
    assert!(!calls.iter().any(|call| is_sync(call)), "{calls:#?}");
}

#[test]
fn whoever_may_only_read_may_sync() {
    needs_root!("another user");
    let union = Union::builder().option("allow_other").upper(|b| b.file("f", "root's")).lower(|b| b).mount();
    crate::common::as_user(crate::common::ALICE, || {
        File::open(union.at("f")).unwrap().sync_all().unwrap();
    });
}
