//! Where on disk is the inode behind a node?
//!
//! One union position names an object in whichever branch holds it: a lower object never moves, and
//! whatever moves is in the upper first. So everything is found by climbing from the node to a directory
//! that is open, and back down one name at a time. A file that is open already is its own way.

use std::sync::Arc;

use super::Union;
use super::node::{Body, Held, Node, Place};
use super::probe::OpenPart;
use crate::branch::{Dir, Object, UpperDir, UpperObject};
use crate::error::{Error, Result};
use crate::rules::BranchIndex;
use crate::rules::name::Name;
use crate::rules::plan::Refusal;

impl Union {
    /// The directory's parts, open. Not to be called by whoever holds a directory.
    pub(super) fn open_parts(&self, node: &Arc<Node>) -> Result<Vec<OpenPart>> {
        let parts = node.parts()?;
        parts.iter().map(|part| Ok(OpenPart { part: *part, dir: self.part(node, part.branch)? })).collect()
    }

    /// The directory's parts, open, and the directory held. They are those that it has now: one that is missing
    /// because the directory was copied up in between would hide what was copied up into it since.
    pub(super) fn hold_open(&self, node: &Arc<Node>) -> Result<(Vec<OpenPart>, Held)> {
        loop {
            let open = self.open_parts(node)?;
            let held = node.hold();
            if node.parts()?.iter().eq(open.iter().map(|open| &open.part)) {
                return Ok((open, held));
            }
        }
    }

    /// A directory in one of its branches.
    fn part(&self, node: &Arc<Node>, branch: BranchIndex) -> Result<Dir> {
        if branch.is_upper() {
            return Ok((*self.upper_dir(node)?).clone());
        }
        climb(
            node,
            |node| match self.dirs.lower(node, branch) {
                None if is_root(node) => Some(self.lowers[usize::from(branch.0) - 1].clone()),
                cached => cached,
            },
            |parent, _, child| {
                let dir = parent.open_dir(name_of(child)?.as_os_str())?;
                self.dirs.put_lower(child, branch, dir.clone());
                Ok(Some(dir))
            },
        )
    }

    /// A directory that has a part in the upper, there.
    pub(super) fn upper_dir(&self, node: &Arc<Node>) -> Result<UpperDir> {
        climb(
            node,
            |node| match self.dirs.upper(node) {
                None if is_root(node) => self.upper.as_ref().map(|upper| upper.root.clone()),
                cached => cached,
            },
            |parent, parent_node, child| {
                // Directories of the upper move. The parent's lock keeps this one where it is.
                let held = parent_node.hold();
                let name = match &child.state().place {
                    Place::Entry(now, name) if Arc::ptr_eq(now, parent_node) => name.clone(),
                    Place::Entry(..) => return Ok(None),
                    _ => return Err(Refusal::NotFound.into()),
                };
                let dir = parent.open_upper_dir(name.as_os_str())?;
                self.dirs.put_upper(child, dir.clone());
                drop(held);
                Ok(Some(dir))
            },
        )
    }

    /// Runs `with` on the inode behind a node, wherever it is, for looking.
    pub(super) fn with_object<T>(&self, node: &Arc<Node>, with: impl Fn(&Object) -> Result<T>) -> Result<T> {
        loop {
            if let Some(found) = self.fixed_object(node)? {
                return with(&found);
            }
            let Some((parent, branch)) = leaf_place(node) else { continue };
            let dir = self.part(&parent, branch)?;
            if let Some((_held, name)) = hold_place(node, &parent, branch) {
                return with(&dir.at(name.as_os_str()));
            }
        }
    }

    /// Runs `with` on the inode behind a node whose body is in the upper, for changing it. None if it is
    /// not in the upper.
    pub(super) fn with_upper_object<T>(
        &self,
        node: &Arc<Node>,
        with: impl Fn(&UpperObject) -> Result<T>,
    ) -> Result<Option<T>> {
        loop {
            if let Some(pin) = self.files.pinned(node.id) {
                return with(&UpperObject::opened(pin)).map(Some);
            }
            // What is open for writing is the upper's.
            if let Some(open) = self.files.get(node.id).filter(|open| open.writable) {
                return with(&UpperObject::opened(open.fd)).map(Some);
            }
            let body = node.state().body.clone();
            match body {
                _ if !body.is_in_upper() => return Ok(None),
                Body::Dir(_) => return with(&self.upper_dir(node)?.upper_object()).map(Some),
                Body::Linked(number) => {
                    return with(&self.writable()?.index.link(number)?).map(Some);
                }
                Body::Leaf(_) => {}
            }
            let Some((parent, branch)) = leaf_place(node) else { continue };
            let dir = self.upper_dir(&parent)?;
            if let Some((_held, name)) = hold_place(node, &parent, branch) {
                return with(&dir.upper_at(name.as_os_str())).map(Some);
            }
        }
    }

    /// The inode behind a node that is found without a name of its own.
    fn fixed_object(&self, node: &Arc<Node>) -> Result<Option<Object>> {
        if let Some(pin) = self.files.pinned(node.id) {
            return Ok(Some(Object::Open(pin)));
        }
        if let Some(open) = self.files.get(node.id) {
            return Ok(Some(Object::Open(open.fd)));
        }
        let body = node.state().body.clone();
        match body {
            Body::Dir(parts) => Ok(Some(self.part(node, parts[0].branch)?.object())),
            Body::Linked(number) => Ok(Some((*self.writable()?.index.link(number)?).clone())),
            Body::Leaf(_) => Ok(None),
        }
    }
}

/// Climbs to the nearest directory that is at hand and opens its way back down. `open` answers None if a
/// directory has moved meanwhile: then the way is looked for again.
fn climb<D>(
    node: &Arc<Node>,
    at_hand: impl Fn(&Node) -> Option<D>,
    open: impl Fn(&D, &Arc<Node>, &Arc<Node>) -> Result<Option<D>>,
) -> Result<D> {
    'again: loop {
        let mut way = Vec::new();
        let mut at = Arc::clone(node);
        let mut dir = loop {
            if let Some(dir) = at_hand(&at) {
                break dir;
            }
            let parent = match &at.state().place {
                Place::Entry(parent, _) | Place::Gone(parent, _) => Arc::clone(parent),
                Place::Root => return Err(Error::ReadOnly),
            };
            way.push((Arc::clone(&parent), std::mem::replace(&mut at, parent)));
        };
        for (parent, child) in way.iter().rev() {
            match open(&dir, parent, child)? {
                Some(opened) => dir = opened,
                None => continue 'again,
            }
        }
        return Ok(dir);
    }
}

fn is_root(node: &Node) -> bool {
    matches!(node.state().place, Place::Root)
}

fn name_of(node: &Node) -> Result<Name> {
    match &node.state().place {
        Place::Entry(_, name) | Place::Gone(_, name) => Ok(name.clone()),
        Place::Root => Err(Error::Invalid),
    }
}

/// The directory that leads to a leaf, and the branch to look in.
fn leaf_place(node: &Node) -> Option<(Arc<Node>, BranchIndex)> {
    let state = node.state();
    let Body::Leaf(branch) = state.body else { return None };
    match &state.place {
        Place::Entry(parent, _) | Place::Gone(parent, _) => Some((Arc::clone(parent), branch)),
        Place::Root => None,
    }
}

/// Holds the directory so that the leaf's name stays its own. None if the leaf has moved meanwhile.
fn hold_place(node: &Node, parent: &Arc<Node>, branch: BranchIndex) -> Option<(Held, Name)> {
    let held = parent.hold();
    let state = node.state();
    match (&state.place, &state.body) {
        (Place::Entry(now, name) | Place::Gone(now, name), Body::Leaf(b))
            if Arc::ptr_eq(now, parent) && *b == branch =>
        {
            Some((held, name.clone()))
        }
        _ => None,
    }
}
