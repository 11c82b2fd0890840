//! read, write, fsync, fallocate, lseek, copy_file_range: what happens to a file's data?
//!
//! There are no open files on our side: the kernel sends every request by node, whoever opened it and when,
//! and a node has one open file at a time. So a copy-up happens on the first write and never on an open,
//! and every reader, writer and mapping follows it.

use std::sync::Arc;

use rustix::fs::{FallocateFlags, FileType, Mode, SeekFrom};
use rustix::io::Errno;

use super::Union;
use super::copy_up::Data;
use super::node::{Body, Node, NodeId};
use super::open_files::Plain;
use crate::branch::{ReadFile, UpperInode, WriteFile};
use crate::error::{Error, Place, Result};
use crate::rules::BranchId;
use crate::rules::kill_priv::{KillPriv, is_plain};
use crate::rules::plan::Refusal;

/// What a change of a file's data came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes were taken.
    pub bytes: usize,
    /// Whether the file has lost suid or sgid by it, which the kernel does not know.
    pub mode_changed: bool,
}

impl Union {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(&self, id: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.reader(&self.node(id)?)?.read_at(offset, buffer)
    }

    /// Writes all of `data`, to the upper.
    ///
    /// # Errors
    /// Those of the copy-up, if it takes one, and of pwrite(2).
    pub fn write(&self, id: NodeId, offset: u64, data: &[u8], kill: KillPriv<'_>) -> Result<Written> {
        let file = self.writer(&self.node(id)?)?;
        stripping(&file, kill, |file| file.write_at(offset, data))
    }

    /// Waits until the file is on disk: with its name, if it was copied up.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn fsync(&self, id: NodeId, data_only: bool) -> Result<()> {
        let node = self.node(id)?;
        if self.options.volatile || self.writable().is_err() {
            return Ok(());
        }
        self.sync_snapshots()?;
        if !node.is_in_upper() {
            return Ok(());
        }
        match self.files.get_for_writing(id) {
            Some((file, _)) if data_only => file.sync_data()?,
            Some((file, _)) => file.sync()?,
            None => {
                self.with_descriptors(|| self.upper_inode(&node)?.ok_or(Error::Stale(id.0))?.sync(data_only))?
            }
        }
        if matches!(node.state().body, Body::Linked(_)) {
            self.upper()?.index.sync()?;
        }
        self.with_descriptors(|| {
            self.sync_record(&node)?;
            self.sync_names(&node)
        })
    }

    /// Syncs the directories above a node in which copy-ups have made names that may not be on disk yet.
    fn sync_names(&self, node: &Node) -> Result<()> {
        let mut at = node.entry();
        while let Some((dir, _)) = at {
            let changed = self.unsynced.lock().get(&dir.id).copied();
            if let (true, Some(changed)) = (dir.is_in_upper(), changed) {
                self.upper_dir(&dir)?.sync()?;
                // Unless a name has been made during the sync. Who comes meanwhile syncs it, too.
                let unsynced = &mut *self.unsynced.lock();
                if unsynced.get(&dir.id) == Some(&changed) {
                    unsynced.remove(&dir.id);
                }
            }
            at = dir.entry();
        }
        Ok(())
    }

    /// Waits until the directory's entries are on disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn fsync_dir(&self, id: NodeId) -> Result<()> {
        let node = self.node(id)?;
        if self.options.volatile || self.writable().is_err() {
            return Ok(());
        }
        self.sync_snapshots()?;
        if !node.is_in_upper() || node.is_gone() {
            return Ok(());
        }
        self.with_descriptors(|| {
            self.upper_dir(&node)?.sync()?;
            self.sync_record(&node)?;
            self.sync_names(&node)
        })
    }

    /// Allocates, punches or zeroes a range, in the modes that the upper's filesystem has.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn fallocate(
        &self,
        id: NodeId,
        offset: u64,
        length: u64,
        mode: u32,
        kill: KillPriv<'_>,
    ) -> Result<Written> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Error::NotSupported)?;
        let file = self.writer(&self.node(id)?)?;
        stripping(&file, kill, |file| file.allocate(mode, offset, length).map(|()| 0))
    }

    /// The next data, or the next hole, at or after an offset.
    ///
    /// # Errors
    /// Those of lseek(2): ENXIO beyond the end.
    pub fn seek(&self, id: NodeId, to: SeekFrom) -> Result<u64> {
        self.reader(&self.node(id)?)?.seek(to)
    }

    /// Copies a range from one file to another, within the kernel if the disk can.
    ///
    /// # Errors
    /// Those of copy_file_range(2); EOPNOTSUPP tells the kernel to copy by reading and writing.
    pub fn copy_range(
        &self,
        from: (NodeId, u64),
        to: (NodeId, u64),
        length: usize,
        kill: KillPriv<'_>,
    ) -> Result<Written> {
        // The source is opened last: it may be the file that the writer has just brought up.
        let out = self.writer(&self.node(to.0)?)?;
        let source = self.reader(&self.node(from.0)?)?;
        stripping(&out, kill, |file| match file.copy_range(&source, from.1, to.1, length) {
            Ok(copied) => Ok(copied),
            Err(Errno::XDEV) => Err(Error::NotSupported),
            Err(errno) => {
                let place = Place::branch(BranchId::UPPER);
                Err(Error::Sys { call: "copy_file_range", errno, place })
            }
        })
    }

    /// The node's file, open for reading at least.
    fn reader(&self, node: &Arc<Node>) -> Result<ReadFile> {
        if let Some(open) = self.files.get(node.id) {
            return Ok(open.for_reading().clone());
        }
        refuse_non_file(node)?;
        self.with_descriptors(|| {
            let was_in_upper = node.is_in_upper();
            let (file, stat) = self.open_file(node)?;
            let is_ours = !was_in_upper && !self.options.revalidates && self.watches.is_none();
            let file = if is_ours { file.of_size(&stat) } else { file };
            self.files.put_if(node.id, file.clone(), || node.is_in_upper() == was_in_upper);
            Ok(file)
        })
    }

    /// The node's file in the upper, open for writing; copied up if it was not there.
    fn writer(&self, node: &Arc<Node>) -> Result<(WriteFile, Plain)> {
        if let Some(file) = self.files.get_for_writing(node.id) {
            return Ok(file);
        }
        refuse_non_file(node)?;
        self.with_descriptors(|| {
            self.name_linked(node)?;
            self.bring_up(node, Data::Whole)?;
            if let Some(file) = self.files.get_for_writing(node.id) {
                return Ok(file);
            }
            let file = self.upper_inode(node)?.ok_or(Error::Stale(node.id.0))?.open_write()?;
            let plain = self.files.replace(node.id, Some(file.clone()));
            Ok((file, plain))
        })
    }
}

/// Changes a file's data, having taken from its mode what that takes.
fn stripping(
    (file, plain): &(WriteFile, Plain),
    kill: KillPriv<'_>,
    change: impl FnOnce(&WriteFile) -> Result<usize>,
) -> Result<Written> {
    let mut mode_changed = false;
    if !plain.get() {
        file.drop_capability()?;
    }
    if matches!(kill, KillPriv::Strip(_)) && !plain.get() {
        // Before the look at the mode: whoever gives it suid or sgid from now on says so afterwards.
        plain.set(true);
        let stripped = strip(&file.upper_inode(), kill);
        if !stripped.as_ref().is_ok_and(|left| is_plain(left.mode)) {
            plain.set(false);
        }
        mode_changed = stripped?.changed;
    }
    let bytes = change(file)?;
    Ok(Written { bytes, mode_changed })
}

/// What [`strip`] has left.
pub(super) struct Left {
    mode: u32,
    changed: bool,
}

/// Takes from a file's mode what a change of its data takes. Nobody changes the mode meanwhile: the kernel locks the
/// inode for changes of either.
pub(super) fn strip(inode: &UpperInode, kill: KillPriv<'_>) -> Result<Left> {
    leave(inode, |mode, gid| kill.mode_after(mode, gid))
}

/// Leaves of a file's mode what `left` says of mode and group.
pub(super) fn leave(inode: &UpperInode, left: impl Fn(u32, u32) -> u32) -> Result<Left> {
    let stat = inode.stat()?;
    let mode = left(stat.st_mode, stat.st_gid);
    let changed = mode != stat.st_mode;
    if changed {
        match inode.chmod(Mode::from_raw_mode(mode)) {
            // A daemon without privilege, and somebody else's file: there the disk does it.
            Err(e) if e.is(Errno::PERM) => {}
            result => result?,
        }
    }
    Ok(Left { mode, changed })
}

fn refuse_non_file(node: &Node) -> Result<()> {
    match node.kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Refusal::IsADirectory.into()),
        _ => Err(Error::Invalid),
    }
}
