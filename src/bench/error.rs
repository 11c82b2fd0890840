//! Why could nothing be measured, and what can the user do about it?

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::exit::Exit;
use crate::mount::MountError;
use crate::shown::shown;
use crate::units;

/// Why `plyfs bench` did not get to its end. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There is no size to measure.
    #[error("--max-size {} is less than the smallest file that is measured: give {} or more", units::size(*.0), units::size(super::copy_up::SMALLEST))]
    TooSmall(u64),
    /// The folder to measure in is not there.
    #[error("{} does not exist: create it with `mkdir`, or name the directory to measure in", shown(.0))]
    NoDir(PathBuf),
    /// It is something else.
    #[error("{} is not a directory: name the directory to measure in", shown(.0))]
    NotADir(PathBuf),
    /// It cannot be written.
    #[error("no temporary folder can be made in {}: {error}; name a directory that you may write", shown(.dir))]
    Unwritable {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something could not be written at the end.
    #[error("{} cannot be written: {error}; name a file in a directory that you may write", shown(.file))]
    NoOutput {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Nobody takes the table.
    #[error("stdout: {0}")]
    Output(io::Error),
    /// plyfs itself said why.
    #[error("the union to measure could not be mounted:\n{message}")]
    NoMount {
        /// In its own words.
        message: String,
        /// Its exit code.
        code: u8,
    },
    /// The mount does not go away.
    #[error(transparent)]
    Unmount(#[from] MountError),
    /// A write or another step failed.
    #[error("{what} {}: {error}", shown(.path))]
    Step {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// There is nothing to draw.
    #[error("--svg: {0}")]
    Plot(String),
    /// SIGINT, SIGTERM or SIGHUP.
    #[error("interrupted; what was mounted and made is removed")]
    Interrupted,
}

impl BenchError {
    /// The exit code that tells a script what kind of failure this is.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::TooSmall(_) => Exit::CommandLine.into(),
            Self::NoDir(_) | Self::NotADir(_) | Self::Unwritable { .. } | Self::NoOutput { .. } => {
                Exit::Setup.into()
            }
            Self::NoMount { code, .. } => ExitCode::from(*code),
            Self::Unmount(error) => error.exit().into(),
            Self::Output(_) | Self::Step { .. } | Self::Plot(_) | Self::Interrupted => Exit::Failure.into(),
        }
    }
}
