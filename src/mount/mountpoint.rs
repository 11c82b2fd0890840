//! Where does the mount go?

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::MountError;
use super::root::{magic_path, path_of};

/// A checked directory to mount on. It is opened once, and the mount goes on what was opened, whatever its path leads
/// to by then.
#[derive(Debug)]
pub(super) struct Mountpoint {
    /// Absolute and without symlinks: for messages, and for fusermount3, which takes only a path.
    pub(super) path: PathBuf,
    /// The directory under the mount.
    pub(super) dir: OwnedFd,
}

impl Mountpoint {
    /// Opens `given` as the kernel resolves it.
    pub(super) fn open(given: &Path) -> Result<Self, MountError> {
        let path = given.to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(given, flags, Mode::empty());
        // A dead mount's root still opens with O_PATH, and its attributes may be cached. What is never cached
        // is the state of the filesystem.
        let dir = dir.and_then(|dir| rustix::fs::fstatfs(&dir).map(|_| dir));
        let canonical = || given.canonicalize().unwrap_or_else(|_| path.clone());
        let dir = dir.map_err(|errno| match errno {
            Errno::NOENT => MountError::NoMountpoint(path.clone()),
            Errno::NOTDIR => MountError::MountpointNotADirectory(path.clone()),
            Errno::NOTCONN | Errno::CONNABORTED => MountError::DeadMount(canonical()),
            errno => MountError::MountpointUnreadable { path: path.clone(), errno },
        })?;
        let absolute = path_of(&dir).map_err(|error| MountError::MountpointUnreadable {
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            path,
        })?;
        Ok(Self { path: absolute, dir })
    }

    /// A path that mount(2) follows to the open directory.
    pub(super) fn target(&self) -> PathBuf {
        magic_path(&self.dir)
    }
}
