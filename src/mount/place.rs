//! Is one directory inside another? Answered by identity, never by comparing paths as text.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::branch::InodeId;

/// A directory as the kernel knows it, and the mount through which it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory, whatever path leads to it.
    pub(super) identity: Identity,
    /// The mount: a rename from one mount to another fails even within one filesystem.
    pub(super) mount_id: u64,
}

/// One directory, whatever path or bind mount leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    device: (u32, u32),
    inode: u64,
}

impl Identity {
    /// The same as branches know inodes.
    pub(super) fn inode_id(self) -> InodeId {
        (rustix::fs::makedev(self.device.0, self.device.1), self.inode)
    }

    /// The filesystem that holds the directory.
    pub(super) fn device(self) -> (u32, u32) {
        self.device
    }
}

impl Place {
    /// Where `dir` is.
    pub(super) fn of(dir: impl AsFd) -> Result<Self, Errno> {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, wanted)?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        Ok(Self { identity: Identity { device, inode: stat.stx_ino }, mount_id: stat.stx_mnt_id })
    }
}

/// The directories around `dir`, from its parent to the root.
///
/// The walk ends early where a parent may not be searched: what lies above cannot be told
/// apart from a root then. A bind mount's parent is the directory that it is mounted in.
pub(super) fn ancestors(dir: impl AsFd) -> Result<Vec<Identity>, Errno> {
    let mut place = Place::of(&dir)?;
    let mut ancestors = Vec::new();
    let mut parent = match open_parent(dir) {
        Ok(parent) => parent,
        Err(Errno::ACCESS) => return Ok(ancestors),
        Err(errno) => return Err(errno),
    };
    loop {
        let above = Place::of(&parent)?;
        // Only the root is its own parent, in the same mount.
        if above == place {
            return Ok(ancestors);
        }
        ancestors.push(above.identity);
        place = above;
        parent = match open_parent(&parent) {
            Ok(parent) => parent,
            Err(Errno::ACCESS) => return Ok(ancestors),
            Err(errno) => return Err(errno),
        };
    }
}

/// The directory around `dir`.
pub(super) fn open_parent(dir: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, c"..", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_walk_passes_every_parent_and_ends_at_the_root() {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let inner = outer.path().join("a/b");
        std::fs::create_dir_all(&inner).expect("two directories");
        let identity = |path| Place::of(File::open(path).expect("open")).expect("statx").identity;
        let above = ancestors(File::open(&inner).expect("open")).expect("a walk");
        assert_eq!(above[0], identity(outer.path().join("a")));
        assert_eq!(above[1], identity(outer.path().to_owned()));
        assert_eq!(above.last(), Some(&identity("/".into())));
        assert_eq!(ancestors(File::open("/").expect("open")), Ok(vec![]));
    }
}
