//! lookup: which node is behind a name?

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Union;
use super::attr::Attr;
use super::index::{Index, LinkId};
use super::inode_table::{FoundInode, Lookup, NumberTaken};
use super::node::{Body, Node, NodeId, NodeState, Place, RealId};
use super::stack::{OpenPart, Seen};
use super::xino::Xino;
use crate::branch::{LastingId, Stat};
use crate::error::{Error, Result};
use crate::rules::BranchId;
use crate::rules::name::{BadName, Name};

/// A node that was found, and its attributes.
#[derive(Debug)]
pub struct Looked {
    /// The node's attributes.
    pub attr: Attr,
    /// Whether the kernel may remember that the name leads there. Not for one of several names of a lower
    /// file: the name that is looked up before a write is the one that the copy gets. Nor for a directory that
    /// nobody can look into: what it shows once somebody can is to be found out then.
    pub name_is_stable: bool,
}

/// What there is under a name.
#[derive(Debug)]
pub struct Answer {
    /// The node, if there is one.
    pub found: Option<Looked>,
    /// Whether the kernel may remember it.
    pub holds: bool,
}

/// A node as the disk shows it, before the table is asked who it is.
pub(super) struct Sketch {
    pub(super) found: FoundInode,
    stat: Stat,
    links: u32,
    name_is_stable: bool,
}

impl Union {
    /// Finds `name` in a directory, for the kernel: it counts as one lookup. None if there is nothing.
    ///
    /// # Errors
    /// Those of the branches; ENAMETOOLONG for a name that none can have.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Answer> {
        let nothing = |holds| Answer { found: None, holds };
        let name = match Name::new(name) {
            Ok(name) => name,
            // No such name exists through the mount.
            Err(BadName::Reserved) => return Ok(nothing(true)),
            Err(bad) => return Err(bad.into()),
        };
        self.with_descriptors(|| {
            let parent = self.node(parent)?;
            if parent.is_gone() {
                return Ok(nothing(true));
            }
            let since = self.changes_seen();
            let (parts, _locked) = self.lock_open(&parent, Node::lock_shared)?;
            match self.look(&parent, &parts, &name, Lookup::Counted)? {
                Some((_, looked)) => Ok(Answer { holds: looked.name_is_stable, found: Some(looked) }),
                None => Ok(nothing(self.shows_changes_in(&parent) && since == self.changes_seen())),
            }
        })
    }

    /// The node under a name, without telling the kernel. The caller has locked the directory.
    pub(super) fn peek(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
    ) -> Result<Option<Arc<Node>>> {
        Ok(self.look(parent, parts, name, Lookup::Internal)?.map(|(node, _)| node))
    }

    /// The caller has locked the directory.
    pub(super) fn look(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        lookup: Lookup,
    ) -> Result<Option<(Arc<Node>, Looked)>> {
        let since = self.changes_seen();
        let as_of = parent.generation();
        let seen = self.stack.see(parts, name)?;
        let found = self.meet(parent, parts, name, (&seen, as_of), lookup)?;
        if self.watches.is_none() || lookup == Lookup::Internal {
            return Ok(found);
        }
        Ok(found.map(|(node, mut looked)| {
            let is_ours = node.is_in_upper() && node.kind != FileType::Directory;
            let is_quiet = since == self.changes_seen();
            looked.attr.holds = is_quiet && self.shows_changes_to(&node, &looked.attr.stat);
            looked.name_is_stable &= is_ours || (is_quiet && self.shows_changes_in(parent));
            (node, looked)
        }))
    }

    /// The node of what was just seen under a name, in a directory that was true of that generation. The caller has had
    /// the directory locked since.
    pub(super) fn meet(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        (seen, as_of): (&Seen, u32),
        lookup: Lookup,
    ) -> Result<Option<(Arc<Node>, Looked)>> {
        let watched = self.watch_seen(parent, parts, name, seen, lookup)?;
        let (seen, begun) = watched.as_ref().map_or((seen, None), |(seen, begun)| (seen, Some(begun)));
        let Some(sketch) = self.sketch(parent, parts, name, seen, as_of)? else { return Ok(None) };
        let Some(found) = self.settle(sketch, lookup, NumberTaken::Report) else {
            let seen = self.stack.see(parts, name)?;
            let Some(sketch) = self.sketch(parent, parts, name, &seen, as_of)? else { return Ok(None) };
            return Ok(self.settle(sketch, lookup, NumberTaken::GiveAlias));
        };
        if let Some(begun) = begun {
            self.keep_watches(&found.0, begun);
        }
        // What the kernel does not know will not be forgotten either.
        if let (Seen::Dir { opened, parts, .. }, Lookup::Counted) = (seen, lookup) {
            for (branch, dir) in opened {
                let meant = parts.iter().find(|part| part.branch == *branch).map(|part| part.real);
                self.dirs.put_lower(&found.0, *branch, dir.clone(), meant);
            }
        }
        Ok(Some(found))
    }

    fn settle(&self, sketch: Sketch, lookup: Lookup, taken: NumberTaken) -> Option<(Arc<Node>, Looked)> {
        let Sketch { found, stat, links, name_is_stable } = sketch;
        let is_dir = found.kind == FileType::Directory;
        let node = self.table.intern(found, lookup, taken)?;
        if lookup == Lookup::Counted && stat.st_nlink > 1 && !is_dir {
            // Should it have lost a name before: this one leads to it as well.
            self.files.unpin(node.id);
        }
        let attr = Attr { id: node.id, stat, links, holds: true };
        Some((node, Looked { attr, name_is_stable }))
    }

    pub(super) fn sketch(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        seen: &Seen,
        as_of: u32,
    ) -> Result<Option<Sketch>> {
        let sketch = self.sketch_seen(parent, parts, name, seen)?;
        Ok(sketch.map(|mut sketch| {
            sketch.found.state.generation = as_of;
            // A listing looks for one part only, where it knows of no other.
            sketch.found.looked_anew =
                self.lowers_change() && parent.parts().is_ok_and(|whole| whole.len() == parts.len());
            sketch
        }))
    }

    fn sketch_seen(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        seen: &Seen,
    ) -> Result<Option<Sketch>> {
        let place = Place::Entry(Arc::clone(parent), name.clone());
        match seen {
            Seen::Absent => Ok(None),
            Seen::Leaf { branch, stat } => {
                let inode_id = || lasting_id(parts, *branch, name, stat);
                self.sketch_leaf(place, *branch, *stat, inode_id).map(Some)
            }
            Seen::Dir { parts: children, stat, .. } => {
                let numbered = seen.number_part().ok_or(Error::Bug("a directory without parts"))?;
                // Of the part that gives it its number, which may not be the topmost.
                let inode_id = || {
                    let dir = parts.iter().find(|open| open.part.branch == numbered.branch);
                    let dir = &dir.ok_or(Error::Bug("a name without its directory"))?.dir;
                    let inode = dir.open_inode(name.as_os_str())?;
                    let now = inode.stat()?;
                    if self.stack.xino.real(&now) == numbered.real {
                        inode.lasting_id(&now)
                    } else {
                        Ok(None)
                    }
                };
                let found = FoundInode {
                    number: self.number_of(numbered.real, inode_id),
                    kind: FileType::Directory,
                    state: NodeState::found(
                        place,
                        Body::Dir(children.iter().copied().collect()),
                        numbered.real,
                    ),
                    lower: None,
                    renumbers: self.stack.renumbers(numbered.branch),
                    hard_linked: false,
                    looked_anew: false,
                };
                Ok(Some(Sketch {
                    found,
                    links: dir_links(children.len(), stat),
                    stat: *stat,
                    name_is_stable: children.iter().all(|part| !part.closed),
                }))
            }
        }
    }

    fn sketch_leaf(
        &self,
        place: Place,
        branch: BranchId,
        stat: Stat,
        inode_id: impl Fn() -> Result<Option<LastingId>>,
    ) -> Result<Sketch> {
        let real = self.stack.xino.real(&stat);
        let link = match &self.upper {
            Some(upper) if stat.is_hard_linked() && branch.is_upper() => upper.index.find_copy(stat.st_ino),
            Some(upper) if stat.is_hard_linked() => self.find_link(&upper.index, branch, &stat, &inode_id)?,
            _ => None,
        };
        let note = link.and_then(|link| Some((link, self.upper.as_ref()?.index.note(link)?)));
        let renumbers = self.stack.renumbers(branch);
        let found = |number, body, real, lower| FoundInode {
            number,
            kind: stat.kind(),
            state: NodeState::found(place, body, real),
            lower,
            renumbers,
            hard_linked: stat.is_hard_linked(),
            looked_anew: false,
        };
        match note {
            Some((link, note)) if note.copied_up => {
                // All names lead to the copy, and show its number.
                let copy = self.upper()?.index.copy(link)?;
                let copied = copy.stat()?;
                let copied_real = self.stack.xino.real(&copied);
                let number = self.number_of(copied_real, || copy.lasting_id(&copied));
                let links = note.shown_links(&copied);
                let body = if note.in_snapshot { Body::Shared(link) } else { Body::Linked(link) };
                let name_is_stable = !note.in_snapshot || self.writable().is_err();
                let found = found(number, body, copied_real, Some(real));
                Ok(Sketch { found, stat: copied, links, name_is_stable })
            }
            note => {
                let links = note.map_or(stat.st_nlink as u32, |(_, note)| note.shown_links(&stat));
                // The copy gets the name that was looked up last.
                let name_is_stable = branch.is_upper() || !stat.is_hard_linked() || self.writable().is_err();
                let found = found(self.number_of(real, inode_id), Body::Leaf(branch), real, None);
                Ok(Sketch { found, stat, links, name_is_stable })
            }
        }
    }

    /// The note of a lower's file with several names. In a snapshot it may be a copy itself.
    fn find_link(
        &self,
        index: &Index,
        branch: BranchId,
        stat: &Stat,
        inode_id: impl Fn() -> Result<Option<LastingId>>,
    ) -> Result<Option<LinkId>> {
        if branch.is_snapshot()
            && let Some(link) = index.find_in_snapshot(stat.st_ino, &inode_id)?
        {
            return Ok(Some(link));
        }
        index.find(stat, inode_id)
    }

    /// By which name the names of a lower's file find its copy, if it has several.
    pub(super) fn key_of(
        &self,
        branch: BranchId,
        stat: &Stat,
        inode_id: impl Fn() -> Result<Option<LastingId>>,
    ) -> Result<Option<LastingId>> {
        if let (Some(upper), true) = (&self.upper, branch.is_snapshot())
            && let Some(link) = upper.index.find_in_snapshot(stat.st_ino, &inode_id)?
        {
            return Ok(upper.index.key(link));
        }
        inode_id()
    }

    /// The number that an inode on disk shows. `inode_id` tells its lasting name, if it is the upper's.
    pub(super) fn number_of(
        &self,
        real: RealId,
        inode_id: impl FnOnce() -> Result<Option<LastingId>>,
    ) -> NodeId {
        let id = || {
            inode_id().unwrap_or_else(|e| {
                log::debug!("a number is not the one that was noted: {e}");
                None
            })
        };
        let noted = self.upper.as_ref().and_then(|upper| upper.index.origin(real, id));
        noted.unwrap_or(Xino::number(real.filesystem, real.ino))
    }
}

/// By which name an entry is known again after a remount.
pub(super) fn lasting_id(
    parts: &[OpenPart],
    branch: BranchId,
    name: &Name,
    stat: &Stat,
) -> Result<Option<LastingId>> {
    let dir = parts.iter().find(|open| open.part.branch == branch);
    let dir = &dir.ok_or(Error::Bug("a name without its directory"))?.dir;
    let inode = dir.open_inode(name.as_os_str())?;
    let now = inode.stat()?;
    // Another inode has the name by now.
    let identity = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_birth);
    if identity(&now) == identity(stat) { inode.lasting_id(&now) } else { Ok(None) }
}

/// A merged directory has as many links as its parts together have subdirectories, and nobody has counted
/// those: 1 says "unknown" (as overlayfs and btrfs do), which find(1) and its kind understand.
pub(super) fn dir_links(parts: usize, stat: &Stat) -> u32 {
    if parts == 1 { stat.st_nlink as u32 } else { 1 }
}
