//! How does a whole plyfs mount compare with the kernel's overlayfs and with its peers?
//!
//! Run by `scripts/bench`, which gives it a folder to play in and mounts of its own. Each workload is run on
//! every filesystem in turn, several times round, and the medians are compared. docs/BENCHMARKS.md says what
//! each row means.
//!
//! In reading order: what is asked for (`options`, `scale`), what is compared (`candidate`, mounted by `mounted`),
//! on what (`corpus`, `image`), doing what (`work/`), how it is run (`runner`) and what is said of it (`report`).

mod candidate;
mod corpus;
mod ground;
mod image;
mod mounted;
mod options;
mod report;
mod runner;
mod scale;
mod work;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use ground::Ground;
use options::Options;

/// What goes wrong is told in words: nobody handles it but who reads it.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.bench && options.scratch.is_none() {
        println!("The comparison of whole filesystems is run by scripts/bench.");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let scale = options.scale();
    let workloads = options.chosen(work::all(&scale))?;
    if options.list {
        let list: String =
            workloads.iter().map(|workload| format!("{:<22} {}\n", workload.name, workload.about)).collect();
        return Ok(std::io::stdout().write_all(list.as_bytes())?);
    }
    let scratch = options.scratch.as_deref().ok_or("no folder to play in: run scripts/bench")?;
    let candidates = candidate::all(options)?;
    let ground = Ground::prepare(scratch, scale)?;
    ground::leave_nothing_on_a_signal(scratch)?;
    let results = runner::run(&ground, &workloads, &candidates)?;
    report::write(&results, &candidates, &ground, options)
}
