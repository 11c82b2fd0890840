//! How much may the upper hold? (`size=`, `inodes=`)
//!
//! What is counted is what the disk says: the blocks of regular files, and inodes. Once at the start, by a walk through
//! the upper; from then on by what each change adds or frees, here, where all changes pass. What is in the workdir on
//! its way to the upper counts, so that a copy-up that does not fit fails like any other write: with ENOSPC.
//!
//! An inode that has lost its last name counts for as long as somebody has it open: it is kept by a name in the workdir
//! then, never by a descriptor alone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, StatVfs};
use rustix::io::Errno;

use super::read::Dir;
use super::stat::Stat;
use crate::error::Result;

/// The unit of `st_blocks`, in bytes.
const STAT_BLOCK: u64 = 512;

/// The limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of the data of regular files, in bytes of disk.
    pub bytes: Option<u64>,
    /// Of files, directories and whatever else there is.
    pub inodes: Option<u64>,
}

impl Limits {
    /// Whether there is none.
    #[must_use]
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The limits of an upper, and what it holds.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl Quota {
    /// Counts what the upper and its snapshots hold by now. It may be more than the limits.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn of<'a>(upper: impl IntoIterator<Item = &'a Dir>, limits: Limits) -> Result<Self> {
        let quota = Self { limits, bytes: AtomicU64::new(0), inodes: AtomicU64::new(0) };
        let mut several_names = HashSet::new();
        let mut left: Vec<Dir> = upper.into_iter().cloned().collect();
        while let Some(dir) = left.pop() {
            for entry in dir.list()? {
                let Some(stat) = dir.stat(&entry.name)? else { continue };
                if stat.is_hard_linked() && !several_names.insert(stat.st_ino) {
                    continue;
                }
                quota.inodes.fetch_add(1, Ordering::Relaxed);
                quota.bytes.fetch_add(bytes_of(&stat), Ordering::Relaxed);
                if stat.kind() == FileType::Directory {
                    left.push(dir.open_dir(&entry.name)?);
                }
            }
        }
        Ok(quota)
    }

    /// Counts one inode more.
    ///
    /// # Errors
    /// ENOSPC.
    pub(super) fn take_inode(&self) -> Result<(), Errno> {
        let limit = self.limits.inodes.unwrap_or(u64::MAX);
        let taken = |now: u64| (now < limit).then_some(now + 1);
        self.inodes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .map(drop)
            .map_err(|_| Errno::NOSPC)
    }

    /// An inode that was counted has come to nothing.
    pub(super) fn give_inode(&self) {
        decrease(&self.inodes, 1);
    }

    /// A name has lost this inode.
    pub(super) fn lose(&self, stat: &Stat) {
        if stat.kind() == FileType::Directory || stat.st_nlink <= 1 {
            decrease(&self.inodes, 1);
            decrease(&self.bytes, bytes_of(stat));
        }
    }

    /// How many bytes of `length` from `offset` on a file with these attributes may take.
    ///
    /// # Errors
    /// ENOSPC if none.
    pub(super) fn room(&self, stat: &Stat, offset: u64, length: u64) -> Result<u64, Errno> {
        let Some(limit) = self.limits.bytes else { return Ok(length) };
        // What is there already is only overwritten.
        let is_dense = bytes_of(stat) >= stat.st_size as u64;
        let there = if is_dense { (stat.st_size as u64).saturating_sub(offset).min(length) } else { 0 };
        let left = limit.saturating_sub(self.bytes.load(Ordering::Relaxed));
        match length.min(there.saturating_add(left)) {
            0 if length > 0 => Err(Errno::NOSPC),
            room => Ok(room),
        }
    }

    /// A file's data has changed.
    pub(super) fn changed(&self, before: &Stat, after: &Stat) {
        let (before, after) = (bytes_of(before), bytes_of(after));
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            decrease(&self.bytes, before - after);
        }
    }

    /// What the disk says of itself, within the limits.
    #[must_use]
    pub fn bound(&self, mut disk: StatVfs) -> StatVfs {
        if let Some(limit) = self.limits.bytes {
            let unit = disk.f_frsize.max(1);
            let left = limit.saturating_sub(self.bytes.load(Ordering::Relaxed)) / unit;
            disk.f_blocks = limit / unit;
            disk.f_bfree = disk.f_bfree.min(left);
            disk.f_bavail = disk.f_bavail.min(left);
        }
        if let Some(limit) = self.limits.inodes {
            let left = limit.saturating_sub(self.inodes.load(Ordering::Relaxed));
            disk.f_files = limit;
            // A disk that makes inodes as they are needed says that it has none.
            if disk.f_ffree == 0 {
                disk.f_ffree = left;
            }
            disk.f_ffree = disk.f_ffree.min(left);
            disk.f_favail = disk.f_ffree;
        }
        disk
    }
}

fn bytes_of(stat: &Stat) -> u64 {
    if stat.kind() == FileType::RegularFile { stat.st_blocks as u64 * STAT_BLOCK } else { 0 }
}

fn decrease(count: &AtomicU64, by: u64) {
    let less = |now: u64| Some(now.saturating_sub(by));
    let (Ok(_) | Err(_)) = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}
