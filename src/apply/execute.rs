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
use super::decide::Verdict;
use super::error::{Error, Result};
use super::plan::{Plan, Step, Way};
use super::sides::{Sides, Thing};
use super::target::{Place, Target};
use crate::branch::Stat;
use crate::control::{escaped, unescaped};
use crate::look::compare::same_content;

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

    /// A file with several names is about to be written anew: its name, and that of what it is to hold.
    fn rewriting(&self, names: &[Way; 2]) -> Result<()> {
        Self(self.second()).write(names)
    }

    fn rewritten(&self) -> Result<()> {
        let path = self.second();
        fs::remove_file(&path).map_err(Error::io("remove", &path))
    }

    fn second(&self) -> PathBuf {
        self.0.with_extension("rewriting")
    }

    /// Ends what a crash has left half written.
    fn go_on(&self, target: &Target) -> Result<()> {
        let path = self.second();
        let lines = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            lines => lines.map_err(Error::io("read", &path))?,
        };
        let ways: Vec<Way> = ways(&lines).collect();
        if let [way, beside] = &ways[..]
            && let (Some((name, dirs)), Some(beside)) = (way.split_last(), beside.last())
            && is_ours(beside)
        {
            target.dir(dirs)?.rewrite(beside, name)?;
        }
        self.rewritten()
    }

    /// Removes what has one of its names, and the journal.
    pub(super) fn clear(&self, target: &Target) -> Result<()> {
        self.go_on(target)?;
        let lines = match fs::read(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            lines => lines.map_err(Error::io("read", &self.0))?,
        };
        for way in ways(&lines) {
            let Some((name, dirs)) = way.split_last().filter(|(name, _)| is_ours(name)) else { continue };
            match target.dir(dirs) {
                Ok(place) => place.remove(name)?,
                // With its directory it is gone as well.
                Err(e) => log::debug!("{e}"),
            }
        }
        fs::remove_file(&self.0).map_err(Error::io("remove", &self.0))
    }
}

fn ways(lines: &[u8]) -> impl Iterator<Item = Way> {
    let end = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let lines = lines[..end].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| PathBuf::from(unescaped(line)).iter().map(OsStr::to_owned).collect())
}

fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

const PREFIX: &str = ".plyfs-apply-";

/// What the run has at the paths that are made, as it is in the layers.
type Taken<'a> = HashMap<&'a Way, Option<Stat>>;

/// One step, and the name beside its place.
struct Staged<'a> {
    step: &'a Step,
    way: &'a Way,
    beside: OsString,
    /// Whether other names, which the run has not touched, show there what it has written.
    is_followed: bool,
    /// Whether only what a file has besides data is another.
    is_change: bool,
}

impl Staged<'_> {
    /// The directory that it is in. A descriptor for each would be too many.
    fn place(&self, target: &Target) -> Result<Place> {
        target.dir(&self.way[..self.way.len() - 1])
    }
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
        let way = step.way();
        if way.is_empty() {
            continue;
        }
        let beside = OsString::from(format!("{PREFIX}{}-{number}", std::process::id()));
        let is_followed = matches!(step, Step::Put(_)) && is_followed(sides, way)?;
        let is_change = matches!(step, Step::Put(_)) && is_change(plan, sides, way)?;
        staged.push(Staged { step, way, beside, is_followed, is_change });
    }
    let names: Vec<Way> = staged.iter().map(|staged| place_in(staged.way, &staged.beside)).collect();
    journal.write(&names).map_err(Error::staged)?;
    // Before it is copied: what the run changes from now on is not taken for made.
    let taken = plan
        .items
        .iter()
        .filter(|(_, item)| item.verdict == Verdict::Make && item.run.is_some())
        .map(|(way, _)| Ok((way, sides.run(way)?.map(|run| run.raw))))
        .collect::<Result<Taken<'_>>>()?;
    let mut links = Links(made_before(plan, sides, target, &steps)?);
    let made = staged.iter().try_for_each(|staged| stage(plan, sides, target, staged, &mut links));
    let synced = made.and_then(|()| {
        let filesystems = filesystems(target, &staged)?;
        sync_all(target, &filesystems).map(|()| filesystems)
    });
    let filesystems = match synced {
        Ok(filesystems) => filesystems,
        Err(e) => {
            journal.clear(target)?;
            return Err(e.staged());
        }
    };
    // What is written anew in its place comes first: new names of it are made by linking it.
    let (first, then): (Vec<_>, Vec<_>) = staged.iter().partition(|staged| staged.is_followed);
    let mut links = Links::default();
    for staged in first.into_iter().chain(then) {
        if publish(plan, sides, target, staged, (journal, &mut links))? {
            note(plan, sides, staged.way, &taken, notes)?;
        }
    }
    sync_all(target, &filesystems)?;
    journal.clear(target)
}

/// A directory on each filesystem that is changed.
fn filesystems(target: &Target, staged: &[Staged<'_>]) -> Result<Vec<Place>> {
    let mut places: Vec<(u64, Place)> = Vec::new();
    for staged in staged {
        let place = staged.place(target)?;
        let device = place.device()?;
        if places.iter().all(|(known, _)| *known != device) {
            places.push((device, place));
        }
    }
    Ok(places.into_iter().map(|(_, place)| place).collect())
}

fn sync_all(target: &Target, places: &[Place]) -> Result<()> {
    places.iter().try_for_each(|place| target.sync(place))
}

/// Files with several names, by what they are in the layers, and where the first of these is.
#[derive(Debug, Default)]
struct Links(HashMap<(u64, u64), (Place, OsString)>);

/// Files with several names of which some are there already, as they are to be.
fn made_before(
    plan: &Plan,
    sides: &Sides,
    target: &Target,
    steps: &[Step],
) -> Result<HashMap<(u64, u64), (Place, OsString)>> {
    let puts = steps.iter().filter_map(|step| if let Step::Put(way) = step { Some(way) } else { None });
    let mut has_linked = false;
    for way in puts {
        let is_linked = |thing: Thing| thing.raw.is_hard_linked() || thing.raw.kind() == FileType::Directory;
        has_linked |= sides.run(way)?.is_some_and(is_linked);
    }
    let mut made = HashMap::new();
    if !has_linked {
        return Ok(made);
    }
    for (id, ways) in sides.linked()? {
        for way in ways.into_iter().filter(|way| !plan.items.contains_key(way)) {
            let (Some(run), Some(now)) = (sides.run(&way)?, sides.now(&way)?) else { continue };
            let is_same = run.stat.kind() == now.stat.kind()
                && same_content((&run.inode, &run.stat), (&now.inode, &now.stat))?;
            if is_same && let Some((name, dirs)) = way.split_last() {
                made.insert(id, (target.dir(dirs)?, name.clone()));
            }
        }
    }
    Ok(made)
}

fn stage(plan: &Plan, sides: &Sides, target: &Target, staged: &Staged<'_>, links: &mut Links) -> Result<()> {
    match staged.step {
        Step::Put(way) if !staged.is_change => {
            make(plan, sides, target, (&staged.place(target)?, &staged.beside), way, links)
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
        (Some(run), Some(now))
            if run.stat.kind() == now.stat.kind() && run.stat.kind() != FileType::Directory =>
        {
            // The name of one among several may be all that the run has changed.
            Ok(run.stat.st_nlink == 1 && same_content((&run.inode, &run.stat), (&now.inode, &now.stat))?)
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
    if is_linked
        && let Some((from, old)) = links.0.get(&id)
        && from.device()? == place.device()?
    {
        return place.link(from, old, name);
    }
    let merged = plan.items.get(way).and_then(|item| item.merged.as_deref());
    target.make(place, name, &thing, merged)?;
    if is_linked {
        links.0.insert(id, (place.again()?, name.to_owned()));
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

/// A name in the directory that a way leads to.
fn place_in(way: &Way, name: &OsStr) -> Way {
    way[..way.len() - 1].iter().cloned().chain([name.to_owned()]).collect()
}

/// Whether a file's other names, which the run has not touched, show there what was written to this one.
fn is_followed(sides: &Sides, way: &Way) -> Result<bool> {
    let is_file = |thing: &Thing| thing.stat.kind() == FileType::RegularFile;
    Ok(match (sides.run(way)?, sides.now(way)?) {
        (Some(run), Some(now)) => is_file(&run) && is_file(&now) && sides.is_followed(&run, &now),
        _ => false,
    })
}

/// Does a step. Whether it was done: a directory in which something is left stays.
fn publish(
    plan: &Plan,
    sides: &Sides,
    target: &Target,
    staged: &Staged<'_>,
    (journal, links): (&Journal, &mut Links),
) -> Result<bool> {
    let Staged { step, way, beside, is_followed, is_change } = staged;
    let Some(name) = way.last() else { return Ok(false) };
    let place = staged.place(target)?;
    let Some(item) = plan.items.get(*way) else { return Ok(false) };
    // What it was decided on, and not what is there by now.
    let seen = item.seen.as_ref();
    let run =
        if item.run.is_some() { sides.run(way)?.map(|run| (run.raw.st_dev, run.raw.st_ino)) } else { None };
    if *is_followed && run.is_some_and(|run| links.0.contains_key(&run)) {
        // By another name of it that is done already.
        place.remove(beside)?;
        return Ok(true);
    }
    place.check(name, seen)?;
    match step {
        Step::Put(_) if *is_change => {
            let Some(thing) = sides.run(way)? else { return Ok(false) };
            target.finish(&place, name, &thing)?;
        }
        Step::Put(_) => {
            if !is_followed && let Some((from, old)) = run.and_then(|run| links.0.get(&run)) {
                place.remove(beside)?;
                place.link(from, old, beside)?;
            }
            let is_dir = |kind: Option<FileType>| kind == Some(FileType::Directory);
            if item.run == Some(FileType::Socket) {
                return Ok(false);
            }
            let (kind, was) = (item.run, seen.map(|seen| seen.kind()));
            match was {
                None => place.publish(beside, name, RenameFlags::NOREPLACE)?,
                // A rename puts a file over a file, and nothing over a directory that has something in it.
                Some(was) if is_dir(kind) || is_dir(Some(was)) => {
                    place.publish(beside, name, RenameFlags::EXCHANGE)?;
                    if !place.remove_one(beside)? {
                        // Something has come to be in it.
                        place.publish(beside, name, RenameFlags::EXCHANGE)?;
                        place.remove(beside)?;
                        return Err(Error::Changed(target.path(way)));
                    }
                }
                Some(_) if *is_followed => {
                    let names = [name.as_os_str(), beside].map(|name| place_in(way, name));
                    journal.rewriting(&names)?;
                    place.rewrite(beside, name)?;
                    journal.rewritten()?;
                    place.remove(beside)?;
                    if let Some(run) = run {
                        links.0.insert(run, (place.again()?, name.clone()));
                    }
                }
                Some(_) => place.publish(beside, name, RenameFlags::empty())?,
            }
        }
        Step::Change(_) => {
            let Some(thing) = sides.run(way)? else { return Ok(false) };
            target.finish(&place, name, &thing)?;
        }
        Step::Remove(_) => return place.remove_one(name),
    }
    Ok(true)
}

/// Notes what a path, and what is in it, is from now on.
fn note(plan: &Plan, sides: &Sides, way: &Way, taken: &Taken<'_>, notes: &mut Notes) -> Result<()> {
    sides.forget();
    let inside = plan.items.range(way.clone()..).take_while(|(other, _)| other.starts_with(way));
    // What goes, goes by itself.
    for (way, _) in inside.filter(|(other, item)| *other == way || item.run.is_some()) {
        if plan.items.get(way).is_none_or(|item| item.verdict != Verdict::Make) {
            continue;
        }
        notes.taken(way, taken.get(way).and_then(Option::as_ref))?;
        let is_merged = plan.items.get(way).is_some_and(|item| item.merged.is_some());
        match sides.now(way)? {
            // What is outside as well the run does not have.
            Some(_) if is_merged => {
                if let Some(run) = sides.run(way)? {
                    notes.made(way, &run.stat, &run.inode)?;
                }
            }
            Some(now) => notes.made(way, &now.stat, &now.inode)?,
            None => notes.gone(way)?,
        }
    }
    Ok(())
}
