//! getattr, setattr, readlink: what is known of a node itself?

use std::ffi::OsString;
use std::sync::Arc;

use rustix::fs::{FileType, IFlags, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::Union;
use super::copy_up::Data;
use super::io::strip;
use super::lookup::dir_links;
use super::node::{Body, Node, NodeId, Place};
use crate::branch::{Stat, UpperInode};
use crate::error::{Error, Result};
use crate::rules::kill_priv::{KillPriv, is_plain};

const CAPABILITY: &str = "security.capability";

/// A node's attributes, ids as on disk.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// The number that users see.
    pub id: NodeId,
    /// Everything but the number and the link count.
    pub stat: Stat,
    /// The link count.
    pub links: u32,
    /// Whether they stay so until the kernel is told otherwise.
    pub holds: bool,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The disk's clock says.
    Now,
    /// Seconds since 1970 (negative before) and nanoseconds from there upward.
    To(Timespec),
}

/// What setattr is to change. Ids as on disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: Option<SetTime>,
    /// Time of last modification.
    pub mtime: Option<SetTime>,
}

impl Union {
    /// A node's attributes.
    ///
    /// # Errors
    /// Those of the branch that has them.
    pub fn getattr(&self, id: NodeId) -> Result<Attr> {
        let node = self.node(id)?;
        self.with_descriptors(|| self.attr(&node))
    }

    fn attr(&self, node: &Arc<Node>) -> Result<Attr> {
        let since = self.changes_seen();
        let stat = self.stat_of(node)?;
        let links = self.links(node, &stat)?;
        let holds = self.shows_changes_to(node, &stat) && since == self.changes_seen();
        Ok(Attr { id: node.id, stat, links, holds })
    }

    fn links(&self, node: &Arc<Node>, stat: &Stat) -> Result<u32> {
        let (body, gone) = {
            let state = node.state();
            (state.body.clone(), matches!(state.place, Place::Gone(..)))
        };
        let on_disk = stat.st_nlink as u32;
        Ok(match (&body, &self.upper) {
            (Body::Dir(_), _) if gone => 0,
            (Body::Dir(parts), _) => dir_links(parts.len(), stat),
            // One of its links is in the workdir.
            (Body::Unlinked, _) => on_disk.saturating_sub(1),
            (Body::Linked(link) | Body::Shared(link), Some(upper)) => match upper.index.note(*link) {
                Some(note) => note.shown_links(stat),
                // Its last name is gone and so is the index's.
                None => on_disk,
            },
            (Body::Leaf(branch), Some(upper)) if !branch.is_upper() && stat.is_hard_linked() => {
                let link = upper.index.find(stat, || self.inode(node)?.lasting_id(stat))?;
                match link.and_then(|link| upper.index.note(link)) {
                    Some(note) => note.shown_links(stat),
                    None if gone => on_disk.saturating_sub(1),
                    None => on_disk,
                }
            }
            (Body::Leaf(branch), _) if !branch.is_upper() && gone => 0,
            _ => on_disk,
        })
    }

    /// Changes attributes. `kill` says what becomes of suid and sgid on a file whose length changes.
    ///
    /// # Errors
    /// Those of the upper. On an error a file that was in a lower still is.
    pub fn setattr(&self, id: NodeId, changes: &Changes, kill: KillPriv<'_>) -> Result<Attr> {
        let node = self.node(id)?;
        self.writable()?;
        let is_file = node.kind == FileType::RegularFile;
        if changes.size.is_some() && !is_file {
            return Err(Error::Invalid);
        }
        if self.changes_nothing(&node, changes)? {
            return self.with_descriptors(|| self.attr(&node));
        }
        let data = if changes.size == Some(0) { Data::None } else { Data::Whole };
        self.with_descriptors(|| {
            self.change(&node, data, &|inode| {
                if let Some(size) = changes.size {
                    strip(inode, kill)?;
                    truncate(inode, size)?;
                }
                apply(&node, inode, changes)
            })
        })?;
        self.files.has_new_mode(id);
        self.with_descriptors(|| self.attr(&node))
    }

    /// Whether a lower's inode has already what it is to have: then it is not copied up. A change of owner takes
    /// something away from a program that runs with its owner's rights.
    fn changes_nothing(&self, node: &Arc<Node>, changes: &Changes) -> Result<bool> {
        let times = changes.atime.is_some() || changes.mtime.is_some();
        if node.is_in_upper() || times || changes.size.is_some() {
            return Ok(false);
        }
        self.with_descriptors(|| {
            let (inode, stat) = self.inode_and_stat(node)?;
            let is = |wanted: Option<u32>, there: u32| wanted.is_none_or(|wanted| wanted == there);
            let same = is(changes.uid, stat.st_uid)
                && is(changes.gid, stat.st_gid)
                && is(changes.mode.map(|mode| mode & 0o7777), stat.st_mode & 0o7777);
            if !same || node.kind != FileType::RegularFile {
                return Ok(same);
            }
            let chowns = changes.uid.is_some() || changes.gid.is_some();
            let gives_rights =
                chowns && (!is_plain(stat.st_mode) || inode.get_xattr(CAPABILITY.as_ref())?.is_some());
            Ok(!gives_rights)
        })
    }

    /// The flags that chattr(1) sets.
    ///
    /// # Errors
    /// ENOTTY where the branch has none.
    pub fn flags(&self, id: NodeId) -> Result<IFlags> {
        let node = self.node(id)?;
        self.with_descriptors(|| self.inode(&node)?.flags())
    }

    /// Sets them, in the upper.
    ///
    /// # Errors
    /// EOPNOTSUPP for a directory that nothing could be copied up into any more; those of the upper.
    pub fn set_flags(&self, id: NodeId, flags: IFlags) -> Result<()> {
        let node = self.node(id)?;
        self.writable()?;
        let closes = flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND);
        if closes && node.kind == FileType::Directory {
            return Err(Error::NotSupported);
        }
        if !node.is_in_upper()
            && self.with_descriptors(|| self.inode(&node)?.flags()).is_ok_and(|now| now == flags)
        {
            return Ok(());
        }
        self.with_descriptors(|| self.change(&node, Data::Whole, &|inode| inode.set_flags(flags)))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub fn readlink(&self, id: NodeId) -> Result<OsString> {
        let node = self.node(id)?;
        self.with_descriptors(|| self.inode(&node)?.read_link())
    }
}

fn truncate(inode: &UpperInode, size: u64) -> Result<()> {
    inode.truncate(size)?;
    // It is done: a time is no reason to say that it is not.
    // A file whose data was not worth copying up is empty already, which is no change to the disk.
    if let Err(e) = inode.set_times(&times(None, Some(SetTime::Now))) {
        log::warn!("a file that was cut off keeps its time of modification: {e}");
    }
    Ok(())
}

fn apply(node: &Node, inode: &UpperInode, changes: &Changes) -> Result<()> {
    if changes.uid.is_some() || changes.gid.is_some() {
        inode.chown(changes.uid, changes.gid)?;
    }
    if let Some(mode) = changes.mode
        && node.kind != FileType::Symlink
    {
        // The kernel has checked what this caller may set, sgid included.
        inode.chmod(Mode::from_raw_mode(mode & 0o7777))?;
    }
    if changes.atime.is_some() || changes.mtime.is_some() {
        inode.set_times(&times(changes.atime, changes.mtime))?;
    }
    Ok(())
}

fn times(atime: Option<SetTime>, mtime: Option<SetTime>) -> Timestamps {
    let spec = |time| match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ },
        Some(SetTime::To(time)) => time,
    };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}
