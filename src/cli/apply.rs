//! What can be written on the command line of `plyfs apply`?

use std::path::PathBuf;

use clap::Args;

/// `plyfs apply`.
#[derive(Debug, Default, Args)]
pub struct ApplyArgs {
    /// The run, as `plyfs runs` shows it
    pub name: String,

    /// Only these paths, and what is beneath them
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Only list what would be done: A(dd), M(odify), D(elete), and C(onflict)
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Leave what is in conflict as it is outside, and make the other changes
    #[arg(long, conflicts_with_all = ["theirs", "merge"])]
    pub ours: bool,

    /// Take the run's side of what is in conflict: what was changed outside is lost
    #[arg(long, conflicts_with = "merge")]
    pub theirs: bool,

    /// Merge text files that were changed on both sides in different places; refuse the other conflicts
    #[arg(long)]
    pub merge: bool,

    /// Do not give files their owners: all that is made belongs to you
    #[arg(long)]
    pub no_owners: bool,

    /// Print what is done as JSON
    #[arg(long)]
    pub json: bool,
}
