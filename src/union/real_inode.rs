//! Which real inode is behind a node?
//!
//! A node is addressed by the way to it: from a directory that is open, down one name at a time. What is found there
//! is opened once, looked at through its descriptor, and compared with what the node is ([`RealId`]); only then it
//! is acted on, through that descriptor. Somebody may have put another inode there, behind the mount: then the answer
//! is ESTALE, upon which the kernel looks the name up again.
//!
//! A lower object never moves, and whatever moves is in the upper first. So the way to a lower object is that to
//! where it was found, whatever its directories are called by now.

use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Union;
use super::node::{Body, DirPart, Node, NodeGuard, NodeState, RealId};
use super::open_files::{Opened, Pin};
use super::stack::OpenPart;
use crate::branch::{Dir, Inode, ReadFile, Stat, UpperDir, UpperInode};
use crate::error::{Error, Result};
use crate::rules::BranchId;
use crate::rules::name::Name;

impl Union {
    /// The directory's parts, open. Not to be called by whoever has locked a directory.
    pub(super) fn open_parts(&self, node: &Arc<Node>) -> Result<Vec<OpenPart>> {
        let parts = node.parts()?;
        parts.iter().map(|part| Ok(OpenPart { part: *part, dir: self.part(node, part)? })).collect()
    }

    /// The directory's parts, open, and the directory locked. They are those that it has now: one that is missing
    /// because the directory was copied up in between would hide what was copied up into it since.
    pub(super) fn lock_open(
        &self,
        node: &Arc<Node>,
        lock: impl Fn(&Arc<Node>) -> NodeGuard,
    ) -> Result<(Vec<OpenPart>, NodeGuard)> {
        loop {
            let open = self.open_parts(node)?;
            let guard = lock(node);
            if self.table.is_outdated(node) {
                drop(guard);
                self.look_again(node)?;
                continue;
            }
            if node.parts()?.iter().eq(open.iter().map(|open| &open.part)) {
                return Ok((open, guard));
            }
        }
    }

    fn part(&self, node: &Arc<Node>, part: &DirPart) -> Result<Dir> {
        if part.branch.is_upper() {
            Ok((*self.upper_dir(node)?).clone())
        } else {
            self.lower_dir(node, part.branch)
        }
    }

    /// A directory in a lower.
    pub(super) fn lower_dir(&self, node: &Arc<Node>, branch: BranchId) -> Result<Dir> {
        climb(
            node,
            |node| match self.dirs.lower(node, branch) {
                None if is_root(node) => self.stack.lower(branch).cloned().map(Some),
                // Others may have put another one there meanwhile.
                Some((_, meant)) if self.lowers_change() && meant != part_in(node, branch) => Ok(None),
                cached => Ok(cached.map(|(dir, _)| dir)),
            },
            |state| state.lower_place(branch).map(|(dir, name)| (Arc::clone(dir), name.clone())),
            |parent, name, child| {
                let dir = parent.open_dir(name.as_os_str())?;
                let meant = part_in(child, branch);
                self.check_part(child, branch, &dir.stat_self()?)?;
                self.dirs.put_lower(child, branch, dir.clone(), meant);
                Ok(dir)
            },
        )
    }

    /// A directory that has a part in the upper, there.
    pub(super) fn upper_dir(&self, node: &Arc<Node>) -> Result<UpperDir> {
        climb(
            node,
            |node| match self.dirs.upper(node) {
                None if is_root(node) => Ok(self.stack.upper.clone()),
                cached => Ok(cached),
            },
            |state| state.place.last().map(|(dir, name)| (Arc::clone(dir), name.clone())),
            |parent, name, child| {
                let dir = parent.open_upper_dir(name.as_os_str())?;
                self.check_part(child, BranchId::UPPER, &dir.stat_self()?)?;
                self.dirs.put_upper(child, dir.clone());
                Ok(dir)
            },
        )
    }

    /// The upper's directory under a name, which must be the one that the node knows of.
    pub(super) fn open_known(&self, parent: &UpperDir, name: &Name, node: &Node) -> Result<UpperDir> {
        let dir = parent.open_upper_dir(name.as_os_str())?;
        self.check_part(node, BranchId::UPPER, &dir.stat_self()?)?;
        Ok(dir)
    }

    /// The upper's inode under a name, which must be the one that the node knows of.
    pub(super) fn open_known_inode(&self, parent: &UpperDir, name: &Name, node: &Node) -> Result<UpperInode> {
        let inode = parent.open_upper_inode(name.as_os_str())?;
        let stat = inode.stat()?;
        let is_known = match node.kind {
            kind if kind != stat.kind() => false,
            FileType::Directory => return self.check_part(node, BranchId::UPPER, &stat).map(|()| inode),
            _ => self.stack.is_meant(BranchId::UPPER, &stat, node.state().real),
        };
        if is_known { Ok(inode) } else { Err(Error::Stale(node.id.0)) }
    }

    /// Whether a directory that was opened is the one that the node knows of.
    fn check_part(&self, node: &Node, branch: BranchId, stat: &Stat) -> Result<()> {
        let parts = node.parts()?;
        match parts.iter().find(|part| part.branch == branch) {
            Some(part) if !self.stack.is_meant(branch, stat, part.real) => Err(Error::Stale(node.id.0)),
            // A directory that was renamed leads to what was removed from its lowers before.
            _ => Ok(()),
        }
    }

    /// The attributes of the inode behind a node, wherever it is.
    pub(super) fn stat_of(&self, node: &Arc<Node>) -> Result<Stat> {
        loop {
            if let Some(inode) = self.inode_at_hand(node)? {
                return inode.stat();
            }
            let look = |dir: &Dir, name: &Name| dir.stat(name.as_os_str())?.ok_or(Error::Stale(node.id.0));
            if let Some(stat) = self.leaf(node, look, |stat| Ok(*stat))? {
                return Ok(stat);
            }
        }
    }

    /// The inode behind a node, wherever it is, for looking.
    pub(super) fn inode(&self, node: &Arc<Node>) -> Result<Inode> {
        self.find_inode(node).map(|(inode, _)| inode)
    }

    /// The same, and its attributes.
    pub(super) fn inode_and_stat(&self, node: &Arc<Node>) -> Result<(Inode, Stat)> {
        let (inode, stat) = self.find_inode(node)?;
        let stat = stat.map_or_else(|| inode.stat(), Ok)?;
        Ok((inode, stat))
    }

    /// The attributes as well if it had to be looked at to be known.
    fn find_inode(&self, node: &Arc<Node>) -> Result<(Inode, Option<Stat>)> {
        loop {
            if let Some(inode) = self.inode_at_hand(node)? {
                return Ok((inode, None));
            }
            let open = |dir: &Dir, name: &Name| {
                let inode = dir.open_inode(name.as_os_str())?;
                let stat = inode.stat()?;
                Ok((inode, stat))
            };
            if let Some((inode, stat)) = self.leaf(node, open, |(_, stat)| Ok(*stat))? {
                return Ok((inode, Some(stat)));
            }
        }
    }

    /// The regular file behind a node, wherever it is, open for reading; and its attributes.
    pub(super) fn open_file(&self, node: &Arc<Node>) -> Result<(ReadFile, Stat)> {
        let with_stat = |file: ReadFile| {
            let stat = file.inode().stat()?;
            Ok((file, stat))
        };
        loop {
            if let Some(inode) = self.inode_at_hand(node)? {
                return with_stat(inode.open_read()?);
            }
            let open = |dir: &Dir, name: &Name| with_stat(dir.open_file(name.as_os_str())?);
            if let Some(found) = self.leaf(node, open, |(_, stat)| Ok(*stat))? {
                return Ok(found);
            }
        }
    }

    /// The inode behind a node whose body is in the upper, for changing it. None if it is not in the upper.
    pub(super) fn upper_inode(&self, node: &Arc<Node>) -> Result<Option<UpperInode>> {
        loop {
            // What is open for writing is the upper's.
            if let Some(Opened::Write(file)) = self.files.get(node.id) {
                return Ok(Some(file.upper_inode()));
            }
            if let Some(Pin::Upper(inode)) = self.files.pinned(node.id) {
                return Ok(Some(inode));
            }
            let body = node.state().body.clone();
            match body {
                _ if !body.is_in_upper() => return Ok(None),
                Body::Dir(_) => return Ok(Some(self.upper_dir(node)?.upper_inode())),
                Body::Linked(link) => return self.upper()?.index.upper_copy(link).map(Some),
                Body::Unlinked => return self.unlinked_inode(node).map(Some),
                Body::Leaf(_) | Body::Shared(_) => {}
            }
            let Some(dir) = node.state().place.last().map(|(dir, _)| Arc::clone(dir)) else {
                return Err(Error::Bug("a file without a directory"));
            };
            let upper = self.upper_dir(&dir)?;
            let open = |_: &Dir, name: &Name| upper.open_upper_inode(name.as_os_str());
            match self.leaf_in(node, &dir, &upper, open, |inode| inode.stat())? {
                Some(inode) => return Ok(Some(inode)),
                None => continue,
            }
        }
    }

    /// The inode behind a node that is found without a name of its own in the union.
    fn inode_at_hand(&self, node: &Arc<Node>) -> Result<Option<Inode>> {
        if let Some(open) = self.files.get(node.id) {
            return Ok(Some(open.inode().clone()));
        }
        if let Some(pin) = self.files.pinned(node.id) {
            return Ok(Some(pin.inode().clone()));
        }
        let body = node.state().body.clone();
        match body {
            Body::Dir(parts) => Ok(Some(self.part(node, &parts[0])?.inode())),
            Body::Linked(link) | Body::Shared(link) => self.upper()?.index.copy(link).map(Some),
            Body::Unlinked => Ok(Some((*self.unlinked_inode(node)?).clone())),
            Body::Leaf(_) => Ok(None),
        }
    }

    /// Opens what is no directory, in its directory, and compares it with what the node is. None if the node has been
    /// changed meanwhile: then it has to be looked for again.
    pub(super) fn leaf<T>(
        &self,
        node: &Arc<Node>,
        open: impl Fn(&Dir, &Name) -> Result<T>,
        stat: impl Fn(&T) -> Result<Stat>,
    ) -> Result<Option<T>> {
        let (dir, branch) = {
            let state = node.state();
            let Body::Leaf(branch) = state.body else { return Ok(None) };
            let place = if branch.is_upper() { state.place.last() } else { state.lower_place(branch) };
            let (dir, _) = place.ok_or(Error::Bug("a file without a directory"))?;
            (Arc::clone(dir), branch)
        };
        let parent =
            if branch.is_upper() { (*self.upper_dir(&dir)?).clone() } else { self.lower_dir(&dir, branch)? };
        self.leaf_in(node, &dir, &parent, open, stat)
    }

    /// The same in the directory that the node was in.
    fn leaf_in<T>(
        &self,
        node: &Arc<Node>,
        dir: &Arc<Node>,
        parent: &Dir,
        open: impl Fn(&Dir, &Name) -> Result<T>,
        stat: impl Fn(&T) -> Result<Stat>,
    ) -> Result<Option<T>> {
        let way = || {
            let state = node.state();
            let Body::Leaf(branch) = state.body else { return None };
            let place = if branch.is_upper() { state.place.last() } else { state.lower_place(branch) };
            let (now, name) = place?;
            (branch == parent.branch() && Arc::ptr_eq(now, dir)).then(|| (branch, name.clone(), state.real))
        };
        let Some((branch, name, meant)) = way() else { return Ok(None) };
        let found = open(parent, &name).and_then(|found| Ok((stat(&found)?, found)));
        let error = match found {
            Ok((stat, found)) if stat.kind() == node.kind && self.stack.is_meant(branch, &stat, meant) => {
                return Ok(Some(found));
            }
            Err(e) if !e.is(Errno::NOENT) && !e.is(Errno::STALE) => return Err(e),
            _ => Error::Stale(node.id.0),
        };
        if way() == Some((branch, name, meant)) { Err(error) } else { Ok(None) }
    }
}

/// Climbs to the nearest directory that is at hand and opens its way back down. Names of the upper change: if what is
/// opened is not what was meant and the way has changed meanwhile, it is looked for again.
fn climb<D>(
    node: &Arc<Node>,
    at_hand: impl Fn(&Node) -> Result<Option<D>>,
    place: impl Fn(&NodeState) -> Option<(Arc<Node>, Name)>,
    open: impl Fn(&D, &Name, &Arc<Node>) -> Result<D>,
) -> Result<D> {
    'again: loop {
        let mut way = Vec::new();
        let mut at = Arc::clone(node);
        let mut dir = loop {
            if let Some(dir) = at_hand(&at)? {
                break dir;
            }
            let Some((parent, name)) = place(&at.state()) else { return Err(Error::ReadOnly) };
            let child = std::mem::replace(&mut at, Arc::clone(&parent));
            way.push((parent, name, child));
        };
        for (parent, name, child) in way.iter().rev() {
            match open(&dir, name, child) {
                Ok(opened) => dir = opened,
                Err(e) => {
                    let now = place(&child.state());
                    if now.is_some_and(|(dir, now)| Arc::ptr_eq(&dir, parent) && now == *name) {
                        return Err(match e.errno() {
                            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::Stale(child.id.0),
                            _ => e,
                        });
                    }
                    continue 'again;
                }
            }
        }
        return Ok(dir);
    }
}

/// The directory that a node has in a branch.
fn part_in(node: &Node, branch: BranchId) -> Option<RealId> {
    node.parts().ok()?.iter().find(|part| part.branch == branch).map(|part| part.real)
}

fn is_root(node: &Node) -> bool {
    matches!(node.state().place, super::node::Place::Root)
}
