//! Which merged listings are kept while somebody reads them?
//!
//! All of them can be merged again, so what they take together is bounded, in bytes.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::node::NodeId;
use crate::layer::Known;
use crate::rules::merge::MergedListing;
use crate::rules::name::Name;

/// A directory's listing.
pub(super) type Listing = MergedListing<Known>;

/// What all of them together may take, in bytes, as far as that is known: the one that is used last stays in any case.
const ROOM: usize = 64 << 20;

/// What an entry takes besides its name, in bytes.
const ENTRY: usize = 64;

/// The merged listings that are being read, by directory.
#[derive(Debug)]
pub(super) struct ListingCache(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    listings: LruCache<NodeId, (Arc<Listing>, usize)>,
    bytes: usize,
}

impl ListingCache {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Inner { listings: LruCache::unbounded(), bytes: 0 }))
    }

    /// What all of them take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.lock().bytes
    }

    pub(super) fn get(&self, id: NodeId) -> Option<Arc<Listing>> {
        self.0.lock().listings.get(&id).map(|(listing, _)| Arc::clone(listing))
    }

    pub(super) fn put(&self, id: NodeId, listing: Arc<Listing>) {
        let bytes = listing.names().map(|name| name.as_os_str().len() + ENTRY).sum();
        let inner = &mut *self.0.lock();
        inner.bytes += bytes;
        if let Some((_, old)) = inner.listings.put(id, (listing, bytes)) {
            inner.bytes -= old;
        }
        while inner.bytes > ROOM && inner.listings.len() > 1 {
            let Some((_, (_, bytes))) = inner.listings.pop_lru() else { break };
            inner.bytes -= bytes;
        }
    }

    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.0.lock().listings.contains(&id)
    }

    /// Takes a change of the entry `name` in, if the listing is still there.
    pub(super) fn change(&self, id: NodeId, name: &Name, change: impl FnOnce(&mut Listing)) {
        let inner = &mut *self.0.lock();
        let Some((listing, bytes)) = inner.listings.get_mut(&id) else { return };
        change(Arc::make_mut(listing));
        // At most so much more than before.
        let more = name.as_os_str().len() + ENTRY;
        *bytes += more;
        inner.bytes += more;
    }

    /// All of them may have changed.
    pub(super) fn clear(&self) {
        let inner = &mut *self.0.lock();
        inner.listings.clear();
        inner.bytes = 0;
    }

    /// The directory has changed, or nobody needs its listing any more.
    pub(super) fn forget(&self, id: NodeId) {
        let inner = &mut *self.0.lock();
        if let Some((_, bytes)) = inner.listings.pop(&id) {
            inner.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::BranchId;
    use crate::rules::merge::{Listed, Merge};
    use crate::rules::name::Spelling;
    use rustix::fs::FileType;
    use std::ffi::OsStr;

    #[test]
    fn listings_are_bounded_in_bytes() {
        let listing = |entries: usize| {
            let mut merge = Merge::default();
            let known = Known { kind: FileType::RegularFile, ino: 1 };
            let name = |i| Name::new(OsStr::new(&format!("{i:0200}"))).unwrap();
            let entries = (0..entries).map(|i| (Spelling::Entry(name(i)), Listed::Leaf(known)));
            merge.add(BranchId(1), entries);
            Arc::new(merge.finish())
        };
        let cache = ListingCache::new();
        let large = listing(100_000);
        for id in 0..8 {
            cache.put(NodeId(id), Arc::clone(&large));
        }
        assert!(cache.get(NodeId(0)).is_none() && cache.get(NodeId(7)).is_some());
        assert!(cache.0.lock().bytes <= ROOM);
        cache.put(NodeId(7), listing(1));
        (0..8).for_each(|id| cache.forget(NodeId(id)));
        assert_eq!(cache.0.lock().bytes, 0);
    }
}
