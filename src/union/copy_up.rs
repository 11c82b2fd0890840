//! How does a lower's entry come into the upper?
//!
//! Whole, staged in the workdir and published in one step, with owner, mode, times and attributes, and
//! with its data on disk before its name appears. All of it is read from one descriptor, so it is the inode that was
//! meant. The change that asked for it is made to the staged copy: if it fails, nothing was copied up.
//!
//! The parent directory is not synced at once: until its new entry is on disk, a crash of the machine shows
//! the lower's file, which is what was before. The first fsync(2) of anything beneath it syncs it too, see
//! `io`.

use std::sync::Arc;

use rustix::fs::{FileType, Mode};
use rustix::process::{getegid, geteuid};

use super::Union;
use super::index::LinkId;
use super::locked::EntryRef;
use super::node::{Body, DirPart, Node, NodeId, Place, RealId};
use crate::branch::{Dir, Inode, LastingId, Ownership, Staged, Stat, UpperDir, UpperInode, WriteFile};
use crate::error::{Error, Result};
use crate::layer::is_private_xattr;
use crate::rules::BranchId;
use crate::rules::name::Name;
use crate::rules::plan::Refusal;

/// How much of a file is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// All of it.
    Whole,
    /// None: it is about to be cut off.
    None,
}

/// How often a file is copied again that others change while it is copied.
const TRIES: usize = 8;

/// What is to be done to the inode once it is in the upper.
pub(super) type Change<'a> = &'a dyn Fn(&UpperInode) -> Result<()>;

/// An entry in the workdir, with all that its original has.
pub(super) struct Copy {
    pub(super) staged: Staged,
    pub(super) original: Stat,
    source: Inode,
    /// By which the original's other names are known, if it has any and they are to follow.
    key: Option<LastingId>,
    /// The data, open for writing, if it is a regular file.
    file: Option<WriteFile>,
}

impl Union {
    /// Makes sure that the node is in the upper.
    pub(super) fn bring_up(&self, node: &Arc<Node>, data: Data) -> Result<()> {
        if node.is_in_upper() { Ok(()) } else { self.change(node, data, &|_| Ok(())) }
    }

    /// Changes a node's inode in the upper, where it is brought first if need be.
    pub(super) fn change(&self, node: &Arc<Node>, data: Data, change: Change<'_>) -> Result<()> {
        self.writable()?;
        self.name_linked(node)?;
        if let Some(inode) = self.upper_inode(node)? {
            return change(&inode);
        }
        if node.kind == FileType::Directory {
            return self.copy_up_dir(node, change);
        }
        let _locked = node.lock();
        match self.upper_inode(node)? {
            // Somebody else was faster.
            Some(inode) => change(&inode),
            None => self.copy_up_leaf(node, data, change),
        }
    }

    /// What was copied up ahead, for a directory that was to be moved, gets its name in the upper before it is changed:
    /// the upper is a layer.
    pub(super) fn name_linked(&self, node: &Arc<Node>) -> Result<()> {
        let Body::Linked(link) = node.state().body else { return Ok(()) };
        if self.writable()?.index.copy(link)?.stat()?.st_nlink > 1 {
            return Ok(());
        }
        match node.entry() {
            Some((dir, name)) => self.bring_up_name(node, &EntryRef { dir, name, meant: Some(node.id) }),
            None => Ok(()),
        }
    }

    /// Makes sure that the directory has a part in the upper.
    pub(super) fn bring_up_dir(&self, dir: &Arc<Node>) -> Result<UpperDir> {
        if !dir.is_in_upper() {
            self.change(dir, Data::None, &|_| Ok(()))?;
        }
        self.upper_dir(dir)
    }

    /// The directory's ancestors come first, from the top down.
    fn copy_up_dir(&self, dir: &Arc<Node>, change: Change<'_>) -> Result<()> {
        let mut way = vec![Arc::clone(dir)];
        let parent_of = |node: &Node| match &node.state().place {
            Place::Entry(parent, _) if !parent.is_in_upper() => Some(Arc::clone(parent)),
            _ => None,
        };
        while let Some(parent) = parent_of(&way[way.len() - 1]) {
            way.push(parent);
        }
        for ancestor in way.drain(1..).rev() {
            self.copy_up_one_dir(&ancestor, &|_| Ok(()))?;
        }
        self.copy_up_one_dir(dir, change)
    }

    fn copy_up_one_dir(&self, dir: &Arc<Node>, change: Change<'_>) -> Result<()> {
        let work = self.writable()?.work;
        let (original, stat) = self.inode_and_stat(dir)?;
        let (staged, inside) = work.make_dir(&work.stage()?, work.fresh_name())?;
        self.copy_metadata(&staged, &original, &stat)?;
        change(staged.inode())?;
        let copy = inside.stat_self()?;
        let real = self.stack.xino.real(&copy);
        if dir.is_gone() {
            // Removed, and still open: the copy has no name either once it is dropped.
            if !self.files.has_room_for_pin() {
                return Err(Error::Stale(dir.id.0));
            }
            self.files.pin(dir.id, inside.upper_inode());
            dir.state().body = Body::Dir([DirPart::new_in_upper(real, self.stack.devices_in_upper())].into());
            return Ok(());
        }

        let (parent, _) = dir.entry().ok_or(Refusal::NotFound)?;
        let parent_dir = self.upper_dir(&parent)?;
        let locked = parent.lock();
        if dir.is_in_upper() {
            // Somebody else was faster.
            drop(locked);
            return change(&self.upper_inode(dir)?.ok_or(Error::Stale(dir.id.0))?);
        }
        let (now, name) = dir.entry().ok_or(Refusal::NotFound)?;
        if !Arc::ptr_eq(&now, &parent) {
            return Err(Error::Bug("a directory that is not in the upper has moved"));
        }
        self.note_base(&parent, &name, original.branch(), &stat, None);
        parent_dir.keeping_times(|| staged.commit(&parent_dir, name.as_os_str()))?;
        self.count_copy_up(0);
        self.dirs.put_upper(dir, inside.moved_to(&parent_dir));
        let mut state = dir.state();
        if let Body::Dir(lowers) = &state.body {
            let watched = lowers.iter().all(|part| part.watched);
            let new = DirPart { watched, ..DirPart::new_in_upper(real, self.stack.devices_in_upper()) };
            state.body = Body::Dir(std::iter::once(new).chain(lowers.iter().copied()).collect());
        }
        drop(state);
        self.has_new_name(&parent);
        Ok(())
    }

    /// A directory of the upper has an entry more than is on disk, and than its listing says.
    pub(super) fn has_new_name(&self, dir: &Node) {
        self.listings.forget(dir.id);
        if !self.options.volatile {
            *self.unsynced.lock().entry(dir.id).or_default() += 1;
        }
    }

    /// The caller has locked the node.
    fn copy_up_leaf(&self, node: &Arc<Node>, data: Data, change: Change<'_>) -> Result<()> {
        let work = self.writable()?.work;
        // The lower's object is where it is: it needs no lock while it is copied.
        let (original, stat) = self.inode_and_stat(node)?;
        let mut copy = self.stage_leaf(&work.stage()?, None, (&original, stat), data)?;
        copy.key = self.shared_key(node).or(copy.key);
        change(copy.staged.inode())?;
        self.sync_copy(&copy, data)?;
        let bytes = if data == Data::Whole && copy.file.is_some() { copy.original.st_size as u64 } else { 0 };
        self.publish_leaf(node, copy, change)?;
        self.count_copy_up(bytes);
        Ok(())
    }

    /// Whether others may change lowers, and that is to show.
    pub(super) fn lowers_change(&self) -> bool {
        self.watches.is_some() || self.options.revalidates
    }

    fn sync_copy(&self, copy: &Copy, data: Data) -> Result<()> {
        let is_needed = copy.original.st_size > 0 && data == Data::Whole && !self.options.volatile;
        match &copy.file {
            Some(file) if is_needed => file.sync(),
            _ => Ok(()),
        }
    }

    /// Gives a copy its name, and the node its new body.
    fn publish_leaf(&self, node: &Arc<Node>, copy: Copy, change: Change<'_>) -> Result<()> {
        loop {
            let Some((parent, _)) = node.entry() else {
                // Unlinked before it was written to: the copy lives on without a name.
                return self.publish_unnamed(node, copy);
            };
            let dir = self.bring_up_dir(&parent)?;
            let locked = parent.lock();
            if node.is_in_upper() {
                // A rename of a directory above has brought it along, as it was.
                drop(locked);
                return change(&self.upper_inode(node)?.ok_or(Error::Stale(node.id.0))?);
            }
            let name = match node.entry() {
                Some((now, name)) if Arc::ptr_eq(&now, &parent) => name,
                _ => continue,
            };
            if self.lowers_change() {
                // Others may have put another file there meanwhile, or none: it would be hidden.
                let look =
                    |dir: &Dir, name: &Name| dir.stat(name.as_os_str())?.ok_or(Error::Stale(node.id.0));
                self.leaf(node, look, |stat| Ok(*stat))?;
            }
            self.note_base(&parent, &name, copy.source.branch(), &copy.original, Some(&copy.source));
            let Copy { staged, original, key, file, .. } = copy;
            let stat = staged.inode().stat()?;
            // Before it can be found: whatever comes next, it shows the number of its original.
            let real = self.note_number(staged.inode(), &stat, node.id);
            let tied = self.tie(key.as_ref(), staged.inode(), &original);
            let link = tied.inspect_err(|_| self.drop_number(real))?;
            if let Err(e) = dir.keeping_times(|| staged.commit(&dir, name.as_os_str())) {
                self.untie(link);
                self.drop_number(real);
                return Err(e);
            }
            // From the moment that it has its name, the node is in the upper.
            self.publish_link(link, &stat);
            self.settle_in_upper(node, real, link, file);
            self.has_new_name(&parent);
            self.cover(key.as_ref(), &original);
            return Ok(());
        }
    }

    fn publish_unnamed(&self, node: &Arc<Node>, copy: Copy) -> Result<()> {
        let Copy { staged, original, key, file, .. } = copy;
        let stat = staged.inode().stat()?;
        let real = self.note_number(staged.inode(), &stat, node.id);
        let tied = self.tie(key.as_ref(), staged.inode(), &original);
        let link = tied.inspect_err(|_| self.drop_number(real))?;
        self.publish_link(link, &stat);
        let inode = staged.inode().clone();
        self.settle_in_upper(node, real, link, file);
        if link.is_none() {
            self.keep(node, inode);
        }
        Ok(())
    }

    /// A staged copy shows that number.
    fn note_number(&self, copy: &UpperInode, stat: &Stat, number: NodeId) -> RealId {
        let real = self.stack.xino.real(stat);
        if let Some(upper) = &self.upper {
            upper.index.set_origin(real, self.upper_id(copy, stat).as_ref(), number);
        }
        real
    }

    /// Nothing has become of the copy.
    fn drop_number(&self, real: RealId) {
        if let Some(upper) = &self.upper {
            upper.index.drop_origin(real);
        }
    }

    /// Copies a lower file with several names up without giving the copy one in the upper: all names follow it. Says
    /// whether it has done so; not if the names cannot be told to follow.
    pub(super) fn copy_up_linked(&self, node: &Arc<Node>) -> Result<bool> {
        let work = self.writable()?.work;
        let _locked = node.lock();
        if node.is_in_upper() {
            return Ok(false);
        }
        let (original, stat) = self.inode_and_stat(node)?;
        let shared = self.shared_key(node);
        if shared.is_none() && self.link_key(&original, &stat)?.is_none() {
            return Ok(false);
        }
        let mut copy = self.stage_leaf(&work.stage()?, None, (&original, stat), Data::Whole)?;
        copy.key = shared.or(copy.key);
        self.sync_copy(&copy, Data::Whole)?;
        self.publish_unnamed(node, copy)?;
        Ok(true)
    }

    /// Who will own the copy of what has these attributes.
    pub(super) fn owner_of_copy(&self, original: &Stat) -> (u32, u32) {
        let records = self.stack.upper.as_ref().is_some_and(|upper| upper.overrides().is_some());
        match self.ownership() {
            Ownership::AsOriginal if !records => (original.st_uid, original.st_gid),
            _ => (geteuid().as_raw(), getegid().as_raw()),
        }
    }

    /// By which the other names of a lower file know its copy; None if it has none, or if notes are not kept.
    fn link_key(&self, original: &Inode, stat: &Stat) -> Result<Option<LastingId>> {
        let remembers = self.upper.as_ref().is_some_and(|upper| upper.index.remembers());
        if remembers && stat.is_hard_linked() { original.lasting_id(stat) } else { Ok(None) }
    }

    /// By which the other names know a node whose copy is in a snapshot.
    fn shared_key(&self, node: &Node) -> Option<LastingId> {
        let Body::Shared(link) = node.state().body else { return None };
        self.upper.as_ref()?.index.key(link)
    }

    /// By which an inode of the upper is known again after a remount.
    pub(super) fn upper_id(&self, inode: &Inode, stat: &Stat) -> Option<LastingId> {
        inode.lasting_id(stat).unwrap_or_else(|e| {
            log::warn!("a number will be another one after a remount: {e}");
            None
        })
    }

    /// Keeps the copy of a file with several lower names where the other names will find it.
    fn tie(&self, key: Option<&LastingId>, copy: &UpperInode, original: &Stat) -> Result<Option<LinkId>> {
        let index = &self.writable()?.index;
        key.map(|key| index.tie(key, original, copy)).transpose()
    }

    fn publish_link(&self, link: Option<LinkId>, copy: &Stat) {
        if let (Some(link), Some(upper)) = (link, &self.upper) {
            upper.index.publish(link, copy);
        }
    }

    /// Nothing has become of a copy that was tied.
    pub(super) fn untie(&self, link: Option<LinkId>) {
        let (Some(link), Some(upper)) = (link, &self.upper) else { return };
        if let Err(e) = upper.index.untie(link) {
            log::warn!("an unused copy stays in the workdir: {e}");
        }
    }

    /// The node is in the upper from now on, and everybody follows it there. Not for directories.
    pub(super) fn settle_in_upper(
        &self,
        node: &Node,
        real: RealId,
        link: Option<LinkId>,
        file: Option<WriteFile>,
    ) {
        self.table.move_to(node, real);
        let mut state = node.state();
        state.body = match link {
            Some(link) => Body::Linked(link),
            None => {
                state.forget_lower_names();
                Body::Leaf(BranchId::UPPER)
            }
        };
        drop(state);
        self.files.replace(node.id, file);
    }

    /// Makes a copy of anything but a directory in the workdir, under a name that the caller gives if it
    /// has to have one.
    pub(super) fn stage_leaf(
        &self,
        dir: &UpperDir,
        name: Option<&std::ffi::OsStr>,
        (original, mut stat): (&Inode, Stat),
        data: Data,
    ) -> Result<Copy> {
        let work = self.writable()?.work;
        let named = || name.map_or_else(|| work.fresh_name(), ToOwned::to_owned);
        let (staged, file) = match stat.kind() {
            FileType::RegularFile => {
                let (staged, file) = match name {
                    Some(name) => work.file_at(dir, name)?,
                    None => work.file(Mode::from_raw_mode(stat.st_mode))?,
                };
                if data == Data::Whole && stat.st_size > 0 {
                    stat = self.copy_data(original, stat, &file)?;
                }
                (staged, Some(file))
            }
            FileType::Symlink => (work.make_symlink(dir, named(), &original.read_link()?)?, None),
            kind => (work.make_node(dir, named(), kind, stat.st_rdev)?, None),
        };
        self.copy_metadata(&staged, original, &stat)?;
        let key = self.link_key(original, &stat)?;
        Ok(Copy { staged, original: stat, source: original.clone(), key, file })
    }

    /// Copies a file's data; says of which attributes it is the data. What others change meanwhile is copied anew.
    fn copy_data(&self, original: &Inode, mut stat: Stat, to: &WriteFile) -> Result<Stat> {
        let source = original.open_read()?;
        let mut tries = 0;
        loop {
            let copied = self.copier.copy_data(&source, &stat, to);
            if !self.lowers_change() {
                return copied.map(|()| stat);
            }
            let now = original.stat()?;
            tries += 1;
            if is_unchanged(&stat, &now) || tries == TRIES {
                return copied.map(|()| stat);
            }
            to.truncate(0)?;
            stat = now;
        }
    }

    /// Lets a staged entry take on what its original has besides data.
    pub(super) fn copy_metadata(&self, staged: &Staged, original: &Inode, stat: &Stat) -> Result<()> {
        staged.inode().copy_metadata(original, stat, self.ownership(), |key| !is_private_xattr(key))
    }
}

/// Whether a file's data and attributes are still those that it had.
fn is_unchanged(before: &Stat, now: &Stat) -> bool {
    let key =
        |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
    key(before) == key(now)
}
