//! `plyfs diff`: what does an upper change?

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::changes::{Change, Kind, Stat};
use super::compare::{RootIs, compare};
use super::layers::{self, Branch, Manner, Shows};
use super::patch::{self, Side};
use super::{Error, Result, say};
use crate::cli::DiffCommandArgs;
use crate::control::Access;
use crate::exit::Exit;
use crate::mount;
use crate::rules::override_stat::OverrideXattr;
use crate::shown::shown;

pub(super) fn run(args: &DiffCommandArgs) -> Result<ExitCode> {
    tell(args, &branches(args)?, 1, None)
}

/// Lists what layers, the topmost first, change of what lowers show, as [`super::run`] does for an upper.
///
/// # Errors
/// See [`enum@Error`].
pub fn of_layers(
    args: &DiffCommandArgs,
    layers: &[PathBuf],
    lowers: &[PathBuf],
    records: bool,
    root: Option<RootIs>,
) -> Result<ExitCode> {
    let overrides = records.then_some(OverrideXattr::User);
    let manner = Manner { overrides, plain_lowers: true, ..Manner::default() };
    let own = layers.iter().map(|layer| (layer.clone(), Access::Writable));
    let lowers = lowers.iter().map(|lower| (lower.clone(), Access::ReadOnly));
    tell(args, &layers::open(&own.chain(lowers).collect::<Vec<_>>(), manner)?, layers.len(), root)
}

/// Tells what the first `own` branches change.
fn tell(args: &DiffCommandArgs, branches: &[Branch], own: usize, root: Option<RootIs>) -> Result<ExitCode> {
    let changes = compare(branches, own, args.patch, root)?;
    let is_empty = changes.is_empty();
    if args.patch {
        write_patch(branches, own, &changes)?;
    } else if args.stat {
        let stat = Stat::of(&changes);
        say(args.json, &stat, || stat.text())?;
    } else {
        say(args.json, &changes, || changes.iter().map(Change::text).collect())?;
    }
    let differs = args.exit_code && !is_empty;
    Ok(if differs { Exit::Failure } else { Exit::Success }.into())
}

/// The upper, and what it is compared with.
fn branches(args: &DiffCommandArgs) -> Result<Vec<Branch>> {
    let dir = args.dir.canonicalize().map_err(Error::io(&args.dir))?;
    let mounted = mount::find(&dir).ok().filter(|inside| inside.path.as_os_str().is_empty());
    let branches = match mounted {
        Some(_) if !args.lowers.is_empty() => {
            return Err(Error::Setup(format!(
                "{} is mounted and has lowers of its own: leave --lower out, or name its upper",
                shown(&args.dir)
            )));
        }
        Some(inside) => layers::of_mount(&inside.mountpoint)?,
        None => {
            let lowers = args.lowers.iter().map(|lower| (lower.clone(), Access::ReadOnly));
            let stack: Vec<(PathBuf, Access)> =
                std::iter::once((dir, Access::Writable)).chain(lowers).collect();
            layers::open(&stack, Manner::default())?
        }
    };
    if branches.first().is_none_or(|first| first.access == Access::ReadOnly) {
        return Err(Error::Setup(format!("{} is mounted read-only: nothing was changed", shown(&args.dir))));
    }
    Ok(branches)
}

fn write_patch(branches: &[Branch], own: usize, changes: &[Change]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    // What has a directory's name by now comes after what was in the directory.
    let (deleted, others): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.kind == Kind::Deleted);
    for change in deleted.into_iter().chain(others) {
        let old = if change.kind == Kind::Added { None } else { side(branches, own, &change.way)? };
        let new = if change.kind == Kind::Deleted { None } else { side(branches, 0, &change.way)? };
        match out.write_all(&patch::write(&change.way, old.as_ref(), new.as_ref())) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(Error::io(Path::new("stdout")))?,
        }
    }
    Ok(())
}

/// What the branches from `first` on show at the end of a way.
fn side(branches: &[Branch], first: usize, way: &[OsString]) -> Result<Option<Side>> {
    let Some((name, dirs)) = way.split_last() else { return Ok(None) };
    let parts = layers::parts(branches, first, dirs)?;
    match layers::shows(&parts, name)? {
        Shows::Leaf(branch, stat) => match parts.iter().find(|((at, _), _)| *at == branch) {
            Some((_, dir)) => Side::of(&dir.open_inode(name)?, &stat),
            None => Ok(None),
        },
        _ => Ok(None),
    }
}
