//! Which descriptors are kept at hand?
//!
//! All of them can be had again, so all of it is bounded: the number of open files is not ours to exhaust. The one
//! exception are the pins, of inodes that have lost their last name and exist through their descriptor only: there are
//! few of those, since more of them are kept in the workdir.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};

use super::node::{DirPart, Node, NodeId, RealId};
use crate::branch::{Dir, Inode, ReadFile, UpperDir, UpperInode, WriteFile};
use crate::rules::BranchId;

/// A fourth of the descriptors that we may have, for each of the caches; the last fourth for the rest.
fn capacity() -> NonZeroUsize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 14);
    let share = usize::try_from(limit / 4).unwrap_or(usize::MAX).clamp(16, 4096);
    NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)
}

/// A directory of a lower, and which one was meant.
type LowerDir = (Dir, Option<RealId>);

/// The directories of the branches, by node.
#[derive(Debug)]
pub(super) struct DirCache {
    lowers: Mutex<LruCache<(NodeId, BranchId), LowerDir>>,
    uppers: Mutex<LruCache<NodeId, UpperDir>>,
}

impl DirCache {
    pub(super) fn new() -> Self {
        Self { lowers: Mutex::new(LruCache::new(capacity())), uppers: Mutex::new(LruCache::new(capacity())) }
    }

    pub(super) fn lower(&self, node: &Node, branch: BranchId) -> Option<LowerDir> {
        self.lowers.lock().get(&(node.id, branch)).cloned()
    }

    pub(super) fn put_lower(&self, node: &Node, branch: BranchId, dir: Dir, meant: Option<RealId>) {
        self.lowers.lock().put((node.id, branch), (dir, meant));
    }

    pub(super) fn upper(&self, node: &Node) -> Option<UpperDir> {
        self.uppers.lock().get(&node.id).cloned()
    }

    pub(super) fn put_upper(&self, node: &Node, dir: UpperDir) {
        self.uppers.lock().put(node.id, dir);
    }

    pub(super) fn forget(&self, id: NodeId, parts: &[DirPart]) {
        self.uppers.lock().pop(&id);
        let mut lowers = self.lowers.lock();
        for part in parts {
            lowers.pop(&(id, part.branch));
        }
    }

    /// Closes the directories of branches that are in the stack no more.
    pub(super) fn forget_branches(&self, gone: &[BranchId]) {
        let mut lowers = self.lowers.lock();
        let theirs = lowers.iter().map(|(key, _)| *key).filter(|(_, branch)| gone.contains(branch));
        for key in theirs.collect::<Vec<_>>() {
            lowers.pop(&key);
        }
    }

    pub(super) fn clear(&self) {
        self.lowers.lock().clear();
        self.uppers.lock().clear();
    }
}

/// A regular file that is open on a branch.
#[derive(Clone, Debug)]
pub(super) enum Opened {
    /// Of any branch.
    Read(ReadFile),
    /// Of the upper, and whether it is known to have no suid and no sgid bit that a write could take away.
    Write(WriteFile),
}

impl Opened {
    pub(super) fn inode(&self) -> &Inode {
        self.for_reading().inode()
    }

    pub(super) fn for_reading(&self) -> &ReadFile {
        match self {
            Self::Read(file) => file,
            Self::Write(file) => file,
        }
    }
}

/// The open files, by node.
#[derive(Debug)]
pub(super) struct FileCache {
    open: Mutex<LruCache<NodeId, Slot>>,
    pins: Mutex<HashMap<NodeId, Pin>>,
    most_pins: usize,
}

/// An inode that exists for us through its descriptor only.
#[derive(Clone, Debug)]
pub(super) enum Pin {
    /// It has no name.
    Upper(UpperInode),
    /// It has other names in a snapshot, and is not to be changed.
    Snapshot(Inode),
}

impl Pin {
    pub(super) fn inode(&self) -> &Inode {
        match self {
            Self::Upper(inode) => inode,
            Self::Snapshot(inode) => inode,
        }
    }
}

#[derive(Debug)]
struct Slot {
    file: Opened,
    plain: Arc<AtomicBool>,
}

/// Whether a file is known to have no suid and no sgid bit that a write could take away.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain(Arc<AtomicBool>);

impl Plain {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, plain: bool) {
        self.0.store(plain, Ordering::Relaxed);
    }
}

impl FileCache {
    pub(super) fn new() -> Self {
        let most_pins = capacity().get() / 4;
        Self { open: Mutex::new(LruCache::new(capacity())), pins: Mutex::new(HashMap::new()), most_pins }
    }

    pub(super) fn get(&self, id: NodeId) -> Option<Opened> {
        self.open.lock().get(&id).map(|slot| slot.file.clone())
    }

    pub(super) fn get_for_writing(&self, id: NodeId) -> Option<(WriteFile, Plain)> {
        match self.open.lock().get(&id) {
            Some(Slot { file: Opened::Write(file), plain }) => Some((file.clone(), Plain(Arc::clone(plain)))),
            _ => None,
        }
    }

    /// Keeps a file that was opened while the node's body was what `still` says. A copy-up that came
    /// between has changed the body first and evicts afterwards, so a file of the lower never outlives it.
    pub(super) fn put_if(&self, id: NodeId, file: ReadFile, still: impl FnOnce() -> bool) {
        let mut open = self.open.lock();
        if still() {
            open.put(id, Slot { file: Opened::Read(file), plain: Arc::default() });
        }
    }

    /// Keeps the copy in place of whatever was open: everybody follows the copy-up.
    pub(super) fn replace(&self, id: NodeId, file: Option<WriteFile>) -> Plain {
        let mut open = self.open.lock();
        let plain = Arc::<AtomicBool>::default();
        match file {
            Some(file) => {
                drop(open.put(id, Slot { file: Opened::Write(file), plain: Arc::clone(&plain) }));
            }
            None => drop(open.pop(&id)),
        }
        Plain(plain)
    }

    /// The file's mode has changed.
    pub(super) fn has_new_mode(&self, id: NodeId) {
        if let Some(slot) = self.open.lock().peek(&id) {
            slot.plain.store(false, Ordering::Relaxed);
        }
    }

    /// Whether one more inode without a name can be kept open.
    pub(super) fn has_room_for_pin(&self) -> bool {
        self.pins.lock().len() < self.most_pins
    }

    pub(super) fn pin(&self, id: NodeId, inode: UpperInode) {
        self.pins.lock().insert(id, Pin::Upper(inode));
    }

    pub(super) fn pin_snapshot(&self, id: NodeId, inode: Inode) {
        self.pins.lock().insert(id, Pin::Snapshot(inode));
    }

    /// All nodes that are kept by a descriptor of the upper's inode.
    pub(super) fn pins_in_upper(&self) -> Vec<(NodeId, UpperInode)> {
        let upper = |(id, pin): (&NodeId, &Pin)| match pin {
            Pin::Upper(inode) => Some((*id, inode.clone())),
            Pin::Snapshot(_) => None,
        };
        self.pins.lock().iter().filter_map(upper).collect()
    }

    pub(super) fn pinned(&self, id: NodeId) -> Option<Pin> {
        self.pins.lock().get(&id).cloned()
    }

    pub(super) fn unpin(&self, id: NodeId) {
        self.pins.lock().remove(&id);
    }

    pub(super) fn forget(&self, id: NodeId) {
        self.open.lock().pop(&id);
        self.unpin(id);
    }

    /// Closes what can be opened again.
    pub(super) fn evict(&self) {
        self.open.lock().clear();
    }

    pub(super) fn clear(&self) {
        self.evict();
        self.pins.lock().clear();
    }
}
