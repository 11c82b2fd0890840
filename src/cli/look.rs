//! What can be written on the command line of `plyfs show`, `which`, `diff` and `doctor`?

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::exit::EXIT_CODES;

/// The commands that only look.
#[derive(Debug, Subcommand)]
pub enum LookCommand {
    /// Show what a live mount is: branches, options, daemon, memory, and what it has done
    ///
    /// The options are written so that they make the same mount again. For the user who has mounted, and for root.
    #[command(after_long_help = EXIT_CODES)]
    Show(ShowArgs),

    /// Say which branch supplies a path of a live mount, which others hold it, and what hides them
    ///
    /// Reads the branches as they lie on the disk. Also for a path that does not exist, then with exit code 1: a whiteout
    /// says who has deleted it.
    #[command(after_long_help = EXIT_CODES)]
    Which(WhichArgs),

    /// List what the upper of a live mount changes, or an upper on a disk: A(dded), M(odified), D(eleted)
    ///
    /// A copy that nobody has changed is no change. A directory that is deleted stands for what was in it.
    #[command(after_long_help = EXIT_CODES)]
    Diff(DiffCommandArgs),

    /// List the snapshots of a live mount's upper, or of an upper on a disk, oldest first; `*` marks those it lies on
    ///
    /// Each is a layer, as the upper is one: `plyfs layer pack PATH`. Made by `plyfs snapshot`.
    #[command(after_long_help = EXIT_CODES)]
    Snapshots(SnapshotsArgs),

    /// Say whether mounts work here, and with which directories; and how to mend what does not
    ///
    /// Makes and removes a file in directories that are writable, and changes nothing else.
    #[command(after_long_help = EXIT_CODES)]
    Doctor(DoctorArgs),
}

/// `plyfs show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs which`.
#[derive(Debug, Args)]
pub struct WhichArgs {
    /// Paths in a live mount
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs diff`.
#[derive(Debug, Args)]
pub struct DiffCommandArgs {
    /// Where a union is mounted, or an upper
    #[arg(value_name = "MOUNTPOINT|UPPER")]
    pub dir: PathBuf,

    /// What an upper is compared with, topmost first; without it, all that it holds is added
    #[arg(long = "lower", value_name = "DIR")]
    pub lowers: Vec<PathBuf>,

    /// Only count them
    #[arg(long, conflicts_with = "patch")]
    pub stat: bool,

    /// Write a patch of the files and symbolic links, for `patch -p1` and `git apply`
    #[arg(short, long, conflicts_with = "json")]
    pub patch: bool,

    /// Exit with 1 if there are changes
    #[arg(long)]
    pub exit_code: bool,

    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs snapshots`.
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    /// Where a union is mounted, or an upper
    #[arg(value_name = "MOUNTPOINT|UPPER")]
    pub dir: PathBuf,

    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Directories that are to be branches or workdirs
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}
