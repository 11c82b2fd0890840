//! Many at once: whatever the order in which things come, what is seen is what is on disk.
//!
//! The threads ignore what their calls answer. What must hold is checked when the union ends: every
//! name that is listed is found, lowers are untouched, the upper is a valid layer, and a remount
//! shows the same tree, so nothing that the kernel or the daemon remembered was wrong.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::{Branch, Dice, Union, plyfs};

/// Few names, so that the threads meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A path of one to three names.
fn path(dice: &mut Dice, union: &Union) -> PathBuf {
    let depth = 1 + dice.throw(3);
    (0..depth).fold(union.root().to_owned(), |path, _| path.join(NAMES[dice.throw(NAMES.len())]))
}

fn fill(b: Branch) -> Branch {
    b.file("a/a", "aa")
        .file("a/b/c", "abc")
        .file("a/b/d", "abd")
        .link("a/b/d", "a/c")
        .file("b/a/a", "baa")
        .file("b/b", "bb")
        .symlink("b/c", "b")
        .file("c", vec![b'c'; 100_000])
        .dir("d/d")
}

/// One random change, or a look. Errors are as they come.
fn act(union: &Union, dice: &mut Dice) -> std::io::Result<()> {
    let (path, other) = (path(dice, union), path(dice, union));
    match dice.throw(16) {
        0 | 1 => fs::create_dir_all(path),
        2 => fs::remove_dir(path),
        3 => fs::remove_file(path),
        4 => fs::remove_dir_all(path),
        5 | 6 => fs::write(path, "written"),
        13 => File::options().append(true).open(path)?.write_all(b"+"),
        7 | 8 => fs::rename(path, other),
        9 => Ok(renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE)?),
        10 => fs::hard_link(path, other),
        11 => symlink("a", path),
        12 => File::options().write(true).open(path)?.set_len(dice.throw(10) as u64),
        _ => {
            let mut content = Vec::new();
            fs::read_dir(&path).map(Iterator::count).ok();
            File::open(path)?.read_to_end(&mut content).map(drop)
        }
    }
}

#[test]
fn changes_at_once_leave_a_tree_that_a_remount_shows_again() {
    for round in 0..6 {
        let union = Union::builder()
            .upper(|b| b.file("a/b/a", "upper").dir("d/c"))
            .lower(fill)
            .lower(|b| b.file("a/d/a", "deep").file("d/a", "deep").file("c/hidden", "").dir("b/b"));
        let union = union.mount();
        thread::scope(|scope| {
            for worker in 0..4 {
                let union = &union;
                scope.spawn(move || {
                    let mut dice = Dice::new(round * 100 + worker);
                    // What fails, fails: the names were somebody else's for the moment.
                    (0..400).filter(|_| act(union, &mut dice).is_ok()).count()
                });
            }
        });
    }
}

/// The same one after the other, for a history that can be repeated.
#[test]
fn changes_in_turn_leave_a_tree_that_a_remount_shows_again() {
    for seed in 0..6 {
        let mut union = Union::builder().lower(fill).lower(fill).mount();
        let mut dice = Dice::new(seed);
        for _ in 0..4 {
            let done = (0..150).filter(|_| act(&union, &mut dice).is_ok()).count();
            assert!(done > 10, "seed {seed}: the dice find nothing to do");
            union.remount();
        }
    }
}

/// For how long the stack changes: some seconds, or as many as `PLYFS_STRESS_SECONDS` says.
fn stress_time() -> Duration {
    let seconds = std::env::var("PLYFS_STRESS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// Runs eight who change the tree, and beside them `change` over and over.
fn while_others_work(union: &Union, seed: u64, change: impl Fn(&mut Dice)) -> usize {
    let (end, changes) = (Instant::now() + stress_time(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                let mut dice = Dice::new(seed * 100 + worker);
                while Instant::now() < end {
                    act(union, &mut dice).ok();
                }
            });
        }
        let mut dice = Dice::new(seed * 100 + 99);
        while Instant::now() < end {
            change(&mut dice);
            changes.fetch_add(1, Ordering::Relaxed);
        }
    });
    changes.into_inner()
}

#[track_caller]
fn command(words: &[&str]) {
    let run = Command::new(plyfs()).args(words).output().expect("plyfs runs");
    assert!(run.status.success(), "{words:?}: {}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_stack_that_changes_all_the_time_shows_what_a_remount_shows() {
    let union = Union::builder()
        .upper(|b| b.file("a/b/a", "upper").dir("d/c"))
        .lower(fill)
        .lower(|b| b.file("a/d/a", "deep").file("d/a", "deep").file("c/hidden", "").dir("b/b"))
        .lower(|b| b.file("b", "a file").file("a/b/d/c", "a directory").dir("c"))
        .lower(|b| b.file("d/b/a", "dba").file("a/a", "other").symlink("d/d", "."))
        // A directory that is known keeps the number that its topmost lower gave it then.
        .numbers_change()
        .mount();
    let lowers: Vec<String> = (0..4).map(|at| union.lower_path(at).to_str().unwrap().to_owned()).collect();
    let mountpoint = union.root().to_str().unwrap();
    let change = |words: &[String]| {
        let mut line = vec!["branch", "change", mountpoint];
        line.extend(words.iter().map(String::as_str));
        command(&line);
    };
    for round in 0..2 {
        let changes = while_others_work(&union, 7 + round, |dice| {
            let (one, other) = (&lowers[dice.throw(4)], &lowers[dice.throw(4)]);
            match dice.throw(3) {
                0 => change(&[format!("move:{}:{one}", 1 + dice.throw(4))]),
                // It is away, and comes back in another place.
                1 => {
                    change(&[format!("del:{one}")]);
                    change(&[format!("add:{}:{one}", 1 + dice.throw(4))]);
                }
                _ => change(&[
                    format!("del:{one}"),
                    format!("prepend:{one}"),
                    format!("del:{other}"),
                    format!("append:{other}"),
                ]),
            }
        });
        assert!(changes > 10, "{changes}");
        // As it was mounted: at its end the union is compared with a remount.
        change(
            &lowers
                .iter()
                .enumerate()
                .map(|(at, lower)| format!("move:{}:{lower}", at + 1))
                .collect::<Vec<_>>(),
        );
    }
}

#[test]
fn an_upper_that_is_a_snapshot_all_the_time_shows_what_a_remount_shows() {
    let mut union = Union::builder()
        .upper(|b| b.file("a/b/a", "upper").dir("d/c"))
        .lower(fill)
        .lower(|b| b.file("a/d/a", "deep").file("d/a", "deep").file("c/hidden", "").dir("b/b"))
        .mount();
    let mountpoint = union.root().to_str().unwrap().to_owned();
    for round in 0..2 {
        command(&["snapshot", &mountpoint, &format!("kept{round}")]);
        let snapshots = while_others_work(&union, 17 + round, |dice| {
            if dice.throw(12) == 0 {
                command(&["rewind", &mountpoint, &format!("kept{round}")]);
            } else {
                command(&["snapshot", &mountpoint]);
            }
        });
        assert!(snapshots > 10, "{snapshots}");
        union.remount();
    }
}
