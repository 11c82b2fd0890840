//! Which inode does the kernel mean by a number, and how long do we remember it?
//!
//! The kernel knows an inode by its [`NodeId`], which is also the `st_ino` that users see. The table
//! maps it to a [`Node`] for as long as the kernel's lookup count says, and never gives the number to
//! another inode in that time. A name that is known leads to the node that has it before any number does: not
//! every filesystem shows one inode under one number for ever.
//!
//! The table's lock is never held across a system call.

use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use foldhash::HashMap;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use parking_lot::Mutex;
use rustix::fs::FileType;

use super::node::{Body, Node, NodeId, NodeState, Place, RealId};
use crate::error::{Error, Result};
use crate::rules::name::Name;

/// All nodes that the kernel knows.
#[derive(Debug, Default)]
pub struct InodeTable {
    inner: Mutex<Inner>,
    /// How often the stack has changed: what was found in an older one may not be true any more.
    generation: AtomicU32,
    /// Directories that have lost or gained parts in lowers, or their names, since somebody asked; if somebody does.
    torn: Option<Mutex<HashSet<NodeId>>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By number.
    nodes: HashTable<Arc<Node>>,
    /// The same nodes by directory and name: the last that they were found under.
    names: HashTable<Arc<Node>>,
    /// Inodes whose own number was taken when they came.
    aliases: HashMap<RealId, NodeId>,
    aliases_given: u64,
    /// Directories that the kernel has forgotten while a node that it knows has its position in them: a
    /// file that it knows by another of its names. If they are looked up again they must be the same nodes.
    orphans: HashMap<NodeId, Weak<Node>>,
    /// Nodes without a name.
    gone: HashSet<NodeId>,
}

/// In a node's generation: it alone is to be looked at again.
pub(super) const OUTDATED: u32 = 1 << 31;

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
pub enum Lookup {
    /// It is: one more lookup is counted (the protocol's `nlookup`).
    Counted,
    /// It is not: a node that the kernel does not know is not remembered either.
    Internal,
}

/// What was found under a name.
#[derive(Debug)]
pub struct FoundInode {
    /// The number that it shows, if that is free.
    pub number: NodeId,
    /// Its type.
    pub kind: FileType,
    /// Its position, body and real inode.
    pub state: NodeState,
    /// The inode that it was before it was copied up, where that is known.
    pub lower: Option<RealId>,
    /// Whether the filesystem may show it under another number once nobody holds it: then it is whatever has its
    /// name.
    pub renumbers: bool,
    /// Whether it may have other names.
    pub hard_linked: bool,
    /// Whether all parts of a directory were looked for that others may have changed.
    pub looked_anew: bool,
}

impl InodeTable {
    /// How many inodes the kernel knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().nodes.len()
    }

    /// Whether it knows none, not even the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often the stack has changed.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The stack has changed: every node is to be looked at again when it is met.
    pub(super) fn next_generation(&self) {
        let next = |now: u32| Some((now.wrapping_add(1) & !OUTDATED).max(1));
        // It always has a next one.
        let _before = self.generation.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Single nodes, too, are to be looked at again from now on.
    pub(super) fn expect_changes(&mut self) {
        self.torn = Some(Mutex::default());
        self.next_generation();
    }

    /// Whether a node was found in an older stack than that of now, or is to be looked at again by itself.
    pub(super) fn is_outdated(&self, node: &Node) -> bool {
        let generation = self.generation();
        generation > 0 && node.state().generation != generation
    }

    /// A node is to be looked at again when it is met. The caller has locked the directory that it is in, so that
    /// nobody is just looking.
    pub(super) fn outdate(&self, node: &Node) {
        node.state().generation |= OUTDATED;
    }

    /// The directories that were torn since this was asked.
    pub(super) fn take_torn(&self) -> HashSet<NodeId> {
        self.torn.as_ref().map(|torn| std::mem::take(&mut *torn.lock())).unwrap_or_default()
    }

    /// What is in a directory, which was true of `generation`, may not be what it was. If it was watched, what the
    /// kernel knows of it may be old.
    pub(super) fn tear(&self, dir: NodeId, generation: u32, was_watched: bool) {
        let Some(torn) = &self.torn else { return };
        if was_watched {
            torn.lock().insert(dir);
        }
        // Else what was found in it is older than now in any case.
        if generation & !OUTDATED == self.generation() {
            self.next_generation();
        }
    }

    /// Lets a node that was found in an older stack be what has its name now, if it is the same. The caller has its
    /// directory locked.
    pub(super) fn outlasts(&self, node: &Arc<Node>, found: &FoundInode) -> bool {
        let same = is_same_in_another_stack(node, found);
        if same {
            let mut state = node.state();
            let was = state.generation;
            let is_torn = state.body.has_other_lowers(&found.state.body);
            let was_watched = state.body.is_watched();
            (state.body, state.real) = (found.state.body.clone(), found.state.real);
            state.generation = found.state.generation;
            drop(state);
            if is_torn {
                self.tear(node.id, was, was_watched);
            }
        }
        same
    }

    /// A node is true of this stack as it is.
    pub(super) fn keep(&self, node: &Node) {
        node.state().generation = self.generation();
    }

    /// Puts the root in.
    pub fn insert_root(&self, root: Arc<Node>) {
        self.inner.lock().insert(root);
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
        self.inner.lock().numbered(id).map(Arc::clone)
    }

    /// The nodes that have no name any more.
    pub(super) fn gone(&self) -> Vec<NodeId> {
        self.inner.lock().gone.iter().copied().collect()
    }

    /// What `of` says of all nodes that are chosen. Nobody else gets at the table meanwhile.
    pub(super) fn filter<T>(
        &self,
        is_chosen: impl Fn(&Arc<Node>) -> bool,
        of: impl Fn(&Arc<Node>) -> T,
    ) -> Vec<T> {
        self.inner.lock().nodes.iter().filter(|node| is_chosen(node)).map(of).collect()
    }

    /// The node that was last found under a name, if the kernel knows it.
    #[must_use]
    pub fn find_name(&self, dir: &Arc<Node>, name: &Name) -> Option<Arc<Node>> {
        self.inner.lock().named(dir, name)
    }

    /// The node of an inode that was found: the one that has the name and is the same, else the one that is known
    /// under its number, or a new one, under another number if that one is taken. A known one gets the position
    /// that it was just found under, if the kernel has asked for it. None if the number is taken and that is to be
    /// reported.
    pub fn intern(&self, found: FoundInode, lookup: Lookup, taken: NumberTaken) -> Option<Arc<Node>> {
        let inner = &mut *self.inner.lock();
        let FoundInode { number, kind, renumbers, hard_linked, looked_anew, .. } = found;
        let real = found.state.real;
        let named = match &found.state.place {
            Place::Entry(dir, name) => inner.named(dir, name),
            Place::Root | Place::Gone(..) => None,
        };
        let same = |node: &Node| {
            if self.is_outdated(node) {
                is_same_in_another_stack(node, &found)
            } else {
                is_same(node, &found)
            }
        };
        let known = match named {
            Some(node) if same(&node) => Some(node),
            named => {
                // What had the name has it no more.
                if let (Some(node), Place::Entry(dir, name), Lookup::Counted) =
                    (named, &found.state.place, lookup)
                {
                    inner.lose(&node, dir, name);
                }
                let id = inner.aliases.get(&real).copied().unwrap_or(number);
                let numbered = inner.numbered(id).map(Arc::clone);
                numbered.filter(|node| (!renumbers || hard_linked) && same(node))
            }
        };
        let FoundInode { state, .. } = found;
        if let Some(node) = known {
            if lookup == Lookup::Counted {
                node.count_lookup();
            }
            let outdated = self.is_outdated(&node);
            if lookup == Lookup::Counted || node.is_gone() || (outdated && same_place(&node, &state.place)) {
                inner.gain(&node, state.place);
                let mut known = node.state();
                // The parts of a directory that is known are known better, unless nobody could look into it. A file
                // is where its name leads.
                let (was, was_watched) = (known.generation, known.body.is_watched());
                let is_torn = (outdated || looked_anew) && known.body.has_other_lowers(&state.body);
                if kind != FileType::Directory || known.body.is_closed() || outdated || is_torn {
                    known.body = state.body;
                } else {
                    known.body.take_watches(&state.body);
                }
                (known.real, known.generation) = (real, state.generation);
                drop(known);
                if is_torn {
                    self.tear(node.id, was, was_watched);
                }
            }
            return Some(node);
        }
        let id = if inner.numbered(number).is_some() {
            if taken == NumberTaken::Report {
                return None;
            }
            inner.alias(real, lookup)
        } else {
            number
        };
        let node = match inner.orphan(id, kind, &state, renumbers) {
            Some(orphan) => {
                let mut known = orphan.state();
                if known.generation != state.generation {
                    (known.body, known.real) = (state.body, real);
                } else {
                    known.body.take_watches(&state.body);
                }
                (known.place, known.generation) = (state.place, state.generation);
                drop(known);
                orphan
            }
            None => Node::detached(id, kind, state),
        };
        if lookup == Lookup::Counted {
            inner.orphans.remove(&node.id);
            inner.insert(Arc::clone(&node));
            inner.index_name(&node);
        }
        Some(node)
    }

    /// A node learns of a name.
    pub fn gain(&self, node: &Arc<Node>, place: Place) {
        self.inner.lock().gain(node, place);
    }

    /// A node learns that a name is no more.
    pub fn lose(&self, node: &Arc<Node>, dir: &Arc<Node>, name: &Name) {
        self.inner.lock().lose(node, dir, name);
    }

    /// One name of a node is another one from now on, without a moment in between.
    pub fn rename(&self, node: &Arc<Node>, (dir, name): (&Arc<Node>, &Name), to: Place) {
        let inner = &mut *self.inner.lock();
        inner.unindex_name(node);
        let mut state = node.state();
        state.lose(dir, name);
        state.gain(to);
        drop(state);
        inner.index_name(node);
        inner.gone.remove(&node.id);
    }

    /// The number under which an inode is known, or would be if it were looked up.
    #[must_use]
    pub fn number(&self, real: RealId, number: NodeId) -> NodeId {
        self.inner.lock().aliases.get(&real).copied().unwrap_or(number)
    }

    /// Counts a lookup of the node of that number, if the kernel knows it.
    pub fn count(&self, id: NodeId) {
        if let Some(node) = self.inner.lock().numbered(id) {
            node.count_lookup();
        }
    }

    /// Takes back `lookups` of a node. Returns it if that was the last, and it is forgotten.
    pub fn forget(&self, id: NodeId, lookups: u64) -> Option<Arc<Node>> {
        let inner = &mut *self.inner.lock();
        if id == NodeId::ROOT || !inner.numbered(id)?.forget_lookups(lookups) {
            return None;
        }
        let found = inner.nodes.find_entry(hash_of_number(id), |node| node.id == id);
        let (node, _) = found.ok()?.remove();
        inner.unindex_name(&node);
        inner.gone.remove(&id);
        if inner.nodes.len() < inner.nodes.capacity() / 8 && inner.nodes.capacity() > SMALL_TABLE {
            // A walk over everything must not cost memory for ever.
            let left = inner.nodes.len();
            inner.nodes.shrink_to(left * 2, |node| hash_of_number(node.id));
            inner.names.shrink_to(left * 2, hash_of);
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

impl Inner {
    fn numbered(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.find(hash_of_number(id), |node| node.id == id)
    }

    /// Puts in a node that the kernel learns of.
    fn insert(&mut self, node: Arc<Node>) {
        node.count_lookup();
        self.nodes.insert_unique(hash_of_number(node.id), node, |node| hash_of_number(node.id));
    }

    fn named(&self, dir: &Arc<Node>, name: &Name) -> Option<Arc<Node>> {
        let found = self.names.find(hash(dir.id, name), |node| node.state().place.is(dir, name));
        found.map(Arc::clone)
    }

    /// Puts a node that the kernel knows where its name leads to.
    fn index_name(&mut self, node: &Arc<Node>) {
        if self.numbered(node.id).is_some_and(|known| Arc::ptr_eq(known, node))
            && matches!(node.state().place, Place::Entry(..))
        {
            self.names.insert_unique(hash_of(node), Arc::clone(node), hash_of);
        }
    }

    fn unindex_name(&mut self, node: &Arc<Node>) {
        if let Ok(entry) = self.names.find_entry(hash_of(node), |known| Arc::ptr_eq(known, node)) {
            entry.remove();
        }
    }

    fn gain(&mut self, node: &Arc<Node>, place: Place) {
        let moves = match &place {
            Place::Entry(dir, name) => !node.state().place.is(dir, name),
            Place::Root | Place::Gone(..) => true,
        };
        if moves {
            self.unindex_name(node);
            node.state().gain(place);
            self.index_name(node);
            self.gone.remove(&node.id);
        }
    }

    fn lose(&mut self, node: &Arc<Node>, dir: &Arc<Node>, name: &Name) {
        self.unindex_name(node);
        node.state().lose(dir, name);
        self.index_name(node);
        if node.is_gone() && self.numbered(node.id).is_some_and(|known| Arc::ptr_eq(known, node)) {
            self.gone.insert(node.id);
        }
    }

    /// A forgotten directory that is found again.
    fn orphan(&self, id: NodeId, kind: FileType, found: &NodeState, renumbers: bool) -> Option<Arc<Node>> {
        if kind != FileType::Directory {
            return None;
        }
        let is_found = |orphan: &Arc<Node>| {
            let known = orphan.state();
            known.real == found.real
                && (known.generation != found.generation
                    || upper_part(&known.body) == upper_part(&found.body))
        };
        if let Some(orphan) = self.orphans.get(&id).and_then(Weak::upgrade).filter(is_found) {
            return Some(orphan);
        }
        let Place::Entry(dir, name) = &found.place else { return None };
        let orphans = || self.orphans.values().filter_map(Weak::upgrade);
        if renumbers { orphans().find(|orphan| orphan.state().place.is(dir, name)) } else { None }
    }

    /// A number that no inode on disk has.
    fn alias(&mut self, real: RealId, lookup: Lookup) -> NodeId {
        // A branch may be a union itself, and show aliases of its own.
        while self.numbered(NodeId(FIRST_ALIAS - self.aliases_given)).is_some() {
            self.aliases_given += 1;
        }
        let alias = NodeId(FIRST_ALIAS - self.aliases_given);
        if lookup == Lookup::Counted {
            self.aliases_given += 1;
            self.aliases.insert(real, alias);
        }
        alias
    }
}

/// Whether a node is the inode that was found.
fn is_same(node: &Node, found: &FoundInode) -> bool {
    let FoundInode { kind, state, lower, renumbers, .. } = found;
    let known = node.state();
    // A merged directory is known by its lower part: the one in the upper may have been exchanged.
    let is_upper_same =
        *kind != FileType::Directory || *renumbers || upper_part(&known.body) == upper_part(&state.body);
    let has_name = *renumbers
        && node.kind == *kind
        && known.real.birth == state.real.birth
        && known.body.is_in_upper() == state.body.is_in_upper();
    drop(known);
    is_upper_same && (has_name || node.is_inode(*kind, state.real, *lower))
}

/// Whether a node that was known in another stack is what was found in this one: a file is its inode, a directory is the
/// same if one of its parts is.
fn is_same_in_another_stack(node: &Node, found: &FoundInode) -> bool {
    let FoundInode { kind, state, lower, renumbers, .. } = found;
    let known = node.state();
    let is_part = |real: RealId, other: RealId| real == other || (*renumbers && real.birth == other.birth);
    match (&known.body, &state.body) {
        (Body::Dir(known), Body::Dir(found)) => {
            known.iter().any(|part| found.iter().any(|other| is_part(part.real, other.real)))
        }
        _ => node.kind == *kind && (is_part(known.real, state.real) || Some(known.real) == *lower),
    }
}

fn same_place(node: &Node, place: &Place) -> bool {
    matches!(place, Place::Entry(dir, name) if node.state().place.is(dir, name))
}

/// What a directory is in the upper.
fn upper_part(body: &Body) -> Option<RealId> {
    body.upper_part().map(|part| part.real)
}

fn hash_of_number(id: NodeId) -> u64 {
    FixedState::with_seed(0).hash_one(id)
}

fn hash(dir: NodeId, name: &Name) -> u64 {
    FixedState::with_seed(dir.0).hash_one(name)
}

fn hash_of(node: &Arc<Node>) -> u64 {
    match node.state().place.last() {
        Some((dir, name)) => hash(dir.id, name),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::BranchId;
    use crate::rules::name::Name;

    fn state(real: u64) -> NodeState {
        NodeState::found(Place::Root, Body::Leaf(BranchId(1)), real_id(real))
    }

    fn real_id(ino: u64) -> RealId {
        RealId { filesystem: 0, ino, birth: 0 }
    }

    fn found(number: u64, state: NodeState) -> FoundInode {
        let kind = match state.body {
            Body::Dir(_) => FileType::Directory,
            _ => FileType::RegularFile,
        };
        FoundInode {
            number: NodeId(number),
            kind,
            state,
            lower: None,
            renumbers: false,
            hard_linked: false,
            looked_anew: false,
        }
    }

    fn intern(table: &InodeTable, number: u64, real: u64) -> Arc<Node> {
        table.intern(found(number, state(real)), Lookup::Counted, NumberTaken::GiveAlias).unwrap()
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
        assert!(table.inner.lock().nodes.is_empty());
    }

    #[test]
    fn what_is_forgotten_takes_no_memory() {
        let table = InodeTable::default();
        let numbers = 1..50_000;
        numbers.clone().for_each(|number| drop(intern(&table, number, number)));
        numbers.for_each(|number| drop(table.forget(NodeId(number), 1)));
        assert!(table.inner.lock().nodes.capacity() <= 2 * SMALL_TABLE);
    }

    #[test]
    fn a_number_in_use_is_not_given_to_another_inode() {
        let table = InodeTable::default();
        let first = intern(&table, 7, 7);
        let report = table.intern(found(7, state(8)), Lookup::Counted, NumberTaken::Report);
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
            let dir = NodeState::found(Place::Root, Body::Dir([].into()), real_id(3));
            table.intern(found(3, dir), Lookup::Counted, NumberTaken::GiveAlias).unwrap()
        };
        let first = dir();
        let position = Place::Entry(Arc::clone(&first), Name::new("f".as_ref()).unwrap());
        let file = NodeState::found(position, Body::Leaf(BranchId(1)), real_id(7));
        table.intern(found(7, file), Lookup::Counted, NumberTaken::GiveAlias);
        drop(table.forget(NodeId(3), 1));
        let known_by_its_file = Arc::as_ptr(&first);
        drop(first);
        assert_eq!(Arc::as_ptr(&dir()), known_by_its_file);
        table.forget(NodeId(7), 1);
        table.forget(NodeId(3), 1);
        assert!(table.inner.lock().nodes.is_empty());
    }

    #[test]
    fn what_the_kernel_does_not_know_is_not_remembered() {
        let table = InodeTable::default();
        let node = table.intern(found(7, state(7)), Lookup::Internal, NumberTaken::GiveAlias);
        assert_eq!(node.unwrap().id, NodeId(7));
        assert!(table.inner.lock().nodes.is_empty());
    }

    #[test]
    fn a_name_leads_to_its_node_whatever_the_number_is_by_now() {
        let table = InodeTable::default();
        let dir = Node::detached(NodeId(3), FileType::Directory, state(3));
        let look = |ino: u64, renumbers: bool| {
            let place = Place::Entry(Arc::clone(&dir), Name::new("f".as_ref()).unwrap());
            let state = NodeState::found(place, Body::Leaf(BranchId(1)), real_id(ino));
            let file = FoundInode { renumbers, ..found(ino, state) };
            table.intern(file, Lookup::Counted, NumberTaken::GiveAlias).unwrap()
        };
        let first = look(7, true);
        assert!(Arc::ptr_eq(&first, &look(8, true)));
        let other = look(9, false);
        assert_eq!(other.id, NodeId(9));
        assert!(first.is_gone(), "the name is another inode's");
        for node in [&first, &other] {
            table.forget(node.id, 3);
        }
        assert!(table.inner.lock().names.is_empty());
    }
}
