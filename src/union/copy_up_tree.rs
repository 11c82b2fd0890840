//! How does a directory with lower parts become one that can be moved?
//!
//! Everything that lowers supply beneath it is copied up in place, and it is made opaque: nothing of this shows. In
//! three parts, so that nobody waits for the copying:
//!
//! 1. *Gather*, with nothing locked: what the upper lacks is staged, whole subtrees at a time. A directory is locked
//!    shared while it is listed.
//! 2. *Sync*, once.
//! 3. *Publish*, with all directories of the tree locked: what others have removed, replaced or copied up meanwhile is
//!    left as they have it; the rest gets its name.
//!
//! That something comes to be missing in the upper while it is gathered cannot be: what is made is made in the upper,
//! and what is moved is there first. So gathering once is enough. If the disk is full, the upper is as it was.
//!
//! No descriptor is held for a file, nor for a level of the tree: staged directories lie side by side in the
//! workdir until each is moved into its parent.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::copy_up::Data;
use super::inode_table::Lookup;
use super::node::{Body, DirPart, Node, NodeGuard, NodeId, NodeState, RealId};
use super::stack::Seen;
use super::{Union, Writable};
use crate::branch::{Inode, LastingId, Parked, Stat, UpperDir};
use crate::error::{Error, Place, Result};
use crate::rules::BranchId;
use crate::rules::name::{MarkerName, Name};
use crate::rules::plan::Refusal;

/// What has been gathered. Dropping it drops what is staged.
struct Tree<'a> {
    union: &'a Union,
    /// All directories of the tree, known to the table for as long as this lives.
    dirs: Vec<Arc<Node>>,
    seen: HashSet<NodeId>,
    missing: Vec<Missing>,
    /// Directories that are in the upper and may lack something.
    left: Vec<Arc<Node>>,
    /// What is staged, by the directory and the name that it will have.
    arrivals: HashMap<NodeId, HashMap<Name, Arrival>>,
    /// Files with several lower names that were copied up for this, with what they were.
    linked: Vec<TakenAhead>,
}

/// An entry that the upper lacks: staged with all that is in it.
struct Missing {
    parent: Arc<Node>,
    name: Name,
    staged: Parked,
}

/// A staged inode, which is the upper's once its entry is published.
struct Arrival {
    original: Stat,
    copy: Stat,
    id: Option<LastingId>,
    kind: ArrivalKind,
}

/// A file with several lower names that was copied up ahead: what it was, and what its copy has.
struct TakenAhead {
    node: Arc<Node>,
    body: Body,
    real: RealId,
    copy: Stat,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

enum ArrivalKind {
    Dir(Arc<Node>),
    Leaf,
    /// One more name of a copy that others lead to as well, by this name of the lower's.
    Link(Option<LastingId>),
}

/// A directory that is being staged.
struct StagedDir {
    node: Arc<Node>,
    /// Where it will be.
    parent: Arc<Node>,
    name: Name,
    parked: Parked,
    /// Its name in the workdir.
    at: OsString,
    /// The names that are not staged yet.
    left: Vec<Name>,
}

impl Tree<'_> {
    fn expect(&mut self, dir: &Node, name: &Name, arrival: Arrival) {
        self.arrivals.entry(dir.id).or_default().insert(name.clone(), arrival);
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        for dir in &self.dirs {
            self.union.forget(dir.id, 1);
        }
    }
}

impl Union {
    /// Brings a directory wholly into the upper and makes it opaque.
    pub(super) fn copy_up_tree(&self, dir: &Arc<Node>) -> Result<()> {
        let (parent, name) = dir.entry().ok_or(Refusal::NotFound)?;
        self.bring_up_dir(&parent)?;
        let mut tree = Tree {
            union: self,
            dirs: Vec::new(),
            seen: HashSet::new(),
            missing: Vec::new(),
            left: Vec::new(),
            arrivals: HashMap::new(),
            linked: Vec::new(),
        };
        let gathered = self.gather(&mut tree, &parent, &name);
        let done = gathered.and_then(|top| match top {
            Some(top) => self.publish_tree(&mut tree, &parent, &name, &top),
            // It is another one by now: the plan is made anew.
            None => Ok(()),
        });
        if done.is_err() {
            // With the names that they were staged under.
            tree.missing.clear();
            self.take_back_links(&tree);
        }
        done
    }

    /// Stages what the upper lacks of the directory under a name.
    fn gather(&self, tree: &mut Tree<'_>, parent: &Arc<Node>, name: &Name) -> Result<Option<Arc<Node>>> {
        let Some((top, _)) = self.look_counted(tree, parent, name)? else { return Ok(None) };
        if top.kind != FileType::Directory {
            return Ok(None);
        }
        if !top.is_in_upper() {
            let staged = self.stage_tree(tree, parent, &top, name)?;
            tree.missing.push(Missing { parent: Arc::clone(parent), name: name.clone(), staged });
        } else {
            tree.left.push(Arc::clone(&top));
        }
        while let Some(dir) = tree.left.pop() {
            for name in self.names_in(&dir)? {
                self.gather_entry(tree, &dir, name)?;
            }
        }
        if !tree.arrivals.is_empty() && !self.options.volatile {
            self.writable()?.root.sync_filesystem()?;
        }
        Ok(Some(top))
    }

    /// Stages an entry of a directory that is in the upper, if the entry is not.
    fn gather_entry(&self, tree: &mut Tree<'_>, dir: &Arc<Node>, name: Name) -> Result<()> {
        let Some((node, in_upper)) = self.look_counted(tree, dir, &name)? else { return Ok(()) };
        if node.kind == FileType::Directory {
            if node.is_in_upper() {
                if node.parts()?.len() > 1 {
                    tree.left.push(node);
                }
                return Ok(());
            }
            let staged = self.stage_tree(tree, dir, &node, &name)?;
            tree.missing.push(Missing { parent: Arc::clone(dir), name, staged });
        } else if !in_upper {
            let work = self.writable()?.work;
            let staged = self.stage_entry(tree, dir, &node, &name, &work.stage()?, work.fresh_name())?;
            tree.missing.push(Missing { parent: Arc::clone(dir), name, staged });
        }
        Ok(())
    }

    /// Stages a directory with all that is in it. The topmost is opaque: inside it nothing merges, so one marker does.
    fn stage_tree(
        &self,
        tree: &mut Tree<'_>,
        parent: &Arc<Node>,
        top: &Arc<Node>,
        name: &Name,
    ) -> Result<Parked> {
        let stage = self.writable()?.work.stage()?;
        // A tree may be deeper than the stack: the directories that are being staged, from the top down.
        let mut way = vec![self.begin_dir(parent, top, name)?];
        let owner = self.owner_of_copy(&self.stat_of(top)?);
        let opaque = MarkerName::opaque();
        self.writable()?.work.make_marker_of(
            owner,
            &stage.open_upper_dir(&way[0].at)?,
            opaque.as_os_str(),
        )?;
        loop {
            let last = way.len() - 1;
            let dir = &mut way[last];
            let Some(name) = dir.left.pop() else {
                let done = way.swap_remove(last);
                let Some(above) = way.last() else { return self.end_dir(tree, done, &stage, None) };
                let into = stage.open_upper_dir(&above.at)?;
                self.end_dir(tree, done, &stage, Some(&into))?.leave();
                continue;
            };
            let node = Arc::clone(&dir.node);
            let Some((child, in_upper)) = self.look_counted(tree, &node, &name)? else { continue };
            if child.kind == FileType::Directory && child.is_in_upper() {
                // Somebody was faster: what it lacks is staged by itself.
                if child.parts()?.len() > 1 {
                    tree.left.push(child);
                }
            } else if child.kind == FileType::Directory {
                way.push(self.begin_dir(&node, &child, &name)?);
            } else if !in_upper {
                let into = stage.open_upper_dir(&dir.at)?;
                let staged_name = name.as_os_str().to_owned();
                self.stage_entry(tree, &node, &child, &name, &into, staged_name)?.leave();
            }
        }
    }

    fn begin_dir(&self, parent: &Arc<Node>, dir: &Arc<Node>, name: &Name) -> Result<StagedDir> {
        let work = self.writable()?.work;
        let at = work.fresh_name();
        let (staged, _) = work.make_dir(&work.stage()?, at.clone())?;
        let parked = staged.park().ok_or(Error::Bug("a directory without a name"))?;
        let left = self.names_in(dir)?;
        let (node, parent, name) = (Arc::clone(dir), Arc::clone(parent), name.clone());
        Ok(StagedDir { node, parent, name, parked, at, left })
    }

    /// Moves a directory that is staged into the one that it belongs in. What it has besides its entries comes
    /// last: making them has changed its times, and where it may not be written it cannot be moved.
    fn end_dir(
        &self,
        tree: &mut Tree<'_>,
        dir: StagedDir,
        stage: &UpperDir,
        into: Option<&UpperDir>,
    ) -> Result<Parked> {
        let StagedDir { node, parent, name, parked, at, .. } = dir;
        let (parked, inside) = match into {
            None => (parked, stage.open_upper_dir(&at)?),
            Some(into) => {
                let moved = parked.move_to(into, name.as_os_str())?;
                (moved, into.open_upper_dir(name.as_os_str())?)
            }
        };
        let (original, stat) = self.inode_and_stat(&node)?;
        self.note_base(&parent, &name, original.branch(), &stat, None);
        let inode = inside.upper_inode();
        inode
            .copy_metadata(&original, &stat, self.ownership(), |key| !crate::layer::is_private_xattr(key))?;
        let copy = inode.stat()?;
        let id = self.upper_id(&inode, &copy);
        let arrival = Arrival { original: stat, copy, id, kind: ArrivalKind::Dir(node) };
        tree.expect(&parent, &name, arrival);
        Ok(parked)
    }

    /// Stages anything but a directory.
    fn stage_entry(
        &self,
        tree: &mut Tree<'_>,
        dir: &Arc<Node>,
        node: &Arc<Node>,
        name: &Name,
        into: &UpperDir,
        staged_name: OsString,
    ) -> Result<Parked> {
        let Writable { work, index, .. } = self.writable()?;
        let original = self.lower_inode(dir, name)?;
        let stat = original.stat()?;
        self.note_base(dir, name, original.branch(), &stat, None);
        if stat.is_hard_linked() {
            let NodeState { body, real, .. } = node.state().clone();
            if self.copy_up_linked(node)? {
                let copy = self.inode(node)?;
                let (copy, xattrs) = (copy.stat()?, xattrs_of(&copy)?);
                tree.linked.push(TakenAhead { node: Arc::clone(node), body, real, copy, xattrs });
            }
        }
        let linked = match node.state().body {
            Body::Linked(link) => Some(link),
            _ => None,
        };
        let (staged, kind) = match linked {
            Some(link) => {
                let copy = index.upper_copy(link)?;
                let key = self.key_of(original.branch(), &stat, || original.lasting_id(&stat))?;
                (work.make_link(into, staged_name, &copy)?, ArrivalKind::Link(key))
            }
            None => {
                let copy = self.stage_leaf(into, Some(&staged_name), (&original, stat), Data::Whole)?;
                (copy.staged, ArrivalKind::Leaf)
            }
        };
        let copy = staged.inode().stat()?;
        let id = self.upper_id(staged.inode(), &copy);
        tree.expect(dir, name, Arrival { original: stat, copy, id, kind });
        staged.park().ok_or(Error::Bug("a staged entry without a name"))
    }

    /// The lower's inode under a name that no branch above has.
    fn lower_inode(&self, dir: &Arc<Node>, name: &Name) -> Result<Inode> {
        let parts = self.open_parts(dir)?;
        let Seen::Leaf { branch, stat } = self.stack.see(&parts, name)? else {
            return Err(Refusal::NotFound.into());
        };
        let open = parts.iter().find(|open| open.part.branch == branch);
        let inode =
            open.ok_or(Error::Bug("a name without its directory"))?.dir.open_inode(name.as_os_str())?;
        let meant = self.stack.xino.real(&stat);
        if self.stack.is_meant(branch, &inode.stat()?, meant) { Ok(inode) } else { Err(Error::Stale(0)) }
    }

    /// The node under a name, and whether the name is in the upper. A directory, and a file that has other names, is
    /// known to the table until the tree is dropped: there must be one node of each.
    fn look_counted(
        &self,
        tree: &mut Tree<'_>,
        dir: &Arc<Node>,
        name: &Name,
    ) -> Result<Option<(Arc<Node>, bool)>> {
        let (parts, _locked) = self.lock_open(dir, Node::lock_shared)?;
        let as_of = dir.generation();
        let seen = self.stack.see(&parts, name)?;
        let (counts, in_upper) = match &seen {
            Seen::Absent => return Ok(None),
            Seen::Dir { parts, .. } => (true, parts[0].branch.is_upper()),
            Seen::Leaf { branch, stat } => (stat.is_hard_linked(), branch.is_upper()),
        };
        let lookup = if counts { Lookup::Counted } else { Lookup::Internal };
        let Some((node, _)) = self.meet(dir, &parts, name, (&seen, as_of), lookup)? else { return Ok(None) };
        if counts {
            tree.dirs.push(Arc::clone(&node));
        }
        if node.kind == FileType::Directory && !tree.seen.insert(node.id) {
            // A branch shows one directory in two places, by a bind mount: it cannot be in the upper twice.
            let place = Place::entry(BranchId::UPPER, name.as_os_str());
            return Err(Error::Sys { call: "rename", errno: Errno::BUSY, place });
        }
        Ok(Some((node, in_upper)))
    }

    fn names_in(&self, dir: &Arc<Node>) -> Result<Vec<Name>> {
        let (parts, _locked) = self.lock_open(dir, Node::lock_shared)?;
        Ok(self.stack.list(&parts)?.names().cloned().collect())
    }

    /// Gives what is staged its names and makes the directory opaque.
    fn publish_tree(
        &self,
        tree: &mut Tree<'_>,
        parent: &Arc<Node>,
        name: &Name,
        top: &Arc<Node>,
    ) -> Result<()> {
        // Opened ahead: to open a directory may need its parent's lock.
        let parent_dir = self.upper_dir(parent)?;
        let _locked = lock_all(tree, parent);
        let is_there = |dir: &Arc<Node>| {
            dir.entry().is_some_and(|(now, called)| Arc::ptr_eq(&now, parent) && called == *name)
        };
        if !is_there(top) {
            return Ok(());
        }
        for Missing { parent, name, staged } in std::mem::take(&mut tree.missing) {
            // Nobody has removed it or moved it away: then what it lacks is what the lowers still show in it.
            if parent.is_gone() || !parent.is_in_upper() || parent.parts()?.len() < 2 {
                continue;
            }
            let into = self.upper_dir(&parent)?;
            self.publish(tree, &parent, &into, &name, staged)?;
        }
        let upper = self.open_known(&parent_dir, name, top)?;
        if !crate::layer::DirMarkers::of(&upper)?.opaque {
            upper.keeping_times(|| self.mark_opaque(&upper))?;
        }
        // Nothing beneath it merges any more.
        for dir in &tree.dirs {
            let mut state = dir.state();
            if let Some(part) = state.body.upper_part().copied()
                && !matches!(state.place, super::node::Place::Gone(..))
            {
                let real = part.real;
                state.body = Body::Dir([part].into());
                drop(state);
                self.settle_dir(dir, real);
            }
        }
        self.has_new_name(parent);
        Ok(())
    }

    /// A directory is the upper's alone: it keeps its number.
    pub(super) fn settle_dir(&self, dir: &Arc<Node>, real: RealId) {
        if let Some(upper) = &self.upper {
            let id =
                self.upper_dir(dir).and_then(|upper| Ok(self.upper_id(&upper.inode(), &upper.stat_self()?)));
            upper.index.set_origin(real, id.unwrap_or_default().as_ref(), dir.id);
        }
        self.table.move_to(dir, real);
        self.has_new_name(dir);
    }

    /// Gives a staged entry its name. Where somebody was faster, what they have made stands: a directory that they
    /// have copied up takes in what is missing in it.
    fn publish(
        &self,
        tree: &mut Tree<'_>,
        parent: &Arc<Node>,
        into: &UpperDir,
        name: &Name,
        staged: Parked,
    ) -> Result<()> {
        let mut left = vec![(Arc::clone(parent), into.clone(), name.clone(), staged)];
        while let Some((parent, into, name, staged)) = left.pop() {
            let deleted = name.whiteout().map(|marker| into.stat(marker.as_os_str())).transpose()?.flatten();
            if deleted.is_some() {
                continue;
            }
            let committed = into.keeping_times(|| staged.try_commit(&into, name.as_os_str()))?;
            let Err(staged) = committed else {
                self.arrive(tree, &parent, &name);
                continue;
            };
            let expected = tree.arrivals.get(&parent.id).and_then(|names| names.get(&name));
            let Some(Arrival { kind: ArrivalKind::Dir(node), .. }) = expected else { continue };
            let merges = node.is_in_upper() && node.parts()?.len() > 1;
            let same = node.entry().is_some_and(|(now, called)| Arc::ptr_eq(&now, &parent) && called == name);
            if merges && same {
                let node = Arc::clone(node);
                let inside = self.open_known(&into, &name, &node)?;
                for (child, parked) in staged.into_children()? {
                    // Its opaque marker is not needed.
                    if let Ok(child) = Name::new(&child) {
                        left.push((Arc::clone(&node), inside.clone(), child, parked));
                    }
                }
            }
        }
        Ok(())
    }

    /// An entry has its name, and all that is in it: the nodes follow.
    fn arrive(&self, tree: &mut Tree<'_>, parent: &Arc<Node>, name: &Name) {
        let arrived = tree.arrivals.get_mut(&parent.id).and_then(|names| names.remove(name));
        let mut left: Vec<_> =
            arrived.into_iter().map(|arrival| (Arc::clone(parent), name.clone(), arrival)).collect();
        while let Some((parent, name, arrival)) = left.pop() {
            let Arrival { original, copy, id, kind } = arrival;
            let is_file = original.kind() == FileType::RegularFile && matches!(kind, ArrivalKind::Leaf);
            self.count_copy_up(if is_file { original.st_size as u64 } else { 0 });
            match kind {
                ArrivalKind::Dir(node) => {
                    let real = self.stack.xino.real(&copy);
                    let part = DirPart::new_in_upper(real, self.stack.devices_in_upper());
                    node.state().body = Body::Dir([part].into());
                    if let Some(upper) = &self.upper {
                        upper.index.set_origin(real, id.as_ref(), node.id);
                    }
                    self.table.move_to(&node, real);
                    self.has_new_name(&node);
                    let children = tree.arrivals.remove(&node.id).into_iter().flatten();
                    left.extend(children.map(|(name, child)| (Arc::clone(&node), name, child)));
                }
                ArrivalKind::Leaf => {
                    let real = self.stack.xino.real(&copy);
                    let known = self.table.find_name(&parent, &name);
                    // If the kernel does not know it, it may have known its number.
                    let lower = || self.number_of(self.stack.xino.real(&original), || Ok(None));
                    let number = known.as_ref().map_or_else(lower, |node| node.id);
                    if let Some(upper) = &self.upper {
                        upper.index.set_origin(real, id.as_ref(), number);
                    }
                    if let Some(node) = known {
                        self.settle_in_upper(&node, real, None, None);
                    }
                }
                ArrivalKind::Link(key) => self.cover(key.as_ref(), &original),
            }
        }
        self.has_new_name(parent);
    }

    /// Nothing has become of it: files that were copied up for this, and written by nobody since, are the lower's
    /// again.
    fn take_back_links(&self, tree: &Tree<'_>) {
        for TakenAhead { node, body, real, copy, xattrs } in &tree.linked {
            let _locked = node.lock();
            let Body::Linked(link) = node.state().body else { continue };
            if matches!(body, Body::Shared(_)) {
                // It is the copy of a copy, and as good.
                continue;
            }
            // Not by the time of the last change: the name that it was staged under has come and gone.
            let is_same = |now: &Stat| {
                let of = |stat: &Stat| {
                    (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
                };
                now.st_nlink == 1 && of(now) == of(copy)
            };
            let untouched = self
                .inode(node)
                .and_then(|inode| Ok(is_same(&inode.stat()?) && xattrs_of(&inode)? == *xattrs));
            if untouched.unwrap_or(false) {
                node.state().body = body.clone();
                self.table.move_to(node, *real);
                self.files.replace(node.id, None);
                self.untie(Some(link));
            }
        }
    }
}

fn xattrs_of(inode: &Inode) -> Result<Vec<(OsString, Vec<u8>)>> {
    let keys = inode.list_xattrs()?.into_iter();
    keys.map(|key| Ok((key.clone(), inode.get_xattr(&key)?.unwrap_or_default()))).collect()
}

/// Locks all directories of the tree and the one around it, in the order of their numbers.
fn lock_all(tree: &Tree<'_>, parent: &Arc<Node>) -> Vec<NodeGuard> {
    let dirs = tree.dirs.iter().filter(|node| node.kind == FileType::Directory);
    let mut dirs: Vec<_> = dirs.chain([parent]).collect();
    dirs.sort_by_key(|dir| dir.id);
    dirs.dedup_by_key(|dir| dir.id);
    dirs.into_iter().map(Node::lock).collect()
}
