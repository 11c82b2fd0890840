//! How does it show here that others change a directory?
//!
//! By inotify(7): one instance, one watch a directory. Nothing in a branch is changed, or opened, for it. A watch is
//! on the inode, whatever its name is by now. What changes through a shared mapping shows when the file is closed.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::{self, Errno};

use super::read::Dir;
use crate::error::Result;

/// What one read(2) is given room for.
const BUFFER_SIZE: usize = 64 * 1024;

const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Filesystems on which nothing changes but by this kernel's own calls, which inotify tells of, by what statfs(2) says.
#[rustfmt::skip]
const LOCAL: &[u32] = &[
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x2fc1_2fc1, // zfs
    0x3153_464a, // jfs
    0x5265_4973, // reiserfs
    0x0000_3434, // nilfs2
    0x0000_4d44, // vfat
    0x2011_bab0, // exfat
    0x7366_746e, // ntfs3
    0x0000_482b, // hfsplus
    0x1501_3346, // udf
    0x0000_9660, // iso9660
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x28cd_3d45, // cramfs
    0x0000_7275, // romfs
];

/// A watch on a directory. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchId(i32);

/// Something that was seen.
#[derive(Debug)]
pub enum Seen {
    /// In a directory.
    In(WatchId, Sight),
    /// More than could be told.
    TooMuch,
}

/// What was seen in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// A name has come, gone, or is another inode's.
    Name(OsString),
    /// The inode under a name has other attributes.
    Attributes(OsString),
    /// The file under a name has other data.
    Data(OsString),
    /// The directory itself has other attributes, or another name, or none.
    Itself,
    /// Nothing will be seen any more.
    End,
}

/// Whoever watches directories.
#[derive(Debug)]
pub struct Watcher(OwnedFd);

impl Watcher {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// Those of inotify_init1(2): EMFILE if the user has too many already.
    pub fn new() -> io::Result<Self> {
        inotify::init(CreateFlags::CLOEXEC).map(Self)
    }

    /// Watches a directory from now on. One that is watched already is so by the same watch.
    ///
    /// # Errors
    /// Those of inotify_add_watch(2): ENOSPC if there are too many.
    pub fn watch(&self, dir: &Dir) -> io::Result<WatchId> {
        inotify::add_watch(&self.0, &*dir.inode().path(), WANTED).map(WatchId)
    }

    /// Ends a watch.
    pub fn end(&self, watch: WatchId) {
        // It has ended already if its directory is no more.
        if let Err(errno) = inotify::remove_watch(&self.0, watch.0)
            && errno != Errno::INVAL
        {
            log::debug!("inotify_rm_watch: {errno}");
        }
    }

    /// Waits until something is seen.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn wait(&self) -> io::Result<Vec<Seen>> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_SIZE];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut seen = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => seen.extend(sight(&event)),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            if reader.is_buffer_empty() {
                return Ok(seen);
            }
        }
    }
}

fn sight(event: &inotify::Event<'_>) -> Option<Seen> {
    let is = |flags: ReadFlags| event.events().intersects(flags);
    if is(ReadFlags::QUEUE_OVERFLOW) {
        return Some(Seen::TooMuch);
    }
    let name = || event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
    let sight = match name() {
        _ if is(ReadFlags::IGNORED) => Sight::End,
        None if is(ReadFlags::ATTRIB
            | ReadFlags::DELETE_SELF
            | ReadFlags::MOVE_SELF
            | ReadFlags::UNMOUNT) =>
        {
            Sight::Itself
        }
        None => return None,
        Some(name)
            if is(ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO) =>
        {
            Sight::Name(name)
        }
        Some(name) if is(ReadFlags::ATTRIB) => Sight::Attributes(name),
        Some(name) if is(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE) => Sight::Data(name),
        Some(_) => return None,
    };
    Some(Seen::In(WatchId(event.wd()), sight))
}

impl Dir {
    /// Whether all changes on its filesystem can be seen from here. Not those that another machine makes, or a program,
    /// or the layers of an overlay.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn shows_changes(&self) -> Result<bool> {
        Ok(LOCAL.contains(&self.filesystem()?))
    }
}
