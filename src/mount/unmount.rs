//! How does a mount end, without ever taking another one away?

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, warn};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::error::MountError;
use super::helper::{self, Detach};
use super::inspect;
use super::lock::{self, Hold};
use super::mountinfo::{self, Entry};

/// How long `plyfs umount` waits for the daemon to finish.
const PATIENCE: Duration = Duration::from_secs(10);

/// Our own mount. Dropped, it is detached, if it is still there: whatever ends the daemon, no
/// dead mount stays behind.
#[derive(Debug)]
pub(super) struct Mounted {
    mountpoint: PathBuf,
    known_by: Sign,
}

/// How a mount is known again. Ids are used again as soon as they are free, and a successor's
/// mount, made at once, gets all of its predecessor's.
#[derive(Debug)]
enum Sign {
    /// An id that is never used again (Linux 6.8).
    Unique(u64),
    /// Before: the mount table's entry, for as long as the kernel keeps the session's other end.
    Connected {
        entry: Entry,
        /// A duplicate of the session's descriptor.
        device: OwnedFd,
    },
}

impl Mounted {
    /// Recognises the mount that was just made at `mountpoint`, to know it again later.
    pub(super) fn find(mountpoint: &Path, device: &OwnedFd) -> Result<Self, MountError> {
        let known_by = Sign::of(mountpoint, device);
        let error = match known_by {
            Ok(Some(known_by)) => {
                return Ok(Self { mountpoint: mountpoint.to_owned(), known_by });
            }
            Ok(None) => return Err(MountError::NotVisible(mountpoint.to_owned())),
            Err(error) => error,
        };
        // It was made a moment ago, and nobody knows it yet: take it back.
        if let Err(error) = take_away(mountpoint, Detach::Lazily) {
            warn!("{error}");
        }
        Err(MountError::Process { what: "cannot look for the new mount in /proc", error })
    }

    /// Unmounts; does nothing if somebody else already did.
    pub(super) fn unmount(&self, detach: Detach) -> Result<(), MountError> {
        if self.is_there() { take_away(&self.mountpoint, detach) } else { Ok(()) }
    }

    /// Whether what a walk to the mountpoint finds is still our mount. Somebody may have
    /// unmounted it and mounted another one, and that is not ours to take away.
    fn is_there(&self) -> bool {
        match &self.known_by {
            Sign::Unique(id) => unique_mount_id(&self.mountpoint) == Some(*id),
            Sign::Connected { device, .. } if is_disconnected(device) => false,
            Sign::Connected { entry, .. } => match mountinfo::topmost_at(&self.mountpoint) {
                Ok(topmost) => topmost.as_ref() == Some(entry),
                Err(error) => {
                    warn!("/proc/self/mountinfo: {error}");
                    false
                }
            },
        }
    }
}

impl Sign {
    /// Of the plyfs at `mountpoint`; None if there is something else.
    fn of(mountpoint: &Path, device: &OwnedFd) -> io::Result<Option<Self>> {
        let Some(entry) = mountinfo::topmost_at(mountpoint)?.filter(Entry::is_plyfs) else {
            return Ok(None);
        };
        Ok(Some(match unique_mount_id(mountpoint) {
            Some(id) => Self::Unique(id),
            None => Self::Connected { entry, device: device.try_clone()? },
        }))
    }
}

/// The id of the mount at `mountpoint`, asked of the kernel alone: a daemon need not answer.
fn unique_mount_id(mountpoint: &Path) -> Option<u64> {
    // STATX_MNT_ID_UNIQUE, which rustix does not name yet.
    let wanted = StatxFlags::from_bits_retain(0x4000);
    let stat = rustix::fs::statx(CWD, mountpoint, AtFlags::STATX_DONT_SYNC, wanted)
        .inspect_err(|errno| debug!("{}: statx: {errno}", mountpoint.display()))
        .ok()?;
    (stat.stx_mask & wanted.bits() != 0).then_some(stat.stx_mnt_id)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(Detach::Lazily) {
            warn!("{error}");
        }
    }
}

/// Whether the kernel has closed its end of a session.
fn is_disconnected(device: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(device, PollFlags::empty())];
    match rustix::event::poll(&mut descriptors, Some(&Timespec::default())) {
        Ok(_) => descriptors[0].revents().contains(PollFlags::ERR),
        Err(errno) => {
            debug!("poll: {errno}");
            false
        }
    }
}

/// `plyfs umount`: returns when the mount is gone and its daemon has let go of the upper.
///
/// # Errors
/// No plyfs there, in use, or not allowed.
pub fn umount(given: &Path, lazy: bool) -> Result<(), MountError> {
    let not_mounted = || MountError::NotMounted(given.to_owned());
    let mountpoint = given.canonicalize().map_err(|_| not_mounted())?;
    let entry = mountinfo::topmost_at(&mountpoint)
        .map_err(|error| MountError::Process { what: "/proc/self/mountinfo", error })?;
    if !entry.is_some_and(|entry| entry.is_plyfs()) {
        return Err(not_mounted());
    }
    // Asked now, because nobody answers later. A dead or foreign mount need not answer.
    let upper = inspect::upper(&mountpoint);
    let detach = if lazy { Detach::Lazily } else { Detach::IfUnused };
    take_away(&mountpoint, detach)?;
    match upper {
        // After a lazy detach the daemon goes on for as long as the mount has users.
        Some(upper) if detach == Detach::IfUnused => wait_for_daemon(&upper),
        _ => Ok(()),
    }
}

fn take_away(mountpoint: &Path, detach: Detach) -> Result<(), MountError> {
    let flags = match detach {
        Detach::IfUnused => UnmountFlags::NOFOLLOW,
        Detach::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    let path = mountpoint.to_owned();
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy(path)),
        Err(Errno::PERM) => helper::unmount(mountpoint, detach).map_err(|reason| {
            // The helper has no exit code for it.
            if reason.contains("busy") {
                MountError::Busy(path)
            } else {
                MountError::CannotUnmount { path, reason }
            }
        }),
        Err(errno) => Err(MountError::CannotUnmount { path, reason: errno.to_string() }),
    }
}

/// The daemon holds the upper's lock until its very end.
fn wait_for_daemon(upper: &Path) -> Result<(), MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(upper, flags, Mode::empty()) {
        Ok(dir) => match lock::wait(dir, Hold::Shared, PATIENCE) {
            Err(Errno::WOULDBLOCK) => Err(MountError::Unfinished(upper.to_owned())),
            _ => Ok(()),
        },
        Err(errno) => {
            debug!("{}: {errno}: not waiting for the daemon", upper.display());
            Ok(())
        }
    }
}
