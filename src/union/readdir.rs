//! readdir, readdirplus: what does a directory list?
//!
//! There are no open directories: a listing is asked for by node and cookie alone. Cookies come from the
//! names, so a listing that was evicted or has changed is merged again and read on from the same place.

use std::ops::ControlFlow;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Union;
use super::inode_table::Lookup;
use super::listings::Listing;
use super::locked::{EntryRef, LockedEntry};
use super::lookup::Looked;
use super::node::{Node, NodeId};
use super::stack::{OpenPart, Seen, known_of};
use super::xino::Xino;
use crate::branch::Stat;
use crate::error::Result;
use crate::layer::Known;
use crate::rules::merge::{MergedEntry, Supply};

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
        let dir = self.node(id)?;
        for (at, name, id) in dots(&dir) {
            let item = DirItem { id, cookie: at, kind: FileType::Directory, name: name.as_ref() };
            if at > cookie && take(item).is_break() {
                return Ok(());
            }
        }
        if dir.is_gone() {
            return Ok(());
        }
        let (parts, listing, _locked) = self.with_descriptors(|| {
            let (parts, locked) = self.lock_open(&dir, Node::lock_shared)?;
            if cookie == 0 && (self.options.revalidates || !self.shows_changes_in(&dir)) {
                self.listings.forget(dir.id);
            }
            let listing = self.listing(&dir, &parts)?;
            Ok((parts, listing, locked))
        })?;
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
        let dir = self.node(id)?;
        for (at, name, id) in dots(&dir) {
            let item = PlusItem { cookie: at, name: name.as_ref(), found: Found::Dot(id) };
            if at > cookie && take(&item).is_break() {
                return Ok(());
            }
        }
        if dir.is_gone() {
            return Ok(());
        }
        let (parts, listing, _locked) = self.with_descriptors(|| {
            let (parts, locked) = self.lock_open(&dir, Node::lock_shared)?;
            if cookie == 0 && (self.options.revalidates || !self.shows_changes_in(&dir)) {
                self.listings.forget(dir.id);
            }
            let listing = self.listing(&dir, &parts)?;
            Ok((parts, listing, locked))
        })?;
        let left = listing.after(cookie);
        self.forget_if_read(&dir, left);
        for entry in left {
            let (id, found) = match self.look_at_listed(&dir, &parts, entry) {
                Ok(None) => continue,
                Ok(Some(looked)) => (looked.attr.id, Found::Node(looked)),
                // It is no reason to hide the others. Whoever asks for this one gets the error.
                Err(e) => {
                    log::debug!("{} cannot be looked up: {e}", entry.name.as_os_str().display());
                    let id = self.known_id(&dir, &parts, entry);
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

    /// The merged listing. The caller has locked the directory, so that it cannot change under the merge.
    fn listing(&self, dir: &Node, parts: &[OpenPart]) -> Result<Arc<Listing>> {
        if let Some(listing) = self.listings.get(dir.id) {
            return Ok(listing);
        }
        let listing = Arc::new(self.stack.list(parts)?);
        self.listings.put(dir.id, Arc::clone(&listing));
        Ok(listing)
    }

    /// Takes a change of one name into the listing, if somebody is reading it: merging a large directory anew
    /// for every file that is made or removed in it would take for ever.
    pub(super) fn relist(&self, locked: &LockedEntry) {
        let EntryRef { dir, name, .. } = &locked.entry;
        if !self.listings.contains(dir.id) {
            return;
        }
        let Ok(seen) = self.stack.see(&locked.parts, name) else {
            // It is merged anew when it is asked for.
            return self.listings.forget(dir.id);
        };
        let supply = |stat: &Stat, branch, merges| Supply { branch, merges, known: known_of(stat) };
        let supply = match seen {
            Seen::Absent => None,
            Seen::Leaf { branch, stat } => Some(supply(&stat, branch, false)),
            Seen::Dir { parts, stat, .. } => Some(supply(&stat, parts[0].branch, parts.len() > 1)),
        };
        self.listings.change(dir.id, name, |listing| listing.set(name, supply));
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
        Some(self.known_id(dir, parts, entry))
    }

    /// The number of an entry by what its branch's listing says.
    fn known_id(&self, dir: &Arc<Node>, parts: &[OpenPart], entry: &MergedEntry<Known>) -> NodeId {
        if let Some(node) =
            self.table.find_name(dir, &entry.name).filter(|node| !self.table.is_outdated(node))
        {
            return node.id;
        }
        let part = parts.iter().find(|open| open.part.branch == entry.branch);
        let filesystem = part.map_or(0, |open| open.part.real.filesystem);
        let noted = match &self.upper {
            Some(upper) if entry.branch.is_upper() => upper.index.origin_of_ino(entry.known.ino),
            _ => None,
        };
        noted.unwrap_or(Xino::number(filesystem, entry.known.ino))
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
        let found = self.look(dir, parts, &entry.name, Lookup::Counted)?;
        Ok(found.map(|(_, looked)| looked))
    }
}

fn dots(dir: &Node) -> [(u64, &'static str, NodeId); 2] {
    let parent = dir.state().place.last().map_or(NodeId::ROOT, |(parent, _)| parent.id);
    [(DOT, ".", dir.id), (DOT_DOT, "..", parent)]
}
