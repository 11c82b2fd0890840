//! readdir, readdirplus: what does a directory list?
//!
//! There are no open directories: a listing is asked for by node and cookie alone. Cookies come from the
//! names, so a listing that was evicted or has changed is merged again and read on from the same place.

use std::ops::ControlFlow;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Union;
use super::inode_table::Handed;
use super::lookup::Looked;
use super::mutate::{Scene, Spot};
use super::node::{Node, NodeId, Place, RealId};
use super::probe::{OpenPart, Seen};
use crate::branch::{Stat, stat_type};
use crate::error::Result;
use crate::rules::merge::{Listed, Merge, MergedEntry, MergedListing, Supply};
use crate::rules::name::Spelling;

/// What a branch knows of an entry without being asked for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    kind: FileType,
    real: RealId,
}

/// A directory's listing.
pub(super) type Listing = MergedListing<Known>;

/// An entry for readdir.
#[derive(Clone, Copy, Debug)]
pub struct DirItem<'a> {
    /// The number of the node.
    pub id: NodeId,
    /// Where to read on after it.
    pub cookie: u64,
    /// Its type.
    pub kind: FileType,
    /// Its name.
    pub name: &'a std::ffi::OsStr,
}

/// An entry for readdirplus.
#[derive(Debug)]
pub struct PlusItem<'a> {
    /// Where to read on after it.
    pub cookie: u64,
    /// Its name.
    pub name: &'a std::ffi::OsStr,
    /// What is known of it.
    pub found: Found,
}

/// What readdirplus says of an entry.
#[derive(Debug)]
pub enum Found {
    /// `.` or `..`, which only has a number.
    Dot(NodeId),
    /// The node, counted as looked up.
    Node(Looked),
    /// An entry that is there and cannot be looked up: what a listing knows of it. Counted, so that the kernel can
    /// drop it at once.
    Failing(NodeId, FileType),
}

const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl Union {
    /// Lists a directory from after `cookie` (0: from the beginning) until `take` has enough.
    ///
    /// # Errors
    /// Those of reading the branches: an error in the middle of one is never taken for its end.
    pub fn readdir(
        &self,
        id: NodeId,
        cookie: u64,
        mut take: impl FnMut(DirItem<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let dir = self.table.get(id)?;
        for (at, name, id) in dots(&dir) {
            let item = DirItem { id, cookie: at, kind: FileType::Directory, name: name.as_ref() };
            if at > cookie && take(item).is_break() {
                return Ok(());
            }
        }
        if dir.is_gone() {
            return Ok(());
        }
        let (parts, _held) = self.hold_open(&dir)?;
        let listing = self.listing(&dir, &parts)?;
        let left = listing.after(cookie);
        self.forget_if_read(&dir, left);
        for entry in left {
            let Some(id) = self.listed_id(&dir, &parts, entry) else { continue };
            let Known { kind, .. } = entry.known;
            let name = entry.name.as_os_str();
            if take(DirItem { id, cookie: entry.cookie, kind, name }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The same with every entry looked up. An entry that `take` has no room for is not counted.
    ///
    /// # Errors
    /// As [`Self::readdir`].
    pub fn readdirplus(
        &self,
        id: NodeId,
        cookie: u64,
        mut take: impl FnMut(&PlusItem<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let dir = self.table.get(id)?;
        for (at, name, id) in dots(&dir) {
            let item = PlusItem { cookie: at, name: name.as_ref(), found: Found::Dot(id) };
            if at > cookie && take(&item).is_break() {
                return Ok(());
            }
        }
        if dir.is_gone() {
            return Ok(());
        }
        let (parts, _held) = self.hold_open(&dir)?;
        let listing = self.listing(&dir, &parts)?;
        let left = listing.after(cookie);
        self.forget_if_read(&dir, left);
        for entry in left {
            let (id, found) = match self.look_at_listed(&dir, &parts, entry) {
                Ok(None) => continue,
                Ok(Some(looked)) => (looked.attr.id, Found::Node(looked)),
                // It is no reason to hide the others. Whoever asks for this one gets the error.
                Err(e) => {
                    log::debug!("{} cannot be looked up: {e}", entry.name.as_os_str().display());
                    let id = self.known_id(entry);
                    self.table.count(id);
                    (id, Found::Failing(id, entry.known.kind))
                }
            };
            let name = entry.name.as_os_str();
            if take(&PlusItem { cookie: entry.cookie, name, found }).is_break() {
                self.forget(id, 1);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whoever has everything asks once more, and is told that nothing is left: then the listing is not needed
    /// any more.
    fn forget_if_read(&self, dir: &Node, left: &[MergedEntry<Known>]) {
        if left.is_empty() {
            self.listings.forget(dir.id);
        }
    }

    /// The merged listing. The caller holds the directory, so that it cannot change under the merge.
    pub(super) fn listing(&self, dir: &Node, parts: &[OpenPart]) -> Result<Arc<Listing>> {
        if let Some(listing) = self.listings.get(dir.id) {
            return Ok(listing);
        }
        let mut merge = Merge::default();
        for open in parts {
            merge.add(open.part.branch, self.list_part(open)?);
        }
        let listing = Arc::new(merge.finish());
        self.listings.put(dir.id, Arc::clone(&listing));
        Ok(listing)
    }

    /// Takes a change of one name into the listing, if somebody is reading it: merging a large directory anew
    /// for every file that is made or removed in it would take for ever.
    pub(super) fn relist(&self, scene: &Scene) {
        let Spot { dir, name } = &scene.spot;
        let Some(listing) = self.listings.take(dir.id) else { return };
        // Without an answer the listing is merged anew when it is asked for.
        let Ok(seen) = self.see(&scene.parts, name) else { return };
        let supply = |stat: &Stat, branch, merges| {
            let known = Known { kind: stat_type(stat), real: self.numbering.real(stat) };
            Supply { branch, merges, known }
        };
        let supply = match seen {
            Seen::Absent => None,
            Seen::Leaf { branch, stat } => Some(supply(&stat, branch, false)),
            Seen::Dir { parts, stat, .. } => Some(supply(&stat, parts[0].branch, parts.len() > 1)),
        };
        let mut listing = Arc::unwrap_or_clone(listing);
        listing.set(name, supply);
        self.listings.put(dir.id, Arc::new(listing));
    }

    pub(super) fn list_part(&self, open: &OpenPart) -> Result<Vec<(Spelling, Listed<Known>)>> {
        let OpenPart { part, dir } = open;
        let mut listing = Vec::new();
        // Names whose type does not tell whether they are whiteouts.
        let mut unclear = Vec::new();
        dir.each(|name, kind, ino| {
            let spelling = Spelling::of(name);
            let tells = match kind {
                FileType::Unknown => false,
                FileType::CharacterDevice => !self.reads_devices(part.branch),
                FileType::RegularFile => !part.xattr_whiteouts,
                _ => true,
            };
            let known = Known { kind, real: RealId { filesystem: part.filesystem, ino } };
            match spelling {
                Spelling::Entry(name) if !tells => unclear.push((name, known)),
                spelling => listing.push((spelling, listed(known))),
            }
        })?;
        for (name, known) in unclear {
            // Gone since it was listed: as if it had not been.
            let Some(stat) = dir.stat(name.as_os_str())? else { continue };
            let known = Known { kind: stat_type(&stat), ..known };
            let says = if self.is_whiteout_inode(*part, dir, &name, &stat)? {
                Listed::Whiteout
            } else {
                listed(known)
            };
            listing.push((Spelling::Entry(name), says));
        }
        Ok(listing)
    }

    /// The number of a listed entry: the same that a lookup would give.
    fn listed_id(&self, dir: &Arc<Node>, parts: &[OpenPart], entry: &MergedEntry<Known>) -> Option<NodeId> {
        if entry.merges {
            // Only the markers tell which lower gives it its number.
            match self.peek(dir, parts, &entry.name) {
                Ok(node) => return node.map(|node| node.id),
                // It is no reason to hide the others.
                Err(e) => log::debug!("{} cannot be looked up: {e}", entry.name.as_os_str().display()),
            }
        }
        Some(self.known_id(entry))
    }

    /// The number of an entry by what its branch's listing says.
    fn known_id(&self, entry: &MergedEntry<Known>) -> NodeId {
        let real = entry.known.real;
        self.table.number(real, self.number_of(real))
    }

    fn look_at_listed(
        &self,
        dir: &Arc<Node>,
        parts: &[OpenPart],
        entry: &MergedEntry<Known>,
    ) -> Result<Option<Looked>> {
        // The merge knows which branch supplies the entry: the others need not be asked again.
        let only = parts.iter().position(|open| open.part.branch == entry.branch);
        let parts = match only {
            Some(only) if !entry.merges => &parts[only..=only],
            _ => parts,
        };
        let found = self.look(dir, parts, &entry.name, Handed::ToKernel)?;
        Ok(found.map(|(_, looked)| looked))
    }
}

fn listed(known: Known) -> Listed<Known> {
    if known.kind == FileType::Directory { Listed::Dir(known) } else { Listed::Leaf(known) }
}

fn dots(dir: &Node) -> [(u64, &'static str, NodeId); 2] {
    let parent = match &dir.state().place {
        Place::Entry(parent, _) | Place::Gone(parent, _) => parent.id,
        Place::Root => NodeId::ROOT,
    };
    [(DOT, ".", dir.id), (DOT_DOT, "..", parent)]
}
