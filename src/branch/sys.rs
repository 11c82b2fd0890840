//! The names of the system calls, for their errors, and what a `stat` says.

use rustix::fs::{self, FileType};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// What stat(2) says of an inode.
pub type Stat = fs::Stat;

/// Names the call in an error.
pub(crate) trait Context<T> {
    /// `call` as in its manual page.
    fn call(self, call: &'static str) -> Result<T>;
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn call(self, call: &'static str) -> Result<T> {
        self.map_err(|errno| Error::Sys { call, errno })
    }
}

/// The file type in a `stat`.
#[must_use]
pub fn stat_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A device number in the form in which the FUSE protocol and mknod(2) carry it: 32 bits.
#[must_use]
pub fn rdev(stat: &Stat) -> u32 {
    let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// An answer that means "there is nothing under that name": a name that is too long for a branch's
/// filesystem cannot be there either.
pub(crate) fn absent<T>(result: rustix::io::Result<T>, call: &'static str) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(errno) => Err(Error::Sys { call, errno }),
    }
}
