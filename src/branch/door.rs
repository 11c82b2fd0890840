//! How does a change get to the disk?
//!
//! Through one function, [`change`]: it says in an error which call failed, on which branch and under which name,
//! and with the cargo feature `faults` it is where the n-th change is made to fail, or the process to end.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use rustix::io;

use super::read::Dir;
use crate::error::{Error, Place, Result};
use crate::rules::BranchId;

/// A system call that changes a branch or the workdir, or waits until a change is on the disk.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Call<'a> {
    /// openat(2) with `O_CREAT | O_EXCL`.
    Create(&'a Dir, &'a OsStr),
    /// openat(2) with `O_TMPFILE`.
    CreateUnnamed(&'a Dir),
    Mknod(&'a Dir, &'a OsStr),
    Mkdir(&'a Dir, &'a OsStr),
    Symlink(&'a Dir, &'a OsStr),
    /// The inode that gets one more name, and the name.
    Link(BorrowedFd<'a>, &'a Dir, &'a OsStr),
    Unlink(&'a Dir, &'a OsStr),
    Rmdir(&'a Dir, &'a OsStr),
    Rename(&'a Dir, &'a OsStr, &'a Dir, &'a OsStr),
    Exchange(&'a Dir, &'a OsStr, &'a Dir, &'a OsStr),
    /// ioctl(2) `FICLONE` into this file.
    Clone(BorrowedFd<'a>),
    /// copy_file_range(2) into this file.
    CopyRange(BorrowedFd<'a>),
    Write(BorrowedFd<'a>),
    Truncate(BorrowedFd<'a>),
    Fallocate(BorrowedFd<'a>),
    Chmod(BorrowedFd<'a>),
    Chown(BorrowedFd<'a>),
    SetTimes(BorrowedFd<'a>),
    SetFlags(BorrowedFd<'a>),
    SetXattr(BorrowedFd<'a>, &'a OsStr),
    RemoveXattr(BorrowedFd<'a>, &'a OsStr),
    Fsync(BorrowedFd<'a>),
    Fdatasync(BorrowedFd<'a>),
    Syncfs(BorrowedFd<'a>),
}

impl Call<'_> {
    /// The call's name, as in its manual page.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(..) | Self::CreateUnnamed(..) => "openat",
            Self::Mknod(..) => "mknodat",
            Self::Mkdir(..) => "mkdirat",
            Self::Symlink(..) => "symlinkat",
            Self::Link(..) => "linkat",
            Self::Unlink(..) | Self::Rmdir(..) => "unlinkat",
            Self::Rename(..) | Self::Exchange(..) => "renameat2",
            Self::Clone(..) => "ioctl FICLONE",
            Self::CopyRange(..) => "copy_file_range",
            Self::Write(..) => "pwrite",
            Self::Truncate(..) => "ftruncate",
            Self::Fallocate(..) => "fallocate",
            Self::Chmod(..) => "chmod",
            Self::Chown(..) => "fchownat",
            Self::SetTimes(..) => "utimensat",
            Self::SetFlags(..) => "ioctl",
            Self::SetXattr(..) => "setxattr",
            Self::RemoveXattr(..) => "removexattr",
            Self::Fsync(..) => "fsync",
            Self::Fdatasync(..) => "fdatasync",
            Self::Syncfs(..) => "syncfs",
        }
    }

    fn place(&self) -> Place {
        match self {
            Self::Create(dir, name)
            | Self::Mknod(dir, name)
            | Self::Mkdir(dir, name)
            | Self::Symlink(dir, name)
            | Self::Link(_, dir, name)
            | Self::Unlink(dir, name)
            | Self::Rmdir(dir, name)
            | Self::Rename(_, _, dir, name)
            | Self::Exchange(_, _, dir, name) => Place::entry(dir.branch(), name),
            Self::CreateUnnamed(dir) => Place::branch(dir.branch()),
            Self::SetXattr(_, name) | Self::RemoveXattr(_, name) => Place::entry(BranchId::UPPER, name),
            _ => Place::branch(BranchId::UPPER),
        }
    }
}

/// Makes a change. Every call that changes a branch or the workdir is made in here.
///
/// # Errors
/// That of the call, with what it was about.
pub(crate) fn change<T>(call: Call<'_>, make: impl FnOnce() -> io::Result<T>) -> Result<T> {
    try_change(call, make).map_err(|errno| failed(&call, errno))
}

/// The same for a call that may fail for want of a feature: the bare errno, to go on from.
pub(super) fn try_change<T>(call: Call<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(feature = "faults")]
    return super::faults::change(&call, make);
    #[cfg(not(feature = "faults"))]
    {
        // Only `faults` asks which call it is.
        let _ = call;
        make()
    }
}

/// The error of a call.
pub(super) fn failed(call: &Call<'_>, errno: io::Errno) -> Error {
    Error::Sys { call: call.name(), errno, place: call.place() }
}
