//! How does a lower's entry come into the upper?
//!
//! Whole, staged in the workdir and published in one step, with owner, mode, times and attributes, and
//! with its data on disk before its name appears. The change that asked for it is made to the staged copy: if it
//! fails, nothing was copied up.
//!
//! The parent directory is not synced at once: until its new entry is on disk, a crash of the machine shows
//! the lower's file, which is what was before. The first fsync(2) of anything beneath it syncs it too, see
//! `io`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode};

use super::Union;
use super::caches::OpenFile;
use super::node::{Body, DirPart, Node, NodeId, Place};
use super::numbering::Numbering;
use super::probe::is_private_xattr;
use crate::branch::{Object, Staged, Stat, UpperDir, UpperObject, stat_type};
use crate::error::{Error, Result};
use crate::rules::BranchIndex;
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

/// What is to be done to the inode once it is in the upper.
pub(super) type Change<'a> = &'a dyn Fn(&UpperObject) -> Result<()>;

/// An entry in the workdir, with all that its original has.
pub(super) struct Copy {
    pub(super) staged: Staged,
    pub(super) original: Stat,
    /// The data, open for writing, if it is a regular file.
    file: Option<Arc<OwnedFd>>,
}

impl Union {
    /// Makes sure that the node is in the upper.
    pub(super) fn bring_up(&self, node: &Arc<Node>, data: Data) -> Result<()> {
        if node.is_in_upper() { Ok(()) } else { self.change(node, data, &|_| Ok(())) }
    }

    /// Changes a node's inode in the upper, where it is brought first if need be.
    pub(super) fn change(&self, node: &Arc<Node>, data: Data, change: Change<'_>) -> Result<()> {
        self.writable()?;
        if let Some(()) = self.with_upper_object(node, change)? {
            return Ok(());
        }
        if node.kind == FileType::Directory {
            return self.copy_up_dir(node, change);
        }
        let _held = node.hold();
        match self.with_upper_object(node, change)? {
            // Somebody else was faster.
            Some(()) => Ok(()),
            None => self.copy_up_leaf(node, data, change),
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
        let upper = self.writable()?;
        let stage = upper.staging.dir();
        let (copy, inside) = self.with_object(dir, |original| {
            let (staged, inside) = upper.staging.make_dir(stage, upper.staging.fresh_name())?;
            Ok((self.complete_copy(staged, original, original.stat()?, None)?, inside))
        })?;
        change(copy.staged.object())?;
        if dir.is_gone() {
            // Removed, and still open: the copy has no name either once it is dropped.
            let stat = copy.staged.object().stat()?;
            self.files.pin(dir.id, object_path(copy.staged.object())?);
            self.settle_in_upper(dir, &stat, None, None);
            return Ok(());
        }

        let (parent, _) = entry_place(dir).ok_or(Refusal::NotFound)?;
        let parent_dir = self.upper_dir(&parent)?;
        let held = parent.hold();
        if dir.is_in_upper() {
            // Somebody else was faster.
            drop(held);
            return self.with_upper_object(dir, change)?.ok_or(Error::Invalid);
        }
        let (_, name) = entry_place(dir).ok_or(Refusal::NotFound)?;
        parent_dir.keeping_times(|| copy.staged.commit(&parent_dir, name.as_os_str()))?;
        self.dirs.put_upper(dir, inside);
        let mut state = dir.state();
        if let Body::Dir(lowers) = &state.body {
            let parts = std::iter::once(DirPart::NEW_IN_UPPER).chain(lowers.iter().copied());
            state.body = Body::Dir(parts.collect());
        }
        drop(state);
        self.has_new_name(&parent);
        Ok(())
    }

    /// A directory of the upper has an entry more than is on disk, and than its listing says.
    pub(super) fn has_new_name(&self, dir: &Node) {
        self.listings.forget(dir.id);
        if !self.options.volatile {
            self.unsynced.lock().insert(dir.id);
        }
    }

    /// The caller holds the node.
    fn copy_up_leaf(&self, node: &Arc<Node>, data: Data, change: Change<'_>) -> Result<()> {
        let upper = self.writable()?;
        let stage = upper.staging.dir();
        // The lower's object is where it is: it needs no lock while it is copied.
        let original = self.with_object(node, |object| Ok(object.clone()))?;
        let copy = self.stage_leaf(stage, None, &original, data)?;
        change(copy.staged.object())?;
        if let Some(file) = &copy.file
            && copy.original.st_size > 0
            && data == Data::Whole
            && !self.options.volatile
        {
            fs::fsync(file).map_err(|errno| Error::Sys { call: "fsync", errno })?;
        }
        self.publish_leaf(node, copy, change)
    }

    /// Gives a copy its name, and the node its new body.
    fn publish_leaf(&self, node: &Arc<Node>, copy: Copy, change: Change<'_>) -> Result<()> {
        let Copy { staged, original, file } = copy;
        loop {
            let Some((parent, _)) = entry_place(node) else {
                // Unlinked before it was written to: the copy lives on without a name.
                return self.publish_unnamed(node, staged, &original, file);
            };
            let dir = self.bring_up_dir(&parent)?;
            let held = parent.hold();
            if node.is_in_upper() {
                // A rename of a directory above has brought it along, as it was.
                drop(held);
                return self.with_upper_object(node, change)?.ok_or(Error::Invalid);
            }
            let name = match entry_place(node) {
                Some((now, name)) if Arc::ptr_eq(&now, &parent) => name,
                _ => continue,
            };
            let stat = staged.object().stat()?;
            let linked = self.tie_links(staged.object(), &original)?;
            let published = dir.keeping_times(|| staged.commit(&dir, name.as_os_str()));
            // From the moment that it has its name, the node is in the upper.
            self.note_links(linked, &original, published)?;
            self.settle_in_upper(node, &stat, linked, file);
            self.has_new_name(&parent);
            return self.cover(&original);
        }
    }

    fn publish_unnamed(
        &self,
        node: &Arc<Node>,
        staged: Staged,
        original: &Stat,
        file: Option<Arc<OwnedFd>>,
    ) -> Result<()> {
        let linked = self.tie_links(staged.object(), original)?;
        self.note_links(linked, original, Ok(()))?;
        let stat = staged.object().stat()?;
        if linked.is_none() {
            let pin = match (&file, &**staged.object()) {
                (Some(file), _) | (None, Object::Open(file)) => Arc::clone(file),
                (None, Object::At(dir, name)) => Arc::new(dir.open_path(name)?),
            };
            self.files.pin(node.id, pin);
        }
        self.settle_in_upper(node, &stat, linked, file);
        Ok(())
    }

    /// Keeps the copy of a file with several lower names where the other names will find it. Answers the
    /// number that they find it by.
    pub(super) fn tie_links(&self, copy: &UpperObject, original: &Stat) -> Result<Option<NodeId>> {
        if original.st_nlink < 2 || stat_type(original) == FileType::Directory {
            return Ok(None);
        }
        let number = Numbering::number(self.numbering.real(original));
        self.writable()?.index.keep_link(number, original, copy)?;
        Ok(Some(number))
    }

    /// The other names lead to the copy from now on, or never, if it was not published.
    fn note_links(&self, tied: Option<NodeId>, original: &Stat, published: Result<()>) -> Result<()> {
        if let Some(number) = tied {
            let index = &self.writable()?.index;
            match &published {
                Ok(()) => index.set_copied_up(number, original),
                Err(_) => index.discard_link(number)?,
            }
        }
        published
    }

    /// The upper covers one more of the names of a lower file, if it has several.
    pub(super) fn cover(&self, lower: &Stat) -> Result<()> {
        if lower.st_nlink > 1 && stat_type(lower) != FileType::Directory {
            let index = &self.writable()?.index;
            index.cover(Numbering::number(self.numbering.real(lower)), lower);
        }
        Ok(())
    }

    /// The node is in the upper from now on, and everybody follows it there.
    pub(super) fn settle_in_upper(
        &self,
        node: &Node,
        stat: &Stat,
        linked: Option<NodeId>,
        file: Option<Arc<OwnedFd>>,
    ) {
        let real = self.numbering.real(stat);
        if let Some(upper) = &self.upper {
            upper.index.set_origin(real, linked.unwrap_or(node.id));
        }
        self.table.move_to(node, real);
        let body = match linked {
            Some(number) => Body::Linked(number),
            None if node.kind == FileType::Directory => Body::Dir([DirPart::NEW_IN_UPPER].into()),
            None => Body::Leaf(BranchIndex::UPPER),
        };
        node.state().body = body;
        self.files.replace(node.id, file.map(OpenFile::for_writing));
    }

    /// Makes a copy of anything but a directory in the workdir, under a name that the caller gives if it
    /// has to have one.
    pub(super) fn stage_leaf(
        &self,
        dir: &UpperDir,
        name: Option<&std::ffi::OsStr>,
        original: &Object,
        data: Data,
    ) -> Result<Copy> {
        let staging = &self.writable()?.staging;
        let stat = original.stat()?;
        let named = || name.map_or_else(|| staging.fresh_name(), ToOwned::to_owned);
        let (staged, file) = match stat_type(&stat) {
            FileType::RegularFile => {
                let (staged, file) = match name {
                    Some(name) => staging.file_at(dir, name)?,
                    None => staging.file(Mode::from_raw_mode(stat.st_mode))?,
                };
                if data == Data::Whole && stat.st_size > 0 {
                    self.copier.copy_data(original.open_read()?, &stat, &file)?;
                }
                (staged, Some(file))
            }
            FileType::Symlink => (staging.make_symlink(dir, named(), &original.read_link()?)?, None),
            kind => (staging.make_node(dir, named(), kind, stat.st_rdev)?, None),
        };
        self.complete_copy(staged, original, stat, file)
    }

    /// Lets a staged entry take on what its original has besides data.
    pub(super) fn complete_copy(
        &self,
        staged: Staged,
        original: &Object,
        stat: Stat,
        file: Option<Arc<OwnedFd>>,
    ) -> Result<Copy> {
        staged.object().take_on(original, &stat, self.ownership(), |key| !is_private_xattr(key))?;
        Ok(Copy { staged, original: stat, file })
    }
}

fn object_path(object: &Object) -> Result<Arc<OwnedFd>> {
    Ok(match object {
        Object::Open(file) => Arc::clone(file),
        Object::At(dir, name) => Arc::new(dir.open_path(name)?),
    })
}

pub(super) fn entry_place(node: &Node) -> Option<(Arc<Node>, Name)> {
    match &node.state().place {
        Place::Entry(parent, name) => Some((Arc::clone(parent), name.clone())),
        Place::Root | Place::Gone(..) => None,
    }
}
