//! How is the real tree changed, one path at a time, and never somewhere else?
//!
//! A directory is reached from the target's root by names alone: a symbolic link on the way is an error. What is new is made
//! under a name of its own beside its place, with all that it has, and gets its name in one step.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::content;
use super::error::{Error, Result};
use super::plan::Way;
use super::sides::Thing;
use crate::branch::Stat;

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
const PRIVATE_DIR: Mode = Mode::RWXU;
const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The real tree.
#[derive(Debug)]
pub(super) struct Target {
    root: OwnedFd,
    path: PathBuf,
    /// Whether files get their owners.
    owners: bool,
}

/// A directory of it, and where that is.
#[derive(Debug)]
pub(super) struct Place {
    dir: OwnedFd,
    path: PathBuf,
}

impl Target {
    pub(super) fn open(path: &Path, owners: bool) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::io("open", path))?;
        Ok(Self { root, path: path.to_owned(), owners })
    }

    /// The path of a way.
    pub(super) fn path(&self, way: &[OsString]) -> PathBuf {
        self.path.join(way.iter().collect::<PathBuf>())
    }

    /// The directory that a way leads to.
    pub(super) fn dir(&self, way: &[OsString]) -> Result<Place> {
        let path = self.path(way);
        let relative: PathBuf = way.iter().collect();
        let relative = if way.is_empty() { Path::new(".") } else { &relative };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let dir = rustix::fs::openat2(&self.root, relative, DIR, Mode::empty(), how)
            .map_err(Error::io("open", &path))?;
        Ok(Place { dir, path })
    }

    /// Why a change there is not allowed, as far as that can be told before. `now` is what is there.
    pub(super) fn refusal(&self, way: &Way, now: Option<&Stat>) -> Option<String> {
        let (name, dirs) = way.split_last()?;
        let place = match self.dir(dirs) {
            Ok(place) => place,
            Err(e) => return Some(e.to_string()),
        };
        let rights = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        let magic = format!("/proc/self/fd/{}", place.dir.as_raw_fd());
        if let Err(errno) = rustix::fs::accessat(rustix::fs::CWD, &*magic, rights, AtFlags::EACCESS) {
            return Some(format!("cannot write to {}: {errno}", crate::shown::shown(&place.path)));
        }
        let around = rustix::fs::stat(&*magic).ok()?;
        let me = rustix::process::geteuid().as_raw();
        let is_sticky = around.st_mode & 0o1000 != 0;
        let is_others = now.is_some_and(|now| now.st_uid != me) && around.st_uid != me;
        (me != 0 && is_sticky && is_others).then(|| {
            format!(
                "{} is another user's, in a directory that is for all",
                crate::shown::shown(&place.path.join(name))
            )
        })
    }

    /// Makes what a thing is under a name that is free. What a directory has besides its entries comes later.
    pub(super) fn make(&self, place: &Place, name: &OsStr, thing: &Thing, data: Option<&[u8]>) -> Result<()> {
        let path = place.path.join(name);
        let failed = |verb| Error::io::<Errno>(verb, &path);
        match thing.stat.kind() {
            FileType::RegularFile => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&place.dir, name, flags, PRIVATE).map_err(failed("make"))?;
                match data {
                    Some(data) => write_all(&file, data).map_err(failed("write"))?,
                    None if thing.stat.st_size == 0 => {}
                    None => {
                        let from = thing.inode.open_read()?;
                        content::copy(&from, &file, thing.stat.st_size as u64).map_err(failed("write"))?;
                    }
                }
                self.finish_by(&file, &format!("/proc/self/fd/{}", file.as_raw_fd()), &path, thing)
            }
            FileType::Directory => rustix::fs::mkdirat(&place.dir, name, PRIVATE_DIR).map_err(failed("make")),
            FileType::Symlink => {
                let to = thing.inode.read_link()?;
                rustix::fs::symlinkat(&*to, &place.dir, name).map_err(failed("make"))?;
                self.finish(place, name, thing)
            }
            kind => {
                rustix::fs::mknodat(&place.dir, name, kind, PRIVATE, thing.stat.st_rdev)
                    .map_err(failed("make"))?;
                self.finish(place, name, thing)
            }
        }
    }

    /// Gives what has a name what a thing has besides data.
    pub(super) fn finish(&self, place: &Place, name: &OsStr, thing: &Thing) -> Result<()> {
        let path = place.path.join(name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inode =
            rustix::fs::openat(&place.dir, name, flags, Mode::empty()).map_err(Error::io("open", &path))?;
        self.finish_by(&inode, &format!("/proc/self/fd/{}", inode.as_raw_fd()), &path, thing)
    }

    /// `magic` leads to the inode, a symbolic link included.
    fn finish_by(&self, inode: &OwnedFd, magic: &str, path: &Path, thing: &Thing) -> Result<()> {
        let failed = |verb| Error::io::<Errno>(verb, path);
        let now = rustix::fs::fstat(inode).map_err(failed("look at"))?;
        let wanted = &thing.stat;
        if self.owners && (now.st_uid, now.st_gid) != (wanted.st_uid, wanted.st_gid) {
            let (uid, gid) = (Uid::from_raw(wanted.st_uid), Gid::from_raw(wanted.st_gid));
            let empty = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(inode, c"", Some(uid), Some(gid), empty)
                .map_err(failed("give its owner (but see --no-owners) to"))?;
        }
        let is_symlink = wanted.kind() == FileType::Symlink;
        let has = content::xattrs(&thing.inode)?;
        set_xattrs(magic, is_symlink, &has).map_err(failed("set the attributes of"))?;
        if !is_symlink {
            let mode = Mode::from_raw_mode(wanted.st_mode & 0o7777);
            rustix::fs::chmod(magic, mode).map_err(failed("set the mode of"))?;
        }
        let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
        let times = Timestamps {
            last_access: time(wanted.st_atime, wanted.st_atime_nsec),
            last_modification: time(wanted.st_mtime, wanted.st_mtime_nsec),
        };
        rustix::fs::utimensat(inode, c"", &times, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
            .or_else(|_| rustix::fs::utimensat(rustix::fs::CWD, magic, &times, AtFlags::empty()))
            .map_err(failed("set the times of"))
    }

    /// Waits until a directory's filesystem has everything on the disk.
    pub(super) fn sync(&self, place: &Place) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(&place.dir, c".", flags, Mode::empty()) {
            Ok(dir) => rustix::fs::syncfs(&dir).map_err(Error::io("sync", &place.path)),
            // Where it may not be read it cannot be told to the disk either.
            Err(errno) => {
                log::warn!("{}: {errno}: a crash of the machine may undo some of it", place.path.display());
                Ok(())
            }
        }
    }
}

impl Place {
    /// The same directory once more.
    pub(super) fn again(&self) -> Result<Self> {
        let dir = self.dir.try_clone().map_err(Error::io("open", &self.path))?;
        Ok(Self { dir, path: self.path.clone() })
    }

    pub(super) fn device(&self) -> Result<u64> {
        Ok(rustix::fs::fstat(&self.dir).map_err(Error::io("look at", &self.path))?.st_dev)
    }

    /// A directory in it.
    pub(super) fn inside(&self, name: &OsStr) -> Result<Self> {
        let path = self.path.join(name);
        let dir =
            rustix::fs::openat(&self.dir, name, DIR, Mode::empty()).map_err(Error::io("open", &path))?;
        Ok(Self { dir, path })
    }

    /// Another name for what has a name in another directory.
    pub(super) fn link(&self, from: &Self, old: &OsStr, name: &OsStr) -> Result<()> {
        rustix::fs::linkat(&from.dir, old, &self.dir, name, AtFlags::empty())
            .map_err(Error::io("link", &self.path.join(name)))
    }

    /// Fails if a name does not have what was seen there.
    pub(super) fn check(&self, name: &OsStr, seen: Option<&Stat>) -> Result<()> {
        let changed = || Error::Changed(self.path.join(name));
        match (rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW), seen) {
            (Err(Errno::NOENT), None) => Ok(()),
            (Ok(now), Some(seen)) => {
                let touched = (now.st_ctime, now.st_ctime_nsec) != (seen.st_ctime, seen.st_ctime_nsec);
                let written = (now.st_size, now.st_mtime, now.st_mtime_nsec)
                    != (seen.st_size, seen.st_mtime, seen.st_mtime_nsec);
                let same = now.st_ino == seen.st_ino
                    && match seen.kind() {
                        // What is done in a directory changes its times.
                        FileType::Directory => true,
                        // What is done to another of its names changes one of them.
                        _ if seen.is_hard_linked() => !written,
                        _ => !touched,
                    };
                if same { Ok(()) } else { Err(changed()) }
            }
            (Err(errno), Some(_)) if errno != Errno::NOENT => {
                Err(Error::io("look at", &self.path.join(name))(errno))
            }
            _ => Err(changed()),
        }
    }

    /// Gives what has one name another, instead of what has that, if anything has.
    pub(super) fn publish(&self, name: &OsStr, as_name: &OsStr, how: RenameFlags) -> Result<()> {
        rustix::fs::renameat_with(&self.dir, name, &self.dir, as_name, how)
            .map_err(Error::io("put something at", &self.path.join(as_name)))
    }

    /// Lets a file have what another one has, data and all, under all names that it has. Can be repeated.
    pub(super) fn rewrite(&self, from: &OsStr, name: &OsStr) -> Result<()> {
        let failed = Error::io::<Errno>("write", &self.path.join(name));
        let done = || {
            let open = |name: &OsStr, flags: OFlags| {
                rustix::fs::openat(&self.dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            };
            let from = open(from, OFlags::RDONLY)?;
            let to = open(name, OFlags::RDWR)?;
            let stat = rustix::fs::fstat(&from)?;
            rustix::fs::ftruncate(&to, 0)?;
            content::copy(&from, &to, stat.st_size as u64)?;
            let owner = rustix::fs::fstat(&to)?;
            if (owner.st_uid, owner.st_gid) != (stat.st_uid, stat.st_gid) {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::fchown(&to, Some(uid), Some(gid))?;
            }
            let [from_path, to_path] = [&from, &to].map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
            set_xattrs(&to_path, false, &xattrs_of(&from_path)?)?;
            rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            let times = Timestamps {
                last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
                last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
            };
            rustix::fs::futimens(&to, &times)?;
            rustix::fs::fsync(&to)
        };
        done().map_err(failed)
    }

    /// Removes what has a name, with all that is in it. Nothing is no error.
    pub(super) fn remove(&self, name: &OsStr) -> Result<()> {
        let failed = Error::io::<Errno>("remove", &self.path.join(name));
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(failed(errno)),
        }
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let inside = self.inside(name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&inside.dir, c".", flags, Mode::empty());
        let list = open().or_else(|_| {
            // Its owner had locked himself out.
            rustix::fs::chmod(&*format!("/proc/self/fd/{}", inside.dir.as_raw_fd()), PRIVATE_DIR)?;
            open()
        });
        let list = list.and_then(rustix::fs::Dir::new).map_err(&failed)?;
        for entry in list {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                inside.remove(OsStr::from_bytes(name))?;
            }
        }
        rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR).map_err(failed)
    }

    /// Removes what has a name, and nothing that is in it. Says whether it is gone: a directory in which something is stays.
    pub(super) fn remove_one(&self, name: &OsStr) -> Result<bool> {
        let failed = Error::io::<Errno>("remove", &self.path.join(name));
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }
}

fn write_all(file: impl AsFd, data: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < data.len() {
        done += rustix::io::pwrite(&file, &data[done..], done as u64)?;
    }
    Ok(())
}

/// The names of an inode's attributes but for those that are the system's.
fn xattr_names(magic: &str) -> Result<Vec<OsString>, Errno> {
    let mut names = vec![0; 65536];
    let length = match rustix::fs::listxattr(magic, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let names = names.filter(|name| !name.starts_with(b"security.") || *name == b"security.capability");
    Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}

fn xattrs_of(magic: &str) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    let value = |name: OsString| {
        let mut value = vec![0; 65536];
        let length = rustix::fs::getxattr(magic, &*name, &mut value[..])?;
        value.truncate(length);
        Ok((name, value))
    };
    xattr_names(magic)?.into_iter().map(value).collect()
}

/// Lets an inode have these attributes and no others.
fn set_xattrs(magic: &str, is_symlink: bool, wanted: &[(OsString, Vec<u8>)]) -> Result<(), Errno> {
    if is_symlink && wanted.is_empty() {
        return Ok(());
    }
    for name in xattr_names(magic)? {
        // Inherited from the directory's default ACL.
        if wanted.iter().all(|(key, _)| *key != name) {
            rustix::fs::removexattr(magic, &*name)?;
        }
    }
    wanted.iter().try_for_each(|(key, value)| rustix::fs::setxattr(magic, &**key, value, XattrFlags::empty()))
}
