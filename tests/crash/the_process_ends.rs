//! If the process ends at the n-th change of an operation, has the operation happened or not, and nothing between?
//!
//! Nothing that the process would do after that change reaches the disk. The next mount shows what was before or
//! what is after, on a valid layer, with an empty stage, and the operation can be done (again).

use std::time::Instant;

use plyfs::branch::faults::{self, Fault};
use plyfs::union::Union;

use super::operation::{self, Operation};
use super::outcome::Outcome;
use super::report::{Report, on_every_stack};
use super::stacks::{self, Stack};
use super::stand::{Disk, Stand, forget};
use super::view::{Kernel, Lenience, View};

#[test]
fn the_next_mount_shows_before_or_after() {
    play_all("the process ends", &stacks::all(), Disk::Memory);
}

#[test]
fn the_next_mount_shows_before_or_after_on_a_real_disk() {
    let mut stacks = stacks::all();
    if !super::is_full() {
        stacks.retain(|stack| stack.on_disk);
    }
    play_all("the process ends, on a real disk", &stacks, Disk::Temporary);
}

fn play_all(what: &str, stacks: &[Stack], disk: Disk) {
    let begun = Instant::now();
    let report = Report::default();
    on_every_stack(&report, stacks, |stack, operation| {
        let outcome = match Outcome::of(stack, operation, disk) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return,
            Err(what) => {
                return report.find(&format!("{}: {operation}", stack.name), "without a fault", what);
            }
        };
        for at in 0..outcome.changes {
            report.count();
            if let Err((call, kind, what)) = play_at(stack, operation, &outcome, disk, at, &report) {
                let case = format!("{}: {operation}: the process ends at change {at} ({call})", stack.name);
                report.find(&case, &format!("{kind}, at {call}"), what);
            }
        }
    });
    report.end(what, begun);
}

type Wrong = (&'static str, &'static str, String);

fn play_at(
    stack: &Stack,
    operation: Operation,
    outcome: &Outcome,
    disk: Disk,
    at: usize,
    report: &Report,
) -> Result<(), Wrong> {
    let stand = Stand::build(stack, disk);
    let union = stand.open().map_err(|e| ("", "cannot be opened", e.to_string()))?;
    let mut known = Vec::new();
    let before = View::of(&union, Kernel::Remembers, &mut known).map_err(|e| ("", "before", e))?;
    faults::arm(Some((at, Fault::End)));
    // Nobody gets this answer.
    drop(operation.run(&union, &mut known));
    drop(union);
    let calls = faults::disarm();
    let call = calls.get(at).copied().unwrap_or("none");
    let wrong = |kind: &'static str, what: String| (call, kind, format!("{what} (of {calls:?})"));
    let open = stand.descriptors();
    if !open.is_empty() {
        return Err(wrong("descriptors leak", format!("{open:?}")));
    }

    let union = stand.open().map_err(|e| wrong("cannot be opened again", e.to_string()))?;
    let mut known = Vec::new();
    let now = View::of(&union, Kernel::Forgets, &mut known).map_err(|e| wrong("cannot be walked", e))?;
    // Nothing has come to be in a directory but what showed before: only its time tells.
    let same_stack = Lenience { dir_times: true, ..Lenience::default() };
    let two_stacks = Lenience { numbers: true, notes: true, ..same_stack };
    let without_notes = Lenience { notes: true, ..same_stack };
    let is_before = now.differs(&before, without_notes);
    let is_after = now.differs(&outcome.after, two_stacks);
    if let (Some(before), Some(after)) = (&is_before, &is_after) {
        return Err(wrong("a third thing", format!("from before: {before} / from after: {after}")));
    }
    if is_before.is_none() && now.differs(&before, same_stack).is_some() {
        report.count_lost_note();
    }
    if !now.listed_otherwise.is_empty() {
        let case = format!("{}: {operation}: the process ends at change {at} ({call})", stack.name);
        report.find(&case, "a listing gives other numbers than lookups", now.listed_otherwise.join("; "));
    }
    let left = stand.check(&now);
    if !left.is_empty() {
        return Err(wrong("left behind", left.join("; ")));
    }

    let again = operation.run(&union, &mut known).map_err(|e| e.errno());
    let last = View::of(&union, Kernel::Forgets, &mut known).map_err(|e| wrong("cannot be walked", e))?;
    let before_goes_on =
        is_before.is_none() && again == outcome.result && last.differs(&outcome.after, two_stacks).is_none();
    let after_goes_on = is_after.is_none()
        && again == outcome.again.0
        && last.differs(&outcome.again.1, two_stacks).is_none();
    if !before_goes_on && !after_goes_on {
        let what = last.differs(&outcome.after, two_stacks);
        return Err(wrong("cannot be done by the next mount", format!("{again:?}, {what:?}")));
    }
    let left = stand.check(&last);
    if !left.is_empty() {
        return Err(wrong("left behind in the end", left.join("; ")));
    }
    forget(&union, known);
    union.close().map_err(|e| wrong("cannot be closed", e.to_string()))?;
    drop(union);

    let union = stand.open().map_err(|e| wrong("cannot be opened a third time", e.to_string()))?;
    let third =
        View::of(&union, Kernel::Forgets, &mut Vec::new()).map_err(|e| wrong("cannot be walked", e))?;
    if let Some(what) = third.differs(&last, Lenience::default()) {
        return Err(wrong("another tree after the next mount", what));
    }
    the_last_name_keeps_the_data(&stand, union, &third).map_err(|what| wrong("lost with another name", what))
}

/// A link count that is a guess must not be believed: as long as a file has a name, its data is there.
fn the_last_name_keeps_the_data(stand: &Stand, union: Union, view: &View) -> Result<(), String> {
    let groups = view.groups();
    if groups.is_empty() {
        return Ok(());
    }
    let mut known = Vec::new();
    for name in groups.iter().flat_map(|names| &names[1..]) {
        operation::unlink(&union, name, &mut known)
            .map_err(|e| format!("`{name}` cannot be removed: {e}"))?;
    }
    let now = View::of(&union, Kernel::Forgets, &mut known)?;
    forget(&union, known);
    union.close().map_err(|e| format!("cannot be closed: {e}"))?;
    drop(union);
    let union = stand.open().map_err(|e| format!("cannot be opened again: {e}"))?;
    let next = View::of(&union, Kernel::Forgets, &mut Vec::new())?;
    for names in &groups {
        let content = |view: &View| view.get(&names[0]).map(|entry| entry.content.clone());
        if content(&now) != content(view) || content(&next) != content(view) {
            return Err(format!("`{}` of {names:?}", names[0]));
        }
    }
    Ok(())
}
