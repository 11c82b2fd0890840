//! How is a tree beneath a root descriptor read?

use std::cell::RefCell;
use std::ffi::{CStr, OsStr, OsString};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::sys::{Context, Stat, absent};
use crate::error::Result;

/// What one call of getdents(2) is given room for.
const LISTING_BUFFER_SIZE: usize = 64 * 1024;

thread_local! {
    /// Each thread reads one directory at a time.
    static LISTING_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A directory of a branch, held open. It can only look.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    /// For whoever lists it: the descriptor has one position. None if it is an `O_PATH` one, which cannot be read.
    reading: Option<Arc<Mutex<()>>>,
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

/// One inode of a branch, addressed so that nothing is ever followed: by directory and name, or by a
/// descriptor. It can only look.
#[derive(Clone, Debug)]
pub enum Object {
    /// The entry `name` of the directory.
    At(Dir, OsString),
    /// The inode behind the descriptor, which may be an `O_PATH` one.
    Open(Arc<OwnedFd>),
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Takes over the descriptor of a directory, of whatever kind it is.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd), reading: None }
    }

    fn readable(fd: OwnedFd) -> Self {
        Self { reading: Some(Arc::default()), ..Self::new(fd) }
    }

    /// The directory's own attributes.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn stat_self(&self) -> Result<Stat> {
        fs::fstat(&self.fd).call("fstat")
    }

    /// The attributes of an entry, None if there is none.
    ///
    /// # Errors
    /// Those of fstatat(2) but for ENOENT.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>> {
        absent(fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW), "fstatat")
    }

    /// The directory under `name`.
    ///
    /// # Errors
    /// Those of openat(2); ENOTDIR for anything but a directory.
    pub fn open_dir(&self, name: &OsStr) -> Result<Self> {
        match open_noatime(self, name, OFlags::RDONLY | OFlags::DIRECTORY) {
            // What is in it can be reached all the same.
            Err(e) if e.is(Errno::ACCESS) => {
                open(self, name, OFlags::PATH | OFlags::DIRECTORY).map(Self::new)
            }
            opened => opened.map(Self::readable),
        }
    }

    /// The inode under `name`, without opening it for anything.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_path(&self, name: &OsStr) -> Result<OwnedFd> {
        open(self, name, OFlags::PATH)
    }

    /// The entry `name` as an object.
    #[must_use]
    pub fn at(&self, name: &OsStr) -> Object {
        Object::At(self.clone(), name.to_owned())
    }

    /// The directory itself as an object.
    #[must_use]
    pub fn object(&self) -> Object {
        Object::Open(Arc::clone(&self.fd))
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
        let Some(reading) = &self.reading else {
            let fd = open_noatime(self, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
            return Self::readable(fd).each(show);
        };
        let _reading = reading.lock();
        fs::seek(&self.fd, SeekFrom::Start(0)).call("lseek")?;
        LISTING_BUFFER.with_borrow_mut(|buffer| {
            buffer.reserve(LISTING_BUFFER_SIZE);
            let mut raw = RawDir::new(&self.fd, buffer.spare_capacity_mut());
            while let Some(entry) = raw.next() {
                let entry = entry.call("getdents")?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    show(OsStr::from_bytes(name), entry.file_type(), entry.ino());
                }
            }
            Ok(())
        })
    }

    /// The state of the filesystem that the directory is on.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn stat_fs(&self) -> Result<fs::StatVfs> {
        // fstatvfs refuses O_PATH descriptors on old kernels only; ours are fine with it.
        fs::fstatvfs(&self.fd).call("fstatvfs")
    }
}

/// Opens an entry without following it.
pub(super) fn open(dir: &Dir, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).call("openat")
}

/// Opens for reading without leaving a trace in the access time, where we may: a branch that is
/// read-only should not change by being read.
fn open_noatime(dir: &Dir, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    without_trace(flags, |flags| open(dir, name, flags))
}

fn without_trace(flags: OFlags, open: impl Fn(OFlags) -> Result<OwnedFd>) -> Result<OwnedFd> {
    match open(flags | OFlags::NOATIME) {
        Err(e) if e.is(Errno::PERM) => open(flags),
        result => result,
    }
}

impl Object {
    /// The inode's attributes.
    ///
    /// # Errors
    /// Those of fstatat(2).
    pub fn stat(&self) -> Result<Stat> {
        match self {
            Self::At(dir, name) => {
                fs::statat(dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW).call("fstatat")
            }
            Self::Open(fd) => fs::fstat(fd).call("fstat"),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_read(&self) -> Result<OwnedFd> {
        // O_NONBLOCK: should a fifo have taken the name's place, opening it must not hang.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        match self {
            Self::At(dir, name) => open_noatime(dir, name, flags),
            Self::Open(fd) => {
                let path = proc_path(fd, None);
                let open = |flags| fs::open(&*path, flags | OFlags::CLOEXEC, Mode::empty()).call("open");
                without_trace(flags, open)
            }
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub fn read_link(&self) -> Result<OsString> {
        let target = match self {
            Self::At(dir, name) => fs::readlinkat(dir, name.as_os_str(), Vec::new()),
            Self::Open(fd) => fs::readlinkat(fd, "", Vec::new()),
        };
        Ok(OsString::from_vec(target.call("readlinkat")?.into_bytes()))
    }

    /// The value of an extended attribute, None if it has none of that name, or if the filesystem has no such
    /// thing: the kernel takes any other error about an ACL for a reason to let nobody in.
    ///
    /// # Errors
    /// Those of getxattr(2) but for ENODATA and EOPNOTSUPP.
    pub fn get_xattr(&self, key: &OsStr) -> Result<Option<Vec<u8>>> {
        let value = match self {
            Self::At(dir, name) => {
                let path = proc_path(dir, Some(name));
                grow(|buffer| fs::lgetxattr(&*path, key, buffer))
            }
            Self::Open(fd) => by_descriptor(
                || grow(|buffer| fs::fgetxattr(fd, key, buffer)),
                || {
                    let path = proc_path(fd, None);
                    grow(|buffer| fs::getxattr(&*path, key, buffer))
                },
            ),
        };
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno).call("getxattr"),
        }
    }

    /// The names of all extended attributes; none where the filesystem has no such thing.
    ///
    /// # Errors
    /// Those of listxattr(2) but for EOPNOTSUPP.
    pub fn list_xattrs(&self) -> Result<Vec<OsString>> {
        let names = match self {
            Self::At(dir, name) => {
                let path = proc_path(dir, Some(name));
                grow(|buffer| fs::llistxattr(&*path, buffer))
            }
            Self::Open(fd) => by_descriptor(
                || grow(|buffer| fs::flistxattr(fd, buffer)),
                || {
                    let path = proc_path(fd, None);
                    grow(|buffer| fs::listxattr(&*path, buffer))
                },
            ),
        };
        let names = match names {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            names => names.call("listxattr")?,
        };
        let names = names.split(|b| *b == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }
}

/// Does by an open file's descriptor what an `O_PATH` one is not good for: that goes by its path.
pub(super) fn by_descriptor<T>(
    on_file: impl FnOnce() -> rustix::io::Result<T>,
    by_path: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match on_file() {
        Err(Errno::BADF) => by_path(),
        result => result,
    }
}

/// `/proc/self/fd/N[/NAME]`, for the calls that have no `*at` form. Only the last component can be a symbolic
/// link: the `l…` calls do not follow it, and the others are given none.
pub(super) fn proc_path(fd: impl AsFd, name: Option<&OsStr>) -> Box<CStr> {
    let mut path = Vec::with_capacity(300);
    // Writing to a Vec cannot fail.
    write!(path, "/proc/self/fd/{}", fd.as_fd().as_raw_fd()).unwrap_or_default();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
    }
    path.push(0);
    CStr::from_bytes_until_nul(&path).unwrap_or_default().into()
}

/// Calls with a larger buffer until what there is fits.
fn grow(
    call: impl Fn(&mut [MaybeUninit<u8>]) -> rustix::io::Result<(&mut [u8], &mut [MaybeUninit<u8>])>,
) -> rustix::io::Result<Vec<u8>> {
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
