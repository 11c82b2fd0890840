//! lookup: which node is behind a name?

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Union;
use super::attr::Attr;
use super::index::shown_links;
use super::inode_table::{Handed, NumberTaken};
use super::node::{Body, Node, NodeId, NodeState, Place, RealId};
use super::numbering::Numbering;
use super::probe::{OpenPart, Seen};
use crate::branch::{Stat, stat_type};
use crate::error::Result;
use crate::rules::BranchIndex;
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

/// A node as the disk shows it, before the table is asked who it is.
struct Sketch {
    number: NodeId,
    /// The inode in a lower, if this is its copy.
    lower: Option<RealId>,
    kind: FileType,
    state: NodeState,
    stat: Stat,
    links: u32,
    name_is_stable: bool,
}

impl Union {
    /// Finds `name` in a directory, for the kernel: it counts as one lookup. None if there is nothing.
    ///
    /// # Errors
    /// Those of the branches; ENAMETOOLONG for a name that none can have.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Option<Looked>> {
        let name = match Name::new(name) {
            Ok(name) => name,
            // No such name exists through the mount.
            Err(BadName::Reserved) => return Ok(None),
            Err(bad) => return Err(bad.into()),
        };
        let parent = self.table.get(parent)?;
        if parent.is_gone() {
            return Ok(None);
        }
        let (parts, _held) = self.hold_open(&parent)?;
        let found = self.look(&parent, &parts, &name, Handed::ToKernel)?;
        Ok(found.map(|(_, looked)| looked))
    }

    /// The node under a name, without telling the kernel. The caller holds the directory.
    pub(super) fn peek(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
    ) -> Result<Option<Arc<Node>>> {
        Ok(self.look(parent, parts, name, Handed::ToUs)?.map(|(node, _)| node))
    }

    /// The caller holds the directory.
    pub(super) fn look(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        handed: Handed,
    ) -> Result<Option<(Arc<Node>, Looked)>> {
        let seen = self.see(parts, name)?;
        self.meet(parent, parts, name, &seen, handed)
    }

    /// The node of what was just seen under a name. The caller has held the directory since.
    pub(super) fn meet(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        seen: &Seen,
        handed: Handed,
    ) -> Result<Option<(Arc<Node>, Looked)>> {
        let Some(sketch) = self.sketch(parent, name, seen)? else { return Ok(None) };
        let Some(found) = self.settle(sketch, handed, NumberTaken::Report) else {
            let seen = self.see(parts, name)?;
            let Some(sketch) = self.sketch(parent, name, &seen)? else { return Ok(None) };
            return Ok(self.settle(sketch, handed, NumberTaken::GiveAlias));
        };
        // What the kernel does not know will not be forgotten either.
        if let (Seen::Dir { opened, .. }, Handed::ToKernel) = (seen, handed) {
            for (branch, dir) in opened {
                self.dirs.put_lower(&found.0, *branch, dir.clone());
            }
        }
        Ok(Some(found))
    }

    fn settle(&self, sketch: Sketch, handed: Handed, taken: NumberTaken) -> Option<(Arc<Node>, Looked)> {
        let Sketch { number, lower, kind, state, stat, links, name_is_stable } = sketch;
        let node = self.table.intern(number, kind, state, lower, handed, taken)?;
        if handed == Handed::ToKernel && stat.st_nlink > 1 && kind != FileType::Directory {
            // Should it have lost a name before: this one leads to it as well.
            self.files.unpin(node.id);
        }
        let attr = Attr { id: node.id, stat, links };
        Some((node, Looked { attr, name_is_stable }))
    }

    fn sketch(&self, parent: &Arc<Node>, name: &Name, seen: &Seen) -> Result<Option<Sketch>> {
        let place = Place::Entry(Arc::clone(parent), name.clone());
        match seen {
            Seen::Absent => Ok(None),
            Seen::Leaf { branch, stat } => self.sketch_leaf(place, *branch, *stat).map(Some),
            Seen::Dir { parts, stat, lower, .. } => {
                let real = self.numbering.real(lower.as_ref().unwrap_or(stat));
                Ok(Some(Sketch {
                    number: self.number_of(real),
                    lower: None,
                    kind: FileType::Directory,
                    links: dir_links(parts.len(), stat),
                    state: NodeState { place, other: None, body: Body::Dir(parts[..].into()), real },
                    stat: *stat,
                    name_is_stable: parts.iter().all(|part| !part.closed),
                }))
            }
        }
    }

    fn sketch_leaf(&self, place: Place, branch: BranchIndex, stat: Stat) -> Result<Sketch> {
        let kind = stat_type(&stat);
        let real = self.numbering.real(&stat);
        let number = self.number_of(real);
        let mut sketch = Sketch {
            number,
            kind,
            lower: None,
            state: NodeState { place, other: None, body: Body::Leaf(branch), real },
            stat,
            links: stat.st_nlink as u32,
            name_is_stable: true,
        };
        let Some(upper) = &self.upper else { return Ok(sketch) };
        if stat.st_nlink < 2 {
            return Ok(sketch);
        }
        let note = if branch.is_upper() {
            upper.index.copied_up(number)
        } else {
            sketch.name_is_stable = false;
            upper.index.note(number, &stat)
        };
        if let Some(note) = note {
            if note.copied_up {
                sketch.stat = upper.index.link(number)?.stat()?;
                sketch.state.body = Body::Linked(number);
                sketch.lower = Some(real);
                sketch.state.real = self.numbering.real(&sketch.stat);
                sketch.name_is_stable = true;
            }
            sketch.links = shown_links(&note, &sketch.stat);
        }
        Ok(sketch)
    }

    /// The number that an inode on disk shows.
    pub(super) fn number_of(&self, real: RealId) -> NodeId {
        let noted = self.upper.as_ref().and_then(|upper| upper.index.origin(real));
        noted.unwrap_or(Numbering::number(real))
    }
}

/// A merged directory has as many links as its parts together have subdirectories, and nobody has counted
/// those: 1 says "unknown" (as overlayfs and btrfs do), which find(1) and its kind understand.
pub(super) fn dir_links(parts: usize, stat: &Stat) -> u32 {
    if parts == 1 { stat.st_nlink as u32 } else { 1 }
}
