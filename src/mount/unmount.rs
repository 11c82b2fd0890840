//! How does a mount end, without ever taking another one away?

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use log::{debug, warn};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::device::Newborn;
use super::error::MountError;
use super::helper::{self, Detach};
use super::inspect;
use super::lock::{self, Outcome};
use super::mountinfo::{self, Entry};
use super::mountpoint::Mountpoint;
use super::place::Place;
use super::root::{Root, path_of, unique_id_at};

/// How long `plyfs umount` waits for the daemon to finish.
const PATIENCE: Duration = Duration::from_secs(10);

/// Our own mount. Dropped, it is detached, if it is still there: whatever ends the daemon, no
/// dead mount stays behind.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Its line of the mount table when it was made. It may have been moved since, then only its id is true.
    entry: Entry,
    known_by: Sign,
}

/// How a mount is known again. Ids are used again as soon as they are free, and a successor's
/// mount, made at once, gets all of its predecessor's.
#[derive(Debug)]
enum Sign {
    /// An id that is never used again (Linux 6.8).
    Unique(u64),
    /// Before: the mount table's entry, for as long as the kernel keeps the session's other end.
    /// A duplicate of the session's descriptor.
    Connected(OwnedFd),
}

impl Mounted {
    /// Finds the mount that was just made on `mountpoint`, checks that it is there and as it was asked for, and takes
    /// it away if not.
    pub(super) fn find(
        mountpoint: &Mountpoint,
        device: &OwnedFd,
        newborn: &Newborn,
        flags: MountFlags,
    ) -> Result<Self, MountError> {
        let found = on(mountpoint)
            .map_err(|error| MountError::Process { what: "cannot look for the new mount", error });
        let error = match found {
            Ok(Some(root)) if newborn.may_be(&root.entry) => match Self::checked(root, device, flags) {
                Ok(mounted) => return Ok(mounted),
                Err(error) => error,
            },
            Ok(_) => MountError::NotVisible(mountpoint.path.clone()),
            Err(error) => error,
        };
        // It was made a moment ago, and nobody knows it yet: take it back, wherever it is.
        match mountinfo::all() {
            Ok(entries) => entries.iter().filter(|entry| newborn.is(entry)).for_each(take_back),
            Err(error) => warn!("/proc/self/mountinfo: {error}: a dead mount may be left"),
        }
        Err(error)
    }

    fn checked(root: Root, device: &OwnedFd, flags: MountFlags) -> Result<Self, MountError> {
        // A kernel that does not know the flag says nothing.
        if flags.contains(MountFlags::NOSYMFOLLOW)
            && !root.entry.flags.split(',').any(|flag| flag == "nosymfollow")
        {
            return Err(MountError::NoSymFollow);
        }
        let known_by = match root.unique_id() {
            Some(id) => Sign::Unique(id),
            None => Sign::Connected(
                device.try_clone().map_err(|error| MountError::Process { what: "dup", error })?,
            ),
        };
        Ok(Self { entry: root.entry, known_by })
    }

    /// Unmounts; does nothing if somebody else already did.
    pub(super) fn unmount(&self, detach: Detach) -> Result<(), MountError> {
        match self.root() {
            Some(root) => take_away(root, detach),
            None => Ok(()),
        }
    }

    /// Asks ourselves one question: its answer has been through the kernel and the union.
    pub(super) fn answers(&self) -> Result<(), MountError> {
        let path = || self.entry.mountpoint.clone();
        let root = self.root().ok_or_else(|| MountError::NotVisible(path()))?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        rustix::fs::statx(&root.fd, c"", flags, StatxFlags::BASIC_STATS)
            .map(|_| ())
            .map_err(|errno| MountError::NoAnswer { path: path(), error: errno.into() })
    }

    /// The root of our mount, if a walk to where it is still leads to it. Somebody may have unmounted it and mounted
    /// another one, and that is not ours to take away.
    fn root(&self) -> Option<Root> {
        let is_other = |entry: &Entry| match &self.known_by {
            Sign::Unique(id) => unique_id_at(&entry.mountpoint) != Some(*id),
            Sign::Connected(device) => *entry != self.entry || is_disconnected(device),
        };
        let found = mountinfo::by_id(self.entry.mount_id).and_then(|entry| match entry {
            // Not even opened: that could keep a successor's mount in use.
            Some(entry) if is_other(&entry) => Ok(None),
            Some(entry) => Root::open(&entry.mountpoint),
            None => Ok(None),
        });
        let root = found.inspect_err(|error| debug!("looking for our mount: {error}")).ok()??;
        let is_ours = match &self.known_by {
            Sign::Unique(id) => root.unique_id() == Some(*id),
            Sign::Connected(device) => root.entry == self.entry && !is_disconnected(device),
        };
        is_ours.then_some(root)
    }
}

/// The plyfs that is mounted on the open directory, wherever that is by now.
fn on(mountpoint: &Mountpoint) -> io::Result<Option<Root>> {
    let path = path_of(&mountpoint.dir)?;
    let around = Place::of(&mountpoint.dir)?.mount_id;
    let root = Root::open(&path)?;
    Ok(root.filter(|root| root.entry.parent_id == around && root.entry.mountpoint == path))
}

fn take_back(entry: &Entry) {
    let taken = match Root::open(&entry.mountpoint) {
        Ok(Some(root)) if root.entry == *entry => take_away(root, Detach::Lazily),
        Ok(_) => return warn!("a dead mount is left at {}", crate::shown::shown(&entry.mountpoint)),
        Err(error) => Err(MountError::Unfound { path: entry.mountpoint.clone(), error }),
    };
    if let Err(error) = taken {
        warn!("{error}");
    }
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

/// `plyfs umount`: returns when the mount is gone and its daemon has let go of the upper. Lazily it returns at once:
/// the daemon is asked nothing, and goes on for as long as the mount has users.
///
/// # Errors
/// No plyfs there, in use, or not allowed.
pub fn umount(given: &Path, lazy: bool) -> Result<(), MountError> {
    let root = inspect::root(given)?;
    if lazy {
        return take_away(root, Detach::Lazily);
    }
    // Asked now, because nobody answers later. A dead or foreign mount need not answer.
    let upper = inspect::upper(&root);
    let daemon = inspect::daemon(&root);
    take_away(root, Detach::IfUnused)?;
    match upper {
        Some(upper) => wait_for_daemon(&upper),
        // It has nothing to finish, but its branches are in use for as long as it lives.
        None => {
            daemon.iter().for_each(wait_for_process);
            Ok(())
        }
    }
}

fn wait_for_process(process: &OwnedFd) {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)) {
        Ok(0) => debug!("the daemon does not end"),
        Ok(_) => {}
        Err(errno) => debug!("poll: {errno}"),
    }
}

/// Takes away the mount that `root` is the root of, and no other.
fn take_away(root: Root, detach: Detach) -> Result<(), MountError> {
    let path = root.entry.mountpoint.clone();
    let cannot = |reason: String| MountError::CannotUnmount { path: path.clone(), reason };
    let spot = root.spot().map_err(|error| cannot(error.to_string()))?;
    let known_by = root.unique_id();
    let unmounted = match detach {
        Detach::Lazily => rustix::mount::unmount(root.magic_path(), UnmountFlags::DETACH),
        Detach::IfUnused => {
            // Our own descriptor is a use. From here on the name is what leads to the mount: see `Spot`.
            drop(root);
            rustix::mount::unmount(spot.path(), UnmountFlags::NOFOLLOW)
        }
    };
    match unmounted {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy(path)),
        Err(Errno::PERM) => {
            helper::unmount(&spot, detach).map_err(|reason| {
                // The helper has no exit code for it.
                if reason.contains("busy") { MountError::Busy(path.clone()) } else { cannot(reason) }
            })?;
            // It looks the path up for itself.
            let left = Root::open(&path).ok().flatten().and_then(|root| root.unique_id());
            if known_by.is_some() && left == known_by {
                let reason = "fusermount3 took another mount away: something was mounted there meanwhile";
                return Err(cannot(reason.to_owned()));
            }
            Ok(())
        }
        Err(errno) => Err(cannot(errno.to_string())),
    }
}

/// The daemon holds the upper's lock until its very end.
fn wait_for_daemon(upper: &Path) -> Result<(), MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(upper, flags, Mode::empty()) {
        Ok(dir) => match lock::wait_upper(dir, PATIENCE) {
            Outcome::InUse(_) => Err(MountError::Unfinished(upper.to_owned())),
            _ => Ok(()),
        },
        Err(errno) => {
            debug!("{}: {errno}: not waiting for the daemon", upper.display());
            Ok(())
        }
    }
}
