//! How does the stack change while it is mounted?
//!
//! [`LiveUnion`] lends the union to requests, each of which sees one stack from its beginning to its end, and to whoever
//! changes it, who is alone with it for as long as it takes to swap the list of lowers. Nothing is looked at then. A node
//! that was found in an older stack is looked at again when it is met ([`Union::node`]), the directories that lead to it
//! first: it is the same if its inode is, and a directory if one of its parts is; else it has lost its name, and lives on
//! for whoever has it open.
//!
//! What the kernel remembers it is told to look up again ([`Union::outdated`]). Only names can have become others that a
//! branch holds which has come, gone or moved, and only where the kernel knows the directory.
//!
//! A lower that has gone is kept for as long as something in it is open.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::FileType;

use super::index::owners;
use super::inode_table::{Lookup, OUTDATED};
use super::node::{Body, Node, NodeId};
use super::snapshot::{inodes_of, lower_of};
use super::stack::{Branch, Lower};
use super::{Union, lower_policy, told_apart};
use crate::branch::{Atime, BranchRoot, Dir, Hidden, SnapshotRoot};
use crate::control;
use crate::error::{Error, Result};
use crate::layer::{self, DirMarkers};
use crate::rules::BranchId;
use crate::rules::name::{Name, Spelling};

/// The kernel's limit for the value of an extended attribute.
const XATTR_SIZE_MAX: usize = 64 * 1024;

/// For how long requests may be held up by somebody who waits for those that are under way.
const PATIENCE: Duration = Duration::from_millis(5);

/// How long they go on at most before that is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// For how long somebody waits who wants to change the stack.
const GIVES_UP: Duration = Duration::from_secs(30);

/// How often in a row a node is looked at again that others change meanwhile.
const MOST_LOOKS: usize = 100;

/// A union that requests use, and whose stack may change between them.
#[derive(Debug)]
pub struct LiveUnion(RwLock<Union>);

/// What a directory is to the union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootRole {
    /// The writable branch.
    Upper,
    /// The directory beside it where files are staged.
    Work,
    /// A read-only branch.
    Lower,
}

/// A lower of the stack that is to be.
#[derive(Debug)]
pub enum NewLower {
    /// One that is in the stack already.
    Kept(BranchId),
    /// What was the upper once, and comes into it.
    Snapshot(SnapshotRoot),
    /// One that comes into it, and what of the union's own lies inside it.
    Added(BranchRoot, Hidden),
}

/// A stack that can be taken on, see [`Union::prepare_stack`].
#[derive(Debug)]
pub struct Prepared {
    lowers: Vec<Branch>,
    /// The roots of the branches that come, go or move.
    changed: Vec<Dir>,
    is_ambiguous: bool,
}

/// What has to be looked up again after a change.
#[derive(Debug, Default)]
pub struct Outdated {
    /// Names in directories.
    pub names: Vec<(NodeId, Name)>,
    /// Directories whose listing or attributes may have changed.
    pub dirs: Vec<NodeId>,
    /// What has one of these names.
    pub known: Vec<NodeId>,
    /// What is no directory, and may have other attributes and data.
    pub inodes: Vec<NodeId>,
    /// What may have other attributes.
    pub attributes: Vec<NodeId>,
    /// What may have lost its name: nothing keeps it but whoever has it open.
    pub lost: Vec<NodeId>,
    /// A lower's root may have another marker: see [`Union::look_at_roots`].
    pub roots: bool,
}

impl Outdated {
    /// Takes in more.
    pub fn add(&mut self, other: Self) {
        let Self { names, dirs, known, inodes, attributes, lost, roots } = other;
        self.names.extend(names);
        self.dirs.extend(dirs);
        self.known.extend(known);
        self.inodes.extend(inodes);
        self.attributes.extend(attributes);
        self.lost.extend(lost);
        self.roots |= roots;
    }
}

/// An inode that the kernel may have to drop.
#[derive(Debug)]
pub struct InBranch {
    /// Its number.
    pub id: NodeId,
    /// Where it is, as far as that is known.
    pub names: Vec<(NodeId, Name)>,
}

impl LiveUnion {
    /// Takes a union over.
    #[must_use]
    pub fn new(union: Union) -> Self {
        Self(RwLock::new(union))
    }

    /// For one request.
    pub fn get(&self) -> RwLockReadGuard<'_, Union> {
        self.0.read()
    }

    /// Waits until no request is under way, and holds up those that come; not for long at a time, if one takes long.
    ///
    /// # Errors
    /// [`Error::Busy`] if one takes half a minute.
    pub fn alone(&self) -> Result<RwLockWriteGuard<'_, Union>> {
        let end = Instant::now() + GIVES_UP;
        let mut pause = PATIENCE;
        loop {
            if let Some(union) = self.0.try_write_for(PATIENCE) {
                return Ok(union);
            }
            if Instant::now() > end {
                return Err(Error::Busy);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE);
        }
    }
}

impl Union {
    /// Where the lowers are, from the top down.
    pub fn lowers(&self) -> impl Iterator<Item = (BranchId, &Path)> {
        self.stack.lower_paths()
    }

    /// Whether anything can be changed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable().is_ok()
    }

    /// Whether the names of a file with several are known to be of one file once it is copied up.
    #[must_use]
    pub fn remembers_links(&self) -> bool {
        self.writable().is_ok_and(|upper| upper.index.remembers())
    }

    /// Where the upper is.
    #[must_use]
    pub fn upper_path(&self) -> Option<&Path> {
        self.upper_path.as_deref()
    }

    /// The roots of all branches and the workdir, for looking at; the workdir's path is the upper's.
    pub fn roots(&self) -> impl Iterator<Item = (RootRole, &Dir, &Path)> {
        let path = self.upper_path.as_deref().unwrap_or(Path::new(""));
        let upper = self.stack.upper.as_deref().map(|root| (RootRole::Upper, root, path));
        let work = self.writable().ok().map(|upper| (RootRole::Work, upper.work.outer(), path));
        let lowers = self.stack.lowers().zip(self.stack.lower_paths());
        let lowers = lowers.map(|(root, (_, path))| (RootRole::Lower, root, path));
        upper.into_iter().chain(work).chain(lowers)
    }

    /// The branches as [`control::BRANCHES`] has them.
    pub(super) fn labels(&self) -> Vec<u8> {
        let access = match self.writable() {
            Ok(_) => control::Access::Writable,
            Err(_) => control::Access::ReadOnly,
        };
        let upper = self.upper_path.iter().map(|path| control::branch_line(path, access));
        let lowers = self.stack.lower_paths();
        let lowers = lowers.map(|(_, path)| control::branch_line(path, control::Access::ReadOnly));
        let mut labels = Vec::new();
        for line in upper.chain(lowers) {
            // An attribute's value has an end; so many branches are told as fit.
            if labels.len() + line.len() > XATTR_SIZE_MAX {
                break;
            }
            labels.extend(line);
        }
        labels
    }

    /// Looks at what a change needs to know, while requests go on. Nobody else changes the stack meanwhile.
    ///
    /// # Errors
    /// What the disk says of the root of a branch that comes in.
    pub fn prepare_stack(&self, lowers: Vec<NewLower>) -> Result<Prepared> {
        let inodes = inodes_of(&self.options);
        let mut youngest = self.stack.youngest.lower;
        let mut snapshot = self.stack.youngest.snapshot;
        let mut roots = Vec::with_capacity(lowers.len());
        let mut paths: Vec<PathBuf> = Vec::with_capacity(lowers.len());
        let before: Vec<BranchId> = self.stack.lower_paths().map(|(id, _)| id).collect();
        for lower in lowers {
            match lower {
                NewLower::Kept(id) => {
                    let path = self.stack.lower_paths().find(|(known, _)| *known == id);
                    roots.push(self.stack.lower(id)?.clone());
                    paths.push(path.map(|(_, path)| path.to_owned()).unwrap_or_default());
                }
                NewLower::Snapshot(root) => {
                    snapshot = snapshot.next().ok_or(Error::Bug("no number is left for a snapshot"))?;
                    let work = self.writable().ok().map(|upper| upper.work.outer().clone());
                    let upper = self.stack.upper.as_deref();
                    let owners = upper.map(|upper| owners(work.as_ref(), upper)).transpose()?.flatten();
                    let lower = lower_of(root, snapshot, &self.options, owners)?;
                    roots.push(lower.root);
                    paths.push(lower.path);
                }
                NewLower::Added(root, hidden) => {
                    youngest = youngest.next().ok_or(Error::Bug("no number is left for a branch"))?;
                    let dir = Dir::root(root.fd, youngest, Atime::Kept, inodes);
                    let policy = lower_policy(&dir, &hidden, &self.options)?;
                    roots.push(dir.under(policy));
                    paths.push(root.path);
                }
            }
        }
        let known: Vec<bool> = roots.iter().map(Dir::is_ambiguous).collect();
        let roots = told_apart(roots)?;
        let is_ambiguous = roots.iter().map(Dir::is_ambiguous).ne(known);
        let changed = self.changed(&before, &roots)?;
        let lowers = roots.into_iter().zip(paths).map(|(root, path)| Lower { root, path });
        let lowers = lowers.map(|lower| self.stack.look_at(lower)).collect::<Result<_>>()?;
        Ok(Prepared { lowers, changed, is_ambiguous })
    }

    /// The branches that are in one of two stacks only, or at another place among those that are in both.
    fn changed(&self, before: &[BranchId], after: &[Dir]) -> Result<Vec<Dir>> {
        let after_ids: Vec<BranchId> = after.iter().map(Dir::branch).collect();
        let stay = |ids: &[BranchId], others: &[BranchId]| -> Vec<BranchId> {
            ids.iter().copied().filter(|id| others.contains(id)).collect()
        };
        let (was, is) = (stay(before, &after_ids), stay(&after_ids, before));
        let has_moved = |id: &BranchId| {
            was.iter().position(|other| other == id) != is.iter().position(|other| other == id)
        };
        let mut changed: Vec<Dir> = after
            .iter()
            .filter(|dir| !before.contains(&dir.branch()) || has_moved(&dir.branch()))
            .cloned()
            .collect();
        for gone in before.iter().filter(|id| !after_ids.contains(id)) {
            changed.push(self.stack.lower(*gone)?.clone());
        }
        Ok(changed)
    }

    /// The stack of now on which lies one more lower.
    pub(super) fn prepare_below(&self, top: Lower) -> Result<Prepared> {
        let lowers = self.stack.lowers().cloned().zip(self.stack.lower_paths());
        let lowers = lowers.map(|(root, (_, path))| Lower { root, path: path.to_owned() });
        let lowers = std::iter::once(top).chain(lowers);
        let lowers = lowers.map(|lower| self.stack.look_at(lower)).collect::<Result<_>>()?;
        Ok(Prepared { lowers, changed: Vec::new(), is_ambiguous: false })
    }

    /// Takes a prepared stack on. The branches in which something may have changed for users, and those that are in
    /// the stack no more.
    pub fn restack(&mut self, prepared: Prepared) -> (Vec<Dir>, Vec<BranchId>) {
        let Prepared { lowers, changed, is_ambiguous } = prepared;
        let gone = self.stack.restack(lowers);
        self.table.next_generation();
        if !changed.is_empty() {
            self.looked_again = self.table.generation();
        }
        if let Some(root) = self.table.find(NodeId::ROOT) {
            root.state().body = Body::Dir(self.stack.root_parts());
            self.table.keep(&root);
        }
        if let Some(watches) = &self.watches {
            watches.forget_branches(&gone);
            if let Err(e) = self.watch_roots() {
                log::warn!("changes in a lower that has come may show late: {e}");
            }
        }
        self.listings.clear();
        if is_ambiguous {
            self.dirs.clear();
            self.files.evict();
        } else {
            self.dirs.forget_branches(&gone);
        }
        (changed, gone)
    }

    /// The node that the kernel means, as it is in the stack of now.
    pub(super) fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        let node = self.table.get(id)?;
        if self.table.is_outdated(&node) {
            self.with_descriptors(|| self.look_again(&node))?;
        }
        Ok(node)
    }

    /// Looks at a node again that was found in an older stack, and before it at the directories on the way to it.
    pub(super) fn look_again(&self, node: &Arc<Node>) -> Result<()> {
        let mut way = vec![Arc::clone(node)];
        let mut looks = 0;
        while let Some(last) = way.last() {
            let above = last
                .state()
                .names()
                .map(|(dir, _)| dir)
                .find(|dir| self.table.is_outdated(dir))
                .map(Arc::clone);
            match above {
                Some(dir) => way.push(dir),
                None => {
                    self.look_again_at(last)?;
                    looks += 1;
                    // Others may change it all the time.
                    if looks > MOST_LOOKS || !self.table.is_outdated(last) {
                        way.pop();
                        looks = 0;
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks once: it may have another name then. The directories that it is in have been looked at.
    fn look_again_at(&self, node: &Arc<Node>) -> Result<()> {
        let since = node.generation() & !OUTDATED;
        if let Some(lower) = self.lower_since(since) {
            node.state().body.move_out_of_upper(lower);
        }
        if self.watches.is_none() && since >= self.looked_again {
            self.table.keep(node);
            return Ok(());
        }
        let Some((dir, name)) = node.entry() else {
            self.table.keep(node);
            return Ok(());
        };
        if dir.is_gone() {
            self.lose(node, &dir, &name);
            return Ok(());
        }
        let (parts, _locked) = self.lock_open(&dir, Node::lock_shared)?;
        if !node.state().place.is(&dir, &name) {
            return Ok(());
        }
        let as_of = dir.generation();
        let seen = self.stack.see(&parts, &name)?;
        let watched = self.watch_seen(&dir, &parts, &name, &seen, Lookup::Counted)?;
        let (seen, begun) = watched.as_ref().map_or((&seen, None), |(seen, begun)| (seen, Some(begun)));
        let sketch = self.sketch(&dir, &parts, &name, seen, as_of)?;
        if !sketch.is_some_and(|sketch| self.table.outlasts(node, &sketch.found)) {
            self.lose(node, &dir, &name);
        } else if let Some(begun) = begun {
            self.keep_watches(node, begun);
        }
        Ok(())
    }

    /// What has a name has lost it to others.
    fn lose(&self, node: &Arc<Node>, dir: &Arc<Node>, name: &Name) {
        let (was, is_watched) = {
            let state = node.state();
            (state.generation, state.body.is_watched())
        };
        self.table.lose(node, dir, name);
        if node.kind == FileType::Directory {
            self.table.tear(node.id, was, is_watched);
            if let Ok(parts) = node.parts()
                && node.is_gone()
            {
                // A directory that is open stays on the disk, and is not said to be gone.
                self.dirs.forget(node.id, &parts);
                self.end_watches(node);
            }
        }
    }

    /// What the kernel has to look up again, after branches have come, gone or moved.
    #[must_use]
    pub fn outdated(&self, changed: &[Dir]) -> Outdated {
        let mut outdated = Outdated::default();
        let Ok(root) = self.table.get(NodeId::ROOT) else { return outdated };
        let mut dirs = HashSet::new();
        for branch in changed {
            let mut left = vec![(Arc::clone(&root), branch.clone(), Vec::new())];
            while let Some((node, dir, way)) = left.pop() {
                dirs.insert(node.id);
                let listed =
                    DirMarkers::of(&dir).and_then(|markers| layer::list(&dir, markers.formats(true)));
                let listed = listed.unwrap_or_else(|e| {
                    log::warn!("the kernel may show old names for a while: {e}");
                    Vec::new()
                });
                for (spelling, _) in listed {
                    match spelling {
                        Spelling::Entry(name) => {
                            outdated.known.extend(self.table.find_name(&node, &name).map(|known| known.id));
                            if let Some(child) = self.known_dir(&node, &name)
                                && let Ok(inside) = dir.open_dir(name.as_os_str())
                            {
                                let way = way.iter().cloned().chain([name.clone()]).collect();
                                left.push((child, inside, way));
                            }
                            outdated.names.push((node.id, name));
                        }
                        Spelling::Whiteout(name) => outdated.names.push((node.id, name)),
                        Spelling::Opaque => {
                            let hidden = self.names_everywhere(&way).into_iter().map(|name| (node.id, name));
                            outdated.names.extend(hidden);
                        }
                        Spelling::Reserved => {}
                    }
                }
            }
        }
        outdated.dirs.extend(dirs);
        outdated
    }

    fn known_dir(&self, parent: &Arc<Node>, name: &Name) -> Option<Arc<Node>> {
        self.table.find_name(parent, name).filter(|node| node.kind == FileType::Directory)
    }

    /// The names that any branch has in the directory at the end of a way.
    fn names_everywhere(&self, way: &[Name]) -> HashSet<Name> {
        let mut names = HashSet::new();
        for root in self.stack.all_roots() {
            let opened = way.iter().try_fold(root.clone(), |dir, name| dir.open_dir(name.as_os_str()));
            let listed = opened.and_then(|dir| layer::list(&dir, layer::Formats::default()));
            for (spelling, _) in listed.into_iter().flatten() {
                if let Spelling::Entry(name) = spelling {
                    names.insert(name);
                }
            }
        }
        names
    }

    /// Which of these inodes, and of those without a name, are in one of the branches and in no other.
    #[must_use]
    pub fn only_in(&self, branches: &[BranchId], known: &[NodeId]) -> Vec<InBranch> {
        let is_in = |node: &Arc<Node>| match &self.body_now(node) {
            Body::Leaf(branch) => branches.contains(branch),
            Body::Dir(parts) => parts.iter().all(|part| branches.contains(&part.branch)),
            Body::Linked(_) | Body::Shared(_) | Body::Unlinked => false,
        };
        let gone = self.table.gone();
        let all: HashSet<NodeId> =
            known.iter().chain(&gone).copied().filter(|id| *id != NodeId::ROOT).collect();
        let nodes = all.into_iter().filter_map(|id| self.table.find(id));
        nodes.filter(is_in).map(|node| in_branch(&node)).collect()
    }

    /// Where a node's inode is by now, if what was the upper is a lower.
    fn body_now(&self, node: &Node) -> Body {
        let state = node.state();
        let mut body = state.body.clone();
        if let Some(lower) = self.lower_since(state.generation & !OUTDATED) {
            body.move_out_of_upper(lower);
        }
        body
    }

    /// Which lower it is that was the upper in a generation; None if it still is.
    fn lower_since(&self, generation: u32) -> Option<BranchId> {
        self.swaps.iter().find(|(swap, _)| *swap > generation).map(|(_, lower)| *lower)
    }

    /// The files with several names of which a copy is noted: a rewind changes what their other names show.
    #[must_use]
    pub fn noted_files(&self) -> Vec<InBranch> {
        if !self.upper.as_ref().is_some_and(|upper| upper.index.has_copies()) {
            return Vec::new();
        }
        let is_noted = |node: &Arc<Node>| matches!(node.state().body, Body::Linked(_) | Body::Shared(_));
        self.table.filter(is_noted, in_branch)
    }

    /// The lowers that are in the stack no more, and are kept for what may be open in them.
    pub fn retired(&self) -> impl Iterator<Item = (BranchId, &Path)> {
        self.stack.retired()
    }

    /// Lets go of lowers that are in the stack no more, and in which nothing is open.
    pub fn let_go(&mut self, unused: &[BranchId]) {
        self.stack.let_go(|id| !unused.contains(&id));
    }
}

fn in_branch(node: &Arc<Node>) -> InBranch {
    let names = node.state().names().map(|(dir, name)| (dir.id, name.clone())).collect();
    InBranch { id: node.id, names }
}
