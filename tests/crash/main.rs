//! Does the real executor keep what the plans promise, whatever fails and whenever it ends?
//!
//! `tests/plan_exhaustive` proves the plans on a model. Here the real union changes real directories, without a mount
//! and in this process, while the cargo feature `faults` lets the n-th change fail, or be the last. Read in this
//! order: `layer`, `stacks`, `stand` (what is on disk); `view`, `operation`, `outcome` (what users see and do);
//! `a_change_fails`, `the_process_ends`, `power_loss`, `volatile` (what must hold).
//!
//! `PLYFS_CRASH_FULL=1` plays more errors, all stacks on a real disk (`TMPDIR`) too, and more random losses;
//! `PLYFS_CRASH_ONLY` plays only cases whose `STACK: OPERATION` contains it; `PLYFS_CRASH_SHOWN` says how many of the
//! findings of a kind are shown. With
//! `PLYFS_CRASH_UNORDERED=1` random losses reorder the names of one directory: what is found then is a known limit.

mod a_change_fails;
mod disk;
mod layer;
mod operation;
mod outcome;
mod power_loss;
mod report;
mod stacks;
mod stand;
mod the_process_ends;
mod view;
mod volatile;

/// Whether there is time.
fn is_full() -> bool {
    number("PLYFS_CRASH_FULL") == Some(1)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
