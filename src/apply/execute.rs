//! How are the steps done so that a crash leaves every path as it was or as it is to be?
//!
//! Everything that comes is made under names of its own first; a full disk or a missing right shows then, and nothing has
//! changed. It is on the disk before the first name changes. Each step changes one name: what is replaced or removed is out
//! of the way in one step, and removed after that. The names in use are in a journal, so the next call removes what a crash
//! has left.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, RenameFlags};

use super::bases::Notes;
use super::content;
use super::error::{Error, Result};
use super::plan::{Plan, Step, Way};
use super::sides::Sides;
use super::target::{Place, Target};
use crate::control::{escaped, unescaped};

/// The names that are in use, beside the places that they are for: `DIR/NAME`, one a line.
#[derive(Debug)]
pub(super) struct Journal(PathBuf);

impl Journal {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    fn write(&self, names: &[Way]) -> Result<()> {
        let path = |way: &Way| escaped(way.iter().collect::<PathBuf>().as_os_str().as_bytes());
        let lines: Vec<u8> = names.iter().flat_map(|way| [path(way), b"\n".to_vec()].concat()).collect();
        let failed = Error::io("write", &self.0);
        fs::write(&self.0, lines).map_err(&failed)?;
        fs::File::open(&self.0).and_then(|file| file.sync_all()).map_err(failed)
    }

    /// Removes what has one of its names, and the journal.
    pub(super) fn clear(&self, target: &Target) -> Result<()> {
        let lines = match fs::read(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            lines => lines.map_err(Error::io("read", &self.0))?,
        };
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let way: Way = PathBuf::from(unescaped(line)).iter().map(OsStr::to_owned).collect();
            let Some((name, dirs)) = way.split_last() else { continue };
            if !name.as_bytes().starts_with(PREFIX.as_bytes()) {
                continue;
            }
            match target.dir(dirs) {
                Ok(place) => place.remove(name)?,
                // With its directory it is gone as well.
                Err(e) => log::debug!("{e}"),
            }
        }
        fs::remove_file(&self.0).map_err(Error::io("remove", &self.0))
    }
}

const PREFIX: &str = ".plyfs-apply-";

/// One step, and the name beside its place.
struct Staged<'a> {
    step: &'a Step,
    way: &'a Way,
    beside: OsString,
    place: Place,
}

/// Does the steps of a plan.
pub(super) fn execute(
    plan: &Plan,
    sides: &Sides,
    target: &Target,
    journal: &Journal,
    notes: &mut Notes,
) -> Result<()> {
    let steps = plan.steps();
    let mut staged = Vec::with_capacity(steps.len());
    for (number, step) in steps.iter().enumerate() {
        let (Step::Put(way) | Step::Change(way) | Step::Remove(way) | Step::RemoveEmpty(way)) = step;
        let Some((_, dirs)) = way.split_last() else { continue };
        let beside = OsString::from(format!("{PREFIX}{}-{number}", std::process::id()));
        staged.push(Staged { step, way, beside, place: target.dir(dirs).map_err(Error::staged)? });
    }
    let name = |staged: &Staged<'_>| {
        let dirs = &staged.way[..staged.way.len() - 1];
        dirs.iter().cloned().chain([staged.beside.clone()]).collect::<Way>()
    };
    journal.write(&staged.iter().map(name).collect::<Vec<_>>()).map_err(Error::staged)?;
    let mut links = Links::default();
    let made = staged.iter().try_for_each(|staged| stage(plan, sides, target, staged, &mut links));
    let made = made.and_then(|()| sync_all(target, &staged));
    if let Err(e) = made {
        journal.clear(target)?;
        return Err(e.staged());
    }
    for staged in &staged {
        publish(plan, sides, target, staged, notes)?;
    }
    sync_all(target, &staged)?;
    journal.clear(target)
}

/// Once for each filesystem.
fn sync_all(target: &Target, staged: &[Staged<'_>]) -> Result<()> {
    let mut synced = Vec::new();
    for Staged { place, .. } in staged {
        let device = place.device()?;
        if !synced.contains(&device) {
            // Where it may not be read it cannot be told to the disk either.
            if let Err(e) = target.sync(place) {
                log::warn!("{e}");
            }
            synced.push(device);
        }
    }
    Ok(())
}

/// Files with several names, by what they are in the layers, and where the first of these is.
#[derive(Debug, Default)]
struct Links(HashMap<(u64, u64), (PathBuf, Place, OsString)>);

fn stage(plan: &Plan, sides: &Sides, target: &Target, staged: &Staged<'_>, links: &mut Links) -> Result<()> {
    match staged.step {
        Step::Put(way) if !is_change(plan, sides, way)? => {
            make(plan, sides, target, (&staged.place, &staged.beside), way, links)
        }
        _ => Ok(()),
    }
}

/// Whether only what a file has besides data is another.
fn is_change(plan: &Plan, sides: &Sides, way: &Way) -> Result<bool> {
    if plan.items.get(way).is_none_or(|item| item.merged.is_some()) {
        return Ok(false);
    }
    match (sides.run(way)?, sides.now(way)?) {
        (Some(run), Some(now)) if run.stat.kind() == now.stat.kind() && run.stat.kind() != FileType::Directory => {
            // The name of one among several may be all that the run has changed.
            Ok(run.stat.st_nlink == 1 && content::is_same((&run.inode, &run.stat), (&now.inode, &now.stat))?)
        }
        _ => Ok(false),
    }
}

fn make(
    plan: &Plan,
    sides: &Sides,
    target: &Target,
    (place, name): (&Place, &OsStr),
    way: &Way,
    links: &mut Links,
) -> Result<()> {
    let Some(thing) = sides.run(way)? else { return Err(Error::Changed(target.path(way))) };
    let kind = thing.stat.kind();
    if kind == FileType::Socket {
        log::warn!("{} is a socket, which only the program behind it can make", target.path(way).display());
        return Ok(());
    }
    let id = (thing.raw.st_dev, thing.raw.st_ino);
    let is_linked = thing.raw.st_nlink > 1 && kind != FileType::Directory;
    if is_linked && let Some((_, from, old)) = links.0.get(&id) {
        if from.device()? == place.device()? {
            return place.link(from, old, name);
        }
    }
    let merged = plan.items.get(way).and_then(|item| item.merged.as_deref());
    target.make(place, name, &thing, merged)?;
    if is_linked {
        let again = target_place(place, target)?;
        links.0.insert(id, (place.path().join(name), again, name.to_owned()));
    }
    if kind == FileType::Directory {
        let inside = place.inside(name)?;
        let made = plan.made_beneath(way);
        let children = made.into_iter().filter(|child| child.len() == way.len() + 1);
        for child in children {
            if let Some(child_name) = child.last() {
                make(plan, sides, target, (&inside, child_name), child, links)?;
            }
        }
        target.finish(place, name, &thing)?;
    }
    Ok(())
}

/// The same directory once more.
fn target_place(place: &Place, _target: &Target) -> Result<Place> {
    place.inside(OsStr::new("."))
}

fn publish(plan: &Plan, sides: &Sides, target: &Target, staged: &Staged<'_>, notes: &mut Notes) -> Result<()> {
    let Staged { step, way, beside, place } = staged;
    let Some(name) = way.last() else { return Ok(()) };
    let now = sides.now(way)?;
    let seen = now.as_ref().map(|now| &now.stat);
    place.check(name, seen)?;
    match step {
        Step::Put(_) if is_change(plan, sides, way)? => {
            let Some(thing) = sides.run(way)? else { return Ok(()) };
            target.finish(place, name, &thing)?;
        }
        Step::Put(_) => {
            let is_dir = |kind: Option<FileType>| kind == Some(FileType::Directory);
            let item = plan.items.get(*way);
            if item.and_then(|item| item.run) == Some(FileType::Socket) {
                return Ok(());
            }
            let (run, was) = (item.and_then(|item| item.run), seen.map(|seen| seen.kind()));
            match was {
                None => place.publish(beside, name, RenameFlags::NOREPLACE)?,
                // A rename puts a file over a file, and nothing over a directory that has something in it.
                Some(kind) if is_dir(run) || is_dir(Some(kind)) => {
                    place.publish(beside, name, RenameFlags::EXCHANGE)?;
                    place.remove(beside)?;
                }
                Some(_) => place.publish(beside, name, RenameFlags::empty())?,
            }
        }
        Step::Change(_) => {
            let Some(thing) = sides.run(way)? else { return Ok(()) };
            target.finish(place, name, &thing)?;
        }
        Step::Remove(_) => {
            if seen.is_some_and(|seen| seen.kind() == FileType::Directory) {
                place.publish(name, beside, RenameFlags::NOREPLACE)?;
                place.remove(beside)?;
            } else {
                place.remove(name)?;
            }
        }
        Step::RemoveEmpty(_) => {
            if !place.remove_empty(name)? {
                return Ok(());
            }
        }
    }
    note(plan, sides, way, notes)
}

/// Notes what a path, and what is in it, is from now on.
fn note(plan: &Plan, sides: &Sides, way: &Way, notes: &mut Notes) -> Result<()> {
    sides.forget();
    let inside = plan.items.range(way.clone()..).map(|(other, _)| other).take_while(|other| other.starts_with(way));
    for way in inside {
        match sides.now(way)? {
            Some(now) => notes.made(way, &now.stat, Some(&now.inode))?,
            None => notes.gone(way)?,
        }
    }
    Ok(())
}
