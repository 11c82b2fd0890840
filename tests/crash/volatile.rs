//! Is an upper that was written without syncs refused once the mount has not ended cleanly?

use std::fs;

use plyfs::branch::faults::{self, Fault};
use plyfs::error::Error;
use plyfs::union::UnionOptions;

use super::operation::Operation;
use super::report::behave_as_a_mount;
use super::stacks;
use super::stand::{Disk, Stand, forget};

fn volatile() -> UnionOptions {
    UnionOptions { volatile: true, ..UnionOptions::default() }
}

#[test]
fn what_was_volatile_and_has_not_ended_is_refused() {
    behave_as_a_mount();
    let stacks = stacks::all();
    let stand = Stand::build(&stacks[0], Disk::Memory);
    let union = stand.open_as(volatile()).expect("a union");
    Operation::Write("a", 0).run(&union, &mut Vec::new()).expect("a write");
    faults::arm(Some((0, Fault::End)));
    drop(union);
    faults::disarm();
    for options in [volatile(), UnionOptions::default()] {
        let refused = stand.open_as(options).expect_err("it has not ended cleanly");
        assert!(matches!(refused, Error::VolatileCrash), "{refused}");
    }
    fs::remove_file(stand.work().join("plyfs/volatile")).expect("the mark");
    stand.open().expect("it is used all the same");
    assert!(stand.open().is_ok(), "a mount with syncs may end as it likes");
}

#[test]
fn what_was_volatile_and_has_ended_is_not_refused() {
    behave_as_a_mount();
    let stacks = stacks::all();
    let stand = Stand::build(&stacks[0], Disk::Memory);
    let union = stand.open_as(volatile()).expect("a union");
    let mut known = Vec::new();
    Operation::Write("a", 0).run(&union, &mut known).expect("a write");
    assert!(stand.work().join("plyfs/volatile").exists());
    forget(&union, known);
    union.close().expect("a clean end");
    drop(union);
    assert!(!stand.work().join("plyfs/volatile").exists());
    stand.open_as(volatile()).expect("a union").close().expect("a clean end");
    stand.open().expect("a union");
}

/// However far closing has come: as long as the mark is there the next mount is refused, and without it all is synced.
#[test]
fn a_volatile_mount_that_ends_while_it_closes_is_refused_or_has_ended() {
    behave_as_a_mount();
    let stacks = stacks::all();
    for at in 0.. {
        let stand = Stand::build(&stacks[0], Disk::Memory);
        let union = stand.open_as(volatile()).expect("a union");
        let mut known = Vec::new();
        Operation::Write("a", 0).run(&union, &mut known).expect("a write");
        forget(&union, known);
        faults::arm(Some((at, Fault::End)));
        let closed = union.close();
        drop(union);
        let calls = faults::disarm();
        if calls.len() <= at {
            closed.expect("nothing failed");
            return;
        }
        let is_marked = stand.work().join("plyfs/volatile").exists();
        assert_eq!(stand.open().is_err(), is_marked, "at {at} of {calls:?}");
    }
}
