//! What went wrong with a layer or an image, and what can the user do about it?

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::exit::Exit;
use crate::shown::shown;

/// Why a command of `plyfs layer` or `plyfs image` did not do what it was asked to. What it had begun is removed
/// again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a layer failed.
    #[error(transparent)]
    Disk(#[from] crate::error::Error),
    /// Something about one entry of a layer.
    #[error("entry `{}`: {error}", shown(.entry))]
    Entry {
        /// Its path in the layer.
        entry: OsString,
        /// What it is about.
        error: Box<Self>,
    },
    /// Something about one layer of an image.
    #[error("layer {layer}: {error}")]
    Layer {
        /// Its digest.
        layer: String,
        /// What it is about.
        error: Box<Self>,
    },
    /// A file or a directory outside of a layer.
    #[error("{what} {}: {error}", shown(.path))]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// The archive ends in the middle, or is none.
    #[error("the archive {what}, at byte {at}{}", after_entry(.after))]
    Archive {
        /// What is wrong with it.
        what: String,
        /// Where, in the uncompressed archive.
        at: u64,
        /// The last entry before.
        after: Option<OsString>,
    },
    /// An entry of a layer, or a manifest, says what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Somebody has changed an entry under our eyes.
    #[error("{0} while it was read")]
    Changed(&'static str),
    /// A directory that the user named is not as it must be.
    #[error("{0}")]
    Setup(String),
    /// What the user wrote is no name of anything.
    #[error("{0}")]
    Usage(String),
    /// Somebody else uses it.
    #[error("{0}")]
    InUse(String),
    /// The other side refused, or did not answer.
    #[error("{0}")]
    Remote(String),
    /// Content is not what its digest says.
    #[error(
        "{what} has the digest {found}, and should have {expected}: it was cut short or changed on the way"
    )]
    Digest {
        /// What it is.
        what: String,
        /// What it has.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// SIGINT, SIGTERM or SIGHUP.
    #[error("interrupted; what was begun is removed")]
    Interrupted,
}

/// What the commands on layers and images return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn after_entry(entry: &Option<OsString>) -> String {
    entry.as_ref().map_or_else(String::new, |entry| format!(", after `{}`", shown(entry)))
}

impl Error {
    /// The same, with the entry that it is about.
    #[must_use]
    pub fn of_entry(self, entry: &OsStr) -> Self {
        match self {
            Self::Disk(_) | Self::Invalid(_) | Self::Changed(_) | Self::Io { .. } => {
                Self::Entry { entry: entry.to_owned(), error: Box::new(self) }
            }
            // It is about something else, or names one already.
            other => other,
        }
    }

    /// For `map_err`: what was attempted on which path.
    pub fn io<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl Fn(E) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path: path.clone(), error: error.into() }
    }

    /// Whether a call on a layer's disk answered `errno`.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        match self {
            Self::Disk(error) => error.is(errno),
            Self::Entry { error, .. } | Self::Layer { error, .. } => error.is(errno),
            Self::Io { error, .. } => error.raw_os_error() == Some(errno.raw_os_error()),
            _ => false,
        }
    }

    /// The exit code that tells a script what kind of failure this is.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::CommandLine,
            Self::Setup(_) => Exit::Setup,
            Self::InUse(_) => Exit::InUse,
            _ => Exit::Failure,
        }
    }
}
