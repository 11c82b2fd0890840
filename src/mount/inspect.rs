//! What does a live mount say of itself, and what does it do when asked?

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::error::MountError;
use super::question::{self, Silence};
use super::root::Root;
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

/// The writable branch of a plyfs, if it has one and says so in time.
pub(super) fn upper(root: &Root) -> Option<PathBuf> {
    let list = tells_branches(root)?;
    let branches = control::parse_branches(&list);
    branches.into_iter().find(|(_, access)| *access == Access::Writable).map(|(path, _)| path)
}
