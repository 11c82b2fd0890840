//! What went wrong with an operation, and which errno does the caller get for it?

use std::ffi::{OsStr, OsString};
use std::fmt;

use rustix::io::Errno;

use crate::rules::BranchId;
use crate::rules::name::BadName;
use crate::rules::plan::Refusal;
use crate::shown::shown;

/// What a system call was about: a branch, and mostly a name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(BranchId, Option<Box<OsStr>>);

impl Place {
    /// A branch, where there is no name to tell.
    #[must_use]
    pub fn branch(branch: BranchId) -> Self {
        Self(branch, None)
    }

    /// An entry of a directory of a branch, or an attribute.
    #[must_use]
    pub fn entry(branch: BranchId, name: &OsStr) -> Self {
        Self(branch, Some(name.into()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.1 {
            write!(f, "`{}` ", shown(&**name))?;
        }
        write!(f, "in {}", self.0)
    }
}

/// Why an operation on the union failed. Nothing visible has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a branch failed.
    #[error("{call} {place}: {errno}")]
    Sys {
        /// The call's name, as in its manual page.
        call: &'static str,
        /// What it answered.
        errno: Errno,
        /// What it was about.
        place: Place,
    },
    /// The rules refuse the operation.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The name cannot exist through the mount.
    #[error("no such name can exist through the mount: it {0}")]
    Name(BadName),
    /// On the disk is another inode than the one that was meant: a branch was changed behind the mount. Whoever
    /// went by a name is to look it up again. 0 where the node is not known.
    #[error("node {0} is not what it was: a branch was changed behind the mount")]
    Stale(u64),
    /// What overlayfs keeps elsewhere, and notes here in a way that is not followed.
    #[error("`{}` in {branch} was written by overlayfs with {feature}, which plyfs does not follow: copy the layer through a mounted overlay", shown(.name))]
    OverlayFeature {
        /// The option of overlayfs.
        feature: &'static str,
        /// The branch.
        branch: BranchId,
        /// The entry.
        name: OsString,
    },
    /// A mistake of plyfs itself, which is to be reported.
    #[error("a defect of plyfs, please report it: {0}")]
    Bug(&'static str),
    /// Somebody else's file or directory is where the workdir's notes go.
    #[error("`plyfs/{}` in the workdir {what}: remove it, or take another workdir", shown(.name))]
    UnfitWorkdir {
        /// Its name.
        name: OsString,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The workdir was written by a version that keeps other notes.
    #[error(
        "the workdir has the format `{0}`, which this version does not know: mount with the plyfs that wrote it, or take an empty workdir"
    )]
    NewerWorkdir(String),
    /// A mount without syncs has not ended cleanly.
    #[error(
        "the upper was last mounted with -o volatile, and that mount did not end cleanly: files in it may be empty or \
         torn. If the machine has not crashed since, nothing is lost. To use it all the same, remove \
         `plyfs/volatile` in the workdir; else start with a new upper and an empty workdir"
    )]
    VolatileCrash,
    /// Requests that take long are under way.
    #[error("requests that take long are under way, as a large file that is being copied up: try again")]
    Busy,
    /// The union has no upper.
    #[error("the union has no writable branch")]
    ReadOnly,
    /// The kernel asks about a node that it was never told of, or that it has forgotten.
    #[error("unknown node {0}")]
    UnknownNode(u64),
    /// An argument that no filesystem takes.
    #[error("invalid argument")]
    Invalid,
    /// There is nothing at that offset of a file.
    #[error("no such offset")]
    BadOffset,
    /// The upper's filesystem or plyfs cannot do it.
    #[error("not supported")]
    NotSupported,
    /// A mapped id that no id on disk stands for.
    #[error("the id map has no id on disk for {0}")]
    UnmappedId(u32),
    /// The caller may not do it.
    #[error("not permitted")]
    NotPermitted,
    /// There is no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The attribute exists already.
    #[error("the attribute exists")]
    AttributeExists,
    /// The upper is itself on a union that keeps the names of whiteouts to itself.
    #[error(
        "the upper's filesystem makes no whiteouts ({0}): it is a union itself; take an upper and a workdir that \
         are not inside a mounted union"
    )]
    NoWhiteouts(Errno),
    /// The upper's filesystem lacks what no copy can do without.
    #[error(
        "the upper's filesystem {0}: take an upper and a workdir on one that does, as ext4, xfs, btrfs and tmpfs do"
    )]
    UnfitUpper(&'static str),
}

/// What the operations of the union return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The one table from errors to errno.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            // An ENOSYS would tell the kernel never to ask again, for any file.
            Self::Sys { errno: Errno::NOSYS, .. } => Errno::OPNOTSUPP,
            Self::Sys { errno, .. } => *errno,
            Self::Refused(refusal) => match refusal {
                Refusal::NotFound => Errno::NOENT,
                Refusal::Exists => Errno::EXIST,
                Refusal::NotADirectory => Errno::NOTDIR,
                Refusal::IsADirectory => Errno::ISDIR,
                Refusal::NotEmpty => Errno::NOTEMPTY,
                Refusal::WhiteoutTooLong => Errno::NAMETOOLONG,
            },
            Self::Name(BadName::TooLong) => Errno::NAMETOOLONG,
            Self::Name(BadName::Reserved | BadName::Malformed) | Self::Invalid => Errno::INVAL,
            Self::ReadOnly => Errno::ROFS,
            Self::Busy => Errno::BUSY,
            Self::UnknownNode(_) | Self::Stale(_) => Errno::STALE,
            Self::OverlayFeature { .. } | Self::Bug(_) => Errno::IO,
            Self::UnfitWorkdir { .. } | Self::NewerWorkdir(_) | Self::VolatileCrash => Errno::INVAL,
            Self::BadOffset => Errno::NXIO,
            Self::NotSupported => Errno::OPNOTSUPP,
            Self::UnmappedId(_) => Errno::OVERFLOW,
            Self::NotPermitted => Errno::PERM,
            Self::NoAttribute => Errno::NODATA,
            Self::AttributeExists => Errno::EXIST,
            Self::NoWhiteouts(errno) => *errno,
            Self::UnfitUpper(_) => Errno::OPNOTSUPP,
        }
    }

    /// Whether the errno is `errno`.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        self.errno() == errno
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<BadName> for Error {
    fn from(bad: BadName) -> Self {
        Self::Name(bad)
    }
}
