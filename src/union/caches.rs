//! Which descriptors and listings are kept at hand?
//!
//! All of it can be had again, so all of it is bounded: the number of open files is not ours to exhaust.
//! The one exception are the pins: an unlinked inode of the upper exists through its descriptor only.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};

use super::node::{DirPart, Node, NodeId};
use super::readdir::Listing;
use crate::branch::{Dir, UpperDir};
use crate::rules::BranchIndex;

/// A fourth of the descriptors that we may have, for each of the caches; the last fourth for the rest.
fn capacity() -> NonZeroUsize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 14);
    let share = usize::try_from(limit / 4).unwrap_or(usize::MAX).clamp(16, 4096);
    NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)
}

/// The directories of the branches, by node.
#[derive(Debug)]
pub(super) struct DirCache {
    lowers: Mutex<LruCache<(NodeId, BranchIndex), Dir>>,
    uppers: Mutex<LruCache<NodeId, UpperDir>>,
}

impl DirCache {
    pub(super) fn new() -> Self {
        Self { lowers: Mutex::new(LruCache::new(capacity())), uppers: Mutex::new(LruCache::new(capacity())) }
    }

    pub(super) fn lower(&self, node: &Node, branch: BranchIndex) -> Option<Dir> {
        self.lowers.lock().get(&(node.id, branch)).cloned()
    }

    pub(super) fn put_lower(&self, node: &Node, branch: BranchIndex, dir: Dir) {
        self.lowers.lock().put((node.id, branch), dir);
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
}

/// A regular file that is open on a branch.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    pub(super) fd: Arc<OwnedFd>,
    /// Whether it is open for writing too: then it is the upper's.
    pub(super) writable: bool,
    /// Whether it is known to have no suid and no sgid bit that a write could take away.
    pub(super) plain: Arc<AtomicBool>,
}

impl OpenFile {
    pub(super) fn for_reading(fd: Arc<OwnedFd>) -> Self {
        Self { fd, writable: false, plain: Arc::default() }
    }

    pub(super) fn for_writing(fd: Arc<OwnedFd>) -> Self {
        Self { fd, writable: true, plain: Arc::default() }
    }
}

/// The open files, by node.
#[derive(Debug)]
pub(super) struct FileCache {
    open: Mutex<LruCache<NodeId, OpenFile>>,
    pins: Mutex<HashMap<NodeId, Arc<OwnedFd>>>,
}

impl FileCache {
    pub(super) fn new() -> Self {
        Self { open: Mutex::new(LruCache::new(capacity())), pins: Mutex::new(HashMap::new()) }
    }

    pub(super) fn get(&self, id: NodeId) -> Option<OpenFile> {
        self.open.lock().get(&id).cloned()
    }

    /// Keeps a file that was opened while the node's body was what `still` says. A copy-up that came
    /// between has changed the body first and evicts afterwards, so a file of the lower never outlives it.
    pub(super) fn put_if(&self, id: NodeId, file: OpenFile, still: impl FnOnce() -> bool) {
        let mut open = self.open.lock();
        if still() {
            open.put(id, file);
        }
    }

    /// Keeps the copy in place of whatever was open: everybody follows the copy-up.
    pub(super) fn replace(&self, id: NodeId, file: Option<OpenFile>) {
        let mut open = self.open.lock();
        match file {
            Some(file) => drop(open.put(id, file)),
            None => drop(open.pop(&id)),
        }
    }

    /// The file's mode has changed.
    pub(super) fn has_new_mode(&self, id: NodeId) {
        if let Some(file) = self.open.lock().peek(&id) {
            file.plain.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn pin(&self, id: NodeId, fd: Arc<OwnedFd>) {
        self.pins.lock().insert(id, fd);
    }

    pub(super) fn pinned(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.pins.lock().get(&id).cloned()
    }

    pub(super) fn unpin(&self, id: NodeId) {
        self.pins.lock().remove(&id);
    }

    pub(super) fn forget(&self, id: NodeId) {
        self.open.lock().pop(&id);
        self.unpin(id);
    }

    pub(super) fn clear(&self) {
        self.open.lock().clear();
        self.pins.lock().clear();
    }
}

/// The merged listings that are being read, by directory.
#[derive(Debug)]
pub(super) struct ListingCache(Mutex<LruCache<NodeId, Arc<Listing>>>);

/// How many readers may be in the middle of a directory before one has to have it merged again.
const LISTINGS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

impl ListingCache {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(LISTINGS)))
    }

    pub(super) fn get(&self, id: NodeId) -> Option<Arc<Listing>> {
        self.0.lock().get(&id).cloned()
    }

    pub(super) fn put(&self, id: NodeId, listing: Arc<Listing>) {
        self.0.lock().put(id, listing);
    }

    pub(super) fn take(&self, id: NodeId) -> Option<Arc<Listing>> {
        self.0.lock().pop(&id)
    }

    /// The directory has changed, or nobody needs its listing any more.
    pub(super) fn forget(&self, id: NodeId) {
        self.0.lock().pop(&id);
    }
}
