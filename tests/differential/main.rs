//! Does plyfs do what others do who are known to be right?
//!
//! Random sequences of operations against a plain directory (`sequence`), and random stacks of branches against
//! an independent flattening and the kernel's overlayfs (`stacks`), also while they change (`live`). What differs is made as small as can be,
//! and printed. What was found so is in `regressions`.
//!
//! `PLYFS_DIFFERENTIAL_CASES` says how many cases are played; `PLYFS_DIFFERENTIAL_SEED` which ones.

mod accepted;
mod flatten;
mod layer;
mod live;
mod look;
mod mounted;
mod name;
mod op;
mod play;
mod programs;
mod regressions;
mod sequence;
mod stacks;
mod times;

use std::fmt::{Debug, Display};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// Enough for every run of `cargo test`.
const CASES: u32 = 60;
/// How many random cases go with a program of three words over each stack.
const CASES_A_TRIPLE: u32 = 6;

#[test]
fn a_mount_behaves_as_a_plain_directory() {
    search(sequence::any_case, sequence::play);
}

#[test]
fn a_stack_shows_what_it_flattens_to() {
    search(stacks::any_stack, stacks::check);
}

#[test]
fn a_stack_that_changes_shows_what_that_of_now_flattens_to() {
    search(live::any_case, live::check);
}

#[test]
fn whatever_two_or_three_operations_leave_behind_the_next_mount_shows() {
    let cases = number("PLYFS_DIFFERENTIAL_CASES").unwrap_or(CASES);
    let extent = programs::Extent { triples: (cases / CASES_A_TRIPLE) as usize, thorough: cases > CASES };
    if let Err(why) = programs::check(extent, &seed()) {
        panic!("{why}");
    }
}

fn search<S, C>(cases: fn() -> S, check: fn(&C) -> Result<(), String>)
where
    S: Strategy<Value = C> + 'static,
    C: Debug + Display + 'static,
{
    let play = move || {
        let config = Config {
            cases: number("PLYFS_DIFFERENTIAL_CASES").unwrap_or(CASES),
            max_shrink_iters: 3000,
            failure_persistence: None,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed());
        let found = TestRunner::new_with_rng(config, rng)
            .run(&cases(), |case| check(&case).map_err(TestCaseError::fail));
        match found {
            Ok(()) => Ok(()),
            Err(TestError::Fail(why, case)) => Err(format!("{why}\n\nthe smallest case:\n{case}")),
            Err(TestError::Abort(why)) => Err(why.to_string()),
        }
    };
    // Strategies are large, and lie on the stack.
    let player = thread::Builder::new().stack_size(64 << 20).spawn(play).expect("a thread");
    match player.join() {
        Ok(Ok(())) => {}
        Ok(Err(why)) => panic!("{why}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// One case at a time: the umask is the process's, and a child that is just being started holds for a moment
/// what is open in a mount that is to end.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed() -> Vec<u8> {
    [number("PLYFS_DIFFERENTIAL_SEED").unwrap_or(0).to_le_bytes(); 8].concat()
}

fn number(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}
