//! Does a stack that changes show what the stack of now flattens to?
//!
//! Branches with markers of every format come, go and move in a live mount, with the kernel's caches full of what was
//! before; after each change the mount is compared with a flattening of what is in the stack, and at the end once more
//! after a walk by a mount that has seen nothing of it.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::flatten::{ZeroDevice, flatten};
use super::layer::{Folder, Formats, any_branch, lay};
use super::look::Tree;
use super::mounted::{Mounted, command, options};
use super::sequence::open_temp_dir;
use super::times::Clock;

/// One request.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A branch that is in the stack leaves it, another one comes in; numbers are taken modulo what there is.
    Add(usize, usize),
    Remove(usize),
    Move(usize, usize),
    /// Two in one.
    Replace(usize, usize, usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    branches: Vec<Folder>,
    changes: Vec<Change>,
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.branches.iter().try_for_each(|branch| write!(f, "branch:\n{branch}"))?;
        self.changes.iter().try_for_each(|change| writeln!(f, "{change:?}"))
    }
}

pub(crate) fn any_case() -> impl Strategy<Value = Case> {
    let number = || 0..60_usize;
    let change = prop_oneof![
        2 => (number(), number()).prop_map(|(which, at)| Change::Add(which, at)),
        2 => number().prop_map(Change::Remove),
        2 => (number(), number()).prop_map(|(which, at)| Change::Move(which, at)),
        1 => (number(), number(), number()).prop_map(|(old, new, at)| Change::Replace(old, new, at)),
    ];
    let branches = prop::collection::vec(any_branch(Formats::All), 2..6);
    (branches, prop::collection::vec(change, 1..8)).prop_map(|(branches, changes)| Case { branches, changes })
}

/// The branches that are in the stack, topmost first, and those that are not.
struct Stack {
    inside: Vec<PathBuf>,
    outside: Vec<PathBuf>,
}

impl Stack {
    /// What the change is called, once it has been made here; nothing if there is nothing to change.
    fn change(&mut self, change: Change) -> Vec<String> {
        let length = self.inside.len();
        match change {
            Change::Add(which, at) if !self.outside.is_empty() => {
                let branch = self.outside.remove(which % self.outside.len());
                let at = at % (length + 1);
                self.inside.insert(at, branch.clone());
                vec![format!("add:{}:{}", at + 1, branch.display())]
            }
            Change::Remove(which) if length > 1 => {
                let branch = self.inside.remove(which % length);
                self.outside.push(branch.clone());
                vec![format!("del:{}", branch.display())]
            }
            Change::Move(which, at) => {
                let branch = self.inside.remove(which % length);
                let at = at % length;
                self.inside.insert(at, branch.clone());
                vec![format!("move:{}:{}", at + 1, branch.display())]
            }
            Change::Replace(old, new, at) if length > 1 && !self.outside.is_empty() => {
                let mut words = self.change(Change::Remove(old));
                // Not the one that has just gone.
                let others = self.outside.len() - 1;
                if others > 0 {
                    words.extend(self.change(Change::Add(new % others, at)));
                }
                words
            }
            Change::Add(..) | Change::Remove(_) | Change::Replace(..) => Vec::new(),
        }
    }
}

/// Plays a case.
pub(crate) fn check(case: &Case) -> Result<(), String> {
    let _alone = super::alone();
    let dir = open_temp_dir();
    let path = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    };
    let branches: Vec<_> = (0..case.branches.len()).map(|i| path(&format!("branch{i}"))).collect();
    for (dir, folder) in branches.iter().zip(&case.branches) {
        lay(dir, folder);
    }
    let (upper, work, mnt) = (path("upper"), path("work"), path("mnt"));
    let mut stack = Stack { inside: branches, outside: Vec::new() };
    let mounted = Mounted::new(&options(&stack.inside, Some((&upper, &work))), &mnt);
    compare(&stack, &dir.path().join("flat"), &mnt)?;
    for (number, change) in case.changes.iter().enumerate() {
        let words = stack.change(*change);
        if !words.is_empty() {
            command(&["branch", "change"], &mnt, &words)?;
            let flat = dir.path().join(format!("flat{number}"));
            compare(&stack, &flat, &mnt).map_err(|e| format!("change {number}, {words:?}: {e}"))?;
        }
    }
    mounted.end();
    let mounted = Mounted::new(&options(&stack.inside, Some((&upper, &work))), &mnt);
    compare(&stack, &dir.path().join("again"), &mnt).map_err(|e| format!("after a remount: {e}"))?;
    mounted.end();
    Ok(())
}

fn compare(stack: &Stack, flat: &Path, mnt: &Path) -> Result<(), String> {
    fs::create_dir(flat).expect("a directory");
    let branches: Vec<_> = stack.inside.iter().map(|branch| (&**branch, ZeroDevice::Whiteout)).collect();
    flatten(&branches, flat);
    let expected = Tree::of(flat, &Clock::default())?;
    let mut shown = Tree::of(mnt, &Clock::default())?;
    // The upper's root is the topmost part of the root.
    shown.items.insert(PathBuf::new(), expected.items[&PathBuf::new()].clone());
    let differences = expected.differences(&shown, ("flattened", "live"));
    if differences.is_empty() { Ok(()) } else { Err(format!("\n{}", differences.join("\n"))) }
}
