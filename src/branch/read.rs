//! How is a tree beneath a root descriptor read?
//!
//! A directory is held by its descriptor and asked about one name at a time. An inode is opened once, without
//! following anything and for nothing ([`Dir::open_inode`]); it is then looked at, compared with what it should be,
//! and acted on through that descriptor alone.

use std::cell::RefCell;
use std::ffi::{CStr, OsStr, OsString};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, FileType, IFlags, Mode, OFlags, RawDir, SeekFrom, StatxFlags};
use rustix::io::{self, Errno};

use super::handle::{self, LastingId};
use super::overrides::{self, Overrides};
use super::policy::Policy;
use super::quota::Quota;
use super::stat::Stat;
use crate::error::{Error, Place, Result};
use crate::rules::BranchId;
use crate::rules::override_stat::OverrideStat;

/// What one call of getdents(2) is given room for.
const LISTING_BUFFER_SIZE: usize = 64 * 1024;

/// Which statfs(2) says of every FUSE filesystem.
const FUSE: u32 = 0x6573_5546;

thread_local! {
    /// Each thread reads one directory at a time.
    static LISTING_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whether reading moves the access time of what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// As the disk is mounted.
    AsDisk,
    /// Never, where we may say so: `O_NOATIME`.
    Kept,
}

/// Whether inode numbers of a filesystem that has nothing better can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inodes {
    /// A FUSE filesystem, a FAT or an overlayfs may show an inode under another number once nobody holds it.
    MayChange,
    /// The user says that they stay, also over a remount of that filesystem.
    Stable,
    /// Another filesystem of the union may have the same for other inodes.
    Ambiguous,
}

/// What everything in a branch has from its root.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    branch: BranchId,
    atime: Atime,
    inodes: Inodes,
    /// If the branch departs from what its disk says.
    policy: Option<Arc<Policy>>,
}

impl Origin {
    pub(super) fn overrides(&self) -> Option<&Overrides> {
        self.policy.as_ref()?.overrides.as_deref()
    }

    pub(super) fn quota(&self) -> Option<&Quota> {
        self.policy.as_ref()?.quota.as_deref()
    }

    /// The attributes that are shown of an inode with these.
    fn shown(&self, stat: Stat) -> Stat {
        let reader = self.policy.as_ref().and_then(|policy| policy.reader.as_ref());
        match reader {
            Some(who) if stat.kind() == FileType::RegularFile && !who.may(&stat, 4) => {
                Stat { st_size: 0, st_blocks: 0, ..stat }
            }
            _ => stat,
        }
    }

    fn failed(&self, call: &'static str) -> impl Fn(Errno) -> Error + use<> {
        let branch = self.branch;
        move |errno| Error::Sys { call, errno, place: Place::branch(branch) }
    }

    fn failed_at<'a>(&self, call: &'static str, name: &'a OsStr) -> impl Fn(Errno) -> Error + use<'a> {
        let branch = self.branch;
        move |errno| Error::Sys { call, errno, place: Place::entry(branch, name) }
    }

    /// Opens for reading as the access time is to be treated. Only an inode's owner may ask for `O_NOATIME`.
    fn open(&self, flags: OFlags, open: impl Fn(OFlags) -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
        match self.atime {
            Atime::AsDisk => open(flags),
            Atime::Kept => match open(flags | OFlags::NOATIME) {
                Err(Errno::PERM) => open(flags),
                opened => opened,
            },
        }
    }
}

/// A directory of a branch, held open. It can only look.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    /// For whoever lists it: the descriptor has one position. None if it is an `O_PATH` one, which cannot be read.
    reading: Option<Arc<Mutex<()>>>,
    /// Nothing is in it: its branch ends here.
    is_end: bool,
    origin: Origin,
}

/// One entry of a directory's own listing.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name on disk.
    pub name: OsString,
    /// Its type, or `Unknown` where the filesystem does not say.
    pub kind: FileType,
    /// Its inode number.
    pub ino: u64,
}

/// An inode of a branch, opened. It can only look.
#[derive(Clone, Debug)]
pub struct Inode {
    fd: Arc<OwnedFd>,
    /// Whether the descriptor is an `O_PATH` one, which many calls take by its path in /proc only.
    is_path: bool,
    pub(super) origin: Origin,
    /// What the directory that it was opened in says of its owner.
    said: Option<OverrideStat>,
}

/// A regular file of a branch that is open for reading. It has no method that writes, and cannot become one that
/// has.
#[derive(Clone, Debug)]
pub struct ReadFile {
    inode: Inode,
    /// Its size in bytes, if nobody changes it.
    size: Option<u64>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for ReadFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inode.as_fd()
    }
}

impl Dir {
    /// Takes over the descriptor of a branch's root, of whatever kind it is.
    #[must_use]
    pub fn root(fd: OwnedFd, branch: BranchId, atime: Atime, inodes: Inodes) -> Self {
        let origin = Origin { branch, atime, inodes, policy: None };
        Self { fd: Arc::new(fd), reading: None, is_end: false, origin }
    }

    /// The same for a branch that departs from what its disk says.
    #[must_use]
    pub fn under(self, policy: Option<Arc<Policy>>) -> Self {
        Self { origin: Origin { policy, ..self.origin }, ..self }
    }

    pub(super) fn policy(&self) -> Option<Arc<Policy>> {
        self.origin.policy.clone()
    }

    /// The same directory as that of another branch.
    pub(super) fn of_branch(self, branch: BranchId) -> Self {
        Self { origin: Origin { branch, atime: Atime::Kept, ..self.origin }, ..self }
    }

    /// The same for a branch whose inodes cannot be told from those of another.
    #[must_use]
    pub fn ambiguous(self) -> Self {
        let origin = Origin { inodes: Inodes::Ambiguous, ..self.origin };
        Self { origin, ..self }
    }

    /// Whether inodes of the branch cannot be told from those of another.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.origin.inodes == Inodes::Ambiguous
    }

    /// If records say whose its files are.
    #[must_use]
    pub fn overrides(&self) -> Option<&Overrides> {
        self.origin.overrides()
    }

    /// If the branch may hold so much and no more.
    #[must_use]
    pub fn quota(&self) -> Option<&Quota> {
        self.origin.quota()
    }

    /// Whether lasting names of this filesystem's inodes may be those of the other's.
    ///
    /// # Errors
    /// Those of statx(2), fstatfs(2) and name_to_handle_at(2).
    pub fn may_be_mistaken_for(&self, other: &Self) -> Result<bool> {
        let (ours, theirs) = (self.stat_self()?, other.stat_self()?);
        if ours.st_dev == theirs.st_dev {
            return Ok(false);
        }
        let name = |dir: &Self, stat: &Stat| {
            handle::filesystem_name(dir, stat).map_err(dir.origin.failed("fstatfs"))
        };
        Ok(name(self, &ours)? == name(other, &theirs)?)
    }

    /// The mount that it was reached through.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn mount(&self) -> Result<u64> {
        mount_of(&self.fd).map_err(self.origin.failed("statx"))
    }

    /// The branch that it belongs to.
    #[must_use]
    pub fn branch(&self) -> BranchId {
        self.origin.branch
    }

    /// The same directory, once it was moved into the branch of another.
    pub(super) fn moved_to(&self, dir: &Self) -> Self {
        Self { origin: dir.origin.clone(), ..self.clone() }
    }

    /// What a file is opened with, besides, so that its access time is treated as it is to be.
    pub(super) fn atime_flag(&self) -> OFlags {
        match self.origin.atime {
            Atime::AsDisk => OFlags::empty(),
            Atime::Kept => OFlags::NOATIME,
        }
    }

    fn inside(&self, fd: OwnedFd, reading: Option<Arc<Mutex<()>>>) -> Self {
        Self { fd: Arc::new(fd), reading, is_end: false, origin: self.origin.clone() }
    }

    /// The directory, if it belongs to the branch: an error for one that is hidden, and an end of the branch where
    /// another filesystem is mounted.
    fn bounded(self) -> io::Result<Self> {
        let Some(policy) = &self.origin.policy else { return Ok(self) };
        let hidden = &policy.hidden;
        let mut is_end = false;
        if !hidden.inodes.is_empty() || !hidden.emptied.is_empty() || policy.reader.is_some() {
            let stat = Stat::of(&self.fd, c"", AtFlags::EMPTY_PATH)?;
            if hidden.hides(&stat) {
                return Err(Errno::NOENT);
            }
            is_end = hidden.empties(&stat) || policy.reader.as_ref().is_some_and(|who| !who.may(&stat, 1));
        }
        if let Some(mount) = policy.only_mount {
            is_end |= mount_of(&self.fd)? != mount;
        }
        Ok(Self { is_end, ..self })
    }

    /// The names of entries that are hidden.
    fn hidden_names(&self) -> Result<Vec<&OsStr>> {
        match &self.origin.policy {
            Some(policy) if !policy.hidden.names.is_empty() => {
                Ok(policy.hidden.names_in(&self.stat_on_disk()?))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The directory's own attributes.
    ///
    /// # Errors
    /// Those of statx(2), and of reading its record.
    pub fn stat_self(&self) -> Result<Stat> {
        let stat = self.stat_on_disk()?;
        match self.origin.overrides() {
            None => Ok(stat),
            Some(overrides) => overrides.shown(&self.inode(), stat),
        }
    }

    pub(super) fn stat_on_disk(&self) -> Result<Stat> {
        let stat = Stat::of(&self.fd, c"", AtFlags::EMPTY_PATH);
        stat.map(|stat| self.origin.shown(stat)).map_err(self.origin.failed("statx"))
    }

    /// The attributes of an entry, None if there is none. A name that is too long for the branch's filesystem
    /// cannot be there either.
    ///
    /// # Errors
    /// Those of statx(2) but for ENOENT, and of reading its record.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>> {
        if self.is_end || self.hidden_names()?.contains(&name) {
            return Ok(None);
        }
        match Stat::of(&self.fd, name, AtFlags::empty()) {
            Ok(stat) if self.hides(&stat) => Ok(None),
            Ok(stat) => match self.origin.overrides() {
                None => Ok(Some(self.origin.shown(stat))),
                Some(overrides) => overrides.shown_at(self, name, stat).map(Some),
            },
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(self.origin.failed_at("statx", name)(errno)),
        }
    }

    /// The numbers of inodes on this filesystem that are hidden.
    fn hidden_inodes(&self) -> Result<Vec<u64>> {
        let Some(policy) = self.origin.policy.as_ref().filter(|policy| !policy.hidden.inodes.is_empty())
        else {
            return Ok(Vec::new());
        };
        let device = self.stat_on_disk()?.st_dev;
        let inodes = policy.hidden.inodes.iter();
        Ok(inodes.filter(|(filesystem, _)| *filesystem == device).map(|(_, ino)| *ino).collect())
    }

    fn hides(&self, stat: &Stat) -> bool {
        self.origin.policy.as_ref().is_some_and(|policy| policy.hidden.hides(stat))
    }

    /// The directory under `name`.
    ///
    /// # Errors
    /// Those of openat(2); ENOTDIR for anything but a directory.
    pub fn open_dir(&self, name: &OsStr) -> Result<Self> {
        let open = |flags| self.open_at(name, flags | OFlags::DIRECTORY);
        match self.origin.open(OFlags::RDONLY, open) {
            // What is in it can be reached all the same.
            Err(Errno::ACCESS) => open(OFlags::PATH).map(|fd| self.inside(fd, None)),
            opened => opened.map(|fd| self.inside(fd, Some(Arc::default()))),
        }
        .and_then(Self::bounded)
        .map_err(self.origin.failed_at("openat", name))
    }

    /// The inode under `name`, without opening it for anything.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_inode(&self, name: &OsStr) -> Result<Inode> {
        let inode = self.open_inode_on_disk(name)?;
        match self.origin.overrides() {
            None => Ok(inode),
            Some(overrides) => Ok(Inode { said: overrides.symlink_owner(self, name)?, ..inode }),
        }
    }

    /// The same, whatever the directory says of its owner.
    pub(super) fn open_inode_on_disk(&self, name: &OsStr) -> Result<Inode> {
        let opened = self.open_at(name, OFlags::PATH);
        let fd = Arc::new(opened.map_err(self.origin.failed_at("openat", name))?);
        Ok(Inode { fd, is_path: true, origin: self.origin.clone(), said: None })
    }

    /// Whether the directory's filesystem has attributes of that kind.
    ///
    /// # Errors
    /// Those of getxattr(2).
    pub fn has_xattrs(&self, key: &OsStr) -> Result<bool> {
        let inode = self.inode();
        let found = inode.by_descriptor(
            || grow(|buffer| fs::fgetxattr(&self.fd, key, buffer)),
            |path| grow(|buffer| fs::getxattr(path, key, buffer)),
        );
        match found {
            Err(Errno::OPNOTSUPP) => Ok(false),
            Ok(_) | Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => Ok(true),
            Err(errno) => Err(self.origin.failed_at("getxattr", key)(errno)),
        }
    }

    /// The value of an entry's extended attribute, as [`Inode::xattr_on_disk`] has it.
    pub(super) fn xattr_of_entry(&self, name: &OsStr, key: &OsStr) -> Result<Option<Vec<u8>>> {
        // No call takes a directory's descriptor and a name before Linux 6.13.
        let mut path = Vec::with_capacity(32 + name.len());
        // Writing to a Vec cannot fail.
        write!(path, "/proc/self/fd/{}/", self.fd.as_raw_fd()).unwrap_or_default();
        path.extend_from_slice(name.as_bytes());
        match grow(|buffer| fs::lgetxattr(&*path, key, buffer)) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.origin.failed_at("lgetxattr", name)(errno)),
        }
    }

    /// The regular file under `name`, open for reading; ESTALE if it is anything else. Opening a file does nothing to
    /// it, so it is opened at once, without an `O_PATH` descriptor before, and looked at then.
    ///
    /// # Errors
    /// Those of statx(2) and openat(2).
    pub fn open_file(&self, name: &OsStr) -> Result<ReadFile> {
        let open = |flags| self.open_at(name, flags | OFlags::NONBLOCK);
        let opened = Stat::of(&self.fd, name, AtFlags::empty()).and_then(|stat| match stat.kind() {
            FileType::RegularFile => self.origin.open(OFlags::RDONLY, open),
            // A device may do something upon being opened.
            _ => Err(Errno::STALE),
        });
        let fd = opened.map_err(|errno| match errno {
            // A symbolic link or a socket has come in between.
            Errno::LOOP | Errno::NXIO => Errno::STALE,
            errno => errno,
        });
        let fd = Arc::new(fd.map_err(self.origin.failed_at("openat", name))?);
        Ok(ReadFile::of(Inode { fd, is_path: false, origin: self.origin.clone(), said: None }))
    }

    /// The directory itself as an inode.
    #[must_use]
    pub fn inode(&self) -> Inode {
        let fd = Arc::clone(&self.fd);
        Inode { fd, is_path: self.reading.is_none(), origin: self.origin.clone(), said: None }
    }

    fn open_at(&self, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        if self.is_end {
            return Err(Errno::NOENT);
        }
        fs::openat(self, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// Everything in the directory but `.` and `..`.
    ///
    /// # Errors
    /// Those of [`Self::each`].
    pub fn list(&self) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        self.each(|name, kind, ino| entries.push(DirEntry { name: name.to_owned(), kind, ino }))?;
        Ok(entries)
    }

    /// Shows name, type and inode number of every entry but `.` and `..`. The type is `Unknown` where the
    /// filesystem does not say.
    ///
    /// # Errors
    /// Those of openat(2) and getdents(2), also in the middle: a listing is whole or it is an error.
    pub fn each(&self, mut show: impl FnMut(&OsStr, FileType, u64)) -> Result<()> {
        if self.is_end {
            return Ok(());
        }
        let Some(reading) = &self.reading else {
            return match self.open_to_list() {
                Err(e) if e.is(Errno::ACCESS) && self.shows_empty() => Ok(()),
                opened => opened?.each(show),
            };
        };
        let hidden_names = self.hidden_names()?;
        let hidden = self.hidden_inodes()?;
        let _reading = reading.lock();
        if fs::tell(&self.fd).map_err(self.origin.failed("lseek"))? != 0 {
            // A FUSE filesystem need not know rewinddir(3): sshfs then shows an empty directory, also to those who look later.
            if self.filesystem()? == FUSE {
                return self.open_to_list()?.each(show);
            }
            fs::seek(&self.fd, SeekFrom::Start(0)).map_err(self.origin.failed("lseek"))?;
        }
        LISTING_BUFFER.with_borrow_mut(|buffer| {
            buffer.reserve(LISTING_BUFFER_SIZE);
            let mut raw = RawDir::new(&self.fd, buffer.spare_capacity_mut());
            while let Some(entry) = raw.next() {
                let entry = entry.map_err(self.origin.failed("getdents"))?;
                let name = entry.file_name().to_bytes();
                let is_hidden = hidden_names.iter().any(|hidden| hidden.as_bytes() == name)
                    || hidden.contains(&entry.ino());
                if name != b"." && name != b".." && !is_hidden {
                    let kind = match entry.file_type() {
                        // It may stand for another type.
                        FileType::RegularFile if self.origin.overrides().is_some() => FileType::Unknown,
                        kind => kind,
                    };
                    show(OsStr::from_bytes(name), kind, entry.ino());
                }
            }
            Ok(())
        })
    }

    /// Whether what may not be read shows empty.
    fn shows_empty(&self) -> bool {
        self.origin.policy.as_ref().is_some_and(|policy| policy.reader.is_some())
    }

    /// The same directory, with a descriptor that was never read.
    fn open_to_list(&self) -> Result<Self> {
        let open = |flags| self.open_at(OsStr::new("."), flags);
        let opened = self.origin.open(OFlags::RDONLY | OFlags::DIRECTORY, open);
        Ok(self.inside(opened.map_err(self.origin.failed("openat"))?, Some(Arc::default())))
    }

    /// The state of the filesystem that the directory is on.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn stat_fs(&self) -> Result<fs::StatVfs> {
        fs::fstatvfs(&self.fd).map_err(self.origin.failed("fstatvfs"))
    }

    /// Whether the filesystem may show one inode under another number once nobody holds it.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn renumbers(&self) -> Result<bool> {
        const OVERLAYFS: u32 = 0x794c_7630;
        const VFAT: u32 = 0x4d44;
        const EXFAT: u32 = 0x2011_bab0;
        if self.origin.inodes == Inodes::Stable {
            return Ok(false);
        }
        Ok([FUSE, OVERLAYFS, VFAT, EXFAT].contains(&self.filesystem()?))
    }

    /// The number that the kind of its filesystem is known by.
    pub(super) fn filesystem(&self) -> Result<u32> {
        Ok(fs::fstatfs(&self.fd).map_err(self.origin.failed("fstatfs"))?.f_type as u32)
    }
}

impl Inode {
    /// The branch that it belongs to.
    #[must_use]
    pub fn branch(&self) -> BranchId {
        self.origin.branch
    }

    /// Takes over a file that was just made.
    pub(super) fn of_new_file(dir: &Dir, fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd), is_path: false, origin: dir.origin.clone(), said: None }
    }

    /// The inode's attributes.
    ///
    /// # Errors
    /// Those of statx(2), and of reading its record.
    pub fn stat(&self) -> Result<Stat> {
        let stat = self.stat_on_disk()?;
        match (self.origin.overrides(), self.said) {
            (None, _) => Ok(stat),
            (Some(_), Some(said)) => Ok(overrides::apply(said, stat)),
            (Some(overrides), None) => overrides.shown(self, stat),
        }
    }

    pub(super) fn stat_on_disk(&self) -> Result<Stat> {
        let stat = Stat::of(&self.fd, c"", AtFlags::EMPTY_PATH);
        stat.map(|stat| self.origin.shown(stat)).map_err(self.origin.failed("statx"))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_read(&self) -> Result<ReadFile> {
        let opened = self.origin.open(OFlags::RDONLY, |flags| self.reopen(flags));
        let fd = Arc::new(opened.map_err(self.origin.failed("open"))?);
        Ok(ReadFile::of(self.reopened_as(fd)))
    }

    /// Opens the same inode once more.
    pub(super) fn reopen(&self, flags: OFlags) -> io::Result<OwnedFd> {
        // A lease that somebody holds on the file must not keep others waiting.
        fs::open(&*self.path(), flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens the same inode for reading and writing.
    pub(super) fn reopen_to_write(&self) -> io::Result<OwnedFd> {
        self.origin.open(OFlags::RDWR, |flags| self.reopen(flags))
    }

    pub(super) fn reopened(&self, fd: OwnedFd) -> Self {
        self.reopened_as(Arc::new(fd))
    }

    fn reopened_as(&self, fd: Arc<OwnedFd>) -> Self {
        Self { fd, is_path: false, origin: self.origin.clone(), said: self.said }
    }

    pub(super) fn failed(&self, call: &'static str) -> impl Fn(Errno) -> Error + use<> {
        self.origin.failed(call)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub fn read_link(&self) -> Result<OsString> {
        let target = fs::readlinkat(&self.fd, c"", Vec::new()).map_err(self.failed("readlinkat"))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// The value of an extended attribute, None if it has none of that name, or if the filesystem has no such
    /// thing: the kernel takes any other error about an ACL for a reason to let nobody in.
    ///
    /// # Errors
    /// Those of getxattr(2) but for ENODATA and EOPNOTSUPP.
    pub fn get_xattr(&self, key: &OsStr) -> Result<Option<Vec<u8>>> {
        let Some(overrides) = self.origin.overrides() else { return self.xattr_on_disk(key) };
        match overrides.key_on_disk(key) {
            Ok(key) => self.xattr_on_disk(&key),
            Err(_) => Ok(None),
        }
    }

    /// The same by the name that it has on the disk, whatever users see.
    ///
    /// # Errors
    /// As [`Self::get_xattr`].
    pub fn xattr_on_disk(&self, key: &OsStr) -> Result<Option<Vec<u8>>> {
        let value = self.by_descriptor(
            || grow(|buffer| fs::fgetxattr(&self.fd, key, buffer)),
            |path| grow(|buffer| fs::getxattr(path, key, buffer)),
        );
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(self.origin.failed_at("getxattr", key)(errno)),
        }
    }

    /// The names of all extended attributes; none where the filesystem has no such thing.
    ///
    /// # Errors
    /// Those of listxattr(2) but for EOPNOTSUPP.
    pub fn list_xattrs(&self) -> Result<Vec<OsString>> {
        let keys = self.xattrs_on_disk()?;
        Ok(match self.origin.overrides() {
            None => keys,
            Some(overrides) => overrides.shown_keys(keys),
        })
    }

    /// The same by the names that they have on the disk, whatever users see.
    ///
    /// # Errors
    /// As [`Self::list_xattrs`].
    pub fn xattrs_on_disk(&self) -> Result<Vec<OsString>> {
        let names = self.by_descriptor(
            || grow(|buffer| fs::flistxattr(&self.fd, buffer)),
            |path| grow(|buffer| fs::listxattr(path, buffer)),
        );
        let names = match names {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            names => names.map_err(self.failed("listxattr"))?,
        };
        let names = names.split(|b| *b == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }

    /// The flags that chattr(1) sets.
    ///
    /// # Errors
    /// Those of open(2) and ioctl(2): ENOTTY where the filesystem has none.
    pub fn flags(&self) -> Result<IFlags> {
        let file = self.reopen(OFlags::RDONLY).map_err(self.failed("open"))?;
        fs::ioctl_getflags(&file).map_err(self.failed("ioctl"))
    }

    /// By which name the inode is known again after a remount; None if it cannot be known again.
    ///
    /// # Errors
    /// Those of name_to_handle_at(2) and fstatfs(2).
    pub fn lasting_id(&self, stat: &Stat) -> Result<Option<LastingId>> {
        LastingId::of(&self.fd, stat, self.origin.branch, self.origin.inodes)
            .map_err(self.failed("name_to_handle_at"))
    }

    /// Does by an open file's descriptor what an `O_PATH` one is not good for: that goes by its path in /proc, which
    /// leads to this very inode, a symbolic link included.
    pub(super) fn by_descriptor<T>(
        &self,
        on_file: impl FnOnce() -> io::Result<T>,
        by_path: impl FnOnce(&CStr) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.is_path { by_path(&self.path()) } else { on_file() }
    }

    /// `/proc/self/fd/N`.
    pub(super) fn path(&self) -> Box<CStr> {
        let mut path = Vec::with_capacity(32);
        // Writing to a Vec cannot fail.
        write!(path, "/proc/self/fd/{}\0", self.fd.as_raw_fd()).unwrap_or_default();
        CStr::from_bytes_until_nul(&path).unwrap_or_default().into()
    }
}

impl ReadFile {
    pub(super) fn of(inode: Inode) -> Self {
        Self { inode, size: None }
    }

    /// The same, if nobody changes the file: then its end need not be looked for.
    #[must_use]
    pub fn of_size(self, stat: &Stat) -> Self {
        Self { size: Some(stat.st_size as u64), ..self }
    }

    /// The inode behind the file, for looking.
    #[must_use]
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match io::pread(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.inode.failed("pread")(errno)),
            }
            if self.size == Some(offset + done as u64) {
                break;
            }
        }
        Ok(done)
    }

    /// The next data, or the next hole, at or after an offset.
    ///
    /// # Errors
    /// Those of lseek(2): ENXIO beyond the end.
    pub fn seek(&self, to: SeekFrom) -> Result<u64> {
        fs::seek(self, to).map_err(self.inode.failed("lseek"))
    }
}

fn mount_of(fd: impl AsFd) -> io::Result<u64> {
    Ok(fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Calls with a larger buffer until what there is fits.
fn grow(
    call: impl Fn(&mut [MaybeUninit<u8>]) -> io::Result<(&mut [u8], &mut [MaybeUninit<u8>])>,
) -> io::Result<Vec<u8>> {
    let mut size = 256;
    loop {
        let mut buffer = vec![MaybeUninit::uninit(); size];
        match call(&mut buffer) {
            Ok((value, _)) => return Ok(value.to_vec()),
            // Linux has no value and no list beyond 64 KiB.
            Err(Errno::RANGE) if size < 64 * 1024 => size *= 4,
            Err(errno) => return Err(errno),
        }
    }
}
