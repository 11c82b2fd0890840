//! What is an inode of the union?
//!
//! A [`Node`] has a number for life, names in the union, and a body: the real inode that has its attributes and
//! data, another one once it was copied up. It is addressed by (parent, name): there are no path strings, so depth
//! has no limit and a directory rename touches one node.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FileType;

use super::inode_table::OUTDATED;
use super::node_lock::{Mode, NodeLock};
use crate::branch::Stat;
use crate::error::Result;
use crate::layer::Formats;
use crate::rules::BranchId;
use crate::rules::name::Name;
use crate::rules::plan::Refusal;

/// The number of an inode of the union, stable across copy-up and rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory, by definition of the protocol.
    pub const ROOT: Self = Self(1);
}

/// An inode on disk: two that were there one after the other under one number are told apart.
// Packed: every node has one, and a node is to fit into 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(Rust, packed(2))]
pub struct RealId {
    /// The filesystem, as `Xino` counts them: 0 is the first branch's.
    pub filesystem: u16,
    /// The inode number on it.
    pub ino: u64,
    /// The time of birth, see [`Stat::st_birth`]; 0 where there is none.
    pub birth: u64,
}

impl RealId {
    /// Of the root, which is not looked up.
    pub const NONE: Self = Self { filesystem: u16::MAX, ino: 0, birth: 0 };
}

/// An inode of the union.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its type, which never changes.
    pub kind: FileType,
    lock: NodeLock,
    /// How many lookups of it the kernel has not taken back.
    lookups: AtomicU32,
    state: Mutex<NodeState>,
}

/// A lock on a node, see [`Node::lock`]. Dropping it gives it back.
#[derive(Debug)]
pub struct NodeGuard {
    node: Arc<Node>,
    mode: Mode,
}

impl Drop for NodeGuard {
    fn drop(&mut self) {
        self.node.lock.unlock(self.mode, self.node.id.0);
    }
}

/// What may change about a node.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Where it is in the union; the last of its names that was looked up, if it has several.
    pub place: Place,
    /// What few nodes have.
    rare: Option<Box<Rare>>,
    /// The real inode that has its attributes and data.
    pub body: Body,
    /// The real inode that gives it its number.
    pub real: RealId,
    /// The stack that place and body are true of.
    pub generation: u32,
}

#[derive(Clone, Debug, Default)]
struct Rare {
    /// Another of its names, if more than one was looked up.
    other: Option<OtherName>,
    /// Where its lower objects are, if that is not where its place says: a directory that was renamed. What was
    /// removed from it before still has its data there. In the order in which it was moved.
    lower: Vec<LowerPlace>,
}

/// The lower, and the snapshot, that has come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Youngest {
    pub(super) lower: BranchId,
    pub(super) snapshot: BranchId,
}

impl Youngest {
    /// Whether a lower was there already.
    fn knows(self, branch: BranchId) -> bool {
        if branch.is_snapshot() { branch <= self.snapshot } else { branch <= self.lower }
    }
}

/// Where a directory is in the lowers that were there when it was moved.
#[derive(Clone, Debug)]
struct LowerPlace {
    /// The youngest of those lowers.
    youngest: Youngest,
    dir: Arc<Node>,
    name: Name,
}

/// Another name, and what the node was under it in the stack of then: of two names of one lower file, each may be in a
/// branch of its own.
#[derive(Clone, Debug)]
struct OtherName {
    dir: Arc<Node>,
    name: Name,
    body: Body,
    real: RealId,
    generation: u32,
}

/// A position in the union.
#[derive(Clone, Debug)]
pub enum Place {
    /// The mount's root.
    Root,
    /// The entry `name` of a directory.
    Entry(Arc<Node>, Name),
    /// No position any more: unlinked but not forgotten. A lower object is where it always was, so what
    /// was its position still leads to it.
    Gone(Box<(Arc<Node>, Name)>),
}

impl Drop for Node {
    /// Lets go of the way to the root one by one: a tree may be deeper than the stack.
    fn drop(&mut self) {
        let mut above: Vec<_> = self.state.get_mut().take_parents().collect();
        while let Some(node) = above.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                above.extend(node.state.get_mut().take_parents());
            }
        }
    }
}

impl NodeState {
    /// That of a node which was just found.
    #[must_use]
    pub fn found(place: Place, body: Body, real: RealId) -> Self {
        Self { place, rare: None, body, real, generation: 0 }
    }

    /// Learns of a name, and of the real inode under it.
    pub(super) fn gain(&mut self, place: Place) {
        let same = |dir: &Arc<Node>, name: &Name| place.is(dir, name);
        if let Place::Entry(dir, name) = &self.place
            && !same(dir, name)
        {
            let (dir, name) = (Arc::clone(dir), name.clone());
            let (body, real, generation) = (self.body.clone(), self.real, self.generation);
            let other = OtherName { dir, name, body, real, generation };
            self.set_other(Some(other));
        } else if self.other().is_some_and(|other| same(&other.dir, &other.name)) {
            self.set_other(None);
        }
        self.place = place;
    }

    /// Whether it would have no position left without that name.
    #[must_use]
    pub fn depends_on(&self, dir: &Arc<Node>, name: &Name) -> bool {
        self.place.is(dir, name) && self.other().is_none()
    }

    /// Learns that a name is no more. What it is under the one that is left is looked at again: the stack may have
    /// changed since.
    pub(super) fn lose(&mut self, dir: &Arc<Node>, name: &Name) {
        let other = self.take_other();
        if self.place.is(dir, name) {
            self.place = match other {
                Some(OtherName { dir, name, body, real, generation }) => {
                    if !self.body.is_in_upper() {
                        (self.body, self.real, self.generation) = (body, real, generation | OUTDATED);
                    }
                    Place::Entry(dir, name)
                }
                None => Place::Gone(Box::new((Arc::clone(dir), name.clone()))),
            };
        } else {
            self.set_other(other.filter(|other| !Arc::ptr_eq(&other.dir, dir) || other.name != *name));
        }
    }

    /// Where its object in a lower is: in that lower's object of that directory, under that name.
    #[must_use]
    pub fn lower_place(&self, branch: BranchId) -> Option<(&Arc<Node>, &Name)> {
        let moved = self.rare.iter().flat_map(|rare| &rare.lower).find(|moved| moved.youngest.knows(branch));
        // What has come to be there since merges with it where it is by now.
        let merges =
            || matches!(&self.body, Body::Dir(parts) if parts.iter().any(|part| part.branch == branch));
        match moved.filter(|_| !merges()) {
            Some(LowerPlace { dir, name, .. }) => Some((dir, name)),
            None => self.place.last(),
        }
    }

    /// Its objects in the lowers, of which `youngest` came last, stay where they are, wherever the node goes.
    pub(super) fn keep_lower_place(&mut self, youngest: Youngest) {
        let Some((dir, name)) = self.place.last().map(|(dir, name)| (Arc::clone(dir), name.clone())) else {
            return;
        };
        let lower = &mut self.rare.get_or_insert_default().lower;
        if lower.last().is_none_or(|last| last.youngest != youngest) {
            lower.push(LowerPlace { youngest, dir, name });
        }
    }

    /// It has been copied up: names that did not follow lead to another node.
    pub(super) fn forget_lower_names(&mut self) {
        let (other, now) = (self.take_other(), self.generation);
        self.set_other(other.filter(|other| other.body.is_in_upper() && other.generation == now));
    }

    fn other(&self) -> Option<&OtherName> {
        self.rare.as_ref()?.other.as_ref()
    }

    fn take_other(&mut self) -> Option<OtherName> {
        self.rare.as_mut()?.other.take()
    }

    fn set_other(&mut self, other: Option<OtherName>) {
        if other.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().other = other;
        }
    }

    /// All nodes that it holds.
    fn take_parents(&mut self) -> impl Iterator<Item = Arc<Node>> + use<> {
        let rare = self.rare.take().map(|rare| *rare).unwrap_or_default();
        let lower = rare.lower.into_iter().map(|moved| moved.dir);
        self.place.take_parent().into_iter().chain(rare.other.map(|other| other.dir)).chain(lower)
    }

    /// Its names, as far as they are known, and the directories that they are in.
    pub(super) fn names(&self) -> impl Iterator<Item = (&Arc<Node>, &Name)> {
        self.place.last().into_iter().chain(self.other().map(|other| (&other.dir, &other.name)))
    }
}

impl Place {
    /// Whether this is that entry.
    #[must_use]
    pub fn is(&self, dir: &Arc<Node>, name: &Name) -> bool {
        matches!(self, Self::Entry(d, n) if Arc::ptr_eq(d, dir) && n == name)
    }

    /// Directory and name, also of one that is gone.
    #[must_use]
    pub fn last(&self) -> Option<(&Arc<Node>, &Name)> {
        match self {
            Self::Root => None,
            Self::Entry(dir, name) => Some((dir, name)),
            Self::Gone(last) => Some((&last.0, &last.1)),
        }
    }

    fn take_parent(&mut self) -> Option<Arc<Node>> {
        match std::mem::replace(self, Self::Root) {
            Self::Root => None,
            Self::Entry(parent, _) => Some(parent),
            Self::Gone(last) => Some(last.0),
        }
    }
}

/// The real inode that has a node's attributes and data.
#[derive(Clone, Debug)]
pub enum Body {
    /// A directory: its branches from the top down, at least one.
    Dir(DirParts),
    /// Under the node's position, in this branch.
    Leaf(BranchId),
    /// A copy in the workdir that other names lead to as well: a lower file with several hard links.
    Linked(super::index::LinkId),
    /// The same of a copy that is in a snapshot: to be copied up before it is changed.
    Shared(super::index::LinkId),
    /// In the workdir under the node's own number: unlinked in the upper, and still open.
    Unlinked,
}

impl Body {
    /// Whether attributes and data are in the upper already.
    #[must_use]
    pub fn is_in_upper(&self) -> bool {
        match self {
            Self::Dir(parts) => parts[0].branch.is_upper(),
            Self::Leaf(branch) => branch.is_upper(),
            Self::Shared(_) => false,
            Self::Linked(_) | Self::Unlinked => true,
        }
    }

    /// What was the upper is that lower from now on.
    pub(super) fn move_out_of_upper(&mut self, lower: BranchId) {
        let renamed = |branch: BranchId| if branch.is_upper() { lower } else { branch };
        match self {
            Self::Dir(parts) if parts.iter().any(|part| part.branch.is_upper()) => {
                *parts = parts.iter().map(|part| DirPart { branch: renamed(part.branch), ..*part }).collect();
            }
            Self::Leaf(branch) => *branch = renamed(*branch),
            Self::Linked(link) => *self = Self::Shared(*link),
            Self::Dir(_) | Self::Shared(_) | Self::Unlinked => {}
        }
    }

    /// Whether it is a directory that nobody could look into when it was found.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Dir(parts) if parts.iter().any(|part| part.closed))
    }

    /// Whether it is a directory with other parts in lowers.
    pub(super) fn has_other_lowers(&self, other: &Self) -> bool {
        let lowers = |parts: &DirParts| -> Vec<DirPart> {
            let lowers = parts.iter().filter(|part| !part.branch.is_upper());
            lowers.map(|part| DirPart { watched: false, ..*part }).collect()
        };
        match (self, other) {
            (Self::Dir(ours), Self::Dir(theirs)) => lowers(ours) != lowers(theirs),
            _ => false,
        }
    }

    /// Whether anything of a directory is watched.
    pub(super) fn is_watched(&self) -> bool {
        matches!(self, Self::Dir(parts) if parts.iter().any(|part| part.watched))
    }

    /// Takes over which of a directory's parts are watched.
    pub(super) fn take_watches(&mut self, found: &Self) {
        let (Self::Dir(ours), Self::Dir(theirs)) = (&*self, found) else { return };
        let news = |part: &DirPart| {
            let same = |other: &&DirPart| (other.branch, other.real) == (part.branch, part.real);
            theirs.iter().find(same).map_or(part.watched, |other| other.watched)
        };
        if ours.iter().any(|part| part.watched != news(part)) {
            *self = Self::Dir(ours.iter().map(|part| DirPart { watched: news(part), ..*part }).collect());
        }
    }

    /// Nothing of it is watched any more.
    pub(super) fn end_watches(&mut self) {
        if let Self::Dir(parts) = self
            && parts.iter().any(|part| part.watched)
        {
            *self = Self::Dir(parts.iter().map(|part| DirPart { watched: false, ..*part }).collect());
        }
    }

    /// A directory's part in the upper.
    #[must_use]
    pub fn upper_part(&self) -> Option<&DirPart> {
        match self {
            Self::Dir(parts) => parts.first().filter(|part| part.branch.is_upper()),
            _ => None,
        }
    }
}

/// A directory's parts, from the top down. One pointer: every node has room for one.
#[derive(Clone, Debug)]
pub struct DirParts(Arc<Box<[DirPart]>>);

impl Deref for DirParts {
    type Target = [DirPart];

    fn deref(&self) -> &[DirPart] {
        &self.0
    }
}

impl FromIterator<DirPart> for DirParts {
    fn from_iter<I: IntoIterator<Item = DirPart>>(parts: I) -> Self {
        Self(Arc::new(parts.into_iter().collect()))
    }
}

impl<const N: usize> From<[DirPart; N]> for DirParts {
    fn from(parts: [DirPart; N]) -> Self {
        parts.into_iter().collect()
    }
}

/// One branch's part of a merged directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirPart {
    /// The branch.
    pub branch: BranchId,
    /// Whether nobody could look into it, for its markers neither. Then it is the last part: what lies below
    /// shows once somebody can.
    pub closed: bool,
    /// Whether it shows here when others change it; of the upper's, whether it shows when the
    /// directory gets other parts.
    pub watched: bool,
    /// In which formats markers may be in it.
    pub formats: Formats,
    /// The directory itself.
    pub real: RealId,
}

impl DirPart {
    /// That of a directory which was just made in the upper: it has no markers.
    #[must_use]
    pub fn new_in_upper(real: RealId, devices: bool) -> Self {
        let formats = Formats { devices, ..Formats::default() };
        Self { branch: BranchId::UPPER, closed: false, watched: false, formats, real }
    }
}

impl Node {
    /// A node that the table does not hold.
    #[must_use]
    pub fn detached(id: NodeId, kind: FileType, state: NodeState) -> Arc<Self> {
        let (lock, lookups) = (NodeLock::default(), AtomicU32::new(0));
        Arc::new(Self { id, kind, lock, lookups, state: Mutex::new(state) })
    }

    /// Counts a lookup. Who counts and who forgets holds the table's lock.
    pub(super) fn count_lookup(&self) {
        let lookups = self.lookups.load(Ordering::Relaxed);
        self.lookups.store(lookups.saturating_add(1), Ordering::Relaxed);
    }

    /// Takes back lookups, and says whether none is left. Of a node with more than can be counted some always are.
    pub(super) fn forget_lookups(&self, count: u64) -> bool {
        let lookups = self.lookups.load(Ordering::Relaxed);
        let left =
            if lookups == u32::MAX { lookups } else { u64::from(lookups).saturating_sub(count) as u32 };
        self.lookups.store(left, Ordering::Relaxed);
        left == 0
    }

    /// Locks the node exclusively. A directory: to change names in it. Anything else: to copy it up.
    ///
    /// Whoever has locked a file may wait for a directory, never the other way round. Whoever has locked a
    /// directory, shared or not, waits for no other lock but those of directories of a higher number.
    #[must_use]
    pub fn lock(self: &Arc<Self>) -> NodeGuard {
        self.lock_as(Mode::Exclusive)
    }

    /// Locks a directory so that no name in it changes: to look up or list names. Those who want to change names
    /// come first.
    #[must_use]
    pub fn lock_shared(self: &Arc<Self>) -> NodeGuard {
        self.lock_as(Mode::Shared)
    }

    fn lock_as(self: &Arc<Self>, mode: Mode) -> NodeGuard {
        self.lock.lock(mode, self.id.0);
        NodeGuard { node: Arc::clone(self), mode }
    }

    /// Whether somebody has locked it exclusively.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.lock.is_exclusive()
    }

    /// The node's state, locked for a moment: never across a system call.
    pub fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock()
    }

    /// The branches of a directory.
    ///
    /// # Errors
    /// ENOTDIR for anything else.
    pub fn parts(&self) -> Result<DirParts> {
        match &self.state.lock().body {
            Body::Dir(parts) => Ok(parts.clone()),
            _ => Err(Refusal::NotADirectory.into()),
        }
    }

    /// Whether attributes and data are in the upper already.
    #[must_use]
    pub fn is_in_upper(&self) -> bool {
        self.state.lock().body.is_in_upper()
    }

    /// What it is true of. Whoever has locked a directory gives it to what he finds in it, having asked before he looks.
    pub(super) fn generation(&self) -> u32 {
        self.state.lock().generation
    }

    /// Whether this is the inode `real`, which was `lower` before it was copied up.
    pub(super) fn is_inode(&self, kind: FileType, real: RealId, lower: Option<RealId>) -> bool {
        let known = self.state().real;
        self.kind == kind && (known == real || Some(known) == lower)
    }

    /// Whether the node has lost its last position.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state.lock().place, Place::Gone(..))
    }

    /// Its position, unless it is the root or gone.
    #[must_use]
    pub fn entry(&self) -> Option<(Arc<Self>, Name)> {
        match &self.state.lock().place {
            Place::Entry(parent, name) => Some((Arc::clone(parent), name.clone())),
            Place::Root | Place::Gone(..) => None,
        }
    }
}

/// Names the real inode that a `stat` speaks of, on a filesystem of that ordinal.
#[must_use]
pub(super) fn real_id(filesystem: u16, stat: &Stat) -> RealId {
    RealId { filesystem, ino: stat.st_ino, birth: stat.st_birth }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_by_the_names_that_are_left() {
        let dir = Node::detached(NodeId(1), FileType::Directory, state(1));
        let name = |text: &str| Name::new(text.as_ref()).unwrap();
        let mut file = state(7);
        for text in ["a", "b", "b"] {
            file.gain(Place::Entry(Arc::clone(&dir), name(text)));
        }
        assert!(file.place.is(&dir, &name("b")) && !file.depends_on(&dir, &name("b")));
        file.lose(&dir, &name("b"));
        assert!(file.place.is(&dir, &name("a")) && file.depends_on(&dir, &name("a")));
        file.gain(Place::Entry(Arc::clone(&dir), name("c")));
        file.lose(&dir, &name("a"));
        assert!(file.depends_on(&dir, &name("c")));
        file.lose(&dir, &name("c"));
        assert!(matches!(file.place, Place::Gone(..)));
    }

    #[test]
    fn a_node_takes_as_much_as_an_allocation_of_128_bytes_holds() {
        let counts = 2 * size_of::<usize>();
        // The C library's own word is in it.
        assert!(counts + size_of::<Node>() <= 128 - size_of::<usize>(), "{}", size_of::<Node>());
    }

    #[test]
    fn more_lookups_than_can_be_counted_are_never_forgotten() {
        let node = Node::detached(NodeId(1), FileType::Directory, state(1));
        node.count_lookup();
        node.count_lookup();
        assert!(!node.forget_lookups(1) && node.forget_lookups(5));
        node.lookups.store(u32::MAX - 1, Ordering::Relaxed);
        (0..3).for_each(|_| node.count_lookup());
        assert!(!node.forget_lookups(u64::MAX));
    }

    fn state(ino: u64) -> NodeState {
        let real = RealId { filesystem: 0, ino, birth: 0 };
        NodeState::found(Place::Root, Body::Leaf(BranchId(1)), real)
    }
}
