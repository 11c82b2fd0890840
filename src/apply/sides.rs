//! What do the run and the outside have at a path?
//!
//! The run's layers are read as one tree, above the real one as it is now; of what comes of that, what differs from the real
//! tree alone is what there is to be made.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::Source;
use super::error::{Error, Result};
use super::plan::Way;
use crate::branch::{Atime, Dir, Inode, Inodes, Stat};
use crate::control::Access;
use crate::look::changes::Change;
use crate::look::compare::{RootIs, compare};
use crate::look::layers::{self, Branch, Manner, Part, Shows};
use crate::rules::BranchId;
use crate::rules::override_stat::OverrideXattr;
use crate::union::hard_link_copies;

/// A thing, and what it is.
#[derive(Debug)]
pub(super) struct Thing {
    pub(super) inode: Inode,
    /// Owners as they are outside.
    pub(super) stat: Stat,
    /// As they are in the layers.
    pub(super) raw: Stat,
}

/// What the workdir notes of hard links.
fn followed(work: &Path, upper: &Dir) -> Result<HashSet<(u64, u64)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(work, flags, Mode::empty()).map_err(Error::io("open", work))?;
    let work = Dir::root(fd, BranchId::UPPER, Atime::Kept, Inodes::MayChange);
    let copies = hard_link_copies(&work, upper)?.into_iter().filter(|copy| copy.has_other_names);
    copies.map(|copy| copy.copy.stat().map(|stat| (stat.st_dev, stat.st_ino)).map_err(Error::from)).collect()
}

/// A directory, and its parts.
type Looked = (Way, Parts);

/// Files by device and number, and their names.
type Names = HashMap<(u64, u64), Vec<Way>>;

/// The parts of a directory, open.
type Parts = Vec<(Part, Dir)>;

/// Both sides.
#[derive(Debug)]
pub(super) struct Sides {
    branches: Vec<Branch>,
    own: usize,
    /// Who root in the run is outside.
    root: Option<RootIs>,
    /// Copies that other names of a file follow which the layers do not have, by device and number.
    followed: HashSet<(u64, u64)>,
    /// The directory that was looked at last, of each side.
    last: RefCell<[Option<Looked>; 2]>,
}

impl Sides {
    pub(super) fn open(source: &Source) -> Result<Self> {
        let manner = Manner {
            overrides: source.records.then_some(OverrideXattr::User),
            plain_lowers: true,
            ..Manner::default()
        };
        let own = source.layers.iter().map(|layer| (layer.clone(), Access::Writable));
        let all: Vec<(PathBuf, Access)> = own.chain([(source.target.clone(), Access::ReadOnly)]).collect();
        let branches = layers::open(&all, manner)?;
        let own = source.layers.len();
        let followed = followed(&source.work, &branches[0].root)?;
        Ok(Self { branches, own, root: source.root, followed, last: RefCell::default() })
    }

    /// What differs, sorted by path; what is deleted with its directory as well.
    pub(super) fn changes(&self) -> Result<Vec<Change>> {
        Ok(compare(&self.branches, self.own, true, self.root)?)
    }

    /// What the run has at the end of a way, if that is in a layer of its.
    pub(super) fn run(&self, way: &[OsString]) -> Result<Option<Thing>> {
        let Some((thing, branch)) = self.find(way, 0)? else { return Ok(None) };
        if branch >= self.own {
            return Ok(None);
        }
        let now = self.now(way)?;
        let stat = match self.root {
            Some(root) => root.below(&thing.raw, now.as_ref().map(|now| &now.stat)),
            None => thing.raw,
        };
        Ok(Some(Thing { stat, ..thing }))
    }

    /// Whether a file outside has other names that show in the run what the run has written to this one.
    pub(super) fn is_followed(&self, run: &Thing, now: &Thing) -> bool {
        now.stat.is_hard_linked() && self.followed.contains(&(run.raw.st_dev, run.raw.st_ino))
    }

    /// What is outside at the end of a way.
    pub(super) fn now(&self, way: &[OsString]) -> Result<Option<Thing>> {
        Ok(self.find(way, self.own)?.map(|(thing, _)| thing))
    }

    /// What the branches from `first` on show, and which of them shows it.
    fn find(&self, way: &[OsString], first: usize) -> Result<Option<(Thing, usize)>> {
        let Some((name, dirs)) = way.split_last() else { return Ok(None) };
        let side = usize::from(first > 0);
        let is_known = matches!(&self.last.borrow()[side], Some((known, _)) if known == dirs);
        if !is_known {
            let parts = layers::parts(&self.branches, first, dirs)?;
            self.last.borrow_mut()[side] = Some((dirs.to_vec(), parts));
        }
        let last = self.last.borrow();
        let Some((_, parts)) = &last[side] else { return Ok(None) };
        let (branch, stat) = match layers::shows(parts, name)? {
            Shows::Nothing => return Ok(None),
            Shows::Leaf(branch, stat) => (branch, *stat),
            Shows::Dir(children, stat) => (children[0].0, *stat),
        };
        let Some((_, dir)) = parts.iter().find(|((at, _), _)| *at == branch) else { return Ok(None) };
        let inode = dir.open_inode(name)?;
        Ok(Some((Thing { inode, stat, raw: stat }, branch)))
    }

    /// The outside has changed.
    pub(super) fn forget(&self) {
        *self.last.borrow_mut() = [None, None];
    }

    /// The files of the layers that have several names, and these.
    pub(super) fn linked(&self) -> Result<Names> {
        let mut linked = Names::new();
        for branch in &self.branches[..self.own] {
            let mut left = vec![Way::new()];
            while let Some(way) = left.pop() {
                let dir = layers::dir_at(branch, &way)?;
                for entry in dir.list()? {
                    let inside: Way = way.iter().cloned().chain([entry.name.clone()]).collect();
                    if entry.kind == FileType::Directory {
                        left.push(inside);
                    } else if let Some(stat) = dir.stat(&entry.name)?.filter(Stat::is_hard_linked) {
                        linked.entry((stat.st_dev, stat.st_ino)).or_default().push(inside);
                    }
                }
            }
        }
        Ok(linked)
    }

    /// What is under another name in the same directory outside, by its number.
    pub(super) fn renamed(&self, way: &[OsString], ino: u64) -> Option<OsString> {
        let (_, dirs) = way.split_last()?;
        let parts = layers::parts(&self.branches, self.own, dirs).ok()?;
        let entries = parts.first()?.1.list().ok()?;
        entries.into_iter().find(|entry| entry.ino == ino).map(|entry| entry.name)
    }
}
