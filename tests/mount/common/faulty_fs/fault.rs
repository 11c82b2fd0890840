//! What goes wrong on a filesystem from now on.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A fault. Inodes are told by their numbers in the directory behind the filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// The second half of every listing and of every file is unreadable.
    SecondHalf,
    /// Nothing in this directory can be reached.
    Inside(u64, i32),
    /// One of these calls fails, after so many that do not.
    Fails { calls: Calls, after: usize, errno: i32 },
    /// One of these calls waits, after so many that do not.
    Stalling { calls: Calls, after: usize },
    /// At least one call waits, and those like it do too.
    Stalled(Calls),
}

/// Calls that share a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// Whatever changes the filesystem.
    Changes,
    /// Removals of names that are no directories'.
    Unlinks,
    /// Reads of what is in the second half of a file.
    SecondHalves,
    /// Reads of these files.
    ReadsOf(Vec<u64>),
    /// fsync(2), of files and of directories.
    Syncs,
}

/// What is asked of the filesystem, as far as a fault may depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Change,
    Unlink,
    Read { file: u64, second_half: bool },
    Sync,
}

impl Calls {
    fn include(&self, call: Call) -> bool {
        match (self, call) {
            (Self::Changes, Call::Change | Call::Unlink)
            | (Self::Unlinks, Call::Unlink)
            | (Self::SecondHalves, Call::Read { second_half: true, .. })
            | (Self::Syncs, Call::Sync) => true,
            (Self::ReadsOf(files), Call::Read { file, .. }) => files.contains(&file),
            _ => false,
        }
    }
}

/// The fault of now, and who waits for its end.
#[derive(Debug, Default)]
pub(super) struct Faults {
    now: Mutex<Fault>,
    changed: Condvar,
}

/// A test that has gone wrong must end all the same.
const PATIENCE: Duration = Duration::from_secs(20);

impl Faults {
    pub(super) fn set(&self, fault: Fault) {
        *self.now.lock().unwrap() = fault;
        self.changed.notify_all();
    }

    pub(super) fn now(&self) -> MutexGuard<'_, Fault> {
        self.now.lock().unwrap()
    }

    /// Lets a call go on, fails it, or lets it wait until the fault is another one.
    pub(super) fn meet(&self, call: Call) -> io::Result<()> {
        let mut now = self.now();
        match &mut *now {
            Fault::Fails { calls, after, errno } if calls.include(call) => {
                let errno = *errno;
                match after.checked_sub(1) {
                    Some(left) => *after = left,
                    None => {
                        *now = Fault::None;
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                }
            }
            Fault::Stalling { calls, after } if calls.include(call) => match after.checked_sub(1) {
                Some(left) => *after = left,
                None => {
                    *now = Fault::Stalled(calls.clone());
                    self.changed.notify_all();
                }
            },
            _ => {}
        }
        let waits = |now: &mut Fault| matches!(now, Fault::Stalled(calls) if calls.include(call));
        let (mut now, waited) = self.changed.wait_timeout_while(now, PATIENCE, waits).unwrap();
        if waited.timed_out() {
            *now = Fault::None;
            self.changed.notify_all();
        }
        let unreadable = matches!(call, Call::Read { second_half: true, .. });
        if unreadable && *now == Fault::SecondHalf {
            Err(io::Error::from_raw_os_error(libc::EIO))
        } else {
            Ok(())
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        matches!(*self.now(), Fault::Stalled(_))
    }

    /// Returns when somebody waits, or when it is over.
    pub(super) fn until_stalled(&self, over: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut now = self.now();
        while matches!(*now, Fault::Stalling { .. }) && !over() && Instant::now() < deadline {
            now = self.changed.wait_timeout(now, Duration::from_millis(5)).unwrap().0;
        }
        matches!(*now, Fault::Stalled(_))
    }
}
