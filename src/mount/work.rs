//! Where are files staged when the user names no workdir?
//!
//! In `.NAME.plyfs-work` beside the upper NAME. It stays there between mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::MountError;
use super::place::{self, Place};
use crate::branch::WorkDir;
use crate::shown::shown;

/// Why there is no default workdir.
#[derive(Debug)]
pub(super) enum Unmade {
    /// The disk has no room for a directory.
    Full(Errno),
    /// There can be none here.
    Unfit(MountError),
}

/// Makes or finds the default workdir of `upper`, which stands at the absolute `path`.
pub(super) fn make_beside(upper: impl AsFd, path: &Path) -> Result<(PathBuf, OwnedFd), Unmade> {
    let needed = |reason: String| Unmade::Unfit(MountError::NeedsWork { upper: path.to_owned(), reason });
    let (Some(upper_name), Some(parent_path)) = (path.file_name(), path.parent()) else {
        return Err(needed("it is the root directory".to_owned()));
    };
    let failed = |errno: Errno| needed(errno.to_string());

    let parent = place::open_parent(&upper).map_err(failed)?;
    let upper_place = Place::of(&upper).map_err(failed)?;
    if Place::of(&parent).map_err(failed)?.mount_id != upper_place.mount_id {
        return Err(needed("it is the root of a mounted filesystem".to_owned()));
    }

    let name = WorkDir::default_name(upper_name);
    match rustix::fs::mkdirat(&parent, name.as_os_str(), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => return Err(Unmade::Full(errno)),
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let work = rustix::fs::openat(&parent, name.as_os_str(), flags, Mode::empty()).map_err(failed)?;
    // Beside an upper in /tmp anybody could have made that name, to change what is staged.
    let stat = rustix::fs::statat(&work, c"", AtFlags::EMPTY_PATH).map_err(failed)?;
    let others = Mode::WGRP | Mode::WOTH;
    if stat.st_uid != rustix::process::geteuid().as_raw()
        || Mode::from_raw_mode(stat.st_mode).intersects(others)
    {
        return Err(needed(format!("others can write to {}", shown(&name))));
    }
    if Place::of(&work).map_err(failed)?.mount_id != upper_place.mount_id {
        return Err(needed(format!("something is mounted on {}", shown(&name))));
    }
    Ok((parent_path.join(name), work))
}

/// The default workdir of `upper`, if an earlier mount has made one.
pub(super) fn find_beside(upper: impl AsFd, path: &Path) -> Option<(PathBuf, OwnedFd)> {
    let name = WorkDir::default_name(path.file_name()?);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = place::open_parent(upper).ok()?;
    let work = rustix::fs::openat(&parent, name.as_os_str(), flags, Mode::empty()).ok()?;
    Some((path.with_file_name(name), work))
}
