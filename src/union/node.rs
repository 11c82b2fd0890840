//! What is an inode of the union?
//!
//! A [`Node`] has a number for life, a position in the union, and a body: the place on disk where its attributes
//! and data are, which changes when it is copied up. It is addressed by (parent, name): there are no path
//! strings, so depth has no limit and a directory rename touches one node.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::FileType;

use crate::error::Result;
use crate::rules::BranchIndex;
use crate::rules::name::Name;
use crate::rules::plan::Refusal;

/// The number of an inode of the union, stable across copy-up and rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory, by definition of the protocol.
    pub const ROOT: Self = Self(1);
}

/// An inode on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealId {
    /// The filesystem, as `Numbering` counts them: 0 is the first branch's.
    pub filesystem: u16,
    /// The inode number on it.
    pub ino: u64,
}

impl RealId {
    /// Of the root, which is addressed by position and never by inode.
    pub const NONE: Self = Self { filesystem: u16::MAX, ino: 0 };
}

/// An inode of the union.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its type, which never changes.
    pub kind: FileType,
    held: Mutex<bool>,
    let_go: Condvar,
    state: Mutex<NodeState>,
}

/// The right to change a node, see [`Node::hold`]. Dropping it gives it back.
#[derive(Debug)]
pub struct Held(Arc<Node>);

impl Drop for Held {
    fn drop(&mut self) {
        *self.0.held.lock() = false;
        self.0.let_go.notify_one();
    }
}

/// What may change about a node.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Where it is in the union; the last of its names that was looked up, if it has several.
    pub place: Place,
    /// Another of its names, if more than one was looked up, and the body that it had under it: of two names
    /// of one lower file, each may be in a branch of its own.
    pub other: Option<Box<(Arc<Node>, Name, Body)>>,
    /// Where its attributes and data are.
    pub body: Body,
    /// The inode that stands for it on disk.
    pub real: RealId,
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
    Gone(Arc<Node>, Name),
}

impl Drop for Node {
    /// Lets go of the way to the root one by one: a tree may be deeper than the stack.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.other = None;
        let mut above = state.place.take_parent();
        while let Some(mut node) = above.and_then(Arc::into_inner) {
            above = node.state.get_mut().place.take_parent();
        }
    }
}

impl NodeState {
    /// Learns of a name.
    pub fn gain(&mut self, place: Place) {
        let same = |dir: &Arc<Node>, name: &Name| place.is(dir, name);
        if let Place::Entry(dir, name) = &self.place
            && !same(dir, name)
        {
            self.other = Some(Box::new((Arc::clone(dir), name.clone(), self.body.clone())));
        } else if self.other.as_ref().is_some_and(|other| same(&other.0, &other.1)) {
            self.other = None;
        }
        self.place = place;
    }

    /// Whether it would have no position left without that name.
    #[must_use]
    pub fn depends_on(&self, dir: &Arc<Node>, name: &Name) -> bool {
        self.place.is(dir, name) && self.other.is_none()
    }

    /// Learns that a name is no more.
    pub fn lose(&mut self, dir: &Arc<Node>, name: &Name) {
        let other = self.other.take();
        if self.place.is(dir, name) {
            self.place = match other.map(|other| *other) {
                Some((dir, name, body)) => {
                    if !self.body.is_in_upper() {
                        self.body = body;
                    }
                    Place::Entry(dir, name)
                }
                None => Place::Gone(Arc::clone(dir), name.clone()),
            };
        } else {
            self.other = other.filter(|other| !Arc::ptr_eq(&other.0, dir) || other.1 != *name);
        }
    }
}

impl Place {
    /// Whether this is that entry.
    #[must_use]
    pub fn is(&self, dir: &Arc<Node>, name: &Name) -> bool {
        matches!(self, Self::Entry(d, n) if Arc::ptr_eq(d, dir) && n == name)
    }

    fn take_parent(&mut self) -> Option<Arc<Node>> {
        match std::mem::replace(self, Self::Root) {
            Self::Root => None,
            Self::Entry(parent, _) | Self::Gone(parent, _) => Some(parent),
        }
    }
}

/// Where a node's attributes and data are.
#[derive(Clone, Debug)]
pub enum Body {
    /// A directory: its branches from the top down, at least one.
    Dir(Arc<[DirPart]>),
    /// Under the node's position, in this branch.
    Leaf(BranchIndex),
    /// In the upper, found by the index of the workdir under this number whatever its names are: a
    /// lower file with several hard links that was copied up.
    Linked(NodeId),
}

impl Body {
    /// Whether attributes and data are in the upper already.
    #[must_use]
    pub fn is_in_upper(&self) -> bool {
        match self {
            Self::Dir(parts) => parts[0].branch.is_upper(),
            Self::Leaf(branch) => branch.is_upper(),
            Self::Linked(_) => true,
        }
    }

    /// Whether it is a directory that nobody could look into when it was found.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Dir(parts) if parts.iter().any(|part| part.closed))
    }
}

/// One branch's part of a merged directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirPart {
    /// The branch.
    pub branch: BranchIndex,
    /// The filesystem that it is on, see [`RealId::filesystem`].
    pub filesystem: u16,
    /// Whether empty files in it may be whiteouts by their attributes (`overlay.opaque=x`).
    pub xattr_whiteouts: bool,
    /// Whether nobody could look into it, for its markers neither. Then it is the last part: what lies below
    /// shows once somebody can.
    pub closed: bool,
}

impl DirPart {
    /// That of a directory which was just made in the upper: on the first filesystem, and without markers.
    pub const NEW_IN_UPPER: Self =
        Self { branch: BranchIndex::UPPER, filesystem: 0, xattr_whiteouts: false, closed: false };
}

impl Node {
    /// A node that the table does not hold.
    #[must_use]
    pub fn detached(id: NodeId, kind: FileType, state: NodeState) -> Arc<Self> {
        Arc::new(Self { id, kind, held: Mutex::new(false), let_go: Condvar::new(), state: Mutex::new(state) })
    }

    /// Waits for the right to change the node. Of a directory: to change, list or look up its names. Of
    /// anything else: to copy it up.
    ///
    /// Whoever holds a file may wait for a directory, never the other way round. Whoever holds a
    /// directory may wait for another only under the union's rename lock.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Held {
        let mut held = self.held.lock();
        while *held {
            self.let_go.wait(&mut held);
        }
        *held = true;
        Held(Arc::clone(self))
    }

    /// Whether somebody has the right to change the node, so that the next one waits.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.held.lock()
    }

    /// The node's state, locked for a moment: never across a system call.
    pub fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock()
    }

    /// The branches of a directory.
    ///
    /// # Errors
    /// ENOTDIR for anything else.
    pub fn parts(&self) -> Result<Arc<[DirPart]>> {
        match &self.state.lock().body {
            Body::Dir(parts) => Ok(Arc::clone(parts)),
            _ => Err(Refusal::NotADirectory.into()),
        }
    }

    /// Whether attributes and data are in the upper already.
    #[must_use]
    pub fn is_in_upper(&self) -> bool {
        self.state.lock().body.is_in_upper()
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

    fn state(ino: u64) -> NodeState {
        let body = Body::Leaf(BranchIndex(1));
        NodeState { place: Place::Root, other: None, body, real: RealId { filesystem: 0, ino } }
    }
}
