//! How does a branch depart from what its disk says?

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use rustix::fs::FileType;

use super::overrides::Overrides;
use super::quota::Quota;
use super::stat::Stat;

/// What holds for everything in a branch. Most branches have none.
#[derive(Debug, Default)]
pub struct Policy {
    /// Records say whose its files are.
    pub overrides: Option<Arc<Overrides>>,
    /// It may hold so much and no more.
    pub quota: Option<Arc<Quota>>,
    /// What of the union's own lies inside it.
    pub hidden: Hidden,
    /// It ends where another filesystem is mounted: the mount that it is on.
    pub only_mount: Option<u64>,
}

/// An inode: its filesystem's device number, and its own.
pub type InodeId = (u64, u64);

/// Directories of a union that lie inside a lower of it. They do not show there: the union would show itself, and for
/// its own mount the daemon would wait for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// The upper and the workdir, by what they are.
    pub dirs: Vec<InodeId>,
    /// The mountpoint, by its name in its directory: whoever looks at it gets to see the mount.
    pub mountpoint: Option<(InodeId, OsString)>,
}

impl Hidden {
    /// Whether an entry with these attributes is hidden.
    pub(super) fn hides(&self, stat: &Stat) -> bool {
        stat.kind() == FileType::Directory && self.dirs.contains(&(stat.st_dev, stat.st_ino))
    }

    /// The name that is hidden in a directory with these attributes.
    pub(super) fn name_in(&self, dir: &Stat) -> Option<&OsStr> {
        let (parent, name) = self.mountpoint.as_ref()?;
        (*parent == (dir.st_dev, dir.st_ino)).then_some(name)
    }

    /// Whether nothing is hidden.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.dirs.is_empty() && self.mountpoint.is_none()
    }
}
