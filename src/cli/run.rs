//! What can be written on the command line of `plyfs run`, and of the commands about runs?

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::exit::EXIT_CODES;

const RUN_EXAMPLES: &str = "\
Examples:
  plyfs run                                   a shell in which nothing that you change is changed outside
  plyfs run --name try -- make install        an installer; look at it with `plyfs diff try`
  plyfs run --root -- apt-get install hello   as root, without being root
  plyfs run --name agent-17 --lower ~/src/app -- codex    a workspace of one tree; 100 of them side by side
  plyfs run --hide ~/.ssh --net none -- ./unknown
  plyfs apply try                             make the changes for real

Exit code: that of the command; 128+N if signal N has ended it; 125 if it could not be run.";

/// The commands about runs.
#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// Run a command on a copy-on-write view of the whole system: look at what it changed, keep it or drop it
    ///
    /// The command sees the system as it is, everything mounted in it included, and every change of every process goes to
    /// an upper of its own instead. /proc, /sys, /dev, /run and the sockets of the session are the real ones. It takes
    /// no root, but user namespaces. Afterwards: `plyfs diff`, `plyfs apply`, `plyfs discard`.
    ///
    /// It keeps changes of files apart, and nothing else: not the network (but see --net), not processes, not what a
    /// service does that is asked through a socket.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),

    /// List the runs: name, state, age, size of what was changed, command
    #[command(after_long_help = EXIT_CODES)]
    Runs(RunsArgs),

    /// Drop a run with all its changes
    #[command(after_long_help = EXIT_CODES)]
    Discard(DiscardArgs),

    /// Make a run's changes for real
    ///
    /// Each file in one step, and no file halfway. What was changed outside as well since the run changed it is a conflict:
    /// then nothing is done, and it is shown. Can be repeated: what is as it should be is left alone.
    #[command(after_long_help = EXIT_CODES)]
    Apply(super::ApplyArgs),
}

/// The network that a run has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// The system's.
    #[default]
    Host,
    /// Its own, with nothing but a loopback.
    None,
}

/// `plyfs run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What the run is called: up to 100 letters, digits and ._+:@- (default: the next number)
    ///
    /// With the name of a run that is there, the command is run in it: beside what runs there, or anew on its changes.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Instead of the whole system, a union of these directories, topmost first, in the place of the first
    ///
    /// Only what is changed in there is kept apart: the rest of the system is the real one.
    #[arg(long = "lower", value_name = "DIR")]
    pub lowers: Vec<PathBuf>,

    /// Where the changes go (default: a directory of the run)
    #[arg(long, value_name = "DIR")]
    pub upper: Option<PathBuf>,

    /// Leave this as it is outside: what is changed there is changed for real
    #[arg(long, value_name = "PATH", conflicts_with = "lowers")]
    pub pass: Vec<PathBuf>,

    /// Do not show this in the run
    #[arg(long, value_name = "PATH")]
    pub hide: Vec<PathBuf>,

    /// Be root in the run: what belongs to you outside belongs to root there
    #[arg(long)]
    pub root: bool,

    /// The network of the run
    #[arg(long, value_name = "NET", default_value = "host")]
    pub net: Net,

    /// Drop the changes when the command has ended
    #[arg(long)]
    pub discard: bool,

    /// The command (default: your shell)
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `plyfs runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// The runs, as `plyfs runs` shows them
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}
