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

/// The branches of the plyfs at `given`, one a line, as [`BRANCHES_XATTR`] has them.
///
/// # Errors
/// No plyfs there, or it does not answer.
pub fn branches(given: &Path) -> Result<Vec<u8>, MountError> {
    let not_mounted = || MountError::NotMounted(given.to_owned());
    let mountpoint = given.canonicalize().map_err(|_| not_mounted())?;
    let entry = mountinfo::topmost_at(&mountpoint)
        .map_err(|error| MountError::Process { what: "/proc/self/mountinfo", error })?;
    if !entry.is_some_and(|entry| entry.is_plyfs()) {
        return Err(not_mounted());
    }
    let mut list = read(&mountpoint).map_err(|errno| MountError::NoBranches { path: mountpoint, errno })?;
    if !list.ends_with(b"\n") {
        list.push(b'\n');
    }
    Ok(list)
}

/// The writable branch of the plyfs at `mountpoint`, if it has one and says so.
pub(super) fn upper(mountpoint: &Path) -> Option<PathBuf> {
    let list = read(mountpoint).ok()?;
    let first = list.split(|&byte| byte == b'\n').next()?;
    Some(OsStr::from_bytes(first.strip_suffix(b"=rw")?).into())
}

fn read(mountpoint: &Path) -> Result<Vec<u8>, Errno> {
    let length = rustix::fs::getxattr_query(mountpoint, BRANCHES_XATTR)?;
    let mut list = vec![0; length];
    let length = rustix::fs::getxattr(mountpoint, BRANCHES_XATTR, &mut list[..])?;
    list.truncate(length);
    Ok(list)
}
