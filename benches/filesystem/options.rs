//! What can be asked of the comparison?

use std::path::PathBuf;

use clap::Parser;

use crate::Result;
use crate::scale::Scale;
use crate::work::Workload;

/// Compares mounts of plyfs with the kernel's overlayfs, fuse-overlayfs and unionfs-fuse.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench", after_help = "See docs/BENCHMARKS.md for what each row means.")]
pub(crate) struct Options {
    /// About two minutes: the essential rows, a smaller corpus, three rounds
    #[arg(long)]
    quick: bool,

    /// A few seconds: is the comparison itself in working order? Its numbers say nothing
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,

    /// Run these workloads or rows only (--list shows them)
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,

    /// How often each is run on each filesystem
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Show the workloads, run nothing
    #[arg(long)]
    pub(crate) list: bool,

    /// The plyfs binaries to compare, side by side
    #[arg(long, value_name = "PATH,…", value_delimiter = ',')]
    pub(crate) plyfs: Vec<PathBuf>,

    /// The fuse-overlayfs binaries to compare; without it the one that is installed
    #[arg(long, value_name = "PATH,…", value_delimiter = ',', default_value = "fuse-overlayfs")]
    pub(crate) fuse_overlayfs: Vec<PathBuf>,

    /// Leave the peers out: the kernel's overlayfs and plyfs only
    #[arg(long)]
    pub(crate) no_peers: bool,

    /// Where to play: an empty folder on the filesystem to measure
    #[arg(long, hide = true)]
    pub(crate) scratch: Option<PathBuf>,

    /// Where results.json, results.md and the plots go
    #[arg(long, hide = true, default_value = "target/bench")]
    pub(crate) out: PathBuf,

    /// We are the root of a user namespace
    #[arg(long, hide = true)]
    pub(crate) in_namespace: bool,

    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Options {
    pub(crate) fn scale(&self) -> Scale {
        let mut scale = match (self.smoke, self.quick) {
            (true, _) => Scale::smoke(),
            (_, true) => Scale::quick(),
            _ => Scale::full(),
        };
        if let Some(rounds) = self.rounds {
            scale.rounds = rounds;
        }
        scale.may_loop_mount = !self.in_namespace;
        scale
    }

    /// The workloads that are asked for, in their own order.
    pub(crate) fn chosen(&self, all: Vec<Workload>) -> Result<Vec<Workload>> {
        let known = |name: &String| all.iter().any(|workload| workload.goes_by(name));
        if let Some(unknown) = self.only.iter().find(|name| !known(name)) {
            return Err(
                format!("--only {unknown}: there is no such workload or row; --list shows them").into()
            );
        }
        let is_chosen = |workload: &Workload| match self.only.as_slice() {
            [] => !self.quick || workload.essential,
            only => only.iter().any(|name| workload.goes_by(name)),
        };
        Ok(all.into_iter().filter(is_chosen).collect())
    }
}
