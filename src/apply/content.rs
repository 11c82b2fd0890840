//! What does a file hold, and how does it get into another one?

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::error::Result;
use crate::branch::{Inode, Stat};
use crate::layer::is_private_xattr;

const BUFFER: usize = 1 << 20;

/// All of a file's data.
pub(super) fn read(inode: &Inode, stat: &Stat) -> Result<Vec<u8>> {
    let size = usize::try_from(stat.st_size).unwrap_or(0);
    let mut data = vec![0; size];
    if size > 0 {
        let length = inode.open_read()?.read_at(0, &mut data)?;
        data.truncate(length);
    }
    Ok(data)
}

/// The extended attributes that are a user's business, by name.
pub(super) fn xattrs(inode: &Inode) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut keys = inode.list_xattrs()?;
    // A label is the system's to give.
    keys.retain(|key| !is_private_xattr(key) && key != "security.selinux");
    keys.sort();
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(value) = inode.get_xattr(&key)? {
            found.push((key, value));
        }
    }
    Ok(found)
}

/// Copies a file's data into an empty one, sharing blocks where the disk can, and leaving holes holes.
pub(super) fn copy(from: impl AsFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    let from = from.as_fd();
    if size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut offset = 0;
    while offset < size {
        let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(offset)) {
            Ok(start) => (start, rustix::fs::seek(from, SeekFrom::Hole(start))?),
            Err(Errno::NXIO) => break,
            // The disk does not know where its holes are.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (offset, size),
            Err(errno) => return Err(errno),
        };
        copy_range(from, to, start, end.min(size))?;
        offset = end;
    }
    rustix::fs::ftruncate(to, size)
}

fn copy_range(from: impl AsFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(&from, Some(&mut read), to, Some(&mut written), left) {
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_through_memory(&from, to, read, end);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_through_memory(from: impl AsFd, to: &OwnedFd, mut offset: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; BUFFER];
    while offset < end {
        let want = usize::try_from(end - offset).unwrap_or(BUFFER).min(BUFFER);
        let length = rustix::io::pread(&from, &mut buffer[..want], offset)?;
        if length == 0 {
            return Err(Errno::IO);
        }
        let mut done = 0;
        while done < length {
            done += rustix::io::pwrite(to, &buffer[done..length], offset + done as u64)?;
        }
        offset += length as u64;
    }
    Ok(())
}
