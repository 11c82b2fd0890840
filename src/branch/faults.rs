//! What if the n-th change of a branch fails, or is the last that this process makes?
//!
//! Only with the cargo feature `faults`, for tests. One thread arms a fault and makes its changes; other threads are
//! not concerned. After [`Fault::End`] nothing that the thread does reaches the disk any more, not even what
//! destructors do: the disk is as a killed process leaves it.

use std::cell::RefCell;

use rustix::io::{self, Errno};

use super::door::Call;

/// What happens at the armed change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with this error, once.
    Fails(Errno),
    /// It and all that follow are not made: the process has ended.
    End,
}

#[derive(Debug, Default)]
struct State {
    /// How many changes there have been since the fault was armed.
    changes: usize,
    armed: Option<(usize, Fault)>,
    ended: bool,
    /// What is told of each change that was made, and by whom it is heard.
    names: Vec<&'static str>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Lets the change number `at`, counted from 0 and from now on, meet a fault; None only counts.
pub fn arm(fault: Option<(usize, Fault)>) {
    STATE.with_borrow_mut(|state| *state = State { armed: fault, ..State::default() });
}

/// Ends the fault. Answers the names of the calls that were made, or would have been, since it was armed.
pub fn disarm() -> Vec<&'static str> {
    STATE.with_borrow_mut(|state| std::mem::take(state).names)
}

pub(super) fn change<T>(call: &Call<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let refused = STATE.with_borrow_mut(|state| {
        if state.ended {
            return Some(Errno::IO);
        }
        let number = state.changes;
        state.changes += 1;
        state.names.push(call.name());
        match state.armed {
            Some((at, Fault::Fails(errno))) if at == number => Some(errno),
            Some((at, Fault::End)) if at == number => {
                state.ended = true;
                Some(Errno::IO)
            }
            _ => None,
        }
    });
    match refused {
        Some(errno) => Err(errno),
        None => make(),
    }
}
