//! What can be written on the command line of `plyfs snapshot` and `plyfs rewind`?

use std::path::PathBuf;

use clap::Args;

/// `plyfs snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,

    /// What it is called: up to 100 letters, digits and ._+:@- (default: the next number)
    pub name: Option<String>,
}

/// `plyfs rewind`.
#[derive(Debug, Args)]
pub struct RewindArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,

    /// The snapshot, as `plyfs snapshots` shows it
    pub name: String,
}
