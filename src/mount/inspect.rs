//! What does a live mount say of itself, and what does it do when asked?

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::MountError;
use super::mountinfo;
use super::question::{self, Silence};
use super::root::Root;
use super::snapshots::{Found, snapshots_of};
use crate::control::{self, Access};

/// How long a daemon may take to answer before it is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The branches of the plyfs at `given`, one a line, as [`control::BRANCHES`] has them.
///
/// # Errors
/// No plyfs there, or it does not answer.
pub fn branches(given: &Path) -> Result<Vec<u8>, MountError> {
    ask(given, control::BRANCHES)
}

/// The messages that the plyfs at `given` has had, one kind a line, as [`control::MESSAGES`] has them.
///
/// # Errors
/// No plyfs there, or it does not answer.
pub fn messages(given: &Path) -> Result<Vec<u8>, MountError> {
    ask(given, control::MESSAGES)
}

/// What else the plyfs at `given` says of itself, as [`control::STATUS`] has it. An older one says nothing.
///
/// # Errors
/// No plyfs there, or it does not answer.
pub fn status(given: &Path) -> Result<Vec<u8>, MountError> {
    ask(given, control::STATUS)
}

/// The snapshots of the upper of the plyfs at `given`, or of an upper there, oldest first.
///
/// # Errors
/// The mount does not say where its upper is; the record cannot be read.
pub fn snapshots(given: &Path) -> Result<Vec<Found>, MountError> {
    let upper = match Root::open(given) {
        Ok(Some(root)) => match upper(&root) {
            Some(upper) => upper,
            None => return Ok(Vec::new()),
        },
        _ => given.to_owned(),
    };
    Ok(snapshots_of(&upper)?)
}

/// A place in a plyfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Where that is mounted as a whole.
    pub mountpoint: PathBuf,
    /// The way from the union's root; empty for the root itself.
    pub path: PathBuf,
    /// The type in the mount table.
    pub fs_type: String,
}

/// Which plyfs an absolute path without symlinks leads into, and where in it. It need not lead to anything.
///
/// # Errors
/// It leads into no plyfs, or no directory of it can be looked at.
pub fn find(path: &Path) -> Result<Inside, MountError> {
    let failed = |error| MountError::Process { what: "/proc/self/mountinfo", error };
    let mounts = mountinfo::all().map_err(failed)?;
    // Of several at one place the last is on top.
    let around = mounts.iter().filter(|mount| path.starts_with(&mount.mountpoint));
    let mount = around.enumerate().max_by_key(|(at, mount)| (mount.mountpoint.as_os_str().len(), *at));
    match mount.map(|(_, mount)| mount).filter(|mount| mount.is_plyfs()) {
        Some(mount) => {
            // The root answers for the whole mount: of a part that is mounted elsewhere it is in another place.
            let is_whole =
                |other: &&mountinfo::Entry| other.device == mount.device && other.root == Path::new("/");
            let whole = mounts.iter().rfind(is_whole).unwrap_or(mount);
            let inside = path.strip_prefix(&mount.mountpoint).unwrap_or(path);
            let root = mount.root.strip_prefix("/").unwrap_or(&mount.root);
            Ok(Inside {
                mountpoint: whole.mountpoint.clone(),
                path: root.join(inside),
                fs_type: mount.fs_type.clone(),
            })
        }
        None => Err(MountError::NotMounted(path.to_owned())),
    }
}

/// Returns when everything that was written through the plyfs at `given` is on disk. Waits for as long as the disk
/// needs.
///
/// # Errors
/// No plyfs there, not allowed, or the disk says so.
pub fn sync(given: &Path) -> Result<(), MountError> {
    let root = root(given)?;
    let path = || root.entry.mountpoint.clone();
    match rustix::fs::setxattr(root.magic_path(), control::SYNC, b"", XattrFlags::REPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Err(MountError::CannotSync(path())),
        // Without an upper there is nothing to write.
        Err(Errno::ROFS) if upper(&root).is_none() => Ok(()),
        Err(errno) => Err(MountError::SyncFailed { path: path(), errno }),
    }
}

fn ask(given: &Path, attribute: &str) -> Result<Vec<u8>, MountError> {
    let root = root(given)?;
    let path = root.entry.mountpoint;
    let mut list = question::ask(root.fd, attribute, PATIENCE).map_err(|silence| match silence {
        Silence::Late => MountError::Silent { path, patience: PATIENCE },
        Silence::Error(errno) => MountError::TellsNothing { path, errno },
        Silence::Nobody(error) => MountError::Process { what: "cannot ask the daemon", error },
    })?;
    if !list.ends_with(b"\n") {
        list.push(b'\n');
    }
    Ok(list)
}

/// The root of the plyfs at `given`.
pub(super) fn root(given: &Path) -> Result<Root, MountError> {
    match Root::open(given) {
        // Only a plyfs knows that question.
        Ok(Some(root)) if root.entry.is_alias() && tells_branches(&root).is_none() => {
            Err(MountError::NotMounted(given.to_owned()))
        }
        Ok(Some(root)) => Ok(root),
        Ok(None) => Err(MountError::NotMounted(given.to_owned())),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Err(MountError::NotMounted(given.to_owned())),
            _ => Err(MountError::Unfound { path: given.to_owned(), error }),
        },
    }
}

/// The branches, if they are told in time.
fn tells_branches(root: &Root) -> Option<Vec<u8>> {
    let fd = root.fd.try_clone().ok()?;
    question::ask(fd, control::BRANCHES, PATIENCE)
        .inspect_err(|silence| log::debug!("{}: {silence:?}", root.entry.mountpoint.display()))
        .ok()
}

/// The process that serves a plyfs, if it says so in time and is to be seen from here: a number from another PID
/// namespace is somebody else's.
pub(super) fn daemon(root: &Root) -> Option<OwnedFd> {
    let fd = root.fd.try_clone().ok()?;
    let status = control::parse_status(&question::ask(fd, control::STATUS, PATIENCE).ok()?);
    let pid: i32 = status.get("pid")?.to_str()?.parse().ok()?;
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Looked at once it is held: by then the number is not given to another one.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim_end() == "plyfs").then_some(process)
}

/// The writable branch of a plyfs, if it has one and says so in time.
pub(super) fn upper(root: &Root) -> Option<PathBuf> {
    let list = tells_branches(root)?;
    let branches = control::parse_branches(&list);
    branches.into_iter().find(|(_, access)| *access == Access::Writable).map(|(path, _)| path)
}
