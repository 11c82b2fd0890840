//! `plyfs which`: which branch supplies a name, which others hold it, and what hides them?

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{AtFlags, FileType};
use serde::Serialize;

use super::layers::{self, Branch};
use super::{Error, Result, say};
use crate::branch::Dir;
use crate::cli::WhichArgs;
use crate::control::Access;
use crate::exit::Exit;
use crate::layer::{Ask, Formats, ask};
use crate::mount;
use crate::rules::name::Name;
use crate::rules::resolve::{Found, Resolver};
use crate::shown::shown;

#[derive(Debug, Serialize)]
struct Report {
    path: String,
    /// Whether the union shows anything there.
    shows: bool,
    /// Whether a lower's file was copied up.
    copied_up: bool,
    branches: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    branch: String,
    access: &'static str,
    /// What the branch holds under the name: a type, or a marker.
    holds: Option<&'static str>,
    state: State,
    /// What hides it.
    by: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// What it holds is what shows.
    Supplies,
    /// It is a part of the directory that shows.
    Merges,
    /// It says that there is nothing.
    Deletes,
    /// It holds something that does not show.
    Hidden,
    /// It holds nothing.
    Nothing,
    /// It cannot be read.
    Unreadable,
}

pub(super) fn run(args: &WhichArgs) -> Result<ExitCode> {
    let reports = args.paths.iter().map(|path| report(path)).collect::<Result<Vec<_>>>()?;
    say(args.json, &reports, || reports.iter().map(Report::text).collect())?;
    let all = reports.iter().all(|report| report.shows);
    Ok(if all { Exit::Success } else { Exit::Failure }.into())
}

fn report(given: &Path) -> Result<Report> {
    let path = absolute(given)?;
    let inside = mount::find(&path)?;
    let branches = layers::of_mount(&inside.mountpoint)?;
    let way: Vec<OsString> = inside.path.components().map(|name| name.as_os_str().to_owned()).collect();
    let mut lines = trace(&branches, &way)?;
    let first = lines.iter().position(|line| matches!(line.state, State::Supplies | State::Merges));
    let copied_up = first == Some(0)
        && branches.first().is_some_and(|branch| branch.access == Access::Writable)
        && is_copy(&path, &branches[0], &way);
    if copied_up && let Some(original) = lines.iter_mut().skip(1).find(|line| line.state == State::Hidden) {
        original.by = Some(format!("its copy in {}", shown(&branches[0].path)));
    }
    Ok(Report { path: shown(given).to_string(), shows: first.is_some(), copied_up, branches: lines })
}

/// The path without symbolic links, but for the last name: that may be a link itself, or nothing at all.
fn absolute(given: &Path) -> Result<PathBuf> {
    let canonical = |path: &Path| path.canonicalize().map_err(Error::io(path));
    match given.components().next_back() {
        Some(Component::Normal(name)) => {
            let parent = given.parent().filter(|parent| !parent.as_os_str().is_empty());
            let path = canonical(parent.unwrap_or(Path::new(".")))?.join(name);
            // A mountpoint, or a symbolic link from outside to something inside.
            let inside = mount::find(&path).is_ok();
            if inside || !path.exists() { Ok(path) } else { canonical(&path) }
        }
        _ => canonical(given),
    }
}

/// What each branch says of the way's last name, and of what is on the way to it.
fn trace(branches: &[Branch], way: &[OsString]) -> Result<Vec<Line>> {
    let mut at: Vec<Option<(Dir, Formats)>> =
        branches.iter().map(|branch| Some((branch.root.clone(), branch.formats))).collect();
    let mut hidden: Vec<Option<String>> = vec![None; branches.len()];
    if let Some(top) = branches.iter().position(|branch| branch.is_opaque) {
        let by = format!("the opaque root of {}", shown(&branches[top].path));
        hidden[top + 1..].fill(Some(by));
    }
    let mut lines = Vec::new();
    if way.is_empty() {
        for (branch, hidden) in branches.iter().zip(&hidden) {
            let state = if hidden.is_some() { State::Hidden } else { State::Merges };
            lines.push(line(branch, Some("directory"), state, hidden.clone()));
        }
    }
    for (depth, name) in way.iter().enumerate() {
        lines = step(branches, name, &way[..=depth], &mut at, &mut hidden)?;
    }
    Ok(lines)
}

fn step(
    branches: &[Branch],
    name: &OsStr,
    way: &[OsString],
    at: &mut [Option<(Dir, Formats)>],
    hidden: &mut [Option<String>],
) -> Result<Vec<Line>> {
    let shown_way = || shown(&way.iter().collect::<PathBuf>()).to_string();
    let mut resolver = Resolver::default();
    let mut lines = Vec::with_capacity(branches.len());
    let mut merging = false;
    let mut hides: Option<String> = None;
    for (n, branch) in branches.iter().enumerate() {
        let by = hidden[n].clone().or_else(|| hides.clone());
        let Some((dir, formats)) = at[n].take() else {
            lines.push(line(branch, None, State::Nothing, None));
            hidden[n] = by;
            continue;
        };
        let Ok(wanted) = Name::new(name) else {
            lines.push(line(branch, None, State::Nothing, None));
            continue;
        };
        let word = match ask(&dir, formats, &wanted, Ask::Everything) {
            Ok(word) => word,
            Err(error) => {
                log::warn!("{}: {error}", shown(&branch.path));
                lines.push(line(branch, None, State::Unreadable, None));
                continue;
            }
        };
        let (holds, is_dir) = match (word.entry.found, &word.stat) {
            (Some(Found::Dir { opaque: true }), _) => (Some("opaque directory"), true),
            (Some(Found::Dir { opaque: false }), _) => (Some("directory"), true),
            (Some(Found::Leaf), Some(stat)) => (Some(kind(stat.kind())), false),
            _ if word.entry.is_whiteout() => (Some("whiteout"), false),
            _ => (None, false),
        };
        let state = match (&by, word.entry.found) {
            (_, None) if holds.is_none() => State::Nothing,
            (Some(_), _) => State::Hidden,
            (None, None) => State::Deletes,
            (None, Some(Found::Leaf)) if merging => State::Hidden,
            (None, Some(Found::Leaf)) => State::Supplies,
            (None, Some(Found::Dir { .. })) => State::Merges,
        };
        if by.is_none() && resolver.hear(dir.branch(), word.entry) == ControlFlow::Break(()) {
            let what = match word.entry.found {
                Some(Found::Leaf) if merging => "the directory above it".to_owned(),
                Some(Found::Leaf) => format!("{} in {}", shown_way(), shown(&branch.path)),
                Some(Found::Dir { .. }) => {
                    format!("the opaque directory {} in {}", shown_way(), shown(&branch.path))
                }
                None => format!("the whiteout of {} in {}", shown_way(), shown(&branch.path)),
            };
            hides = Some(what);
        }
        merging |= state == State::Merges;
        lines.push(line(branch, holds, state, if state == State::Hidden { by.clone() } else { None }));
        hidden[n] = by;
        at[n] = if is_dir { word.opened.map(|opened| (opened, word.formats)) } else { None };
    }
    Ok(lines)
}

fn line(branch: &Branch, holds: Option<&'static str>, state: State, by: Option<String>) -> Line {
    let access = if branch.access == Access::Writable { "rw" } else { "ro" };
    Line { branch: shown(&branch.path).to_string(), access, holds, state, by }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "something",
    }
}

/// A copy shows the number of its original, and not its own.
fn is_copy(path: &Path, upper: &Branch, way: &[OsString]) -> bool {
    let Some((name, dirs)) = way.split_last() else { return false };
    let through = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW);
    let there = layers::dir_at(upper, dirs).ok().and_then(|dir| dir.stat(name).ok().flatten());
    matches!((through, there), (Ok(through), Some(there)) if through.st_ino != there.st_ino)
}

impl Report {
    fn text(&self) -> String {
        let widest = self.branches.iter().map(|line| line.branch.chars().count() + 3).max().unwrap_or(0);
        let copied = if self.copied_up { " (copied up)" } else { "" };
        let mut text = match self.shows {
            true => format!("{}{copied}\n", self.path),
            false => format!("{}: does not exist\n", self.path),
        };
        for Line { branch, access, holds, state, by } in &self.branches {
            let holds = holds.unwrap_or_default();
            let says = match (state, by) {
                (State::Supplies, _) => format!("supplies it: a {holds}"),
                (State::Merges, _) => format!("is a part of it: {} {holds}", article(holds)),
                (State::Deletes, _) => "deletes it by a whiteout".to_owned(),
                (State::Hidden, Some(by)) => format!("holds {} {holds}, hidden by {by}", article(holds)),
                (State::Hidden, None) => format!("holds {} {holds}, hidden", article(holds)),
                (State::Nothing, _) => "holds nothing of that name".to_owned(),
                (State::Unreadable, _) => "cannot be read".to_owned(),
            };
            let name = format!("{branch}={access}");
            text.push_str(&format!("  {name:widest$}  {says}\n"));
        }
        text
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with('o') { "an" } else { "a" }
}
