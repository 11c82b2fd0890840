//! What follows from a name that has come or gone?
//!
//! The disk is done by now, or about to be. The node learns its new position, an inode that is about to lose its
//! last name is kept for whoever has it open, and the index drops what no longer holds. What fails in here is
//! bookkeeping: the operation has happened, and is not undone in part.

use std::ffi::OsString;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Union;
use super::locked::{EntryRef, LockedEntry};
use super::lookup::lasting_id;
use super::node::{Body, Node, NodeId, Place};
use super::stack::Seen;
use crate::branch::{LastingId, Stat, UpperInode};
use crate::error::Result;

/// An inode that will outlive the name which it is about to lose.
#[derive(Debug)]
pub(super) enum Outlives {
    /// Nobody needs it, or it stays where it is.
    Anyway,
    /// By a descriptor.
    Open(UpperInode),
    /// By a name in the workdir.
    InWorkdir,
}

impl Union {
    /// Makes sure that a node of the upper outlives the name that it is about to lose. To be called before the
    /// name goes; [`Self::lose_name`] afterwards.
    pub(super) fn outlive(&self, locked: &LockedEntry, node: &Node) -> Result<Outlives> {
        if self.table.find(node.id).is_none() || !node.is_in_upper() {
            // Nobody has it open; or it is in a lower and stays there.
            return Ok(Outlives::Anyway);
        }
        let EntryRef { dir, name, .. } = &locked.entry;
        let has_own_place = matches!(node.state().body, Body::Linked(_) | Body::Unlinked);
        if has_own_place || !node.state().depends_on(dir, name) {
            return Ok(Outlives::Anyway);
        }
        let inode = match self.files.get_for_writing(node.id) {
            Some((file, _)) => file.upper_inode(),
            None => match self.open_known_inode(locked.upper()?, name, node) {
                // Its data is in the upper by another name.
                Err(e) if e.is(Errno::NOENT) => return Ok(Outlives::Anyway),
                opened => opened?,
            },
        };
        if self.files.has_room_for_pin() && !self.counts_inodes() {
            return Ok(Outlives::Open(inode));
        }
        if node.kind == FileType::Directory {
            // There is nothing in it, and it cannot be linked.
            return Ok(Outlives::Anyway);
        }
        match self.keep_unlinked(node.id, &inode) {
            Ok(()) => Ok(Outlives::InWorkdir),
            Err(e) => {
                log::debug!("kept by its descriptor: {e}");
                Ok(Outlives::Open(inode))
            }
        }
    }

    /// Keeps an inode that has no name any more for whoever has it open: by its descriptor, or if there are many of
    /// those, in the workdir.
    pub(super) fn keep(&self, node: &Node, inode: UpperInode) {
        if self.files.has_room_for_pin() && !self.counts_inodes() {
            return self.files.pin(node.id, inode);
        }
        match self.keep_unlinked(node.id, &inode) {
            Ok(()) => node.state().body = Body::Unlinked,
            Err(e) => {
                log::debug!("kept by its descriptor: {e}");
                self.files.pin(node.id, inode);
            }
        }
    }

    /// Whether an inode must be seen to go: what only a descriptor keeps goes without a word.
    fn counts_inodes(&self) -> bool {
        self.stack.upper.as_ref().is_some_and(|upper| upper.quota().is_some())
    }

    fn keep_unlinked(&self, id: NodeId, inode: &UpperInode) -> Result<()> {
        let dir = self.writable()?.work.unlinked()?;
        let name = unlinked_name(id);
        dir.remove_marker(&name)?;
        dir.link(inode, &name)?;
        self.unlinked.lock().insert(id);
        Ok(())
    }

    /// The inode of a node that is kept in the workdir.
    pub(super) fn unlinked_inode(&self, node: &Node) -> Result<UpperInode> {
        self.writable()?.work.unlinked()?.open_upper_inode(&unlinked_name(node.id))
    }

    /// The name has not gone after all.
    pub(super) fn lives_on(&self, node: &Node, outlives: &Outlives) {
        if let Outlives::InWorkdir = outlives {
            self.forget_unlinked(node.id);
        }
    }

    /// Nobody has the node open any more.
    pub(super) fn forget_unlinked(&self, id: NodeId) {
        if !self.unlinked.lock().remove(&id) {
            return;
        }
        let removed = self.writable().and_then(|upper| upper.work.unlinked());
        if let Err(e) = removed.and_then(|dir| dir.remove_marker(&unlinked_name(id))) {
            log::warn!("a removed file takes room until the next mount: {e}");
        }
    }

    /// A name has lost its inode: unlinked, or replaced by another.
    pub(super) fn lose_name(&self, locked: &LockedEntry, node: &Arc<Node>, outlives: Outlives) {
        let EntryRef { dir, name, .. } = &locked.entry;
        self.table.lose(node, dir, name);
        match outlives {
            Outlives::Anyway => {}
            Outlives::Open(inode) => self.files.pin(node.id, inode),
            Outlives::InWorkdir => node.state().body = Body::Unlinked,
        }
        let done = match &locked.seen {
            Seen::Leaf { branch, stat } if branch.is_upper() => self.drop_notes(node, stat),
            Seen::Leaf { branch, stat } => {
                if stat.is_hard_linked() {
                    // The lower's object is where it was.
                    let id = || lasting_id(&locked.parts, *branch, name, stat);
                    let key = self.key_of(*branch, stat, id).unwrap_or_else(|e| {
                        log::warn!("a link count is wrong from now on: {e}");
                        None
                    });
                    self.cover(key.as_ref(), stat);
                }
                self.drop_link_if_last(node)
            }
            Seen::Dir { stat, .. } if locked.stack.upper.found.is_some() => {
                self.drop_origin(stat);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(e) = done {
            log::warn!("the workdir keeps a note or a copy longer than needed: {e}");
        }
    }

    fn drop_origin(&self, stat: &Stat) {
        if let Some(upper) = &self.upper {
            upper.index.drop_origin(self.stack.xino.real(stat));
        }
    }

    fn drop_notes(&self, node: &Node, stat: &Stat) -> Result<()> {
        let linked = matches!(node.state().body, Body::Linked(_));
        if stat.st_nlink == 1 {
            self.drop_origin(stat);
        }
        if linked { self.drop_link_if_last(node) } else { Ok(()) }
    }

    /// The index keeps a copy with several lower names alive until none of them shows it any more.
    fn drop_link_if_last(&self, node: &Node) -> Result<()> {
        let body = node.state().body.clone();
        let index = match body {
            Body::Linked(_) | Body::Shared(_) => &self.upper()?.index,
            _ => return Ok(()),
        };
        let is_known = self.table.find(node.id).is_some();
        match body {
            Body::Linked(link) => {
                let Some(note) = index.note(link) else { return Ok(()) };
                let copy = index.upper_copy(link)?;
                let stat = copy.stat()?;
                if note.is_gone(&stat) {
                    if is_known {
                        self.keep(node, copy);
                    }
                    self.drop_origin(&stat);
                    index.drop_link(link)?;
                }
            }
            Body::Shared(link) => {
                let Some(note) = index.note(link) else { return Ok(()) };
                let copy = index.copy(link)?;
                if note.is_gone(&copy.stat()?) {
                    if is_known {
                        self.files.pin_snapshot(node.id, copy);
                    }
                    index.drop_link(link)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The upper covers one more of the names of a lower file, if it has several.
    pub(super) fn cover(&self, key: Option<&LastingId>, lower: &Stat) {
        if let (Some(key), Some(upper), true) = (key, &self.upper, lower.is_hard_linked()) {
            upper.index.cover(key, lower);
        }
    }

    /// A name of the node is another one from now on. What was removed from a directory before is where it was.
    pub(super) fn move_name(&self, node: &Arc<Node>, from: &EntryRef, to: &EntryRef) {
        if node.kind == FileType::Directory {
            node.state().keep_lower_place(self.stack.youngest);
        }
        let to = Place::Entry(Arc::clone(&to.dir), to.name.clone());
        self.table.rename(node, (&from.dir, &from.name), to);
    }
}

fn unlinked_name(id: NodeId) -> OsString {
    id.0.to_string().into()
}
