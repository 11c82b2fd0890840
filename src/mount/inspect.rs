//! What does a live mount say of itself?

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::MountError;
use super::mountinfo;

/// The attribute of a mount's root that lists its branches: `PATH=rw` or `PATH=ro`, one a line,
/// topmost first.
pub const BRANCHES_XATTR: &str = "user.plyfs.branches";

/// The attribute of a mount's root that tells which messages the kernel has sent since it was mounted: one
/// `NAME COUNT` a line, most frequent first.
pub const MESSAGES_XATTR: &str = "user.plyfs.messages";

/// The branches of the plyfs at `given`, one a line, as [`BRANCHES_XATTR`] has them.
///
/// # Errors
/// No plyfs there, or it does not answer.
pub fn branches(given: &Path) -> Result<Vec<u8>, MountError> {
    ask(given, BRANCHES_XATTR)
}

/// The messages that the plyfs at `given` has had, one kind a line, as [`MESSAGES_XATTR`] has them.
///
/// # Errors
/// No plyfs there, or it does not answer.
pub fn messages(given: &Path) -> Result<Vec<u8>, MountError> {
    ask(given, MESSAGES_XATTR)
}

fn ask(given: &Path, attribute: &str) -> Result<Vec<u8>, MountError> {
    let not_mounted = || MountError::NotMounted(given.to_owned());
    let mountpoint = given.canonicalize().map_err(|_| not_mounted())?;
    let entry = mountinfo::topmost_at(&mountpoint)
        .map_err(|error| MountError::Process { what: "/proc/self/mountinfo", error })?;
    if !entry.is_some_and(|entry| entry.is_plyfs()) {
        return Err(not_mounted());
    }
    let silent = |errno| MountError::TellsNothing { path: mountpoint.clone(), errno };
    let mut list = read(&mountpoint, attribute).map_err(silent)?;
    if !list.ends_with(b"\n") {
        list.push(b'\n');
    }
    Ok(list)
}

/// The writable branch of the plyfs at `mountpoint`, if it has one and says so.
pub(super) fn upper(mountpoint: &Path) -> Option<PathBuf> {
    let list = read(mountpoint, BRANCHES_XATTR).ok()?;
    let first = list.split(|&byte| byte == b'\n').next()?;
    Some(OsStr::from_bytes(first.strip_suffix(b"=rw")?).into())
}

fn read(mountpoint: &Path, attribute: &str) -> Result<Vec<u8>, Errno> {
    let length = rustix::fs::getxattr_query(mountpoint, attribute)?;
    // A counter may get a digit more before it is read.
    let mut list = vec![0; length + 256];
    let length = rustix::fs::getxattr(mountpoint, attribute, &mut list[..])?;
    list.truncate(length);
    Ok(list)
}
