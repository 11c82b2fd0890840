//! What went wrong with an operation, and which errno does the caller get for it?

use rustix::io::Errno;

use crate::rules::name::BadName;
use crate::rules::plan::Refusal;

/// Why an operation on the union failed. Nothing visible has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a branch failed.
    #[error("{call}: {errno}")]
    Sys {
        /// The call's name, as in its manual page.
        call: &'static str,
        /// What it answered.
        errno: Errno,
    },
    /// The rules refuse the operation.
    #[error("refused: {}", words_of(*.0))]
    Refused(Refusal),
    /// The name cannot exist through the mount.
    #[error("no such name can exist: it {}", words_of_name(*.0))]
    Name(BadName),
    /// The union has no upper.
    #[error("the union has no writable branch")]
    ReadOnly,
    /// The kernel asks about a node that it was never told of, or that it has forgotten.
    #[error("unknown node {0}")]
    UnknownNode(u64),
    /// An argument that no filesystem takes.
    #[error("invalid argument")]
    Invalid,
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
            Self::UnknownNode(_) => Errno::STALE,
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

fn words_of(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound => "there is no such name",
        Refusal::Exists => "the name is taken",
        Refusal::NotADirectory => "it is not a directory",
        Refusal::IsADirectory => "it is a directory",
        Refusal::NotEmpty => "the directory is not empty",
        Refusal::WhiteoutTooLong => "the name is too long for a whiteout",
    }
}

fn words_of_name(bad: BadName) -> &'static str {
    match bad {
        BadName::Reserved => "begins with `.wh.`",
        BadName::TooLong => "is longer than 255 bytes",
        BadName::Malformed => "is empty, `.` or `..`, or holds a slash",
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
