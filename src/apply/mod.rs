//! How are the changes of a run made in the real tree?
//!
//! What the run's layers hold is compared with the real tree as it is now (`sides`), and each difference with what was there
//! when the run first changed it (`bases`). Whether it is made is decided by that alone (`decide`), for all paths before the
//! first is touched (`plan`); then it is done, each path in one step (`execute`, `target`).

mod bases;
mod content;
mod decide;
mod error;
mod execute;
mod merge;
mod plan;
mod report;
mod sides;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

pub use error::Error;
use error::Result;

use crate::cli::ApplyArgs;
use crate::exit::Exit;
pub use crate::look::RootIs;
use bases::Bases;
use execute::{Journal, execute};
use plan::{Plan, Step};
use sides::Sides;
use target::Target;

/// A run whose changes are to be made.
#[derive(Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// The upper and the snapshots that it lies on, topmost first.
    pub layers: Vec<PathBuf>,
    /// Whether records say whose the layers' files are.
    pub records: bool,
    /// Who root in the run is outside, if he is somebody else there.
    pub root: Option<RootIs>,
    /// The upper's workdir.
    pub work: PathBuf,
    /// The notes of what was changed, as it was before.
    pub bases: PathBuf,
    /// The real tree.
    pub target: PathBuf,
}

/// Makes the changes of a run. Nobody else must do so meanwhile.
///
/// # Errors
/// See [`enum@Error`]. Conflicts are none: they are told, with exit code 1, and nothing is done.
pub fn apply(source: &Source, args: &ApplyArgs) -> Result<ExitCode> {
    let target = Target::open(&source.target, !args.no_owners)?;
    let journal = Journal::at(source.bases.join("applying"));
    if !args.dry_run {
        journal.clear(&target)?;
    }
    let sides = Sides::open(source)?;
    let bases = Bases::read(&source.bases)?;
    let plan = Plan::make(source, &sides, &bases, args)?;
    if args.dry_run {
        report::list(source, &plan, args.json)?;
        let has_conflicts = plan.conflicts().next().is_some() && !args.ours;
        return Ok(if has_conflicts { Exit::Failure } else { Exit::Success }.into());
    }
    if !args.ours && plan.conflicts().next().is_some() {
        report::conflicts(source, &plan);
        return Ok(Exit::Failure.into());
    }
    let refused = refusals(&plan, &sides, &target, args)?;
    if !refused.is_empty() {
        return Err(Error::Refused(refused));
    }
    execute(&plan, &sides, &target, &journal, &mut bases.noting()?)?;
    report::list(source, &plan, args.json)?;
    Ok(Exit::Success.into())
}

/// What of it is not allowed, as far as that can be told before; empty if it is.
fn refusals(plan: &Plan, sides: &Sides, target: &Target, args: &ApplyArgs) -> Result<String> {
    const MOST: usize = 10;
    let mut refused = Vec::new();
    let me = rustix::process::geteuid().as_raw();
    for step in plan.steps() {
        let way = step.way();
        let seen = plan.items.get(way).and_then(|item| item.seen.as_ref());
        refused.extend(target.refusal(way, seen));
        if let (Step::Put(_) | Step::Change(_), Some(run)) = (&step, sides.run(way)?)
            && !args.no_owners
            && me != 0
            && run.stat.st_uid != me
        {
            refused.push(format!(
                "{} belongs to user {} in the run: only root gives files away (--no-owners makes them yours)",
                crate::shown::shown(&target.path(way)),
                run.stat.st_uid,
            ));
        }
    }
    refused.dedup();
    let more = refused.len().saturating_sub(MOST);
    refused.truncate(MOST);
    if more > 0 {
        refused.push(format!("and {more} more"));
    }
    Ok(refused.join("\n  "))
}
