//! Are the directories that the user named fit to be a union? Then here they are, open.
//!
//! Every check comes before the first change on disk, which is the default workdir.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access as Wanted, AtFlags, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::error::{Dir, MountError, Role};
use super::lock::{self, Hold};
use super::mountpoint::Mountpoint;
use super::place::{self, Identity, Place};
use super::work;
use crate::branch::{BranchRoot, BranchRoots, UpperRoot};
use crate::options::{Access, MountOptions};

/// Opens and checks every branch and the workdir.
pub(super) fn open(options: &MountOptions, mountpoint: &Mountpoint) -> Result<BranchRoots, MountError> {
    let upper = options.upper.as_deref().map(|path| Opened::new(Role::Upper, path)).transpose()?;
    let work = match (&options.work, options.access) {
        (None, _) => None,
        (Some(path), Access::ReadWrite) => Some(Opened::new(Role::Work, path)?),
        (Some(path), Access::ReadOnly) => match Opened::new(Role::Work, path) {
            // Nothing is noted in it then.
            Err(MountError::Missing(_)) => None,
            opened => Some(opened?),
        },
    };
    let lowers =
        options.lowers.iter().map(|path| Opened::new(Role::Lower, path)).collect::<Result<Vec<_>, _>>()?;

    let all = || upper.iter().chain(&work).chain(&lowers);
    let known = distinct(all())?;
    for dir in all() {
        not_nested(dir, &known)?;
    }
    mountpoint_outside(mountpoint, &known)?;

    let lowers = lowers.into_iter().map(Opened::into_root);
    match (upper, options.access) {
        (None, _) => Ok(BranchRoots { upper: None, lowers: lowers.collect() }),
        (Some(upper), Access::ReadOnly) => {
            lock::take(&upper.fd, Hold::Shared, || upper.dir())?;
            let work = match work {
                Some(work) => Some(work.into_root()),
                None => work::find_beside(&upper.fd, &upper.path).map(|(path, fd)| BranchRoot { path, fd }),
            };
            let upper = UpperRoot { upper: upper.into_root(), work, writes: false };
            Ok(BranchRoots { upper: Some(upper), lowers: lowers.collect() })
        }
        (Some(upper), Access::ReadWrite) => {
            writable(&upper)?;
            let work = match work {
                Some(work) => {
                    writable(&work)?;
                    can_rename_between(&work, &upper)?;
                    lock::take(&upper.fd, Hold::Exclusive, || upper.dir())?;
                    work
                }
                None => {
                    lock::take(&upper.fd, Hold::Exclusive, || upper.dir())?;
                    let (path, fd) = work::make_beside(&upper.fd, &upper.path)?;
                    let work = Opened::from_fd(Role::Work, path, fd)?;
                    distinct([&work].into_iter().chain([&upper]))?;
                    work
                }
            };
            lock::take(&work.fd, Hold::Exclusive, || work.dir())?;
            let upper = UpperRoot { upper: upper.into_root(), work: Some(work.into_root()), writes: true };
            Ok(BranchRoots { upper: Some(upper), lowers: lowers.collect() })
        }
    }
}

/// One directory of the stack.
#[derive(Debug)]
struct Opened {
    role: Role,
    /// Absolute where that can be found out: for messages and listings only.
    path: PathBuf,
    fd: OwnedFd,
    place: Place,
}

impl Opened {
    /// Opens `given` as the kernel resolves it: from the start directory, through symlinks.
    fn new(role: Role, given: &Path) -> Result<Self, MountError> {
        let dir = || Dir { role, path: given.to_owned() };
        // For reading, not O_PATH: a lock needs it, and an unreadable branch shows here.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(given, flags, Mode::empty())
            .and_then(|fd| rustix::fs::accessat(&fd, c".", Wanted::EXEC_OK, AtFlags::EACCESS).map(|()| fd))
            .map_err(|errno| match errno {
                Errno::NOENT => MountError::Missing(dir()),
                Errno::NOTDIR => MountError::NotADirectory(dir()),
                errno => MountError::Unreadable { dir: dir(), errno },
            })?;
        let path =
            given.canonicalize().or_else(|_| std::path::absolute(given)).unwrap_or_else(|_| given.to_owned());
        Self::from_fd(role, path, fd)
    }

    fn from_fd(role: Role, path: PathBuf, fd: OwnedFd) -> Result<Self, MountError> {
        match Place::of(&fd) {
            Ok(place) => Ok(Self { role, path, fd, place }),
            Err(errno) => Err(MountError::Directory { dir: Dir { role, path }, call: "statx", errno }),
        }
    }

    fn dir(&self) -> Dir {
        Dir { role: self.role, path: self.path.clone() }
    }

    fn into_root(self) -> BranchRoot {
        BranchRoot { path: self.path, fd: self.fd }
    }
}

/// Every directory by its identity; an error if one is there twice.
fn distinct<'a>(dirs: impl Iterator<Item = &'a Opened>) -> Result<HashMap<Identity, &'a Opened>, MountError> {
    let mut known: HashMap<Identity, &Opened> = HashMap::new();
    for dir in dirs {
        if let Some(first) = known.insert(dir.place.identity, dir) {
            return Err(MountError::Same(first.dir(), dir.dir()));
        }
    }
    Ok(known)
}

fn not_nested(inner: &Opened, known: &HashMap<Identity, &Opened>) -> Result<(), MountError> {
    let above = place::ancestors(&inner.fd).map_err(|errno| MountError::Directory {
        dir: inner.dir(),
        call: "open ..",
        errno,
    })?;
    match above.iter().find_map(|identity| known.get(identity)) {
        Some(outer) => Err(MountError::Nested { inner: inner.dir(), outer: outer.dir() }),
        None => Ok(()),
    }
}

/// On a branch itself is allowed, as `mount -t overlay -o lowerdir=/x /x` is: the descriptors
/// reach what lies under the mount. Inside one, the union would show itself.
fn mountpoint_outside(mountpoint: &Mountpoint, known: &HashMap<Identity, &Opened>) -> Result<(), MountError> {
    let path = || mountpoint.path.clone();
    let above = place::ancestors(&mountpoint.dir)
        .map_err(|errno| MountError::MountpointUnreadable { path: path(), errno })?;
    match above.iter().find_map(|identity| known.get(identity)) {
        Some(dir) => Err(MountError::MountpointInside { path: path(), dir: dir.dir() }),
        None => Ok(()),
    }
}

fn writable(dir: &Opened) -> Result<(), MountError> {
    let disk = rustix::fs::fstatvfs(&dir.fd).map_err(|errno| MountError::Directory {
        dir: dir.dir(),
        call: "statvfs",
        errno,
    })?;
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(MountError::ReadOnlyDisk(dir.dir()));
    }
    rustix::fs::accessat(&dir.fd, c".", Wanted::WRITE_OK | Wanted::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| MountError::Unwritable { dir: dir.dir(), errno })
}

/// A staged file is published by one rename, and a rename does not cross mounts.
fn can_rename_between(work: &Opened, upper: &Opened) -> Result<(), MountError> {
    let same_disk = work.place.identity.device() == upper.place.identity.device();
    if same_disk && work.place.mount_id == upper.place.mount_id {
        return Ok(());
    }
    Err(MountError::WorkElsewhere { work: work.path.clone(), upper: upper.path.clone() })
}
