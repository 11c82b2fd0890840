//! Many at once: whatever the order in which things come, what is seen is what is on disk.
//!
//! The threads ignore what their calls answer. What must hold is checked when the union ends: every
//! name that is listed is found, lowers are untouched, the upper is a valid layer, and a remount
//! shows the same tree, so nothing that the kernel or the daemon remembered was wrong.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::{Branch, Dice, Union};

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
