//! What does an upper change of what the lowers show?
//!
//! Only what the upper holds is looked at, and of the lowers what it covers: it takes time by the changes.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use rustix::fs::FileType;

use super::changes::{Change, Kind};
use super::layers::{Branch, Part, Shows, dir_at, shows};
use super::{Error, Result};
use crate::branch::{Dir, Inode, Stat};
use crate::layer::{Ask, DirMarkers, Formats, ask, is_private_xattr, list};
use crate::rules::merge::Listed;
use crate::rules::name::{Name, Spelling};

/// So deep no tree is looked at.
const DEEPEST: usize = 1000;
const BUFFER: usize = 64 * 1024;

/// A directory that is to be looked at.
struct Pending {
    way: Vec<OsString>,
    /// In the upper.
    formats: Formats,
    /// What lowers show there.
    lowers: Vec<Part>,
}

/// Lists what the upper changes, sorted by path. What is deleted with its directory is listed only if `all` asks for it.
pub(super) fn compare(upper: &Branch, lowers: &[Branch], all: bool) -> Result<Vec<Change>> {
    let mut roots = Vec::new();
    if !upper.is_opaque {
        for (at, lower) in lowers.iter().enumerate() {
            roots.push((at, lower.formats));
            if lower.is_opaque {
                break;
            }
        }
    }
    let mut compare = Compare { upper, lowers, all, changes: Vec::new() };
    let mut left = vec![Pending { way: Vec::new(), formats: upper.formats, lowers: roots }];
    while let Some(next) = left.pop() {
        if next.way.len() > DEEPEST {
            return Err(Error::Setup("the upper has more than 1,000 directories in one another".to_owned()));
        }
        left.extend(compare.visit(&next)?);
    }
    let mut changes = compare.changes;
    changes.sort_by(|one, other| one.way.cmp(&other.way).then(order(one.kind).cmp(&order(other.kind))));
    Ok(changes)
}

/// What was there goes before what came in its place.
fn order(kind: Kind) -> u8 {
    if kind == Kind::Deleted { 0 } else { 1 }
}

struct Compare<'a> {
    upper: &'a Branch,
    lowers: &'a [Branch],
    all: bool,
    changes: Vec<Change>,
}

impl Compare<'_> {
    fn visit(&mut self, dir: &Pending) -> Result<Vec<Pending>> {
        let upper = dir_at(self.upper, &dir.way)?;
        let lowers = self.open(&dir.way, &dir.lowers)?;
        let is_opaque = dir.way.is_empty() && self.upper.is_opaque || DirMarkers::of(&upper)?.opaque;
        let mut entries = BTreeSet::new();
        let mut deleted = BTreeSet::new();
        for (spelling, listed) in list(&upper, dir.formats)? {
            match spelling {
                Spelling::Entry(name) if listed != Listed::Whiteout => drop(entries.insert(name)),
                Spelling::Entry(name) | Spelling::Whiteout(name) => drop(deleted.insert(name)),
                Spelling::Opaque | Spelling::Reserved => {}
            }
        }
        if is_opaque {
            deleted.extend(names_in(&lowers)?);
        }
        for name in deleted.difference(&entries) {
            let way = join(&dir.way, name.as_os_str());
            if self.lowers.is_empty() {
                // What it was nobody says.
                self.changes.push(Change { kind: Kind::Deleted, way, size: 0 });
                continue;
            }
            let shown = shows(&lowers, name.as_os_str())?;
            self.delete(&way, &shown)?;
        }
        let mut left = Vec::new();
        for name in &entries {
            let hides = is_opaque || deleted.contains(name);
            left.extend(self.entry(dir, &upper, &lowers, name, hides)?);
        }
        Ok(left)
    }

    fn open(&self, way: &[OsString], parts: &[Part]) -> Result<Vec<(Part, Dir)>> {
        parts.iter().map(|part| Ok((*part, dir_at(&self.lowers[part.0], way)?))).collect()
    }

    fn entry(
        &mut self,
        parent: &Pending,
        upper: &Dir,
        lowers: &[(Part, Dir)],
        name: &Name,
        hides: bool,
    ) -> Result<Option<Pending>> {
        let way = join(&parent.way, name.as_os_str());
        let word = ask(upper, parent.formats, name, Ask::Markers)?;
        // Gone since it was listed.
        let Some(stat) = word.stat else { return Ok(None) };
        let below = shows(lowers, name.as_os_str())?;
        if stat.kind() == FileType::Directory {
            let lowers = match &below {
                Shows::Dir(parts, lower) => {
                    // The directory's own times go with what is in it.
                    if !is_same_metadata(&stat, lower)
                        || !same_xattrs(
                            &open_inode(upper, name)?,
                            &self.lower_inode(lowers, parts[0].0, name)?,
                        )?
                    {
                        self.push(Kind::Modified, &way, &stat);
                    }
                    parts.clone()
                }
                Shows::Nothing => {
                    self.push(Kind::Added, &way, &stat);
                    Vec::new()
                }
                Shows::Leaf(..) => {
                    self.delete(&way, &below)?;
                    self.push(Kind::Added, &way, &stat);
                    Vec::new()
                }
            };
            if hides && !lowers.is_empty() {
                // It merges with nothing: what the lowers hold in it is deleted.
                self.delete_missing(&way, &lowers, word.formats)?;
            }
            return Ok(Some(Pending { way, formats: word.formats, lowers }));
        }
        match &below {
            Shows::Nothing => self.push(Kind::Added, &way, &stat),
            Shows::Leaf(_, lower) if lower.kind() != stat.kind() => self.push(Kind::Modified, &way, &stat),
            Shows::Leaf(branch, lower) => {
                let original = self.lower_inode(lowers, *branch, name)?;
                if !is_same(&open_inode(upper, name)?, &stat, &original, lower)? {
                    self.push(Kind::Modified, &way, &stat);
                }
            }
            Shows::Dir(..) => {
                self.delete(&way, &below)?;
                self.push(Kind::Added, &way, &stat);
            }
        }
        Ok(None)
    }

    fn push(&mut self, kind: Kind, way: &[OsString], stat: &Stat) {
        let size = if stat.kind() == FileType::RegularFile { stat.st_size as u64 } else { 0 };
        self.changes.push(Change { kind, way: way.to_vec(), size });
    }

    fn lower_inode(&self, lowers: &[(Part, Dir)], branch: usize, name: &Name) -> Result<Inode> {
        let dir = lowers.iter().find(|((at, _), _)| *at == branch);
        let (_, dir) = dir.ok_or(crate::error::Error::Bug("an entry of no branch"))?;
        Ok(dir.open_inode(name.as_os_str())?)
    }

    /// Names of a lower directory that an opaque one in the upper does not have.
    fn delete_missing(&mut self, way: &[OsString], parts: &[Part], formats: Formats) -> Result<()> {
        let upper = dir_at(self.upper, way)?;
        if DirMarkers::of(&upper)?.opaque {
            // Its own visit finds them.
            return Ok(());
        }
        let lowers = self.open(way, parts)?;
        for name in names_in(&lowers)? {
            let held = ask(&upper, formats, &name, Ask::Existence)?.entry.found.is_some();
            if !held {
                let shown = shows(&lowers, name.as_os_str())?;
                self.delete(&join(way, name.as_os_str()), &shown)?;
            }
        }
        Ok(())
    }

    /// What the lowers show is deleted, with all that is in it.
    fn delete(&mut self, way: &[OsString], shown: &Shows) -> Result<()> {
        match shown {
            Shows::Nothing => Ok(()),
            Shows::Leaf(_, stat) => {
                self.push(Kind::Deleted, way, stat);
                Ok(())
            }
            Shows::Dir(parts, stat) => {
                self.push(Kind::Deleted, way, stat);
                if !self.all {
                    return Ok(());
                }
                let mut left = vec![(way.to_vec(), parts.clone())];
                while let Some((way, parts)) = left.pop() {
                    let lowers = self.open(&way, &parts)?;
                    for name in names_in(&lowers)? {
                        let way = join(&way, name.as_os_str());
                        match shows(&lowers, name.as_os_str())? {
                            Shows::Nothing => {}
                            Shows::Leaf(_, stat) => self.push(Kind::Deleted, &way, &stat),
                            Shows::Dir(parts, stat) => {
                                self.push(Kind::Deleted, &way, &stat);
                                left.push((way, parts));
                            }
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

fn join(way: &[OsString], name: &OsStr) -> Vec<OsString> {
    way.iter().cloned().chain([name.to_owned()]).collect()
}

fn open_inode(dir: &Dir, name: &Name) -> Result<Inode> {
    Ok(dir.open_inode(name.as_os_str())?)
}

/// What has a name in some part of a directory, whether it shows or not.
fn names_in(parts: &[(Part, Dir)]) -> Result<BTreeSet<Name>> {
    let mut names = BTreeSet::new();
    for ((_, formats), dir) in parts {
        for (spelling, listed) in list(dir, *formats)? {
            if let (Spelling::Entry(name), true) = (spelling, listed != Listed::Whiteout) {
                names.insert(name);
            }
        }
    }
    Ok(names)
}

fn is_same_metadata(one: &Stat, other: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    of(one) == of(other)
}

/// A copy that nobody has changed is no change: it is compared to the last byte.
fn is_same(one: &Inode, stat: &Stat, other: &Inode, lower: &Stat) -> Result<bool> {
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    if !is_same_metadata(stat, lower) || times(stat) != times(lower) || !same_xattrs(one, other)? {
        return Ok(false);
    }
    match stat.kind() {
        FileType::RegularFile => Ok(stat.st_size == lower.st_size && same_data(one, other)?),
        FileType::Symlink => Ok(one.read_link()? == other.read_link()?),
        FileType::CharacterDevice | FileType::BlockDevice => Ok(stat.st_rdev == lower.st_rdev),
        _ => Ok(true),
    }
}

fn same_xattrs(one: &Inode, other: &Inode) -> Result<bool> {
    let of = |inode: &Inode| -> Result<Vec<(OsString, Option<Vec<u8>>)>> {
        let mut keys = inode.list_xattrs()?;
        keys.retain(|key| !is_private_xattr(key));
        keys.sort();
        keys.into_iter().map(|key| Ok((key.clone(), inode.get_xattr(&key)?))).collect()
    };
    Ok(of(one)? == of(other)?)
}

fn same_data(one: &Inode, other: &Inode) -> Result<bool> {
    let (one, other) = (one.open_read()?, other.open_read()?);
    let (mut here, mut there) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut offset = 0;
    loop {
        let read = one.read_at(offset, &mut here)?;
        if read != other.read_at(offset, &mut there)? || here[..read] != there[..read] {
            return Ok(false);
        }
        if read < BUFFER {
            return Ok(true);
        }
        offset += read as u64;
    }
}
