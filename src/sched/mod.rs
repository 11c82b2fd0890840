//! On which thread is a request answered?
//!
//! On one of the event loops, which take requests from the kernel: [`Listeners`] says how many of them wait for
//! the next one. What may take long goes to a thread of its own, from the [`Pool`], so that a loop is there
//! for whoever asks next. Nothing here knows what a request is.

mod follow;
mod listeners;
mod placement;
mod pool;

pub use listeners::{Listeners, LongWork};
pub use pool::{Job, Pool};

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Answers a request. A panic would end the thread, and with it a loop or a worker; the request's reply is dropped on
/// the way, which answers EIO.
pub fn guarded(answer: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(answer)).is_err() {
        log::error!("a request was given up; this is a defect of plyfs, please report it");
    }
}
