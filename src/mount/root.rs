//! Which mount is this, and is it still the same one?
//!
//! A path says where to look, not what is there: between two looks somebody may have swapped a directory on the way.
//! So the root of a mount is opened once, and known by its mount's id. As long as the descriptor is open, the kernel
//! gives the id to no other mount.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use log::debug;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::mountinfo::{self, Entry};

/// The open root of a mounted plyfs.
#[derive(Debug)]
pub(super) struct Root {
    /// Opened with `O_PATH`: asks the daemon nothing, so it works on a dead or stopped one.
    pub(super) fd: OwnedFd,
    /// Its line of the mount table.
    pub(super) entry: Entry,
}

impl Root {
    /// Of the plyfs that a walk along `path` ends in; None if it ends in something else.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = mount_of(&fd, c"", AtFlags::EMPTY_PATH)?;
        if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(None);
        }
        let entry = mountinfo::by_id(stat.stx_mnt_id)?.filter(Entry::is_plyfs);
        Ok(entry.map(|entry| Self { fd, entry }))
    }

    /// A path to the root that no swapped directory can lead elsewhere.
    pub(super) fn magic_path(&self) -> PathBuf {
        magic_path(&self.fd)
    }

    /// An id that no other mount ever had or will have (Linux 6.8). Only whoever may look into the mount is told.
    pub(super) fn unique_id(&self) -> Option<u64> {
        unique_id(&self.fd, c"", AtFlags::EMPTY_PATH)
    }

    /// Where it is mounted now, with a check that a walk from there leads to this mount and no other.
    pub(super) fn spot(&self) -> io::Result<Spot> {
        let path = path_of(&self.fd)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Spot { parent: None, name: path.into() });
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent, flags, Mode::empty())?;
        let spot = Spot { parent: Some(parent), name: name.to_owned() };
        let there = mount_of(spot.parent.as_ref().expect("opened above"), name, AtFlags::SYMLINK_NOFOLLOW)?;
        if there.stx_mnt_id == self.entry.mount_id {
            Ok(spot)
        } else {
            Err(io::Error::other("something else is mounted there now"))
        }
    }
}

/// The name in its directory under which a mount is found. A directory that something is mounted on can be neither
/// renamed nor removed in this namespace: once the directory around it is open, the name stays true.
#[derive(Debug)]
pub(super) struct Spot {
    parent: Option<OwnedFd>,
    name: OsString,
}

impl Spot {
    /// A path that depends on that one name only.
    pub(super) fn path(&self) -> PathBuf {
        match &self.parent {
            Some(parent) => magic_path(parent).join(&self.name),
            None => PathBuf::from(&self.name),
        }
    }

    /// The directory around it.
    pub(super) fn parent(&self) -> Option<PathBuf> {
        self.parent.as_ref().map(magic_path)
    }

    /// The name.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }
}

/// The same of the mount that a path leads to, which is not held on to: an open root keeps its mount in use, and this
/// one may be somebody else's who is just unmounting it.
pub(super) fn unique_id_at(path: &Path) -> Option<u64> {
    unique_id(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

fn unique_id(dir: impl AsFd, name: impl rustix::path::Arg, how: AtFlags) -> Option<u64> {
    // STATX_MNT_ID_UNIQUE, which rustix does not name yet.
    let wanted = StatxFlags::from_bits_retain(0x4000);
    let stat = rustix::fs::statx(dir, name, how | AtFlags::STATX_DONT_SYNC, wanted)
        .inspect_err(|errno| debug!("statx: {errno}"))
        .ok()?;
    (stat.stx_mask & wanted.bits() != 0).then_some(stat.stx_mnt_id)
}

/// `/proc/self/fd/N`: leads to what is open and nowhere else.
pub(super) fn magic_path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Where the directory is now, as far as it can be reached by a path.
pub(super) fn path_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    let path = std::fs::read_link(magic_path(fd))?;
    if path.is_absolute() { Ok(path) } else { Err(Errno::NOENT.into()) }
}

/// The id of the mount, and whether this is its root. Nothing is asked of the filesystem, which may be somebody
/// else's or dead.
fn mount_of(dir: impl AsFd, name: impl rustix::path::Arg, how: AtFlags) -> io::Result<Statx> {
    Ok(rustix::fs::statx(
        dir,
        name,
        how | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT,
        StatxFlags::empty(),
    )?)
}
