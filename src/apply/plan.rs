//! What is there to be made, what is in conflict, and in which steps is it done?

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::Source;
use super::bases::{Base, Bases};
use super::content;
use super::decide::{Conflict, Facts, Verdict, decide};
use super::error::{Error, Result};
use super::merge::{self, Merged};
use super::sides::{Sides, Thing};
use crate::branch::Stat;
use crate::cli::ApplyArgs;
use crate::look::changes::Kind;

/// A path, from the target.
pub(super) type Way = Vec<OsString>;

/// A path that differs.
#[derive(Debug)]
pub(super) struct Item {
    /// Whether the run has something there, and whether the outside has.
    pub(super) run: Option<FileType>,
    pub(super) now: Option<FileType>,
    /// What was there when it was decided: a step on anything else is none.
    pub(super) seen: Option<Stat>,
    pub(super) verdict: Verdict,
    /// What is to be there instead of what the run has.
    pub(super) merged: Option<Vec<u8>>,
    /// More about a conflict, for people.
    pub(super) note: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) items: BTreeMap<Way, Item>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Put what the run has there, a directory with all that is in it; over what is there, if anything is.
    Put(Way),
    /// Give what is there what the run's has besides data.
    Change(Way),
    /// Remove what is there: a directory only if nothing is left in it.
    Remove(Way),
}

impl Step {
    /// What it is about.
    pub(super) fn way(&self) -> &Way {
        let (Self::Put(way) | Self::Change(way) | Self::Remove(way)) = self;
        way
    }
}

impl Plan {
    /// Looks at all that the run has changed, or at what was asked for.
    pub(super) fn make(source: &Source, sides: &Sides, bases: &Bases, args: &ApplyArgs) -> Result<Self> {
        let wanted = args.paths.iter().map(|path| way_of(source, path)).collect::<Result<Vec<_>>>()?;
        let mut kinds: BTreeMap<Way, Vec<Kind>> = BTreeMap::new();
        for change in sides.changes()? {
            kinds.entry(change.way).or_default().push(change.kind);
        }
        for (path, way) in args.paths.iter().zip(&wanted) {
            if !kinds.keys().any(|changed| changed.starts_with(way)) {
                return Err(Error::NoChange { name: source.name.clone(), path: path.clone() });
            }
        }
        let is_wanted = |way: &Way| wanted.is_empty() || wanted.iter().any(|wanted| way.starts_with(wanted));
        // What is made is made in a directory.
        let is_around = |way: &Way, kinds: &[Kind]| {
            kinds.contains(&Kind::Added) && wanted.iter().any(|wanted| wanted.starts_with(way))
        };
        let mut plan = Self::default();
        for (way, kinds) in kinds {
            if is_wanted(&way) || is_around(&way, &kinds) {
                let item = look(
                    &way,
                    kinds.contains(&Kind::Added) || kinds.contains(&Kind::Modified),
                    sides,
                    bases,
                    source,
                    args,
                )?;
                plan.items.insert(way, item);
            }
        }
        if args.theirs {
            plan.items.values_mut().for_each(|item| {
                item.verdict = match item.verdict {
                    Verdict::Conflict(_) => Verdict::Make,
                    verdict => verdict,
                }
            });
        }
        plan.spread();
        Ok(plan)
    }

    /// What is replaced by something that is no directory goes with all that is in it, or stays.
    fn spread(&mut self) {
        let replaced: Vec<Way> = self
            .items
            .iter()
            .filter(|(_, item)| {
                item.run.is_some_and(|kind| kind != FileType::Directory)
                    && item.now == Some(FileType::Directory)
            })
            .map(|(way, _)| way.clone())
            .collect();
        for way in replaced {
            let inside = beneath(&self.items, &way).any(|(_, item)| item.verdict != Verdict::Make);
            if let Some(item) =
                self.items.get_mut(&way).filter(|item| inside && item.verdict == Verdict::Make)
            {
                item.verdict = Verdict::Conflict(Conflict::New);
            }
        }
    }

    /// What is in conflict.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = (&Way, Conflict, &Item)> {
        self.items.iter().filter_map(|(way, item)| match item.verdict {
            Verdict::Conflict(conflict) => Some((way, conflict, item)),
            _ => None,
        })
    }

    /// What is done, in its order: what something takes the place of is emptied, then comes what comes, then goes what goes,
    /// then directories are what they are to be. What goes does so entry by entry, from below: what comes to be in a directory
    /// meanwhile keeps it.
    pub(super) fn steps(&self) -> Vec<Step> {
        let (mut puts, mut dirs) = (Vec::new(), Vec::new());
        let mut covered: Option<&Way> = None;
        let makes = || self.items.iter().filter(|(_, item)| item.verdict == Verdict::Make);
        for (way, item) in makes() {
            if covered.is_some_and(|above| way.starts_with(above)) {
                continue;
            }
            let is_dir = |kind: Option<FileType>| kind == Some(FileType::Directory);
            match (item.run, item.now) {
                (Some(_), Some(_)) if is_dir(item.run) && is_dir(item.now) => {
                    dirs.push(Step::Change(way.clone()))
                }
                (Some(_), _) => {
                    puts.push(Step::Put(way.clone()));
                    covered = Some(way);
                }
                (None, _) => {}
            }
        }
        let goes = makes().rev().filter(|(_, item)| item.run.is_none()).map(|(way, _)| way);
        let (emptied, gone): (Vec<_>, Vec<_>) = goes.partition(|way| self.is_put_over(way));
        let remove = |way: &Way| Step::Remove(way.clone());
        // Who may not write to a directory any more has done so.
        dirs.reverse();
        emptied.into_iter().map(remove).chain(puts).chain(gone.into_iter().map(remove)).chain(dirs).collect()
    }

    /// Whether something is put in the place of a directory around it.
    fn is_put_over(&self, way: &Way) -> bool {
        (1..way.len()).any(|length| {
            self.items.get(&way[..length]).is_some_and(|item| {
                item.verdict == Verdict::Make && item.run.is_some_and(|kind| kind != FileType::Directory)
            })
        })
    }

    /// What is beneath a path that is made.
    pub(super) fn made_beneath(&self, way: &Way) -> BTreeSet<&Way> {
        let made =
            beneath(&self.items, way).filter(|(_, item)| item.verdict == Verdict::Make && item.run.is_some());
        made.map(|(way, _)| way).collect()
    }
}

fn beneath<'a, 'b>(
    items: &'a BTreeMap<Way, Item>,
    way: &'b Way,
) -> impl Iterator<Item = (&'a Way, &'a Item)> + use<'a, 'b> {
    let inside = items.range(way.clone()..).skip_while(move |(other, _)| *other == way);
    inside.take_while(move |(other, _)| other.starts_with(way))
}

/// The way that a path means, which need not be there.
fn way_of(source: &Source, path: &Path) -> Result<Way> {
    let failed = || Error::NoChange { name: source.name.clone(), path: path.to_owned() };
    let absolute = std::path::absolute(path).map_err(|_| failed())?;
    // A symbolic link at its end is meant itself.
    let real = match (absolute.parent().and_then(|parent| parent.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    };
    let way = real.strip_prefix(&source.target).map_err(|_| failed())?;
    Ok(way.iter().map(ToOwned::to_owned).collect())
}

fn look(
    way: &Way,
    has_run: bool,
    sides: &Sides,
    bases: &Bases,
    source: &Source,
    args: &ApplyArgs,
) -> Result<Item> {
    let run = if has_run { sides.run(way)? } else { None };
    let now = sides.now(way)?;
    let base = bases.find(way);
    let mut facts = facts(way, run.as_ref(), now.as_ref(), base, bases)?;
    // A directory's own time goes with what is in it.
    let is_dir = run.as_ref().is_some_and(|run| run.stat.kind() == FileType::Directory);
    facts.is_taken = !is_dir && bases.is_taken(way, run.as_ref().map(|run| &run.raw));
    log::debug!("{}: {facts:?}", way.iter().collect::<PathBuf>().display());
    let mut verdict = decide(&facts);
    let (mut merged, mut note) = (None, None);
    if let (Verdict::Conflict(conflict), Some(base)) = (verdict, base) {
        match (conflict, &run, &now) {
            (Conflict::Content, Some(run), Some(now)) if [run, now].into_iter().all(is_small) => {
                let sides = [now, run].map(|side| content::read(&side.inode, &side.stat));
                if let (Some(before), [Ok(now), Ok(run)]) = (bases.kept(base), sides) {
                    match merge::merge(&before, &now, &run, &source.name) {
                        Merged::Clean(data) if args.merge => {
                            (verdict, merged) = (Verdict::Make, Some(data));
                        }
                        Merged::Clean(_) => {
                            note = Some("the changes are in different places: --merge takes both\n".into())
                        }
                        Merged::Marked(text) => note = Some(text),
                        Merged::NoText => {}
                    }
                }
            }
            (Conflict::Gone, _, _) => {
                let renamed = sides.renamed(way, base.ino);
                note = renamed.map(|name| format!("it is called {} by now\n", crate::shown::shown(&name)));
            }
            _ => {}
        }
    }
    let kind = |thing: &Option<Thing>| thing.as_ref().map(|thing| thing.stat.kind());
    let seen = now.as_ref().map(|now| now.stat);
    Ok(Item { run: kind(&run), now: kind(&now), seen, verdict, merged, note })
}

/// Whether it is read whole to be merged.
fn is_small(thing: &Thing) -> bool {
    const LARGEST: i64 = 16 << 20;
    thing.stat.st_size <= LARGEST
}

fn facts(
    way: &Way,
    run: Option<&Thing>,
    now: Option<&Thing>,
    base: Option<&Base>,
    bases: &Bases,
) -> Result<Facts> {
    let letter = |thing: Option<&Thing>| thing.map(|thing| Base::of(&thing.stat).kind);
    // Of attributes nobody has noted what they were.
    let same_xattrs = match (run, now) {
        (Some(run), Some(now)) => content::xattrs(&run.inode)? == content::xattrs(&now.inode)?,
        _ => true,
    };
    let mut facts = Facts {
        base: base.map(|base| base.kind),
        run: letter(run),
        now: letter(now),
        now_is_base: false,
        run_is_base: false,
        same_data: false,
        is_taken: false,
    };
    let is = |base: &Base, now: &Thing| -> Result<bool> {
        let by_now = Base::of(&now.stat);
        let untouched = Base { kept: base.kept.clone(), ..by_now.clone() } == *base;
        let same = || Ok::<_, Error>(base.kind == 'd' || same_xattrs && holds(bases, base, now)?);
        Ok(untouched || by_now.same_metadata(base) && same()?)
    };
    facts.now_is_base = match (bases.applied(way), now) {
        (Some(Some(applied)), Some(now)) => is(applied, now)?,
        (Some(None), None) => true,
        _ => false,
    };
    let Some(base) = base else { return Ok(facts) };
    if let Some(now) = now {
        let by_now = Base::of(&now.stat);
        let same_kind = by_now.kind == base.kind;
        let same_time = by_now.size == base.size && by_now.mtime == base.mtime;
        facts.same_data = same_kind && (base.kind == 'd' || same_time || holds(bases, base, now)?);
        facts.now_is_base |= is(base, now)?;
    }
    if let Some(run) = run {
        let of_run = Base::of(&run.stat);
        let same = || Ok::<_, Error>(same_xattrs && (base.kind == 'd' || holds(bases, base, run)?));
        facts.run_is_base = of_run.same_metadata(base) && same()?;
    }
    Ok(facts)
}

/// Whether a thing holds what was kept of it.
fn holds(bases: &Bases, base: &Base, thing: &Thing) -> Result<bool> {
    let Some(kept) = bases.kept(base) else { return Ok(false) };
    Ok(match thing.stat.kind() {
        FileType::RegularFile => {
            thing.stat.st_size as u64 == base.size && content::read(&thing.inode, &thing.stat)? == kept
        }
        FileType::Symlink => thing.inode.read_link()?.as_encoded_bytes() == kept,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(path: &str) -> Way {
        path.split('/').map(OsString::from).collect()
    }

    fn plan(items: &[(&str, char, char, Verdict)]) -> Plan {
        let kind = |letter| match letter {
            'f' => Some(FileType::RegularFile),
            'd' => Some(FileType::Directory),
            _ => None,
        };
        let items = items.iter().map(|(path, run, now, verdict)| {
            let (run, now) = (kind(*run), kind(*now));
            (way(path), Item { run, now, seen: None, verdict: *verdict, merged: None, note: None })
        });
        let mut plan = Plan { items: items.collect() };
        plan.spread();
        plan
    }

    const MAKE: Verdict = Verdict::Make;
    const NEW: Verdict = Verdict::Conflict(Conflict::New);

    #[test]
    fn a_new_directory_is_one_step_and_one_that_goes_goes_from_below() {
        let steps = plan(&[
            ("a", 'd', '-', MAKE),
            ("a/b", 'f', '-', MAKE),
            ("a-b", 'f', 'f', MAKE),
            ("c", 'd', 'd', MAKE),
            ("c/x", '-', 'f', MAKE),
            ("d", '-', 'd', MAKE),
            ("d/e", '-', 'f', MAKE),
        ])
        .steps();
        let expected = [
            Step::Put(way("a")),
            Step::Put(way("a-b")),
            Step::Remove(way("d/e")),
            Step::Remove(way("d")),
            Step::Remove(way("c/x")),
            Step::Change(way("c")),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_is_new_in_a_deleted_directory_keeps_it() {
        let items = [("d", '-', 'd', MAKE), ("d/e", '-', 'f', MAKE), ("d/new", '-', 'f', NEW)];
        assert_eq!(plan(&items).steps(), [Step::Remove(way("d/e")), Step::Remove(way("d"))]);
        let items = [("d", 'f', 'd', MAKE), ("d/e", '-', 'f', MAKE), ("d/new", '-', 'f', NEW)];
        let plan = plan(&items);
        assert_eq!(plan.conflicts().count(), 2);
    }

    #[test]
    fn a_file_in_place_of_a_directory_takes_all_of_it_away() {
        let items =
            [("d", 'f', 'd', MAKE), ("d/e", '-', 'f', MAKE), ("f", 'd', 'f', MAKE), ("f/x", 'f', '-', MAKE)];
        let steps = [Step::Remove(way("d/e")), Step::Put(way("d")), Step::Put(way("f"))];
        assert_eq!(plan(&items).steps(), steps);
    }
}
