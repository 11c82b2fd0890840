//! How does the upper become a snapshot, and an empty directory the upper?
//!
//! Whoever swaps two directories on the disk does so while nobody uses the union ([`Union::swap_upper`]). What was the
//! upper is a lower from then on, under a number of its own: nodes that were found in it are moved there when they are
//! met, without a look at the disk. What the workdir notes goes on: copies of hard-linked files are those of a lower now,
//! and are copied up before they are changed. Each snapshot has its own copy of the notes, for the way back.
//!
//! What had been written and was not on disk yet still has to get there when somebody asks for it with fsync(2), though it
//! is in a lower now.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use super::index::{Back, Frozen};
use super::live::Prepared;
use super::node::{Body, NodeId};
use super::stack::{Lower, Top};
use super::{Union, UnionOptions, Writable};
use crate::branch::{Atime, Dir, Inodes, Overrides, Policy, SnapshotRoot, UpperDir, UpperInode};
use crate::error::{Error, Result};
use crate::layer::is_private_xattr;
use crate::rules::BranchId;

/// An empty directory that can be the upper.
#[derive(Debug)]
pub struct NextUpper(UpperDir, Top);

/// Notes of which most are saved.
#[derive(Debug)]
pub struct SavedNotes {
    to: UpperDir,
    /// As far as the log was copied.
    end: Option<u64>,
}

/// What becomes of the upper.
#[derive(Debug)]
pub enum OldUpper {
    /// The topmost lower, with the notes that are saved.
    Snapshot(SavedNotes),
    /// It is in the stack no more. The notes are those of the snapshot that the new one lies on.
    Discarded(Option<OwnedFd>),
}

/// What is noted from now on.
enum Notes {
    /// The same, of copies that are in a snapshot.
    Frozen(Frozen),
    /// What was noted when a snapshot was made.
    Of(Box<Back>),
}

/// What was the upper once, as a branch.
pub(super) fn lower_of(
    snapshot: SnapshotRoot,
    id: BranchId,
    options: &UnionOptions,
    owners: Option<Dir>,
) -> Result<Lower> {
    let root = Dir::root(snapshot.layer, id, Atime::Kept, inodes_of(options));
    let policy = policy(&root, options, owners)?;
    Ok(Lower { root: root.under(policy), path: snapshot.path })
}

/// What the workdir noted when a snapshot was made.
pub(super) fn notes_of(snapshot: &mut SnapshotRoot, options: &UnionOptions) -> Option<UpperDir> {
    snapshot.notes.take().map(|notes| UpperDir::workdir(notes, Atime::Kept, inodes_of(options)))
}

pub(super) fn inodes_of(options: &UnionOptions) -> Inodes {
    if options.stable_inodes { Inodes::Stable } else { Inodes::MayChange }
}

/// Who owns what in a snapshot is said by the same records as in the upper.
fn policy(root: &Dir, options: &UnionOptions, owners: Option<Dir>) -> Result<Option<Arc<Policy>>> {
    let Some((xattr, believed)) = options.overrides else { return Ok(None) };
    let overrides = Overrides::new(xattr, believed, root)?.of_read_upper(root, owners)?;
    Ok(Some(Arc::new(Policy { overrides: Some(Arc::new(overrides)), ..Policy::default() })))
}

impl Union {
    /// Makes an empty directory fit to be the upper: its root looks like that of now.
    ///
    /// # Errors
    /// EROFS without an upper that is written; those of the calls that it takes.
    pub fn prepare_upper(&self, fd: OwnedFd) -> Result<NextUpper> {
        let upper = self.writable()?.root;
        let atime = if self.options.noatime { Atime::Kept } else { Atime::AsDisk };
        let next = UpperDir::root(fd, atime, inodes_of(&self.options)).under(upper.policy());
        let original = upper.inode();
        next.upper_inode()
            .copy_metadata(&original, &original.stat()?, self.ownership(), |key| !is_private_xattr(key))?;
        let top = self.stack.look_at_upper(&next)?;
        Ok(NextUpper(next, top))
    }

    /// Writes what the workdir notes of the upper into a directory, as far as it does not matter that others go on.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn save_notes(&self, dir: OwnedFd) -> Result<SavedNotes> {
        let index = &self.writable()?.index;
        let to = UpperDir::workdir(dir, Atime::AsDisk, inodes_of(&self.options));
        let end = if index.remembers() { Some(index.save_log(&to)?) } else { None };
        Ok(SavedNotes { to, end })
    }

    /// Looks at a stack with the upper of now as its topmost lower.
    ///
    /// # Errors
    /// Those of looking at its root.
    pub fn prepare_snapshot(&self, path: &Path) -> Result<Prepared> {
        let id = self.stack.youngest.snapshot.next().ok_or(Error::Bug("no number is left for a snapshot"))?;
        let upper = self.writable()?.root;
        let owners = upper.overrides().map(|_| self.writable()?.work.owners()).transpose()?;
        let root = upper.as_snapshot(id, None);
        let policy = policy(&root, &self.options, owners.map(|owners| (*owners).clone()))?;
        let snapshot = Lower { root: root.under(policy), path: path.to_owned() };
        self.prepare_below(snapshot)
    }

    /// Puts another directory in the upper's place. `exchange` swaps the two on the disk, and may fail: then nothing has
    /// changed. The branches in which something may have changed for users, and those that are in the stack no more.
    ///
    /// # Errors
    /// Those of `exchange`, and of what is done before it.
    pub fn swap_upper(
        &mut self,
        next: NextUpper,
        lowers: Prepared,
        old: OldUpper,
        exchange: impl FnOnce() -> Result<()>,
    ) -> Result<(Vec<Dir>, Vec<BranchId>)> {
        let NextUpper(next, top) = next;
        let before = self.writable()?.root.clone();
        let index = &self.writable()?.index;
        let notes = match old {
            OldUpper::Snapshot(SavedNotes { to, end: Some(end) }) => {
                Notes::Frozen(index.save_rest(&to, end)?)
            }
            OldUpper::Snapshot(SavedNotes { end: None, .. }) => Notes::Frozen(index.frozen()?),
            OldUpper::Discarded(notes) => {
                let inodes = inodes_of(&self.options);
                let notes = notes.map(|notes| UpperDir::workdir(notes, Atime::Kept, inodes));
                Notes::Of(Box::new(index.prepare_back(notes.as_ref())?))
            }
        };
        let discarded = self.stack.youngest.snapshot.next();
        let discarded = discarded.ok_or(Error::Bug("no number is left for a snapshot"))?;
        // What is open for writing is not to be written to any more.
        self.files.evict();
        self.dirs.clear();
        exchange()?;
        // From here on it has happened.
        let is_discarded = matches!(notes, Notes::Of(_));
        self.stack.swap_upper(next, top);
        let (mut changed, mut gone) = self.restack(lowers);
        let lower = if is_discarded {
            let path = self.upper_path.clone().unwrap_or_default();
            let lower = discarded;
            self.stack.retire_upper(&before, lower, path);
            changed.push(before.as_snapshot(lower, None));
            gone.push(lower);
            self.looked_again = self.table.generation();
            lower
        } else {
            self.stack.youngest.snapshot
        };
        self.keep_what_is_open(lower);
        self.swaps.push((self.table.generation(), lower));
        self.unsynced.get_mut().clear();
        *self.unsynced_snapshots.get_mut() = !self.options.volatile;
        if let Err(e) = self.follow_with_notes(notes) {
            // The next mount finds them beside the snapshot.
            log::warn!("the workdir's notes are not up to date: {e}");
        }
        Ok((changed, gone))
    }

    fn follow_with_notes(&self, notes: Notes) -> Result<()> {
        let Writable { root, index, work } = self.writable()?;
        // What a snapshot holds is not to get names in the new upper.
        if let Err(e) = work.begin_markers_anew() {
            log::debug!("markers share their inode with a snapshot's: {e}");
        }
        match notes {
            Notes::Frozen(frozen) => {
                index.freeze(frozen);
                index.now_of(root)
            }
            Notes::Of(back) => index.go_back(root, *back),
        }
    }

    /// Inodes that are open, have lost their name, and have others in what was the upper: they are not to be changed.
    fn keep_what_is_open(&self, lower: BranchId) {
        let is_elsewhere = |inode: &UpperInode, own: u64| {
            inode.stat().is_ok_and(|stat| stat.kind() != FileType::Directory && stat.st_nlink > own)
        };
        let keep = |id: NodeId, inode: &UpperInode| {
            self.files.pin_snapshot(id, (**inode).clone());
            if let Some(node) = self.table.find(id) {
                node.state().body = Body::Leaf(lower);
            }
        };
        for (id, inode) in self.files.pins_in_upper() {
            if is_elsewhere(&inode, 0) {
                keep(id, &inode);
            }
        }
        let unlinked: Vec<NodeId> = self.unlinked.lock().iter().copied().collect();
        for id in unlinked {
            let Some(node) = self.table.find(id) else { continue };
            match self.unlinked_inode(&node) {
                Ok(inode) if is_elsewhere(&inode, 1) => {
                    keep(id, &inode);
                    self.forget_unlinked(id);
                }
                Ok(_) => {}
                Err(e) => log::debug!("an open file that has no name: {e}"),
            }
        }
    }

    /// Brings what was written before a snapshot to the disk, if that has not been done since.
    pub(super) fn sync_snapshots(&self) -> Result<()> {
        let mut unsynced = self.unsynced_snapshots.lock();
        if *unsynced {
            self.writable()?.root.sync_filesystem()?;
            *unsynced = false;
        }
        Ok(())
    }
}
