//! What do an upper, and the layers that belong to it, change of what the lowers show?
//!
//! Only what these hold is looked at, and of the lowers what it covers: it takes time by the changes.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use rustix::fs::FileType;

use super::changes::{Change, Kind};
use super::layers::{Branch, Part, Shows, dir_at, roots, shows};
use super::{Error, Result};
use crate::branch::{Dir, Inode, Stat};
use crate::layer::{is_private_xattr, list};
use crate::rules::merge::Listed;
use crate::rules::name::{Name, Spelling};

/// Who root in the first branches is in those below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootIs {
    /// The user.
    pub uid: u32,
    /// His group.
    pub gid: u32,
    /// Everybody's files are shown as root's.
    pub anybody: bool,
}

impl RootIs {
    /// The attributes of something that may be root's, with owner and group being those that they are below; `other` is
    /// what is there.
    pub(crate) fn below(self, stat: &Stat, other: Option<&Stat>) -> Stat {
        let is = |one: u32, own: u32, other: Option<u32>| match other {
            Some(other) if one == 0 && (other == own || other == 0) => other,
            Some(other) if self.anybody && (one == 0 || one == own) => other,
            _ if one == 0 => own,
            _ => one,
        };
        let st_uid = is(stat.st_uid, self.uid, other.map(|other| other.st_uid));
        let st_gid = is(stat.st_gid, self.gid, other.map(|other| other.st_gid));
        Stat { st_uid, st_gid, ..*stat }
    }
}

/// So deep no tree is looked at.
const DEEPEST: usize = 1000;
const BUFFER: usize = 64 * 1024;

/// A branch's part of a directory, open.
type Open = (Part, Dir);

/// A directory that is to be looked at.
struct Pending {
    way: Vec<OsString>,
    /// What shows it.
    shown: Vec<Part>,
    /// What of the lowers would show it, if there were nothing above.
    below: Vec<Part>,
}

/// Lists what the first `own` branches change, sorted by path. What is deleted with its directory is listed only if `all` asks
/// for it.
///
/// `root` says who root in the first ones is below, if he is somebody else there.
pub(crate) fn compare(
    branches: &[Branch],
    own: usize,
    all: bool,
    root: Option<RootIs>,
) -> Result<Vec<Change>> {
    let mut compare = Compare { branches, own, all, root, changes: Vec::new() };
    let root = Pending { way: Vec::new(), shown: roots(branches, 0), below: roots(branches, own) };
    let mut left = vec![root];
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
    branches: &'a [Branch],
    /// How many of them are what is compared with the others.
    own: usize,
    all: bool,
    root: Option<RootIs>,
    changes: Vec<Change>,
}

impl Compare<'_> {
    fn visit(&mut self, dir: &Pending) -> Result<Vec<Pending>> {
        let shown = self.open(&dir.way, &dir.shown)?;
        let below = self.open(&dir.way, &dir.below)?;
        let mut names = BTreeSet::new();
        for ((_, formats), part) in shown.iter().filter(|((at, _), _)| *at < self.own) {
            for (spelling, _) in list(part, *formats)? {
                match spelling {
                    Spelling::Entry(name) | Spelling::Whiteout(name) => drop(names.insert(name)),
                    Spelling::Opaque | Spelling::Reserved => {}
                }
            }
        }
        if dir.shown.iter().all(|(at, _)| *at < self.own) {
            // It merges with none of them: what they hold in it is deleted, unless it is there anew.
            names.extend(names_in(&below)?);
        }
        let mut left = Vec::new();
        for name in &names {
            left.extend(self.entry(&dir.way, (&shown, &below), name)?);
        }
        Ok(left)
    }

    fn open(&self, way: &[OsString], parts: &[Part]) -> Result<Vec<Open>> {
        parts.iter().map(|part| Ok((*part, dir_at(&self.branches[part.0], way)?))).collect()
    }

    fn entry(
        &mut self,
        parent: &[OsString],
        (shown, below): (&[Open], &[Open]),
        name: &Name,
    ) -> Result<Option<Pending>> {
        let way = join(parent, name.as_os_str());
        let was = shows(below, name.as_os_str())?;
        match shows(shown, name.as_os_str())? {
            Shows::Nothing if self.own == self.branches.len() => {
                // What it was nobody says.
                self.changes.push(Change { kind: Kind::Deleted, way, size: 0 });
            }
            Shows::Nothing => self.delete(&way, &was)?,
            Shows::Leaf(branch, _) if branch >= self.own => {}
            Shows::Leaf(branch, stat) => match &was {
                Shows::Nothing => self.push(Kind::Added, &way, &stat),
                Shows::Leaf(_, lower) if lower.kind() != stat.kind() => {
                    self.push(Kind::Modified, &way, &stat);
                }
                Shows::Leaf(from, lower) => {
                    let (now, before) = (inode_in(shown, branch, name)?, inode_in(below, *from, name)?);
                    if !is_same(&now, &self.as_below(&stat, lower), &before, lower)? {
                        self.push(Kind::Modified, &way, &stat);
                    }
                }
                Shows::Dir(..) => {
                    self.delete(&way, &was)?;
                    self.push(Kind::Added, &way, &stat);
                }
            },
            Shows::Dir(parts, _) if parts[0].0 >= self.own => {}
            Shows::Dir(parts, stat) => {
                let below = match &was {
                    Shows::Dir(lowers, lower) => {
                        // The directory's own times go with what is in it.
                        if !is_same_metadata(&self.as_below(&stat, lower), lower)
                            || !same_xattrs(
                                &inode_in(shown, parts[0].0, name)?,
                                &inode_in(below, lowers[0].0, name)?,
                            )?
                        {
                            self.push(Kind::Modified, &way, &stat);
                        }
                        lowers.clone()
                    }
                    Shows::Nothing => {
                        self.push(Kind::Added, &way, &stat);
                        Vec::new()
                    }
                    Shows::Leaf(..) => {
                        self.delete(&way, &was)?;
                        self.push(Kind::Added, &way, &stat);
                        Vec::new()
                    }
                };
                return Ok(Some(Pending { way, shown: parts, below }));
            }
        }
        Ok(None)
    }

    /// The attributes with root's files being whose they are below.
    fn as_below(&self, stat: &Stat, lower: &Stat) -> Stat {
        self.root.map_or(*stat, |root| root.below(stat, Some(lower)))
    }

    fn push(&mut self, kind: Kind, way: &[OsString], stat: &Stat) {
        let size = if stat.kind() == FileType::RegularFile { stat.st_size as u64 } else { 0 };
        self.changes.push(Change { kind, way: way.to_vec(), size });
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

fn inode_in(parts: &[Open], branch: usize, name: &Name) -> Result<Inode> {
    let dir = parts.iter().find(|((at, _), _)| *at == branch);
    let (_, dir) = dir.ok_or(crate::error::Error::Bug("an entry of no branch"))?;
    Ok(dir.open_inode(name.as_os_str())?)
}

/// What has a name in some part of a directory, whether it shows or not.
fn names_in(parts: &[Open]) -> Result<BTreeSet<Name>> {
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
    same_content((one, stat), (other, lower))
}

/// Whether two inodes of one type hold the same.
pub(crate) fn same_content((one, stat): (&Inode, &Stat), (other, lower): (&Inode, &Stat)) -> Result<bool> {
    Ok(match stat.kind() {
        FileType::RegularFile => {
            stat.st_size == lower.st_size && (stat.st_size == 0 || same_data(one, other)?)
        }
        FileType::Symlink => one.read_link()? == other.read_link()?,
        FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev == lower.st_rdev,
        _ => true,
    })
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
