//! Which inode does the kernel mean by a number, and how long do we remember it?
//!
//! The kernel knows an inode by its [`NodeId`], which is also the `st_ino` that users see. The table
//! maps it to a [`Node`] for as long as the kernel's lookup count says, and never gives the number to
//! another inode in that time.
//!
//! The table's lock is never held across a system call.

use std::sync::{Arc, Weak};

use foldhash::HashMap;
use parking_lot::Mutex;
use rustix::fs::FileType;

use super::node::{Node, NodeId, NodeState, Place, RealId};
use crate::error::{Error, Result};

/// All nodes that the kernel knows.
#[derive(Debug, Default)]
pub struct InodeTable {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<NodeId, Slot>,
    /// Inodes whose own number was taken when they came.
    aliases: HashMap<RealId, NodeId>,
    aliases_given: u64,
    /// Directories that the kernel has forgotten while a node that it knows has its position in them: a
    /// file that it knows by another of its names. If they are looked up again they must be the same nodes.
    orphans: HashMap<NodeId, Weak<Node>>,
}

#[derive(Debug)]
struct Slot {
    node: Arc<Node>,
    lookups: u64,
}

/// Aliases count down from here: no filesystem hands out inode numbers of that size.
const FIRST_ALIAS: u64 = i64::MAX as u64;

/// A table of so few slots is not worth making smaller.
const SMALL_TABLE: usize = 4096;

/// What to do when an inode's number belongs to another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberTaken {
    /// Say so: the inode may be the same, and have been copied up since it was looked at.
    Report,
    /// Give it another number: it has been looked at again.
    GiveAlias,
}

/// Whether a node that is handed out is also handed to the kernel, which will forget it some day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// It is: one more lookup is counted.
    ToKernel,
    /// It is not: a node that the kernel does not know is not remembered either.
    ToUs,
}

impl InodeTable {
    /// Puts the root in.
    pub fn insert_root(&self, root: Arc<Node>) {
        self.inner.lock().slots.insert(root.id, Slot { node: root, lookups: 1 });
    }

    /// The node that the kernel means.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        self.find(id).ok_or(Error::UnknownNode(id.0))
    }

    /// The node of that number, if the kernel knows it.
    #[must_use]
    pub fn find(&self, id: NodeId) -> Option<Arc<Node>> {
        self.inner.lock().slots.get(&id).map(|slot| Arc::clone(&slot.node))
    }

    /// The node of the inode `state.real`: the one that is known, or a new one under its number, or under
    /// another if that one is taken. A known one gets the position that it was just found under, if the kernel
    /// has asked for it. `lower` is the inode that it was before it was copied up, where that is known.
    pub fn intern(
        &self,
        number: NodeId,
        kind: FileType,
        state: NodeState,
        lower: Option<RealId>,
        handed: Handed,
        taken: NumberTaken,
    ) -> Option<Arc<Node>> {
        let inner = &mut *self.inner.lock();
        let real = state.real;
        let id = match inner.aliases.get(&real) {
            Some(alias) => *alias,
            None => match inner.slots.get(&number) {
                Some(slot) if !slot.node.is_inode(kind, real, lower) => {
                    if taken == NumberTaken::Report {
                        return None;
                    }
                    // A branch may be a union itself, and show aliases of its own.
                    while inner.slots.contains_key(&NodeId(FIRST_ALIAS - inner.aliases_given)) {
                        inner.aliases_given += 1;
                    }
                    let alias = NodeId(FIRST_ALIAS - inner.aliases_given);
                    if handed == Handed::ToKernel {
                        inner.aliases_given += 1;
                        inner.aliases.insert(real, alias);
                    }
                    alias
                }
                _ => number,
            },
        };
        if let Some(slot) = inner.slots.get_mut(&id) {
            slot.lookups += u64::from(handed == Handed::ToKernel);
            let mut known = slot.node.state();
            known.real = real;
            if handed == Handed::ToKernel || matches!(known.place, Place::Gone(..)) {
                known.gain(state.place);
                // The parts of a directory that is known are known better, unless nobody could look into it. A file
                // is where its name leads.
                if kind != FileType::Directory || known.body.is_closed() {
                    known.body = state.body;
                }
            }
            drop(known);
            return Some(Arc::clone(&slot.node));
        }
        let orphan = inner.orphans.get(&id).and_then(Weak::upgrade);
        let node = match orphan.filter(|orphan| orphan.kind == kind && orphan.state().real == real) {
            Some(orphan) => {
                orphan.state().place = state.place;
                orphan
            }
            None => Node::detached(id, kind, state),
        };
        if handed == Handed::ToKernel {
            inner.orphans.remove(&id);
            inner.slots.insert(id, Slot { node: Arc::clone(&node), lookups: 1 });
        }
        Some(node)
    }

    /// The number under which an inode is known, or would be if it were looked up.
    #[must_use]
    pub fn number(&self, real: RealId, number: NodeId) -> NodeId {
        self.inner.lock().aliases.get(&real).copied().unwrap_or(number)
    }

    /// Counts a lookup of the node of that number, if the kernel knows it.
    pub fn count(&self, id: NodeId) {
        if let Some(slot) = self.inner.lock().slots.get_mut(&id) {
            slot.lookups += 1;
        }
    }

    /// Takes back `lookups` of a node. Returns it if that was the last, and it is forgotten.
    pub fn forget(&self, id: NodeId, lookups: u64) -> Option<Arc<Node>> {
        let inner = &mut *self.inner.lock();
        let slot = inner.slots.get_mut(&id)?;
        slot.lookups = slot.lookups.saturating_sub(lookups);
        if slot.lookups > 0 || id == NodeId::ROOT {
            return None;
        }
        let node = inner.slots.remove(&id)?.node;
        if inner.slots.len() < inner.slots.capacity() / 8 && inner.slots.capacity() > SMALL_TABLE {
            // A walk over everything must not cost memory for ever.
            let left = inner.slots.len();
            inner.slots.shrink_to(left * 2);
        }
        let real = node.state().real;
        if inner.aliases.get(&real) == Some(&id) {
            inner.aliases.remove(&real);
        }
        if node.kind == FileType::Directory && Arc::strong_count(&node) > 1 {
            if inner.orphans.len() == inner.orphans.capacity() {
                inner.orphans.retain(|_, orphan| orphan.strong_count() > 0);
            }
            inner.orphans.insert(id, Arc::downgrade(&node));
        }
        Some(node)
    }

    /// Records that a node's inode on disk is another one from now on: it was copied up.
    pub fn move_to(&self, node: &Node, real: RealId) {
        let inner = &mut *self.inner.lock();
        let old = std::mem::replace(&mut node.state().real, real);
        if inner.aliases.get(&old) == Some(&node.id) {
            inner.aliases.remove(&old);
            inner.aliases.insert(real, node.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Body;
    use super::*;
    use crate::rules::BranchIndex;
    use crate::rules::name::Name;

    fn state(real: u64) -> NodeState {
        let body = Body::Leaf(BranchIndex(1));
        NodeState { place: Place::Root, other: None, body, real: real_id(real) }
    }

    fn real_id(ino: u64) -> RealId {
        RealId { filesystem: 0, ino }
    }

    fn intern(table: &InodeTable, number: u64, real: u64) -> Arc<Node> {
        let kind = FileType::RegularFile;
        table
            .intern(NodeId(number), kind, state(real), None, Handed::ToKernel, NumberTaken::GiveAlias)
            .unwrap()
    }

    #[test]
    fn one_inode_is_one_node_until_it_is_forgotten() {
        let table = InodeTable::default();
        let first = intern(&table, 7, 7);
        let again = intern(&table, 7, 7);
        assert!(Arc::ptr_eq(&first, &again));
        assert!(table.forget(NodeId(7), 1).is_none());
        assert!(table.forget(NodeId(7), 1).is_some());
        assert!(table.get(NodeId(7)).is_err());
        assert!(table.inner.lock().slots.is_empty());
    }

    #[test]
    fn what_is_forgotten_takes_no_memory() {
        let table = InodeTable::default();
        let numbers = 1..50_000;
        numbers.clone().for_each(|number| drop(intern(&table, number, number)));
        numbers.for_each(|number| drop(table.forget(NodeId(number), 1)));
        assert!(table.inner.lock().slots.capacity() <= 2 * SMALL_TABLE);
    }

    #[test]
    fn a_number_in_use_is_not_given_to_another_inode() {
        let table = InodeTable::default();
        let first = intern(&table, 7, 7);
        let kind = FileType::RegularFile;
        let report = table.intern(NodeId(7), kind, state(8), None, Handed::ToKernel, NumberTaken::Report);
        assert!(report.is_none());
        let other = intern(&table, 7, 8);
        assert_ne!(first.id, other.id);
        assert!(Arc::ptr_eq(&other, &intern(&table, 7, 8)), "an alias is kept");
        assert_eq!(table.number(real_id(8), NodeId(7)), other.id);
        table.forget(other.id, 2);
        table.forget(first.id, 1);
        assert_eq!(intern(&table, 7, 8).id, NodeId(7), "a free number is used again");
    }

    #[test]
    fn a_copied_up_inode_keeps_its_number() {
        let table = InodeTable::default();
        let node = intern(&table, 7, 7);
        table.move_to(&node, real_id(99));
        assert!(Arc::ptr_eq(&node, &intern(&table, 7, 99)));
        let alias = intern(&table, 7, 8);
        table.move_to(&alias, real_id(100));
        assert!(Arc::ptr_eq(&alias, &intern(&table, 7, 100)));
    }

    #[test]
    fn a_forgotten_directory_that_is_a_position_is_found_again() {
        let table = InodeTable::default();
        let dir = || {
            let place = NodeState { body: Body::Dir([].into()), ..state(3) };
            let kind = FileType::Directory;
            table.intern(NodeId(3), kind, place, None, Handed::ToKernel, NumberTaken::GiveAlias).unwrap()
        };
        let first = dir();
        let position = Place::Entry(Arc::clone(&first), Name::new("f".as_ref()).unwrap());
        let file = NodeState { place: position, ..state(7) };
        let kind = FileType::RegularFile;
        table.intern(NodeId(7), kind, file, None, Handed::ToKernel, NumberTaken::GiveAlias);
        drop(table.forget(NodeId(3), 1));
        let known_by_its_file = Arc::as_ptr(&first);
        drop(first);
        assert_eq!(Arc::as_ptr(&dir()), known_by_its_file);
        table.forget(NodeId(7), 1);
        table.forget(NodeId(3), 1);
        assert!(table.inner.lock().slots.is_empty());
    }

    #[test]
    fn what_the_kernel_does_not_know_is_not_remembered() {
        let table = InodeTable::default();
        let kind = FileType::RegularFile;
        let node = table.intern(NodeId(7), kind, state(7), None, Handed::ToUs, NumberTaken::GiveAlias);
        assert_eq!(node.unwrap().id, NodeId(7));
        assert!(table.inner.lock().slots.is_empty());
    }
}
