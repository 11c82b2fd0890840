//! How does a change that others make in a lower come to be seen?
//!
//! A lower's directory is watched from when the kernel learns of it until the kernel forgets it: the watch first, and
//! then what is in the directory is read. What is seen is worked out here ([`Union::take_in`]): the nodes concerned are
//! looked at again when they are met, as after a change of the stack (see `live`), and the kernel is told to look up
//! again what it knows. A directory that others have replaced, removed, or made opaque is *torn*: all that was found
//! in it is looked at again.
//!
//! An answer that was worked out while something was seen holds for no time: what the kernel was told to look up
//! again it may not have known yet. Nor does one that depends on a directory that is not watched: there are too many,
//! or it is on a filesystem that others change unseen. Those are looked at each time, with all that is beneath them: a
//! directory can get another part without anything happening in those that it has.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::Union;
use super::inode_table::Lookup;
use super::live::Outdated;
use super::node::{Body, DirPart, Node, NodeId, Place, RealId};
use super::stack::{OpenPart, Seen};
use super::xino::Xino;
use crate::branch::{self, Dir, Sight, Stat, WatchId, Watcher};
use crate::error::Result;
use crate::rules::BranchId;
use crate::rules::name::{Name, Spelling};

/// How often a directory is read again because others have changed it while it was read.
const TRIES: usize = 8;

/// The directories that are watched.
#[derive(Debug)]
pub(super) struct Watches {
    /// None if the system gives us none.
    watcher: Option<Arc<Watcher>>,
    /// So many at most.
    most: AtomicUsize,
    /// How often something was seen.
    changes: AtomicU64,
    /// Whether it has been said that there are too many.
    said: AtomicBool,
    registry: Mutex<Registry>,
}

/// A part of a node.
type Part = (NodeId, BranchId);

#[derive(Debug, Default)]
struct Registry {
    watches: HashMap<WatchId, Watch>,
    by_node: HashMap<NodeId, Vec<(BranchId, WatchId)>>,
    /// Whether all changes show, by filesystem.
    shows: HashMap<u16, bool>,
}

#[derive(Debug, Default)]
struct Watch {
    /// Whose they are.
    parts: Vec<Part>,
    /// So many have begun to watch it, and have not said yet for whom.
    begun: usize,
    /// Something was seen before they did.
    missed: bool,
}

/// A watch that was begun. Dropping it ends it, unless it was kept or somebody else has it.
#[derive(Debug)]
pub(super) struct Begun {
    watches: Arc<Watches>,
    watch: WatchId,
    branch: BranchId,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let registry = &mut *self.watches.registry.lock();
        let Entry::Occupied(mut watch) = registry.watches.entry(self.watch) else { return };
        watch.get_mut().begun = watch.get().begun.saturating_sub(1);
        self.watches.end_if_unused(watch);
    }
}

impl Watches {
    /// None yet, and so many at most.
    pub(super) fn new(most: usize) -> Self {
        let watcher = Watcher::new().inspect_err(|errno| {
            log::warn!(
                "no directory is watched: inotify_init: {errno}; all of them are looked at each time, which is slower. \
                 See /proc/sys/fs/inotify/max_user_instances"
            );
        });
        Self {
            watcher: watcher.ok().map(Arc::new),
            most: AtomicUsize::new(most),
            changes: AtomicU64::new(0),
            said: AtomicBool::new(false),
            registry: Mutex::default(),
        }
    }

    /// How many directories are watched.
    pub(super) fn len(&self) -> usize {
        self.registry.lock().watches.len()
    }

    /// Begins to watch a directory of a filesystem, if it can be watched.
    fn begin(self: &Arc<Self>, dir: &Dir, filesystem: Option<u16>) -> Option<Begun> {
        let watcher = self.watcher.as_ref()?;
        let known = filesystem.and_then(|filesystem| self.registry.lock().shows.get(&filesystem).copied());
        let shows = known.unwrap_or_else(|| dir.shows_changes().unwrap_or(false));
        if let (None, Some(filesystem)) = (known, filesystem) {
            self.registry.lock().shows.insert(filesystem, shows);
        }
        if !shows {
            return None;
        }
        if self.len() >= self.most.load(Ordering::Relaxed) {
            self.say_full();
            return None;
        }
        match watcher.watch(dir) {
            Ok(watch) => {
                self.registry.lock().watches.entry(watch).or_default().begun += 1;
                Some(Begun { watches: Arc::clone(self), watch, branch: dir.branch() })
            }
            Err(Errno::NOSPC) => {
                self.most.store(self.len(), Ordering::Relaxed);
                self.say_full();
                None
            }
            Err(errno) => {
                log::debug!("a directory is not watched: {errno}");
                None
            }
        }
    }

    /// Whether it may be possible to watch one more directory of a filesystem.
    fn may_begin(&self, filesystem: u16) -> bool {
        if self.watcher.is_none() {
            return false;
        }
        let registry = self.registry.lock();
        let is_full = registry.watches.len() >= self.most.load(Ordering::Relaxed);
        let shows = registry.shows.get(&filesystem) != Some(&false);
        drop(registry);
        if is_full {
            self.say_full();
        }
        shows && !is_full
    }

    fn say_full(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{} directories of lowers are watched, which is as many as may be: the others are looked at each time, \
                 which is slower. Raise watch=N, or /proc/sys/fs/inotify/max_user_watches",
                self.len()
            );
        }
    }

    /// A watch is that node's from now on. Says whether nothing was missed.
    fn keep(&self, begun: &Begun, node: NodeId) -> bool {
        let part = (node, begun.branch);
        let registry = &mut *self.registry.lock();
        let Some(watch) = registry.watches.get_mut(&begun.watch) else { return false };
        if !watch.parts.contains(&part) {
            watch.parts.push(part);
        }
        let missed = watch.missed;
        let known = registry.by_node.entry(node).or_default();
        let mut before = None;
        match known.iter_mut().find(|(branch, _)| *branch == begun.branch) {
            Some((_, watch)) => before = Some(std::mem::replace(watch, begun.watch)),
            None => known.push((begun.branch, begun.watch)),
        }
        if let Some(before) = before.filter(|before| *before != begun.watch) {
            self.leave(registry, before, part);
        }
        !missed
    }

    /// Whether a part is watched.
    fn has(&self, (node, branch): Part) -> bool {
        let registry = self.registry.lock();
        registry.by_node.get(&node).is_some_and(|known| known.iter().any(|(other, _)| *other == branch))
    }

    /// The kernel has forgotten a directory.
    fn forget(&self, node: NodeId) {
        let registry = &mut *self.registry.lock();
        for (branch, watch) in registry.by_node.remove(&node).into_iter().flatten() {
            self.leave(registry, watch, (node, branch));
        }
    }

    pub(super) fn forget_branches(&self, gone: &[BranchId]) {
        let registry = &mut *self.registry.lock();
        let mut left = Vec::new();
        for (node, known) in &mut registry.by_node {
            let theirs = known.extract_if(.., |(branch, _)| gone.contains(branch));
            left.extend(theirs.map(|(branch, watch)| ((*node, branch), watch)));
        }
        for (part, watch) in left {
            self.leave(registry, watch, part);
        }
    }

    fn leave(&self, registry: &mut Registry, watch: WatchId, part: Part) {
        let Entry::Occupied(mut watch) = registry.watches.entry(watch) else { return };
        watch.get_mut().parts.retain(|other| *other != part);
        self.end_if_unused(watch);
    }

    fn end_if_unused(&self, watch: std::collections::hash_map::OccupiedEntry<'_, WatchId, Watch>) {
        if watch.get().begun > 0 {
            return;
        }
        if !watch.get().parts.is_empty() {
            watch.into_mut().missed = false;
            return;
        }
        if let Some(watcher) = &self.watcher {
            watcher.end(*watch.key());
        }
        watch.remove();
    }

    /// Whose a watch is by which something was seen.
    fn parts(&self, id: WatchId, is_end: bool) -> Vec<Part> {
        let registry = &mut *self.registry.lock();
        // It may be one of which we have not been told yet.
        let watch = registry.watches.entry(id).or_default();
        if watch.parts.is_empty() || watch.begun > 0 {
            watch.missed = true;
        }
        let parts = watch.parts.clone();
        if is_end {
            watch.parts.clear();
            if watch.begun == 0 {
                registry.watches.remove(&id);
            }
            for (node, _) in &parts {
                if let Some(known) = registry.by_node.get_mut(node) {
                    known.retain(|(_, watch)| *watch != id);
                }
            }
        }
        parts
    }
}

/// What was seen in one directory.
#[derive(Debug, Default)]
struct News {
    /// Names that lead to others.
    names: HashSet<Name>,
    /// Names of inodes that have other attributes.
    attributes: HashSet<Name>,
    /// Names of files that have other data, and the branch.
    data: HashSet<(Name, BranchId)>,
    /// It is not what it was itself.
    itself: bool,
}

impl News {
    fn add(&mut self, sight: &Sight, branch: BranchId) {
        match sight {
            Sight::Name(name) => match Spelling::of(name) {
                Spelling::Entry(name) | Spelling::Whiteout(name) => drop(self.names.insert(name)),
                Spelling::Opaque => self.itself = true,
                Spelling::Reserved => {}
            },
            Sight::Attributes(name) => {
                if let Spelling::Entry(name) = Spelling::of(name) {
                    self.data.insert((name.clone(), branch));
                    self.attributes.insert(name);
                }
            }
            Sight::Data(name) => {
                if let Spelling::Entry(name) = Spelling::of(name) {
                    self.data.insert((name, branch));
                }
            }
            Sight::Itself | Sight::End => self.itself = true,
        }
    }
}

impl Union {
    /// Who tells of changes in lowers, if they are watched.
    #[must_use]
    pub fn watcher(&self) -> Option<Arc<Watcher>> {
        self.watches.as_ref()?.watcher.clone()
    }

    /// How often changes in lowers were seen.
    pub(super) fn changes_seen(&self) -> u64 {
        self.watches.as_ref().map_or(0, |watches| watches.changes.load(Ordering::Acquire))
    }

    /// Whether all is seen that others change about the names in a directory.
    pub(super) fn shows_changes_in(&self, dir: &Node) -> bool {
        self.watches.is_none() || dir.parts().is_ok_and(|parts| parts.iter().all(|part| part.watched))
    }

    /// Whether all is seen that others change about an inode, which has these attributes.
    pub(super) fn shows_changes_to(&self, node: &Arc<Node>, stat: &Stat) -> bool {
        // Others may change a file by a name that is not watched.
        self.watches.is_none()
            || (self.shows_changes_of(node) && (!stat.is_hard_linked() || node.is_in_upper()))
    }

    fn shows_changes_of(&self, node: &Arc<Node>) -> bool {
        if self.watches.is_none() {
            return true;
        }
        let state = node.state();
        let (dir, branch) = match &state.body {
            Body::Dir(parts) => return parts[0].watched,
            body if body.is_in_upper() => return true,
            Body::Leaf(branch) => match (&state.place, state.lower_place(*branch)) {
                // Nobody finds it any more.
                (Place::Gone(_), _) => return true,
                (_, Some((dir, _))) => (Arc::clone(dir), *branch),
                (_, None) => return false,
            },
            Body::Linked(_) | Body::Shared(_) | Body::Unlinked => return true,
        };
        drop(state);
        let is_watched = |part: &DirPart| part.branch != branch || part.watched;
        dir.parts().is_ok_and(|parts| parts.iter().all(is_watched))
    }

    /// Whether a directory's listing stays as it is until the kernel is told otherwise.
    #[must_use]
    pub fn remembers_listing(&self, id: NodeId) -> bool {
        self.watches.is_none() || self.table.find(id).is_none_or(|dir| self.shows_changes_in(&dir))
    }

    /// The same of a symbolic link's target.
    #[must_use]
    pub fn remembers_target(&self, id: NodeId) -> bool {
        self.watches.is_none() || self.table.find(id).is_none_or(|link| self.shows_changes_of(&link))
    }

    /// Watches a directory that was seen under a name, in all lowers, and looks again if that comes after what has been
    /// read. None if there is nothing to do.
    pub(super) fn watch_seen(
        &self,
        parent: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        seen: &Seen,
        lookup: Lookup,
    ) -> Result<Option<(Seen, Vec<Begun>)>> {
        let (Some(watches), Seen::Dir { .. }) = (&self.watches, seen) else { return Ok(None) };
        let node = self.table.find_name(parent, name);
        // If it is not told which parts a directory has, it is of no use to be told what is in them.
        if (node.is_none() && lookup == Lookup::Internal) || !self.shows_changes_in(parent) {
            return Ok(None);
        }
        let known = node.and_then(|node| Some((node.id, node.parts().ok()?)));
        let mut begun: Vec<Begun> = Vec::new();
        let mut begun_at: Vec<(BranchId, RealId)> = Vec::new();
        let mut seen = seen.clone();
        for _ in 0..TRIES {
            let Seen::Dir { parts: children, opened, stat } = &mut seen else { break };
            let mut reads_again = false;
            let mut is_first = true;
            for part in children.iter_mut() {
                let is_topmost = std::mem::take(&mut is_first);
                if part.branch.is_upper() {
                    part.watched = true;
                    continue;
                }
                let is_known = known.as_ref().is_some_and(|(id, known)| {
                    let same = |other: &DirPart| {
                        other.watched && (other.branch, other.real) == (part.branch, part.real)
                    };
                    known.iter().any(same) && watches.has((*id, part.branch))
                });
                if is_known || begun_at.contains(&(part.branch, part.real)) {
                    part.watched = true;
                    continue;
                }
                if !watches.may_begin(part.real.filesystem) {
                    continue;
                }
                let dir = match opened.iter().find(|(branch, _)| *branch == part.branch) {
                    Some((_, dir)) => dir.clone(),
                    None => {
                        let above = parts.iter().find(|open| open.part.branch == part.branch);
                        let Some(Ok(dir)) = above.map(|open| open.dir.open_dir(name.as_os_str())) else {
                            continue;
                        };
                        if !self.stack.is_meant(part.branch, &dir.stat_self()?, part.real) {
                            reads_again = true;
                            continue;
                        }
                        opened.push((part.branch, dir.clone()));
                        dir
                    }
                };
                let Some(watch) = watches.begin(&dir, Some(part.real.filesystem)) else { continue };
                part.watched = true;
                begun.push(watch);
                begun_at.push((part.branch, part.real));
                reads_again |= self.stack.reads_markers(part.branch, parts);
                if is_topmost {
                    *stat = dir.stat_self()?;
                }
            }
            if !reads_again {
                break;
            }
            seen = self.stack.see(parts, name)?;
        }
        if let Seen::Dir { parts, .. } = &mut seen {
            // Those of the last look.
            for part in parts {
                part.watched |= part.branch.is_upper() || begun_at.contains(&(part.branch, part.real));
            }
        }
        Ok(Some((seen, begun)))
    }

    /// The node of a directory that was watched is known.
    pub(super) fn keep_watches(&self, node: &Arc<Node>, begun: &[Begun]) {
        let Some(watches) = &self.watches else { return };
        let kept: Vec<bool> = begun.iter().map(|begun| watches.keep(begun, node.id)).collect();
        if kept.contains(&false) {
            self.table.outdate(node);
        }
    }

    /// The kernel has forgotten a directory.
    pub(super) fn end_watches(&self, node: &Arc<Node>) {
        let Some(watches) = &self.watches else { return };
        watches.forget(node.id);
        if Arc::strong_count(node) > 1 {
            // It is still open, or the position of something.
            node.state().body.end_watches();
        }
    }

    /// Watches the roots of all lowers, and then looks at them.
    pub(super) fn watch_roots(&mut self) -> Result<()> {
        let Some(watches) = self.watches.clone() else { return Ok(()) };
        let begun: Vec<Begun> = self.stack.lowers().filter_map(|root| watches.begin(root, None)).collect();
        self.stack.look_at_roots()?;
        let root = self.table.get(NodeId::ROOT)?;
        for watch in &begun {
            watches.keep(watch, NodeId::ROOT);
        }
        let is_watched =
            |part: &DirPart| part.branch.is_upper() || begun.iter().any(|watch| watch.branch == part.branch);
        let parts = self.stack.root_parts();
        let parts = parts.iter().map(|part| DirPart { watched: is_watched(part), ..*part });
        root.state().body = Body::Dir(parts.collect());
        self.table.keep(&root);
        Ok(())
    }

    /// Looks at the roots of all lowers again, of which one has another marker. What has to be looked up again.
    ///
    /// # Errors
    /// What the disk says of one: then it is as it was.
    pub fn look_at_roots(&mut self) -> Result<Outdated> {
        self.table.next_generation();
        self.watch_roots()?;
        self.dirs.clear();
        self.listings.clear();
        Ok(self.outdated_in(&HashSet::from([NodeId::ROOT]), false))
    }

    /// Takes in what was seen in lowers. What has to be looked up again.
    pub fn take_in(&self, seen: Vec<branch::Seen>) -> Outdated {
        let mut outdated = Outdated::default();
        let Some(watches) = &self.watches else { return outdated };
        // Whoever begins to work out an answer from now on sees what is on the disk by now.
        watches.changes.fetch_add(1, Ordering::AcqRel);
        let mut news: HashMap<NodeId, News> = HashMap::new();
        let mut missed = false;
        for seen in seen {
            match seen {
                branch::Seen::In(watch, sight) => {
                    for (node, branch) in watches.parts(watch, sight == Sight::End) {
                        news.entry(node).or_default().add(&sight, branch);
                    }
                }
                branch::Seen::TooMuch => missed = true,
            }
        }
        for (id, news) in news {
            if let Some(dir) = self.table.find(id) {
                self.take_in_news(&dir, news, &mut outdated);
            }
        }
        let mut torn = self.table.take_torn();
        if missed {
            log::info!("more has changed in lowers than could be told: all of it is looked at again");
            self.table.next_generation();
            self.listings.clear();
            outdated.roots = true;
            torn = HashSet::from([NodeId::ROOT]);
        }
        if !torn.is_empty() {
            outdated.add(self.outdated_in(&torn, missed));
        }
        outdated
    }

    fn take_in_news(&self, dir: &Arc<Node>, news: News, outdated: &mut Outdated) {
        let News { names, attributes, data, itself } = news;
        let mut again = Vec::new();
        {
            // Whoever has just looked is done, and whoever looks from now on sees what is there by now.
            let _locked = dir.lock();
            if !names.is_empty() || itself {
                self.listings.forget(dir.id);
                outdated.dirs.push(dir.id);
            }
            let attributes = attributes.into_iter().map(|name| (name, false));
            for (name, may_be_lost) in names.into_iter().map(|name| (name, true)).chain(attributes) {
                match self.table.find_name(dir, &name) {
                    Some(node) if node.kind == FileType::Directory => {
                        self.table.outdate(&node);
                        again.push(node);
                    }
                    // Nothing in a lower shows there.
                    Some(node) if node.is_in_upper() => continue,
                    Some(node) => {
                        self.table.outdate(&node);
                        outdated.inodes.push(node.id);
                        if may_be_lost {
                            outdated.lost.push(node.id);
                        }
                    }
                    None => {}
                }
                outdated.names.push((dir.id, name));
            }
        }
        for (name, branch) in data {
            let node = match self.table.find_name(dir, &name) {
                Some(node) => Some(node),
                None => self.known_by_number(dir, branch, &name),
            };
            if let Some(node) = node.filter(|node| !node.is_in_upper()) {
                outdated.inodes.push(node.id);
            }
        }
        if itself {
            match dir.entry() {
                Some((parent, name)) => {
                    let _locked = parent.lock();
                    self.table.outdate(dir);
                    outdated.names.push((parent.id, name));
                    again.push(Arc::clone(dir));
                }
                None => outdated.roots |= dir.id == NodeId::ROOT,
            }
        }
        for node in again {
            outdated.dirs.push(node.id);
            outdated.lost.push(node.id);
            if let Err(e) = self.with_descriptors(|| self.look_again(&node)) {
                log::debug!("a directory that others have changed is not looked at again yet: {e}");
                self.table.tear(node.id, node.generation(), true);
            }
        }
    }

    /// The node of a lower's file that is known by another of its names.
    fn known_by_number(&self, dir: &Arc<Node>, branch: BranchId, name: &Name) -> Option<Arc<Node>> {
        let stat = self.lower_dir(dir, branch).ok()?.stat(name.as_os_str()).ok()??;
        let real = self.stack.xino.real(&stat);
        let number = self.table.number(real, Xino::number(real.filesystem, real.ino));
        self.table.find(number).filter(|node| node.state().real == real)
    }

    /// All that the kernel may know in these directories and beneath them; with `data` also that files may have other
    /// data.
    fn outdated_in(&self, torn: &HashSet<NodeId>, data: bool) -> Outdated {
        let mut outdated = Outdated::default();
        let mut dirs: HashSet<NodeId> = torn.clone();
        let mut is_in: HashMap<NodeId, bool> = torn.iter().map(|id| (*id, true)).collect();
        let everything = torn.contains(&NodeId::ROOT);
        let nodes = self.table.filter(|_| true, Arc::clone);
        for node in nodes {
            if !(everything || is_beneath(&node, &mut is_in)) {
                continue;
            }
            if node.kind == FileType::Directory {
                dirs.insert(node.id);
            } else if data && !node.is_in_upper() {
                outdated.inodes.push(node.id);
            }
            if let Some((dir, name)) = node.entry() {
                outdated.names.push((dir.id, name));
            }
        }
        // The kernel may also know that there is nothing under a name.
        for id in &dirs {
            let listed = self.node(*id).and_then(|dir| {
                let (parts, _locked) = self.lock_open(&dir, Node::lock_shared)?;
                self.stack.list(&parts)
            });
            match listed {
                Ok(listing) => outdated.names.extend(listing.names().map(|name| (*id, name.clone()))),
                Err(e) => log::debug!("what is in a directory that others have changed is not known: {e}"),
            }
        }
        outdated.dirs.extend(dirs);
        outdated
    }
}

/// Whether a node is one of those or beneath them, of which the ways that were gone are noted.
fn is_beneath(node: &Arc<Node>, is_in: &mut HashMap<NodeId, bool>) -> bool {
    let mut way = Vec::new();
    let mut at = Arc::clone(node);
    let found = loop {
        if let Some(found) = is_in.get(&at.id) {
            break *found;
        }
        way.push(at.id);
        let above = at.state().place.last().map(|(dir, _)| Arc::clone(dir));
        match above {
            Some(above) => at = above,
            None => break false,
        }
    };
    for id in way {
        is_in.insert(id, found);
    }
    found
}
