//! Why were a run's changes not made?

use std::io;
use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::shown::shown;

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the layers or the target hold cannot be read.
    #[error(transparent)]
    Look(#[from] crate::look::Error),
    /// The same.
    #[error(transparent)]
    Branch(#[from] crate::error::Error),
    /// A path that means nothing.
    #[error("run {name} has changed nothing at {}: `plyfs diff {name}` shows what it has", shown(path))]
    NoChange {
        /// The run.
        name: String,
        /// What was asked for.
        path: PathBuf,
    },
    /// Some of it is not allowed.
    #[error("nothing was done: {0}")]
    Refused(String),
    /// A path was changed while this went on.
    #[error("{} was changed just now: what was to be done before is done; call this again to see to the rest", shown(.0))]
    Changed(PathBuf),
    /// A call failed.
    #[error("cannot {verb} {}: {error}{}", shown(path), if *.is_staged { "; nothing was done" } else { "; call this again to go on" })]
    Io {
        /// What was to be done.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
        /// Whether nothing shows yet.
        is_staged: bool,
    },
}

impl Error {
    pub(super) fn io<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl Fn(E) -> Self + use<E> {
        let path = path.to_owned();
        move |error| Self::Io { verb, path: path.clone(), error: error.into(), is_staged: false }
    }

    /// The same error, of which nothing shows.
    pub(super) fn staged(self) -> Self {
        match self {
            Self::Io { verb, path, error, .. } => Self::Io { verb, path, error, is_staged: true },
            other => other,
        }
    }

    /// The exit code for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Look(error) => error.exit(),
            Self::NoChange { .. } => Exit::Setup,
            _ => Exit::Failure,
        }
    }
}
