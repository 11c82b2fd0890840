//! Does another mount use this directory?
//!
//! The lock belongs to the descriptor that the union keeps, so it lives exactly as long as the
//! daemon, and no crash leaves it behind.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use log::warn;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::{Dir, MountError};

/// How long a mount waits for an earlier daemon. After `umount` returns, the daemon of that
/// mount still needs a moment to finish; a remount at once must not fail for that.
const PATIENCE: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(5);

/// What else may use the directory at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing.
    Exclusive,
    /// Mounts that only read it.
    Shared,
}

/// Locks `fd`, which is `dir`, or says who must let go of it.
pub(super) fn take(fd: impl AsFd, hold: Hold, dir: impl FnOnce() -> Dir) -> Result<(), MountError> {
    match wait(fd, hold, PATIENCE) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(MountError::InUse(dir())),
        // Some network filesystems lock no directories: better unguarded than not at all.
        Err(errno) => {
            warn!("{} cannot be locked ({errno}): take care that no other mount uses it", dir());
            Ok(())
        }
    }
}

/// Tries to lock for as long as `patience`.
pub(super) fn wait(fd: impl AsFd, hold: Hold, patience: Duration) -> Result<(), Errno> {
    let operation = match hold {
        Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Hold::Shared => FlockOperation::NonBlockingLockShared,
    };
    let deadline = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&fd, operation) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(INTERVAL),
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
