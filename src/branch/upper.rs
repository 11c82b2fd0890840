//! How is the writable branch changed?
//!
//! [`UpperDir`] and [`UpperObject`] are a [`Dir`] and an [`Object`] that also have the methods which
//! write. They come from the upper's root and from the workdir only.

use std::ffi::OsStr;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, Dev, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::lower::{Dir, Object, by_descriptor, open, proc_path};
use super::sys::{Context, Stat};
use crate::error::{Error, Result};

/// A directory of the upper, or of the workdir beside it.
#[derive(Clone, Debug)]
pub struct UpperDir(Dir);

/// An inode of the upper.
#[derive(Clone, Debug)]
pub struct UpperObject(Object);

/// Who owns a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Whoever owns the original.
    AsOriginal,
    /// Whoever runs plyfs: all owners are shown as one anyway.
    Ours,
}

impl Deref for UpperDir {
    type Target = Dir;
    fn deref(&self) -> &Dir {
        &self.0
    }
}

impl AsFd for UpperDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Deref for UpperObject {
    type Target = Object;
    fn deref(&self) -> &Object {
        &self.0
    }
}

impl UpperDir {
    /// Takes over the root of the upper or the workdir.
    #[must_use]
    pub fn root(fd: OwnedFd) -> Self {
        Self(Dir::new(fd))
    }

    /// The directory under `name`.
    ///
    /// # Errors
    /// Those of openat(2); ENOTDIR for anything but a directory.
    pub fn open_upper_dir(&self, name: &OsStr) -> Result<Self> {
        self.open_dir(name).map(Self)
    }

    /// The entry `name` as an object.
    #[must_use]
    pub fn upper_at(&self, name: &OsStr) -> UpperObject {
        UpperObject(self.at(name))
    }

    /// The directory itself as an object.
    #[must_use]
    pub fn upper_object(&self) -> UpperObject {
        UpperObject(self.object())
    }

    /// Makes a regular file and opens it for reading and writing.
    ///
    /// # Errors
    /// Those of openat(2) with `O_CREAT | O_EXCL`.
    pub fn create(&self, name: &OsStr, mode: Mode) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(self, name, flags, mode).call("openat")
    }

    /// Makes a regular file that has no name, with these permission bits.
    ///
    /// # Errors
    /// Those of openat(2) with `O_TMPFILE`; EOPNOTSUPP, EISDIR or EINVAL where there is no such thing.
    pub fn create_unnamed(&self, mode: Mode) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        fs::openat(self, ".", flags, mode).call("openat")
    }

    /// Makes a file of any type but directory and symbolic link.
    ///
    /// # Errors
    /// Those of mknodat(2).
    pub fn make_node(&self, name: &OsStr, kind: FileType, mode: Mode, device: Dev) -> Result<()> {
        fs::mknodat(self, name, kind, mode, device).call("mknodat")
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn make_dir(&self, name: &OsStr, mode: Mode) -> Result<()> {
        fs::mkdirat(self, name, mode).call("mkdirat")
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn make_symlink(&self, name: &OsStr, target: &OsStr) -> Result<()> {
        fs::symlinkat(target, self, name).call("symlinkat")
    }

    /// Gives an inode of the upper one more name, here.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn link(&self, from: &UpperObject, name: &OsStr) -> Result<()> {
        match &from.0 {
            Object::At(dir, old) => fs::linkat(dir, old.as_os_str(), self, name, AtFlags::empty()),
            Object::Open(fd) => {
                fs::linkat(fs::CWD, &*proc_path(fd, None), self, name, AtFlags::SYMLINK_FOLLOW)
            }
        }
        .call("linkat")
    }

    /// Removes a non-directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn unlink(&self, name: &OsStr) -> Result<()> {
        fs::unlinkat(self, name, AtFlags::empty()).call("unlinkat")
    }

    /// Removes a directory that is empty on disk.
    ///
    /// # Errors
    /// Those of unlinkat(2) with `AT_REMOVEDIR`.
    pub fn remove_dir(&self, name: &OsStr) -> Result<()> {
        fs::unlinkat(self, name, AtFlags::REMOVEDIR).call("unlinkat")
    }

    /// Removes an entry, if there is one, with all that is in it, however deep. Only for what is ours: staged
    /// trees and markers.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn remove_tree(&self, name: &OsStr) -> Result<()> {
        let mut left = vec![(self.clone(), name.to_owned())];
        while let Some((parent, name)) = left.last() {
            match parent.unlink(name) {
                Err(e) if e.is(Errno::ISDIR) || e.is(Errno::PERM) => {}
                Err(e) if !e.is(Errno::NOENT) => return Err(e),
                _ => {
                    left.pop();
                    continue;
                }
            }
            match parent.remove_dir(name) {
                Err(e) if e.is(Errno::NOTEMPTY) || e.is(Errno::EXIST) => {
                    let dir = parent.open_upper_dir(name)?;
                    let children = dir.list()?;
                    left.extend(children.into_iter().map(|child| (dir.clone(), child.name)));
                }
                result => {
                    result?;
                    left.pop();
                }
            }
        }
        Ok(())
    }

    /// Moves an entry, over whatever has the new name.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        fs::renameat(self, name, to, new).call("renameat")
    }

    /// Moves an entry to a name that is free.
    ///
    /// # Errors
    /// Those of renameat2(2) with `RENAME_NOREPLACE`; EEXIST for a name that is taken.
    pub fn rename_to_free(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        match fs::renameat_with(self, name, to, new, RenameFlags::NOREPLACE) {
            // Not every filesystem has the flag. The directory's lock keeps the name free.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                if to.stat(new)?.is_some() {
                    return Err(Error::Sys { call: "renameat2", errno: Errno::EXIST });
                }
                self.rename(name, to, new)
            }
            result => result.call("renameat2"),
        }
    }

    /// Swaps two entries.
    ///
    /// # Errors
    /// Those of renameat2(2) with `RENAME_EXCHANGE`.
    pub fn exchange(&self, name: &OsStr, other: &Self, other_name: &OsStr) -> Result<()> {
        fs::renameat_with(self, name, other, other_name, RenameFlags::EXCHANGE).call("renameat2")
    }

    /// Removes a marker. It is no error if there is none.
    ///
    /// # Errors
    /// Those of unlinkat(2) but for ENOENT.
    pub fn remove_marker(&self, name: &OsStr) -> Result<()> {
        match self.unlink(name) {
            Err(e) if e.is(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    /// Waits until the directory's entries are on disk.
    ///
    /// # Errors
    /// Those of openat(2) and fsync(2).
    pub fn sync(&self) -> Result<()> {
        by_descriptor(
            || fs::fsync(self),
            || {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                fs::fsync(fs::openat(self, ".", flags, Mode::empty())?)
            },
        )
        .call("fsync")
    }

    /// Waits until everything on the filesystem is on disk.
    ///
    /// # Errors
    /// Those of openat(2) and syncfs(2).
    pub fn sync_filesystem(&self) -> Result<()> {
        let fd = open(self, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
        fs::syncfs(fd).call("syncfs")
    }
}

impl UpperObject {
    /// The inode behind a descriptor of the upper's.
    #[must_use]
    pub fn opened(fd: Arc<OwnedFd>) -> Self {
        Self(Object::Open(fd))
    }

    /// Opens a regular file for reading and writing.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_write(&self) -> Result<OwnedFd> {
        match self.try_open_write() {
            // Whoever created the file read-only may still write through that handle, and we are asked
            // to do it by inode. The kernel has checked the caller; as the owner we let ourselves in.
            Err(e) if e.is(Errno::ACCESS) => {
                let mode = Mode::from_raw_mode(self.stat()?.st_mode);
                self.chmod(mode | Mode::RUSR | Mode::WUSR)?;
                let opened = self.try_open_write();
                self.chmod(mode)?;
                opened
            }
            result => result,
        }
    }

    fn try_open_write(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        match &self.0 {
            Object::At(dir, name) => open(dir, name, flags),
            Object::Open(fd) => {
                fs::open(&*proc_path(fd, None), flags | OFlags::CLOEXEC, Mode::empty()).call("open")
            }
        }
    }

    /// Sets the length of a regular file, in bytes.
    ///
    /// # Errors
    /// Those of openat(2) and ftruncate(2).
    pub fn truncate(&self, size: u64) -> Result<()> {
        if let Object::Open(fd) = &self.0 {
            match fs::ftruncate(fd, size) {
                // An `O_PATH` descriptor, or one for reading only.
                Err(Errno::BADF | Errno::INVAL) => {}
                result => return result.call("ftruncate"),
            }
        }
        fs::ftruncate(self.open_write()?, size).call("ftruncate")
    }

    /// Sets the permission bits. Not for symbolic links, which have none.
    ///
    /// # Errors
    /// Those of chmod(2).
    pub fn chmod(&self, mode: Mode) -> Result<()> {
        match &self.0 {
            // fchmodat follows links, so the inode is fixed first. This opens no device.
            Object::At(dir, name) => {
                let fd = dir.open_path(name)?;
                fs::chmod(&*proc_path(&fd, None), mode).call("chmod")
            }
            Object::Open(fd) => {
                by_descriptor(|| fs::fchmod(fd, mode), || fs::chmod(&*proc_path(fd, None), mode))
                    .call("chmod")
            }
        }
    }

    /// Sets owner and group; None leaves one as it is.
    ///
    /// # Errors
    /// Those of fchownat(2).
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match &self.0 {
            Object::At(dir, name) => fs::chownat(dir, name.as_os_str(), uid, gid, AtFlags::SYMLINK_NOFOLLOW),
            Object::Open(fd) => fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
        }
        .call("fchownat")
    }

    /// Sets the times of last access and modification, in nanoseconds, or `UTIME_NOW`/`UTIME_OMIT`.
    ///
    /// # Errors
    /// Those of utimensat(2).
    pub fn set_times(&self, times: &Timestamps) -> Result<()> {
        match &self.0 {
            Object::At(dir, name) => fs::utimensat(dir, name.as_os_str(), times, AtFlags::SYMLINK_NOFOLLOW),
            Object::Open(fd) => by_descriptor(
                || fs::futimens(fd, times),
                || fs::utimensat(fs::CWD, &*proc_path(fd, None), times, AtFlags::empty()),
            ),
        }
        .call("utimensat")
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn set_xattr(&self, key: &OsStr, value: &[u8], flags: XattrFlags) -> Result<()> {
        match &self.0 {
            Object::At(dir, name) => fs::lsetxattr(&*proc_path(dir, Some(name)), key, value, flags),
            Object::Open(fd) => by_descriptor(
                || fs::fsetxattr(fd, key, value, flags),
                || fs::setxattr(&*proc_path(fd, None), key, value, flags),
            ),
        }
        .call("setxattr")
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// Those of removexattr(2).
    pub fn remove_xattr(&self, key: &OsStr) -> Result<()> {
        match &self.0 {
            Object::At(dir, name) => fs::lremovexattr(&*proc_path(dir, Some(name)), key),
            Object::Open(fd) => {
                by_descriptor(|| fs::fremovexattr(fd, key), || fs::removexattr(&*proc_path(fd, None), key))
            }
        }
        .call("removexattr")
    }

    /// Takes on owner, mode, times and the extended attributes that `carries` lets through.
    ///
    /// # Errors
    /// Those of the calls that it takes. Attributes that the upper's filesystem cannot hold, or that
    /// only root may set, are left out: then a log line says so. Not so ACLs: without them, the mode's group bits,
    /// which are their mask, would let the group in.
    pub fn take_on(
        &self,
        original: &Object,
        stat: &Stat,
        ownership: Ownership,
        carries: impl Fn(&OsStr) -> bool,
    ) -> Result<()> {
        let now = self.stat()?;
        // An ACL has a say in the mode.
        let mut keeps_mode = true;
        if ownership == Ownership::AsOriginal && (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
            self.chown(Some(stat.st_uid), Some(stat.st_gid))?;
        }
        for key in original.list_xattrs()? {
            if !carries(&key) {
                continue;
            }
            let Some(value) = original.get_xattr(&key)? else { continue };
            keeps_mode = false;
            match self.set_xattr(&key, &value, XattrFlags::empty()) {
                Err(e) if !is_acl(&key) && (e.is(Errno::OPNOTSUPP) || e.is(Errno::PERM)) => {
                    log::warn!("copy-up leaves out the attribute {}: {e}", key.display());
                }
                result => result?,
            }
        }
        let has_mode = keeps_mode && now.st_mode == stat.st_mode;
        if !has_mode && FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // After chown, which takes suid and sgid away.
            self.chmod(Mode::from_raw_mode(stat.st_mode))?;
        }
        self.set_times(&times_of(stat))
    }
}

fn is_acl(key: &OsStr) -> bool {
    key.as_encoded_bytes().starts_with(b"system.posix_acl_")
}

/// The times in a `stat`, to be set again.
#[must_use]
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

impl UpperDir {
    /// Runs `change`, which brings up an entry that showed before, and gives the directory back the
    /// times that it had: nothing has happened in it that users could see.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn keeping_times<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.stat_self()?;
        let done = change()?;
        if let Err(e) = self.upper_object().set_times(&times_of(&before)) {
            // The change is made and cannot be taken back for a time.
            log::warn!("a directory was given a new time of modification: {e}");
        }
        Ok(done)
    }
}
