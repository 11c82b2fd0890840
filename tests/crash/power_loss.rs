//! If the power fails at any moment, is what fsync(2) answered for there, and is nothing torn?
//!
//! A sequence of operations is recorded, with its syncs. Then, for every moment of it and several ways to lose what was
//! not synced (see `disk`), the branches are made anew and opened:
//!
//! - what was synced, and not changed since, shows as it was;
//! - no name shows that never did;
//! - a file that a lower has is never empty or torn: it shows data that it had at some time;
//! - where the disk keeps the order of names, users see the names that were there after one of the operations, none
//!   earlier than the last sync: a rename shows the old name or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use plyfs::branch::faults;
use plyfs::union::RenameMode;

use super::disk::{Disk as Model, Loss};
use super::operation::{Operation, parent_of};
use super::report::{Report, behave_as_a_mount};
use super::stacks::{self, Stack};
use super::stand::{Disk, Stand, forget};
use super::view::{Kernel, View};

use Operation::*;

fn sequences() -> Vec<(&'static str, Vec<Operation>)> {
    let rename = |from, to| Rename(from, to, RenameMode::Replace);
    vec![
        (
            "everything in the lower",
            vec![
                Write("a", 3),
                Fsync("a"),
                Write("d/x", 0),
                rename("a", "c"),
                Create("d/z"),
                Write("d/z", 0),
                Fsync("d/z"),
                Fsync("d"),
                Write("b", 0),
                Unlink("b"),
                Fsync(""),
                rename("d", "n"),
                Fsync(""),
                Write("n/x", 5),
                Fsync("n/x"),
                Truncate("n/y", 4),
                rename("n/x", "n/y"),
                Mkdir("d"),
                Fsync(""),
                Create("d/x"),
                Write("d/x", 0),
                Fsync("d/x"),
            ],
        ),
        (
            "the upper merges",
            vec![
                Write("d/y", 0),
                Fsync("d/y"),
                rename("d/y", "d/x"),
                Fsync("d"),
                Chmod("a"),
                Fsync("a"),
                Unlink("e/f"),
                Rmdir("e"),
                rename("d", "e"),
                Fsync("e/x"),
                Fsync(""),
                Write("e/x", 4),
            ],
        ),
        (
            "hard links in the lower",
            vec![
                Write("a", 3),
                Fsync("b"),
                Write("d/x", 0),
                Fsync("d/x"),
                Unlink("a"),
                Fsync(""),
                rename("d", "n"),
                Fsync(""),
                Write("b", 5),
                Fsync("n/x"),
                Unlink("n/x"),
                rename("b", "a"),
            ],
        ),
        (
            "hard links under an upper directory",
            vec![rename("d", "n"), Write("n/x", 1), Fsync("n/x"), Link("a", "b"), Fsync(""), Write("b", 2)],
        ),
    ]
}

#[test]
fn what_was_synced_is_there_and_nothing_is_torn() {
    behave_as_a_mount();
    let begun = Instant::now();
    let report = Report::default();
    let stacks = stacks::all();
    for (name, operations) in sequences() {
        let stack = stacks.iter().find(|stack| stack.name == name).expect("a stack of that name");
        play(stack, &operations, &report);
    }
    report.end("the power fails", begun);
}

/// What was done, and what users saw after each operation.
struct Run {
    /// The first is what was before.
    views: Vec<View>,
    /// How many events there were by then.
    events: Vec<usize>,
    operations: Vec<Operation>,
}

fn play(stack: &Stack, operations: &[Operation], report: &Report) {
    let stand = Stand::build(stack, Disk::Memory);
    let disk = Model::read(&[stand.upper(), stand.work()]);
    faults::record();
    let union = stand.open().expect("a union");
    let mut known = Vec::new();
    let view = |known: &mut Vec<_>| View::of(&union, Kernel::Forgets, known).expect("what users see");
    let mut run = Run { views: vec![view(&mut known)], events: vec![0], operations: operations.to_vec() };
    for operation in operations {
        operation.run(&union, &mut known).unwrap_or_else(|e| panic!("{}: {operation}: {e}", stack.name));
        run.views.push(view(&mut known));
        run.events.push(faults::recorded());
    }
    let events = faults::end_record();
    forget(&union, known);
    drop(union);

    let randoms = if super::is_full() { 400 } else { 25 };
    for cut in 0..=events.len() {
        let names = (0..=cut).map(Loss::Journal);
        let random = |nth: u64| {
            let seed = nth * 10_007 + cut as u64;
            if super::number("PLYFS_CRASH_UNORDERED") == Some(1) {
                Loss::Unordered(seed)
            } else {
                Loss::Random(seed)
            }
        };
        let randoms = (0..randoms).map(random);
        let mut losses: Vec<_> = [Loss::Everything, Loss::Data].into_iter().chain(randoms).collect();
        // What a later cut would lose is the same: only what comes after the last sync differs.
        losses.extend(names.skip(cut.saturating_sub(if super::is_full() { cut } else { 6 })));
        for loss in losses {
            report.count();
            disk.after(&events[..cut], loss).write();
            let case = format!("{}: power lost after event {cut} of {}: {loss:?}", stack.name, events.len());
            let union = match stand.open() {
                Ok(union) => union,
                Err(e) => {
                    report.find(&case, "cannot be opened", e.to_string());
                    continue;
                }
            };
            match View::of(&union, Kernel::Forgets, &mut Vec::new()) {
                Ok(view) => run.check(&view, cut, loss, &case, report),
                Err(e) => report.find(&case, "cannot be walked", e),
            }
        }
    }
}

impl Run {
    fn check(&self, view: &View, cut: usize, loss: Loss, case: &str, report: &Report) {
        // So many operations were done, and one more may have been under way.
        let done = self.events.iter().filter(|events| **events <= cut).count() - 1;
        let last = (done + 1).min(self.views.len() - 1);
        let at = self.operations.get(done).map_or("the end".to_owned(), |next| format!("{next}"));
        let case = format!("{case}, before or in {at}");
        let (names, data) = self.synced(done);
        for (path, since) in &names {
            let seen = view.get(path).map(|entry| entry.kind);
            let may = self.views[*since..=last].iter().map(|view| view.get(path).map(|entry| entry.kind));
            if !may.clone().any(|kind| kind == seen) {
                let may: Vec<_> = may.collect();
                report.find(&case, "a name that was synced", format!("`{path}` is {seen:?}, may be {may:?}"));
            }
        }
        for (path, since) in &data {
            let Some(seen) = view.get(path) else { continue };
            let may: BTreeSet<&[u8]> =
                self.views[*since..=last].iter().filter_map(|view| Some(&*view.get(path)?.content)).collect();
            // It may have got other data by a rename.
            if !may.contains(&*seen.content) {
                let may: Vec<_> = may.iter().map(|content| shown(content)).collect();
                let what = format!("`{path}` holds `{}`, may hold {may:?}", shown(&seen.content));
                report.find(&case, "data that was synced", what);
            }
        }
        let known: BTreeSet<&String> = self.views[..=last].iter().flat_map(View::paths).collect();
        for path in view.paths().filter(|path| !known.contains(path)) {
            report.find(&case, "a name that never was", format!("`{path}`"));
        }
        for (path, entry) in view.files() {
            if self.was_made(path, last) {
                // Nobody has promised anything for it before it is synced.
                continue;
            }
            let all = self.contents(path, last);
            if !all.contains(&*entry.content) {
                let all: Vec<_> = all.iter().map(|content| shown(content)).collect();
                let what = format!("`{path}` holds `{}`, never held but {all:?}", shown(&entry.content));
                report.find(&case, "torn data", what);
            }
        }
        if let Loss::Journal(_) = loss {
            let first = names.get("").copied().unwrap_or(0);
            if !self.views[first..=last].iter().any(|known| known.kinds() == view.kinds()) {
                let what = format!("{:?}", view.kinds().keys().collect::<Vec<_>>());
                report.find(&case, "a third set of names", what);
            }
        }
    }

    /// Since which operation a name, and the data under it, is on disk.
    fn synced(&self, done: usize) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
        let (mut names, mut data) = (BTreeMap::new(), BTreeMap::new());
        for (nth, operation) in self.operations[..done].iter().enumerate() {
            let (Fsync(path), now) = (operation, nth + 1) else { continue };
            let view = &self.views[now];
            if view.is_dir(path) {
                let all: BTreeSet<_> = self.views[..=now].iter().flat_map(View::paths).collect();
                names.extend(
                    all.into_iter().filter(|at| parent_of(at).0 == *path).map(|at| (at.clone(), now)),
                );
                continue;
            }
            let number = view.get(path).map(|entry| entry.number);
            for (other, entry) in view.files() {
                if Some(entry.number) == number {
                    data.insert(other.clone(), now);
                    // The name of a copy that was made before it was asked for.
                    if self.views[..=now].iter().all(|view| view.get(other).is_some()) {
                        names.insert(other.clone(), now);
                    }
                }
            }
        }
        (names, data)
    }

    /// Whether a file that was not there before has had that name.
    fn was_made(&self, path: &str, last: usize) -> bool {
        let first: BTreeSet<u64> = self.views[0].files().map(|(_, entry)| entry.number).collect();
        self.views[..=last]
            .iter()
            .filter_map(|view| view.get(path))
            .any(|entry| !first.contains(&entry.number))
    }

    /// What the files have held that have had that name.
    fn contents(&self, path: &str, last: usize) -> BTreeSet<&[u8]> {
        let views = &self.views[..=last];
        let numbers: BTreeSet<u64> = views.iter().filter_map(|view| Some(view.get(path)?.number)).collect();
        let files = views.iter().flat_map(View::files);
        files.filter(|(_, entry)| numbers.contains(&entry.number)).map(|(_, entry)| &*entry.content).collect()
    }
}

fn shown(content: &[u8]) -> String {
    format!("{}[{}]", content[..content.len().min(20)].escape_ascii(), content.len())
}
