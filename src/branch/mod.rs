//! The disk side: how is one branch's directory tree read and, for the upper, changed?
//!
//! A branch knows names, descriptors and system calls. It knows nothing of whiteouts, of other
//! branches or of FUSE: those belong to [`rules`](crate::rules), to [`union`](crate::union) and
//! to [`fuse`](crate::fuse).
//!
//! This is the one door to the disk: all system calls on branches are in here, and all that change something pass
//! through one function (`door`). Everything is addressed by a directory descriptor and one name, so nothing can
//! follow a symbolic link, climb through `..` or run into `PATH_MAX`; an inode is opened once, looked at through its
//! descriptor, and acted on through the same. What a lower hands out ([`Dir`], [`Inode`], [`ReadFile`]) has no method
//! that changes anything: writing to a lower does not type-check.

mod caller;
mod copy;
mod door;
#[cfg(feature = "faults")]
pub mod faults;
mod handle;
mod overrides;
mod policy;
mod quota;
mod read;
mod shared_whiteout;
mod stat;
mod watch;
mod workdir;
mod write;

pub use caller::{Caller, act_as, keep_capabilities, prepare_thread};
pub use copy::Copier;
pub use door::Call;
pub use handle::LastingId;
pub use overrides::{Believed, Overrides};
pub use policy::{Hidden, InodeId, Policy, Reader};
pub use quota::{Limits, Quota};
pub use read::{Atime, Dir, DirEntry, Inode, Inodes, ReadFile};
pub use stat::Stat;
pub use watch::{Seen, Sight, WatchId, Watcher};
pub use workdir::{HOME, NEXT_NOTES, OWNERS, Parked, Staged, WorkDir};
pub use write::{Ownership, UpperDir, UpperInode, WriteFile};

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A branch's root directory, opened by the caller before the union starts.
#[derive(Debug)]
pub struct BranchRoot {
    /// The path as users should see it: for messages only.
    pub path: PathBuf,
    /// The directory itself, opened with `O_PATH` or for reading.
    pub fd: OwnedFd,
}

/// The writable branch and the directory beside it where its files are staged.
#[derive(Debug)]
pub struct UpperRoot {
    /// The upper itself.
    pub upper: BranchRoot,
    /// The workdir: on the upper's filesystem, outside every branch, used by one mount only. A mount that changes
    /// nothing can do without, and then does not know what earlier mounts have noted in it.
    pub work: Option<BranchRoot>,
    /// Whether the mount may change anything.
    pub writes: bool,
    /// What the upper lies on of its own past, topmost first.
    pub snapshots: Vec<SnapshotRoot>,
}

/// What was the upper once.
#[derive(Debug)]
pub struct SnapshotRoot {
    /// The path as users should see it: for messages only.
    pub path: PathBuf,
    /// The directory that was the upper.
    pub layer: OwnedFd,
    /// What the workdir noted then, if it noted anything.
    pub notes: Option<OwnedFd>,
}

/// Every branch of one union, opened and checked.
#[derive(Debug)]
pub struct BranchRoots {
    /// None makes the union read-only.
    pub upper: Option<UpperRoot>,
    /// The read-only branches, topmost first.
    pub lowers: Vec<BranchRoot>,
    /// What of the union lies inside them.
    pub hidden: Hidden,
}
