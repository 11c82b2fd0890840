//! The disk side: how is one branch's directory tree read and, for the upper, changed?
//!
//! A branch knows names, descriptors and system calls. It knows nothing of whiteouts, of other
//! branches or of FUSE: those belong to [`rules`](crate::rules), to [`union`](crate::union) and
//! to [`fuse`](crate::fuse).
//!
//! Everything is addressed by a directory descriptor and one name, so nothing here can follow a
//! symbolic link, climb through `..` or run into `PATH_MAX`. What a lower hands out ([`Dir`],
//! [`Object`]) has no method that changes anything: writing to a lower does not type-check.

mod blank;
mod caller;
mod copy;
mod lower;
mod staging;
mod sys;
mod upper;

pub use caller::{Caller, act_as, keep_capabilities, prepare_thread};
pub use copy::Copier;
pub use lower::{Dir, DirEntry, Object};
pub use staging::{Staged, Staging};
pub use sys::{Stat, rdev, stat_type};
pub use upper::{Ownership, UpperDir, UpperObject};

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
    /// The workdir: on the upper's filesystem, outside every branch, used by one mount only.
    pub work: BranchRoot,
}

/// Every branch of one union, opened and checked.
#[derive(Debug)]
pub struct BranchRoots {
    /// None makes the union read-only.
    pub upper: Option<UpperRoot>,
    /// The read-only branches, topmost first.
    pub lowers: Vec<BranchRoot>,
}
