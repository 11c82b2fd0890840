//! How are a plan's steps done on the upper?
//!
//! In their order, each by one or two system calls. If one fails before anything shows, what was made ahead of it
//! goes again. Once the new state shows, the operation has succeeded: what is left to do is tidying up.

use std::ffi::OsStr;

use rustix::io::Errno;

use super::Union;
use super::locked::{LockedEntry, LockedNames};
use super::node::Body;
use super::stack::Seen;
use crate::branch::{UpperDir, UpperInode};
use crate::error::{Error, Result};
use crate::layer::{Ask, DirMarkers, ask};
use crate::rules::name::{MarkerName, Name, Spelling};
use crate::rules::plan::{Plan, Refusal, Side, Step};

/// How [`Step::Create`] makes the new entry.
pub(super) type Create<'a> = &'a mut dyn FnMut(&UpperDir, &OsStr) -> Result<()>;

impl Union {
    /// Does the steps of a plan that has no preparations left. `create` is for a plan that makes an entry, `linked`
    /// the inode for one that gives a file one more name.
    pub(super) fn execute(
        &self,
        locked: &LockedNames,
        plan: &Plan,
        mut create: Option<Create<'_>>,
        linked: Option<&UpperInode>,
    ) -> Result<()> {
        let mut made = Vec::new();
        let mut shows = false;
        let mut cleared = None;
        for step in plan.steps() {
            if let Step::ClearMarkers(side) = step {
                // From its first marker on the whiteouts do what the markers did.
                made.clear();
                cleared = Some(locked.side(*side)?);
            }
            let done = match (step, &mut create) {
                (Step::Create(side), Some(create)) => {
                    let entry = locked.side(*side)?;
                    create(entry.upper()?, entry.entry.name.as_os_str())
                }
                (Step::Link, _) => {
                    let to = &locked.target;
                    let from = linked.ok_or(Error::Bug("a link to nothing"))?;
                    to.upper()?.link(from, to.entry.name.as_os_str())
                }
                _ => self.execute_step(locked, *step),
            };
            if let Err(e) = done {
                if shows {
                    // It is done, as everybody can see. The steps after this one count on it: a whiteout that stays
                    // beside a new directory keeps it opaque.
                    log::warn!("a marker more or less than needed stays in the upper: {e}");
                    break;
                }
                // Nothing shows yet that did not show before. The whiteouts that were made ahead are not
                // needed any more.
                for (dir, name) in made {
                    if let Err(e) = clear_whiteout(dir, name) {
                        log::warn!("a whiteout stays beside its entry, where it hides nothing: {e}");
                    }
                }
                if let Some(entry) = cleared {
                    self.stands_alone(entry);
                }
                return Err(e);
            }
            match step {
                Step::Whiteout(side) => {
                    let entry = locked.side(*side)?;
                    made.push((entry.upper()?, &entry.entry.name));
                }
                // The whiteout does what the one did that had the name.
                Step::Unlink(_) => made.clear(),
                Step::Create(_) | Step::Link | Step::Rename | Step::Exchange => shows = true,
                _ => {}
            }
        }
        self.relist(&locked.target);
        if let Some(source) = &locked.source {
            self.relist(source);
        }
        Ok(())
    }

    fn execute_step(&self, locked: &LockedNames, step: Step) -> Result<()> {
        match step {
            Step::CopyUp(_) | Step::CopyUpTree(_) => Err(Error::Bug("a preparation is not executed")),
            Step::Create(_) | Step::Link => Err(Error::Bug("a step without what it makes")),
            Step::Whiteout(side) => {
                let entry = locked.side(side)?;
                let marker = entry.entry.name.whiteout().ok_or(Refusal::WhiteoutTooLong)?;
                self.note_seen(entry, false);
                self.writable()?.work.make_marker(entry.upper()?, marker.as_os_str())
            }
            Step::ClearWhiteout(side) => {
                let entry = locked.side(side)?;
                clear_whiteout(entry.upper()?, &entry.entry.name)
            }
            Step::MarkOpaque(side) => {
                let dir = self.open_seen(locked.side(side)?)?;
                // Users see no change in a directory that is about to be moved.
                dir.keeping_times(|| self.mark_opaque(&dir))?;
                // It is on disk before the whiteout beside the directory goes: that is in another directory.
                if self.options.volatile { Ok(()) } else { dir.sync() }
            }
            Step::ClearMarkers(side) => {
                let dir = self.open_seen(locked.side(side)?)?;
                dir.keeping_times(|| self.clear_markers(&dir))
            }
            Step::Unlink(side) => {
                let entry = locked.side(side)?;
                entry.upper()?.unlink(entry.entry.name.as_os_str())
            }
            Step::RemoveDir(side) => {
                let entry = locked.side(side)?;
                entry.upper()?.remove_dir(entry.entry.name.as_os_str())
            }
            Step::Rename => {
                let (from, to) = (locked.side(Side::Source)?, &locked.target);
                self.note_seen(to, true);
                let (old, new) = (from.entry.name.as_os_str(), to.entry.name.as_os_str());
                from.upper()?.rename(old, to.upper()?, new)
            }
            Step::Exchange => {
                let (from, to) = (locked.side(Side::Source)?, &locked.target);
                let (old, new) = (from.entry.name.as_os_str(), to.entry.name.as_os_str());
                from.upper()?.exchange(old, to.upper()?, new)
            }
        }
    }

    /// The upper's directory under a name, which must be the one that was seen when the names were locked, if that
    /// was in the upper.
    fn open_seen(&self, entry: &LockedEntry) -> Result<UpperDir> {
        let dir = entry.upper()?.open_upper_dir(entry.entry.name.as_os_str())?;
        match &entry.seen {
            Seen::Dir { parts, .. }
                if parts[0].branch.is_upper()
                    && !self.stack.is_meant(parts[0].branch, &dir.stat_self()?, parts[0].real) =>
            {
                Err(Error::Stale(0))
            }
            _ => Ok(dir),
        }
    }

    /// A directory merges with nothing any more, for the whiteout beside it: it keeps its number.
    fn stands_alone(&self, entry: &LockedEntry) {
        match (&entry.seen, self.node_at(entry)) {
            (Seen::Dir { parts, .. }, Ok(Some(node))) if parts.len() > 1 => {
                node.state().body = Body::Dir([parts[0]].into());
                self.settle_dir(&node, parts[0].real);
            }
            (_, Err(e)) => log::warn!("a directory has another number from now on: {e}"),
            _ => {}
        }
    }

    /// Makes a directory of the upper opaque.
    pub(super) fn mark_opaque(&self, dir: &UpperDir) -> Result<()> {
        self.writable()?.work.make_marker(dir, MarkerName::opaque().as_os_str())
    }

    /// Removes every marker from a directory of the upper that shows nothing. AUFS' own may be directories: those go
    /// only if nothing is in them, since what is in them is not ours.
    fn clear_markers(&self, dir: &UpperDir) -> Result<()> {
        let formats = DirMarkers::of(dir)?.formats(self.stack.devices_in_upper());
        for entry in dir.list()? {
            match Spelling::of(&entry.name) {
                Spelling::Entry(name) if !ask(dir, formats, &name, Ask::Existence)?.entry.whiteout_inode => {}
                Spelling::Reserved => match dir.unlink(&entry.name) {
                    Err(e) if e.is(Errno::ISDIR) => dir.remove_dir(&entry.name)?,
                    removed => removed?,
                },
                _ => dir.unlink(&entry.name)?,
            }
        }
        Ok(())
    }
}

fn clear_whiteout(dir: &UpperDir, name: &Name) -> Result<()> {
    match name.whiteout() {
        Some(marker) => dir.remove_marker(marker.as_os_str()),
        None => Ok(()),
    }
}
