//! What can be written on the command line of `plyfs branch`?

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::control::Position;
use crate::exit::EXIT_CODES;

/// The commands about the branches of a live mount.
#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// Show the branches, one PATH=rw or PATH=ro a line, topmost first; the same as `plyfs branches`
    #[command(after_long_help = EXIT_CODES)]
    List(super::BranchesArgs),

    /// Add lowers
    ///
    /// What they hold shows when the command returns. Open files stay what they were.
    #[command(after_long_help = EXIT_CODES)]
    Add(AddArgs),

    /// Take lowers away
    ///
    /// Files of theirs that are open can be read until they are closed, and keep the branch's filesystem in use until then.
    #[command(visible_alias = "remove", after_long_help = EXIT_CODES)]
    Del(DelArgs),

    /// Give a lower another place in the stack
    #[command(after_long_help = EXIT_CODES)]
    Move(MoveArgs),

    /// Make several changes at once, in AUFS' words: nobody sees one of them without the others
    ///
    /// `add:INDEX:DIR`, `prepend:DIR` (on top of the lowers), `append:DIR` (below all), `del:DIR`, `move:INDEX:DIR`. They
    /// are done in their order. Also as mount options: `mount -o remount,prepend:DIR,del:DIR MOUNTPOINT`.
    #[command(after_long_help = EXIT_CODES)]
    Change(ChangeArgs),
}

/// `plyfs branch add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Where: an index as `plyfs branch list` counts from 0, or top (of the lowers) or bottom
    #[arg(long, value_name = "INDEX", default_value = "top")]
    pub at: Position,

    /// Where the union is mounted
    pub mountpoint: PathBuf,

    /// The directories, topmost first
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
}

/// `plyfs branch del`.
#[derive(Debug, Args)]
pub struct DelArgs {
    /// Refuse it if files or directories of theirs are in use
    #[arg(long)]
    pub strict: bool,

    /// Where the union is mounted
    pub mountpoint: PathBuf,

    /// The directories, as `plyfs branch list` shows them
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
}

/// `plyfs branch move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,

    /// The directory, as `plyfs branch list` shows it
    pub dir: PathBuf,

    /// The place that it has afterwards: an index, top or bottom
    #[arg(value_name = "INDEX")]
    pub to: Position,
}

/// `plyfs branch change`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,

    /// The changes
    #[arg(required = true, value_name = "CHANGE")]
    pub words: Vec<OsString>,
}
