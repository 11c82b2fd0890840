//! How is the writable branch changed?
//!
//! [`UpperDir`], [`UpperInode`] and [`WriteFile`] are a [`Dir`], an [`Inode`] and a [`ReadFile`] that also have the
//! methods which write. They come from the upper's root and from the workdir only, so that nothing which was opened
//! in a lower can be written, whatever its descriptor allows.

use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, Dev, FallocateFlags, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::{self, Errno};

use super::door::{Call, change, failed, try_change};
use super::overrides::Overrides;
use super::policy::Policy;
use super::read::{Atime, Dir, Inode, Inodes, ReadFile};
use super::stat::Stat;
use crate::error::Result;
use crate::rules::BranchId;
use crate::rules::override_stat::OverrideStat;

/// A directory of the upper, or of the workdir beside it.
#[derive(Clone, Debug)]
pub struct UpperDir(Dir);

/// An inode of the upper or the workdir.
#[derive(Clone, Debug)]
pub struct UpperInode(Inode);

/// A regular file of the upper or the workdir that is open for reading and writing.
#[derive(Clone, Debug)]
pub struct WriteFile(ReadFile);

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

impl Deref for UpperInode {
    type Target = Inode;
    fn deref(&self) -> &Inode {
        &self.0
    }
}

impl AsFd for UpperInode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Deref for WriteFile {
    type Target = ReadFile;
    fn deref(&self) -> &ReadFile {
        &self.0
    }
}

impl AsFd for WriteFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl UpperDir {
    /// Takes over the root of the upper.
    #[must_use]
    pub fn root(fd: OwnedFd, atime: Atime, inodes: Inodes) -> Self {
        Self(Dir::root(fd, BranchId::UPPER, atime, inodes))
    }

    /// Takes over the workdir.
    #[must_use]
    pub fn workdir(fd: OwnedFd, atime: Atime, inodes: Inodes) -> Self {
        Self(Dir::root(fd, BranchId::WORK, atime, inodes))
    }

    /// The same where the branch departs from what its disk says.
    #[must_use]
    pub fn under(self, policy: Option<Arc<Policy>>) -> Self {
        Self(self.0.under(policy))
    }

    /// How it departs from what its disk says.
    #[must_use]
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.0.policy()
    }

    /// What was the upper, as a lower: nothing leads from there to a change.
    #[must_use]
    pub fn as_snapshot(&self, id: BranchId, policy: Option<Arc<Policy>>) -> Dir {
        self.0.clone().of_branch(id).under(policy)
    }

    /// Makes something that takes an inode.
    fn change_with_inode<T>(&self, call: Call<'_>, make: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let Some(quota) = self.quota() else { return change(call, make) };
        quota.take_inode().map_err(|errno| failed(&call, errno))?;
        change(call, make).inspect_err(|_| quota.give_inode())
    }

    /// Makes a change by which the inode under a name loses it.
    fn change_losing(&self, name: &OsStr, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(quota) = self.quota() else { return change() };
        let lost = self.stat(name)?;
        change()?;
        if let Some(lost) = lost {
            quota.lose(&lost);
        }
        Ok(())
    }

    /// The same directory, once it was moved into another that belongs to the upper.
    #[must_use]
    pub fn moved_to(&self, dir: &Self) -> Self {
        Self(self.0.moved_to(dir))
    }

    /// The directory under `name`.
    ///
    /// # Errors
    /// Those of openat(2); ENOTDIR for anything but a directory.
    pub fn open_upper_dir(&self, name: &OsStr) -> Result<Self> {
        self.open_dir(name).map(Self)
    }

    /// The inode under `name`, without opening it for anything.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_upper_inode(&self, name: &OsStr) -> Result<UpperInode> {
        self.open_inode(name).map(UpperInode)
    }

    /// The directory itself as an inode.
    #[must_use]
    pub fn upper_inode(&self) -> UpperInode {
        UpperInode(self.inode())
    }

    /// Makes a regular file and opens it for reading and writing.
    ///
    /// # Errors
    /// Those of openat(2) with `O_CREAT | O_EXCL`.
    pub fn create(&self, name: &OsStr, mode: Mode) -> Result<WriteFile> {
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = OFlags::RDWR | new | self.atime_flag();
        let fd = self.change_with_inode(Call::Create(self, name), || fs::openat(self, name, flags, mode))?;
        Ok(WriteFile::new(self, fd))
    }

    /// Makes a regular file that has no name, with these permission bits.
    ///
    /// # Errors
    /// Those of openat(2) with `O_TMPFILE`; EOPNOTSUPP, EISDIR or EINVAL where there is no such thing.
    pub fn create_unnamed(&self, mode: Mode) -> Result<WriteFile> {
        let mode = if self.overrides().is_some() { Mode::RUSR | Mode::WUSR } else { mode };
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC | self.atime_flag();
        let fd = self.change_with_inode(Call::CreateUnnamed(self), || fs::openat(self, c".", flags, mode))?;
        Ok(WriteFile::new(self, fd))
    }

    /// Makes a file of any type but directory and symbolic link.
    ///
    /// # Errors
    /// Those of mknodat(2).
    pub fn make_node(&self, name: &OsStr, kind: FileType, mode: Mode, device: Dev) -> Result<()> {
        if self.overrides().is_some() {
            return self.make_stand_in(name, kind, mode, device);
        }
        self.change_with_inode(Call::Mknod(self, name), || fs::mknodat(self, name, kind, mode, device))
    }

    /// Makes a regular file that stands for one of another type.
    fn make_stand_in(&self, name: &OsStr, kind: FileType, mode: Mode, device: Dev) -> Result<()> {
        let file = self.create(name, Mode::RUSR | Mode::WUSR)?;
        let own = file.inode().stat_on_disk()?;
        let device = (fs::major(device), fs::minor(device));
        let st_mode = kind.as_raw_mode() | mode.as_raw_mode();
        let said = OverrideStat::of((own.st_uid, own.st_gid), st_mode, device);
        file.upper_inode().begin_record(said)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn make_dir(&self, name: &OsStr, mode: Mode) -> Result<()> {
        self.change_with_inode(Call::Mkdir(self, name), || fs::mkdirat(self, name, mode))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn make_symlink(&self, name: &OsStr, target: &OsStr) -> Result<()> {
        self.change_with_inode(Call::Symlink(self, name), || fs::symlinkat(target, self, name))
    }

    /// Gives an inode of the upper one more name, here.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn link(&self, from: &UpperInode, name: &OsStr) -> Result<()> {
        change(Call::Link(from.as_fd(), self, name), || {
            fs::linkat(fs::CWD, &*from.path(), self, name, AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// Gives an entry of a directory that nobody else can change one more name, here.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub(super) fn link_entry(&self, from: &Self, old: &OsStr, name: &OsStr) -> Result<()> {
        change(Call::Link(from.as_fd(), self, name), || fs::linkat(from, old, self, name, AtFlags::empty()))
    }

    /// Removes a non-directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn unlink(&self, name: &OsStr) -> Result<()> {
        self.change_losing(name, || {
            change(Call::Unlink(self, name), || fs::unlinkat(self, name, AtFlags::empty()))
        })
    }

    /// Removes a directory that is empty on disk.
    ///
    /// # Errors
    /// Those of unlinkat(2) with `AT_REMOVEDIR`.
    pub fn remove_dir(&self, name: &OsStr) -> Result<()> {
        self.change_losing(name, || {
            change(Call::Rmdir(self, name), || fs::unlinkat(self, name, AtFlags::REMOVEDIR))
        })
    }

    /// Removes an entry, if there is one, with all that is in it, however deep, with one descriptor at a time. Only
    /// for what is ours: staged trees and markers.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn remove_tree(&self, name: &OsStr) -> Result<()> {
        // What is left to be removed, and how many directories of `way` lead to it.
        let mut left = vec![(0, name.to_owned())];
        let mut way: Vec<OsString> = Vec::new();
        let mut dir = self.clone();
        let mut emptied = None;
        while let Some((depth, name)) = left.last().cloned() {
            if way.len() != depth {
                way.truncate(depth);
                dir = way.iter().try_fold(self.clone(), |dir, name| dir.open_upper_dir(name))?;
            }
            if dir.remove_leaf(&name)? || dir.remove_empty(&name)? {
                left.pop();
                continue;
            }
            if emptied.as_ref() == Some(&(depth, name.clone())) {
                // Something is in it that is not there when it is to be removed: another union's markers, or what
                // NFS keeps of open files.
                return Err(failed(&Call::Rmdir(&dir, &name), Errno::NOTEMPTY));
            }
            emptied = Some((depth, name.clone()));
            dir = dir.open_upper_dir(&name)?;
            way.push(name);
            for child in dir.list()? {
                if !dir.remove_leaf(&child.name)? {
                    left.push((depth + 1, child.name));
                }
            }
        }
        Ok(())
    }

    /// Says whether the entry is gone; not if it is a directory.
    fn remove_leaf(&self, name: &OsStr) -> Result<bool> {
        match self.unlink(name) {
            Err(e) if e.is(Errno::ISDIR) => Ok(false),
            // What unlink(2) says of a directory by POSIX, and of a file that must not be removed.
            Err(e) if e.is(Errno::PERM) => match self.stat(name)? {
                Some(stat) if stat.kind() == FileType::Directory => Ok(false),
                _ => Err(e),
            },
            Err(e) if !e.is(Errno::NOENT) => Err(e),
            _ => Ok(true),
        }
    }

    /// Says whether the directory is gone; not if there is something in it.
    fn remove_empty(&self, name: &OsStr) -> Result<bool> {
        match self.remove_dir(name) {
            Err(e) if e.is(Errno::NOTEMPTY) || e.is(Errno::EXIST) => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    /// Moves an entry, over whatever has the new name.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        to.change_losing(new, || {
            change(Call::Rename(self, name, to, new), || fs::renameat(self, name, to, new))
        })
    }

    /// Moves an entry to a name that is free.
    ///
    /// # Errors
    /// Those of renameat2(2) with `RENAME_NOREPLACE`; EEXIST for a name that is taken.
    pub fn rename_to_free(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        let call = Call::Rename(self, name, to, new);
        let renamed = try_change(call, || fs::renameat_with(self, name, to, new, RenameFlags::NOREPLACE));
        match renamed {
            // Not every filesystem has the flag. The directory's lock keeps the name free.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                if to.stat(new)?.is_some() {
                    return Err(failed(&call, Errno::EXIST));
                }
                self.rename(name, to, new)
            }
            result => result.map_err(|errno| failed(&call, errno)),
        }
    }

    /// Swaps two entries.
    ///
    /// # Errors
    /// Those of renameat2(2) with `RENAME_EXCHANGE`.
    pub fn exchange(&self, name: &OsStr, other: &Self, other_name: &OsStr) -> Result<()> {
        change(Call::Exchange(self, name, other, other_name), || {
            fs::renameat_with(self, name, other, other_name, RenameFlags::EXCHANGE)
        })
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
        let inode = self.inode();
        change(Call::Fsync(self.as_fd()), || {
            inode.by_descriptor(
                || fs::fsync(self),
                |_| fs::fsync(inode.reopen(OFlags::RDONLY | OFlags::DIRECTORY)?),
            )
        })
    }

    /// Waits until everything on the filesystem is on disk.
    ///
    /// # Errors
    /// Those of openat(2) and syncfs(2).
    pub fn sync_filesystem(&self) -> Result<()> {
        let inode = self.inode();
        change(Call::Syncfs(self.as_fd()), || fs::syncfs(inode.reopen(OFlags::RDONLY | OFlags::DIRECTORY)?))
    }

    /// Runs `make`, which brings up an entry that showed before, and gives the directory back the
    /// times that it had: nothing has happened in it that users could see.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn keeping_times<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.stat_self()?;
        let done = make()?;
        if let Err(e) = self.upper_inode().set_times(&times_of(&before)) {
            // The change is made and cannot be taken back for a time.
            log::warn!("a directory was given a new time of modification: {e}");
        }
        Ok(done)
    }
}

impl UpperInode {
    fn overrides(&self) -> Option<&Overrides> {
        self.0.origin.overrides()
    }

    /// Gives a new inode its record, where there are any.
    fn begin_record(&self, said: OverrideStat) -> Result<()> {
        self.overrides().map_or(Ok(()), |overrides| overrides.begin(self, said))
    }

    /// Makes a new inode the one that `caller` has made in a directory with this mode, where records say whose its
    /// files are: no inode comes into the upper without its record.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn record_as_new(
        &self,
        parent: &UpperDir,
        caller: super::Caller,
        st_mode: u32,
        device: Dev,
    ) -> Result<()> {
        let Some(overrides) = self.overrides() else { return Ok(()) };
        let new = overrides.of_new(parent, (caller.uid, caller.gid), caller.umask, st_mode, device)?;
        for (key, value) in &new.xattrs {
            self.set_xattr_on_disk(key, value, XattrFlags::empty())?;
        }
        overrides.begin(self, new.said)
    }

    /// Opens a regular file for reading and writing.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_write(&self) -> Result<WriteFile> {
        let open = || self.reopen_to_write();
        let opened = match open() {
            // Whoever created the file read-only may still write through that handle, and we are asked
            // to do it by inode. The kernel has checked the caller; as the owner we let ourselves in.
            Err(Errno::ACCESS) => {
                let mode = Mode::from_raw_mode(self.stat_on_disk()?.st_mode);
                self.chmod_on_disk(mode | Mode::RUSR | Mode::WUSR)?;
                let opened = open();
                self.chmod_on_disk(mode)?;
                opened
            }
            result => result,
        };
        let fd = opened.map_err(self.failed("open"))?;
        Ok(WriteFile(ReadFile::of(self.reopened(fd))))
    }

    /// Sets the length of a regular file, in bytes.
    ///
    /// # Errors
    /// Those of open(2) and ftruncate(2).
    pub fn truncate(&self, size: u64) -> Result<()> {
        let call = Call::Truncate(self.as_fd());
        let truncate = || change_data(&self.0, call, (0, 0), |_| fs::ftruncate(self, size));
        let truncated = self.by_descriptor(truncate, |_| Err(Errno::BADF));
        match truncated {
            // An `O_PATH` descriptor, or one for reading only.
            Err(Errno::BADF | Errno::INVAL) => self.open_write()?.truncate(size),
            result => result.map_err(|errno| failed(&call, errno)),
        }
    }

    /// Waits until a regular file is on disk, or with `data_only` its data. Takes no right to write it.
    ///
    /// # Errors
    /// Those of open(2) and fsync(2).
    pub fn sync(&self, data_only: bool) -> Result<()> {
        let file = self.reopen(OFlags::RDONLY).map_err(self.failed("open"))?;
        if data_only {
            change(Call::Fdatasync(file.as_fd()), || fs::fdatasync(&file))
        } else {
            change(Call::Fsync(file.as_fd()), || fs::fsync(&file))
        }
    }

    /// Sets the permission bits. Not for symbolic links, which have none.
    ///
    /// # Errors
    /// Those of chmod(2).
    pub fn chmod(&self, mode: Mode) -> Result<()> {
        match self.overrides() {
            Some(overrides) => overrides.chmod(self, mode),
            None => self.chmod_on_disk(mode),
        }
    }

    pub(super) fn chmod_on_disk(&self, mode: Mode) -> Result<()> {
        change(Call::Chmod(self.as_fd()), || {
            self.by_descriptor(|| fs::fchmod(self, mode), |path| fs::chmod(path, mode))
        })
    }

    /// Sets owner and group; None leaves one as it is.
    ///
    /// # Errors
    /// Those of fchownat(2).
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        if let Some(overrides) = self.overrides() {
            return overrides.chown(self, uid, gid);
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        change(Call::Chown(self.as_fd()), || fs::chownat(self, c"", uid, gid, AtFlags::EMPTY_PATH))
    }

    /// Sets the flags that chattr(1) sets.
    ///
    /// # Errors
    /// Those of open(2) and ioctl(2).
    pub fn set_flags(&self, flags: IFlags) -> Result<()> {
        let file = self.reopen(OFlags::RDONLY).map_err(self.failed("open"))?;
        change(Call::SetFlags(file.as_fd()), || fs::ioctl_setflags(&file, flags))
    }

    /// Sets the times of last access and modification, in nanoseconds, or `UTIME_NOW`/`UTIME_OMIT`.
    ///
    /// # Errors
    /// Those of utimensat(2).
    pub fn set_times(&self, times: &Timestamps) -> Result<()> {
        change(Call::SetTimes(self.as_fd()), || {
            self.by_descriptor(
                || fs::futimens(self, times),
                |path| fs::utimensat(fs::CWD, path, times, AtFlags::empty()),
            )
        })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn set_xattr(&self, key: &OsStr, value: &[u8], flags: XattrFlags) -> Result<()> {
        match self.overrides() {
            Some(overrides) => overrides.set_xattr(self, key, value, flags),
            None => self.set_xattr_on_disk(key, value, flags),
        }
    }

    pub(super) fn set_xattr_on_disk(&self, key: &OsStr, value: &[u8], flags: XattrFlags) -> Result<()> {
        change(Call::SetXattr(self.as_fd(), key), || {
            self.by_descriptor(
                || fs::fsetxattr(self, key, value, flags),
                |path| fs::setxattr(path, key, value, flags),
            )
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// Those of removexattr(2).
    pub fn remove_xattr(&self, key: &OsStr) -> Result<()> {
        match self.overrides() {
            Some(overrides) => self.remove_xattr_on_disk(&overrides.key_on_disk(key)?),
            None => self.remove_xattr_on_disk(key),
        }
    }

    pub(super) fn remove_xattr_on_disk(&self, key: &OsStr) -> Result<()> {
        change(Call::RemoveXattr(self.as_fd(), key), || {
            self.by_descriptor(|| fs::fremovexattr(self, key), |path| fs::removexattr(path, key))
        })
    }

    /// Takes on owner, mode, times and the extended attributes that `carries` lets through.
    ///
    /// # Errors
    /// Those of the calls that it takes. Attributes that the upper's filesystem cannot hold, or that
    /// only root may set, are left out: then a log line says so. Not so ACLs: without them, the mode's group bits,
    /// which are their mask, would let the group in.
    pub fn copy_metadata(
        &self,
        original: &Inode,
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
        // What gives a program its owner's rights must not give it those of another owner.
        let is_given_away =
            ownership == Ownership::Ours && (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid);
        let mode = if is_given_away { stat.st_mode & !0o6000 } else { stat.st_mode };
        for key in original.list_xattrs()? {
            if !carries(&key) || is_given_away && key == "security.capability" {
                continue;
            }
            let Some(value) = original.get_xattr(&key)? else { continue };
            keeps_mode = false;
            match self.set_xattr(&key, &value, XattrFlags::empty()) {
                Err(e) if !is_acl(&key) && (e.is(Errno::OPNOTSUPP) || e.is(Errno::PERM)) => {
                    log::warn!("copy-up leaves out an attribute: {e}");
                }
                result => result?,
            }
        }
        let has_mode = keeps_mode && now.st_mode == mode;
        if !has_mode && stat.kind() != FileType::Symlink {
            // After chown, which takes suid and sgid away.
            self.chmod(Mode::from_raw_mode(mode))?;
        }
        self.set_times(&times_of(stat))
    }
}

/// Makes a change of a regular file's data, of which so many bytes from `offset` are new. `make` learns for how many
/// there is room.
fn change_data<T>(
    inode: &Inode,
    call: Call<'_>,
    (offset, length): (u64, u64),
    make: impl FnOnce(u64) -> io::Result<T>,
) -> io::Result<T> {
    let Some(quota) = inode.origin.quota() else { return try_change(call, || make(length)) };
    let stat = || Stat::of(inode, c"", AtFlags::EMPTY_PATH);
    let before = stat()?;
    let room = quota.room(&before, offset, length)?;
    let done = try_change(call, || make(room));
    // Also of a change that failed in the middle.
    quota.changed(&before, &stat()?);
    done
}

fn is_acl(key: &OsStr) -> bool {
    key.as_encoded_bytes().starts_with(b"system.posix_acl_")
}

/// The times in a `stat`, to be set again.
fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

impl WriteFile {
    fn new(dir: &UpperDir, fd: OwnedFd) -> Self {
        Self(ReadFile::of(Inode::of_new_file(dir, fd)))
    }

    /// The inode behind the file, for changing.
    #[must_use]
    pub fn upper_inode(&self) -> UpperInode {
        UpperInode(self.inode().clone())
    }

    /// Writes all of `data`. Answers how much was taken: less only if the call failed after that much.
    ///
    /// # Errors
    /// Those of pwrite(2), if nothing was taken.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            let call = Call::Write(self.as_fd());
            let left = &data[done..];
            let at = offset + done as u64;
            let written = change_data(self.inode(), call, (at, left.len() as u64), |room| {
                io::pwrite(self, &left[..usize::try_from(room).unwrap_or(usize::MAX)], at)
            });
            match written {
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                // What is written is written: the caller is told how much.
                Err(_) if done > 0 => break,
                Err(errno) => return Err(failed(&call, errno)),
            }
        }
        Ok(done)
    }

    /// Writes all of `data`, or fails.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn write_all_at(&self, mut offset: u64, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let written = self.write_at(offset, data)?;
            offset += written as u64;
            data = &data[written..];
        }
        Ok(())
    }

    /// Sets the length, in bytes.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    pub fn truncate(&self, size: u64) -> Result<()> {
        let call = Call::Truncate(self.as_fd());
        change_data(self.inode(), call, (0, 0), |_| fs::ftruncate(self, size))
            .map_err(|errno| failed(&call, errno))
    }

    /// What a disk does by itself to a file's capabilities when the file is written, where it does not know of them.
    ///
    /// # Errors
    /// Those of removexattr(2).
    pub fn drop_capability(&self) -> Result<()> {
        match self.inode().origin.overrides() {
            Some(overrides) => overrides.drop_capability(&self.upper_inode()),
            None => Ok(()),
        }
    }

    /// Allocates, punches or zeroes a range, in the modes that the filesystem has.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> Result<()> {
        let call = Call::Fallocate(self.as_fd());
        let is_new = mode.difference(FallocateFlags::KEEP_SIZE).is_empty();
        let new = if is_new { length } else { 0 };
        let allocate = |room| {
            // There is no such thing as half of it.
            if room < new { Err(Errno::NOSPC) } else { fs::fallocate(self, mode, offset, length) }
        };
        let allocated = change_data(self.inode(), call, (offset, new), allocate);
        allocated.map_err(|errno| failed(&call, errno))
    }

    /// Copies a range from another file, within the kernel if the disk can. Answers how much was copied.
    ///
    /// # Errors
    /// Those of copy_file_range(2).
    pub fn copy_range(
        &self,
        from: &ReadFile,
        mut read_at: u64,
        mut write_at: u64,
        length: usize,
    ) -> io::Result<usize> {
        let call = Call::CopyRange(self.as_fd());
        change_data(self.inode(), call, (write_at, length as u64), |room| {
            let length = usize::try_from(room).unwrap_or(usize::MAX);
            fs::copy_file_range(from, Some(&mut read_at), self, Some(&mut write_at), length)
        })
    }

    /// Shares all blocks of another file.
    ///
    /// # Errors
    /// Those of ioctl(2) with `FICLONE`.
    pub fn clone_from(&self, from: &ReadFile) -> io::Result<()> {
        let size = Stat::of(from, c"", AtFlags::EMPTY_PATH)?.st_blocks as u64 * 512;
        change_data(self.inode(), Call::Clone(self.as_fd()), (0, size), |room| {
            if room < size { Err(Errno::NOSPC) } else { fs::ioctl_ficlone(self, from) }
        })
    }

    /// Waits until the file is on disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync(&self) -> Result<()> {
        change(Call::Fsync(self.as_fd()), || fs::fsync(self))
    }

    /// Waits until the file's data is on disk.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    pub fn sync_data(&self) -> Result<()> {
        change(Call::Fdatasync(self.as_fd()), || fs::fdatasync(self))
    }
}
