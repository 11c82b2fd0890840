//! Why did a command about runs not do what it was asked to?

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::exit::Exit;
use crate::mount::MountError;
use crate::shown::shown;

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of its mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Of what it has changed.
    #[error(transparent)]
    Look(#[from] crate::look::Error),
    /// Of making its changes for real.
    #[error(transparent)]
    Apply(#[from] crate::apply::Error),
    /// There is no place for runs.
    #[error("there is no place for runs: set HOME or XDG_STATE_HOME to a directory of yours")]
    Homeless,
    /// The place is somebody else's.
    #[error("{} is not yours alone: runs are kept in a directory that belongs to you and has mode 0700", shown(.0))]
    NotOurs(PathBuf),
    /// It cannot have that name.
    #[error("{} is no name for a run: write up to 100 letters, digits and `._+:@-`, and no dot or dash in front", shown(.0))]
    Name(String),
    /// There is one of that name.
    #[error("there is a run {0} already")]
    Exists(String),
    /// There is none.
    #[error("there is no run {}: `plyfs runs` shows them", shown(.0))]
    Unknown(String),
    /// What is there is none.
    #[error(
        "{} is what is left of a run that was being made or dropped: `plyfs discard` removes it",
        shown(.0)
    )]
    Half(PathBuf),
    /// It was made by another version.
    #[error("{} is not as this plyfs writes it: use the version that has made the run", shown(.0))]
    Unreadable(PathBuf),
    /// It was made with something else.
    #[error("run {name} was made {how}: {option} is for a new run")]
    MadeOtherwise {
        /// The run.
        name: String,
        /// What it has.
        how: &'static str,
        /// What was asked for.
        option: &'static str,
    },
    /// Programs are running in it.
    #[error("run {name} is live{}: end what runs in it first", shown_pids(pids))]
    Live {
        /// The run.
        name: String,
        /// What runs in it.
        pids: Vec<i32>,
    },
    /// Its changes are being made.
    #[error("run {0} is just being applied or dropped")]
    Applied(String),
    /// Nothing can join it.
    #[error("run {0} is being started or ended: try again")]
    Between(String),
    /// A path is not there, or not reachable.
    #[error("{what} {}: {error}", shown(path))]
    Path {
        /// What it was to be.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A call failed.
    #[error("cannot {verb} {}: {error}", shown(path))]
    Io {
        /// What was to be done.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// No user namespace.
    #[error("a run takes a user namespace, and this system gives none ({errno}): {}", .way_out)]
    NoNamespace {
        /// What the kernel said.
        errno: Errno,
        /// What to do.
        way_out: String,
    },
    /// No FUSE in a user namespace.
    #[error("cannot mount in a user namespace: {errno}{}", hint_of_mount(*.errno))]
    NoMount {
        /// What the kernel said.
        errno: Errno,
    },
    /// A step of the way into the run.
    #[error("cannot enter the run: {what}: {errno}")]
    Enter {
        /// The step.
        what: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The command is not there.
    #[error("{}: {error}", shown(command))]
    Command {
        /// The command.
        command: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The daemon did not start.
    #[error("the daemon of the run did not start")]
    NoDaemon,
    /// It has ended.
    #[error(
        "the daemon of run {0} has ended, and with it everything in the run. What was changed is kept: `plyfs run --name {0}` goes on"
    )]
    DaemonGone(String),
    /// It refuses.
    #[error("{0}")]
    Refused(String),
    /// A call failed for no reason that a user could have caused.
    #[error("{what}: {error}")]
    Process {
        /// The call.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
}

impl Error {
    pub(super) fn io(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { verb, path: path.clone(), error }
    }

    pub(super) fn process<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Process { what, error: error.into() }
    }

    /// The exit code for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Mount(error) => error.exit(),
            Self::Look(error) => error.exit(),
            Self::Apply(error) => error.exit(),
            Self::Live { .. } | Self::Between(_) | Self::Applied(_) => Exit::InUse,
            Self::NoNamespace { .. } | Self::NoMount { .. } => Exit::NoFuse,
            Self::Name(_) | Self::MadeOtherwise { .. } => Exit::CommandLine,
            Self::Homeless
            | Self::NotOurs(_)
            | Self::Unknown(_)
            | Self::Exists(_)
            | Self::Half(_)
            | Self::Unreadable(_)
            | Self::Path { .. } => Exit::Setup,
            _ => Exit::Failure,
        }
    }
}

fn shown_pids(pids: &[i32]) -> String {
    match pids {
        [] => String::new(),
        [pid] => format!(" (process {pid})"),
        pids => {
            let pids: Vec<_> = pids.iter().take(10).map(i32::to_string).collect();
            format!(" (processes {})", pids.join(", "))
        }
    }
}

fn hint_of_mount(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            "; load the module fuse, and in a container give it /dev/fuse (--device /dev/fuse)"
        }
        Errno::PERM | Errno::ACCESS => {
            "; /dev/fuse must be readable and writable, and no security module may forbid it \
             (Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile for plyfs)"
        }
        _ => "",
    }
}
