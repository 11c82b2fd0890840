//! What is mounted, where does a name come from, what was changed, and will a mount work here?
//!
//! All of it only looks. A live mount is asked for its branches and options; what these hold is read from the branches
//! themselves, so it takes the right to read them.

pub(crate) mod changes;
pub(crate) mod compare;
mod diff;
mod doctor;
pub(crate) mod layers;
mod patch;
mod show;
mod snapshots;
mod which;

pub use compare::RootIs;
pub use diff::of_layers as diff_layers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::LookCommand;
use crate::exit::Exit;
use crate::mount::MountError;
use crate::shown::shown;

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount does not say.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A branch does not say.
    #[error(transparent)]
    Branch(#[from] crate::error::Error),
    /// Something is not as it must be.
    #[error("{0}")]
    Setup(String),
    /// A call failed on a path that the user has named, or on stdout.
    #[error("{}: {error}", shown(.path))]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the kernel said.
        error: std::io::Error,
    },
}

type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }

    /// The exit code for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Mount(error) => error.exit(),
            Self::Setup(_) => Exit::Setup,
            Self::Branch(_) | Self::Io { .. } => Exit::Failure,
        }
    }
}

/// Does what one of the commands says.
///
/// # Errors
/// See [`enum@Error`].
pub fn run(command: &LookCommand) -> Result<ExitCode> {
    match command {
        LookCommand::Show(args) => show::run(args),
        LookCommand::Snapshots(args) => snapshots::run(args),
        LookCommand::Which(args) => which::run(args),
        LookCommand::Diff(args) => diff::run(args),
        LookCommand::Doctor(args) => doctor::run(args),
    }
}

/// Prints a result, for people or for programs.
fn say(json: bool, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<()> {
    crate::say::say(json, value, text).map_err(Error::io(Path::new("stdout")))
}
