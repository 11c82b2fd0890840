//! How does a branch depart from what its disk says?

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::overrides::Overrides;
use super::quota::Quota;
use super::stat::Stat;
use crate::rules::ids::OVERFLOW_ID;

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
    /// What this user may not read of it shows empty.
    pub reader: Option<Reader>,
}

/// Who reads a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The user.
    pub uid: u32,
    /// All groups that he is in.
    pub groups: Vec<u32>,
}

impl Reader {
    /// This process.
    #[must_use]
    pub fn this() -> Self {
        let groups = rustix::process::getgroups().unwrap_or_default();
        let groups = groups.into_iter().chain([rustix::process::getegid()]).map(|gid| gid.as_raw()).collect();
        Self { uid: rustix::process::geteuid().as_raw(), groups }
    }

    /// Whether the permission bits give him these rights (4 to read, 1 to search). An ACL may give more.
    #[must_use]
    pub fn may(&self, stat: &Stat, rights: u32) -> bool {
        let shift = match () {
            // Root of a user namespace has no rights to the files of those whom it does not have.
            () if self.uid == 0 && stat.st_uid != OVERFLOW_ID => return true,
            () if self.uid == stat.st_uid => 6,
            () if self.groups.contains(&stat.st_gid) => 3,
            () => 0,
        };
        stat.st_mode >> shift & rights == rights
    }
}

/// An inode: its filesystem's device number, and its own.
pub type InodeId = (u64, u64);

/// What of a lower does not show. Directories of the union that lie inside it: the union would show itself, and for its
/// own mount the daemon would wait for itself. And what the user hides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// By what it is: the upper and the workdir.
    pub inodes: Vec<InodeId>,
    /// By its name in its directory: the mountpoint, since whoever looks at it gets to see the mount, and what the user
    /// hides, whatever has the name by now.
    pub names: Vec<(InodeId, OsString)>,
    /// Directories that show empty.
    pub emptied: Vec<InodeId>,
}

impl Hidden {
    /// Whether an entry with these attributes is hidden.
    pub(super) fn hides(&self, stat: &Stat) -> bool {
        self.inodes.contains(&(stat.st_dev, stat.st_ino))
    }

    /// Whether a directory with these attributes shows empty.
    pub(super) fn empties(&self, stat: &Stat) -> bool {
        self.emptied.contains(&(stat.st_dev, stat.st_ino))
    }

    /// The names that are hidden in a directory with these attributes.
    pub(super) fn names_in(&self, dir: &Stat) -> Vec<&OsStr> {
        let here = |(parent, _): &&(InodeId, OsString)| *parent == (dir.st_dev, dir.st_ino);
        self.names.iter().filter(here).map(|(_, name)| name.as_os_str()).collect()
    }

    /// Whether nothing is hidden.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.inodes.is_empty() && self.names.is_empty() && self.emptied.is_empty()
    }
}
