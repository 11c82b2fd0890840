//! If the n-th change of an operation fails, has the operation not happened?
//!
//! Every operation, every stack, every n, several errors. Users see what was before, or, if the operation says that
//! it is done, what is after. Nothing stays behind, nothing leaks, and the same operation then succeeds.

use std::time::Instant;

use plyfs::branch::faults::{self, Fault};
use rustix::io::Errno;

use super::operation::Operation;
use super::outcome::Outcome;
use super::report::{Report, on_every_stack};
use super::stacks::{self, Stack};
use super::stand::{Disk, Stand, forget};
use super::view::{Kernel, Lenience, View};

const ALL_ERRORS: [Errno; 5] = [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::PERM];
const KERNELS: [Kernel; 2] = [Kernel::Remembers, Kernel::Forgets];
/// EDQUOT goes the way of ENOSPC, which goes that of EIO in all but a few places.
const ERRORS: [Errno; 3] = [Errno::NOSPC, Errno::MFILE, Errno::PERM];

#[test]
fn an_operation_that_fails_has_changed_nothing() {
    let errors: &[Errno] = if super::is_full() { &ALL_ERRORS } else { &ERRORS };
    let kernels = if super::is_full() { &KERNELS[..] } else { &KERNELS[..1] };
    play_all("a change fails", &stacks::all(), Disk::Memory, errors, kernels);
}

#[test]
fn an_operation_that_fails_has_changed_nothing_on_a_real_disk() {
    if super::is_full() {
        let (errors, kernels) = (&ALL_ERRORS[..1], &KERNELS[..1]);
        play_all("a change fails, on a real disk", &stacks::all(), Disk::Temporary, errors, kernels);
    }
}

fn play_all(what: &str, stacks: &[Stack], disk: Disk, errors: &[Errno], kernels: &[Kernel]) {
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
        for errno in errors {
            for kernel in kernels {
                let case = Case { stack, operation, outcome: &outcome, errno: *errno, kernel: *kernel, disk };
                case.play(&report);
            }
        }
    });
    report.end(what, begun);
}

struct Case<'a> {
    stack: &'a Stack,
    operation: Operation,
    outcome: &'a Outcome,
    errno: Errno,
    kernel: Kernel,
    disk: Disk,
}

impl Case<'_> {
    fn play(&self, report: &Report) {
        for at in 0.. {
            // A fallback may take more changes, but not for ever.
            assert!(at < 1000, "no end");
            match self.play_at(at, report) {
                Ok(true) => report.count(),
                Ok(false) => return,
                Err((call, what)) => {
                    let Self { stack, operation, errno, kernel, .. } = self;
                    let case = format!(
                        "{}: {operation}: change {at} ({call}) fails: {errno}, the kernel {kernel:?}",
                        stack.name
                    );
                    let (kind, what) = what;
                    report.find(&case, &format!("{kind}, at {call}"), what);
                }
            }
        }
    }

    /// Says whether there was a change of that number.
    fn play_at(&self, at: usize, report: &Report) -> Result<bool, (&'static str, (String, String))> {
        let Self { stack, operation, outcome, errno, kernel, disk } = self;
        let stand = Stand::build(stack, *disk);
        let links = stand.links();
        let union = stand.open().map_err(|e| ("", ("cannot be opened".to_owned(), e.to_string())))?;
        let mut known = Vec::new();
        let before = View::of(&union, *kernel, &mut known).map_err(|e| ("", ("before".to_owned(), e)))?;
        faults::arm(Some((at, Fault::Fails(*errno))));
        let done = operation.run(&union, &mut known);
        let calls = faults::disarm();
        let Some(call) = calls.get(at).copied() else { return Ok(false) };
        let copies = done.is_ok() || matches!(operation, Operation::RemoveXattr(_));
        if call == "setxattr" && *errno == Errno::PERM && copies {
            // What only root may set is left out of a copy, and the log says so.
            return Ok(true);
        }
        let wrong = |kind: &str, what: String| (call, (kind.to_owned(), format!("{what} (of {calls:?})")));

        let two_stacks = Lenience { numbers: true, ..Lenience::default() };
        let now = View::of(&union, Kernel::Forgets, &mut known).map_err(|e| wrong("cannot be walked", e))?;
        let failed = match done {
            Err(ref e) => {
                let dirs = Lenience { dir_times: true, ..Lenience::default() };
                if let Some(what) = now.differs(&before, dirs) {
                    return Err(wrong("failed, and is not as before", what));
                }
                if outcome.result.is_ok() && !e.is(*errno) {
                    return Err(wrong("fails with another error", e.to_string()));
                }
                // A copy that was made ahead may stay, and has a name in the upper then.
                let new =
                    stand.links().into_iter().find(|(link, names)| *names < 2 && !links.contains_key(link));
                if let Some((link, _)) = new {
                    return Err(wrong(
                        "failed, and a copy that nobody needs is in the workdir",
                        link.display().to_string(),
                    ));
                }
                true
            }
            Ok(()) => {
                // A directory's times that cannot be given back are no reason to fail: the log says so.
                // Nor is a staged entry that cannot be removed: it is one more name of a copy until the next mount.
                let may =
                    Lenience { dir_times: call == "utimensat", notes: call == "unlinkat", ..two_stacks };
                if let Some(what) = now.differs(&outcome.after, may) {
                    return Err(wrong("done, and is not as after", what));
                }
                false
            }
        };
        let mut left = stand.check(&now);
        // What was to be removed and could not be is removed by the next mount.
        left.retain(|what| call != "unlinkat" || !what.ends_with("stays in stage"));
        if !left.is_empty() {
            return Err(wrong(
                if failed { "failed, and left behind" } else { "done, and left behind" },
                left.join("; "),
            ));
        }

        let mut last = now;
        if failed {
            let again = operation.run(&union, &mut known).map_err(|e| e.errno());
            if again != outcome.result {
                return Err(wrong("fails still", format!("{again:?} instead of {:?}", outcome.result)));
            }
            last = View::of(&union, Kernel::Forgets, &mut known).map_err(|e| wrong("cannot be walked", e))?;
            if let Some(what) = last.differs(&outcome.after, two_stacks) {
                return Err(wrong("done again, and is not as after", what));
            }
        }
        forget(&union, known);
        union.close().map_err(|e| wrong("cannot be closed", e.to_string()))?;
        drop(union);
        let open = stand.descriptors();
        if !open.is_empty() {
            return Err(wrong("descriptors leak", format!("{open:?}")));
        }

        let union = stand.open().map_err(|e| wrong("cannot be opened again", e.to_string()))?;
        let reopened =
            View::of(&union, Kernel::Forgets, &mut Vec::new()).map_err(|e| wrong("cannot be walked", e))?;
        let mut misses_note = false;
        if let Some(what) = reopened.differs(&last, Lenience::default()) {
            let notes = Lenience { notes: true, ..Lenience::default() };
            let only_notes = reopened.differs(&last, notes).is_none();
            if failed || !only_notes {
                return Err(wrong("another tree after the next mount", what));
            }
            report.count_lost_note();
            misses_note = true;
        }
        // Without a note nothing leads from a lower's name in a listing to the number of the copy.
        if !reopened.listed_otherwise.is_empty() && !misses_note {
            let what =
                format!("{}: {operation}: change {at} ({call}): {:?}", stack.name, reopened.listed_otherwise);
            report.find(&what, "a listing gives other numbers than lookups", String::new());
        }
        let left = stand.check(&reopened);
        if !left.is_empty() {
            return Err(wrong("left behind in the end", left.join("; ")));
        }
        Ok(true)
    }
}
