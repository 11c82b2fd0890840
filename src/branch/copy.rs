//! How does a whole file get from a lower to the upper at the least cost?
//!
//! As a reflink where the filesystem shares blocks, else by copy_file_range(2) extent by extent so
//! that holes stay holes, else through memory.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, SeekFrom};
use rustix::io::{self, Errno};

use super::sys::Context;
use crate::error::{Error, Result};

/// Copies `size` bytes of data from the beginning of one file to another, empty one.
///
/// # Errors
/// Those of the calls that it takes. EIO if the source ends early: it must not change below us.
pub fn copy_data(from: impl AsFd, to: impl AsFd, size: u64) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if size == 0 || fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut offset = 0;
    while let Some((start, end)) = next_extent(from, offset, size)? {
        copy_extent(from, to, start, end)?;
        offset = end;
    }
    // A hole at the end has no data to copy, but it has a length.
    fs::ftruncate(to, size).call("ftruncate")
}

/// The next run of data at or after `offset`, None if only a hole is left.
fn next_extent(from: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    let start = match fs::seek(from, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // The filesystem does not know where its holes are.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(errno) => return Err(errno).call("lseek"),
    };
    if start >= size {
        return Ok(None);
    }
    let end = fs::seek(from, SeekFrom::Hole(start)).call("lseek")?;
    Ok(Some((start, end.min(size))))
}

fn copy_extent(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
            // Some filesystems answer 0 for files that are not empty (procfs): then reading says more.
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_through_memory(from, to, read_at, end);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).call("copy_file_range"),
        }
    }
    Ok(())
}

fn copy_through_memory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX).min(1 << 20)];
    let mut offset = start;
    while offset < end {
        let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        let read = match io::pread(from, &mut buffer[..want], offset) {
            Ok(0) => return Err(Error::Sys { call: "pread", errno: Errno::IO }),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).call("pread"),
        };
        let mut written = 0;
        while written < read {
            match io::pwrite(to, &buffer[written..read], offset + written as u64) {
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call("pwrite"),
            }
        }
        offset += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};

    fn sparse() -> (File, u64) {
        let file = tempfile::tempfile().unwrap();
        let size = 64 << 20;
        file.set_len(size).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(&[7; 10_000], (32 << 20) + 17).unwrap();
        (file, size)
    }

    fn same(a: &File, b: &File) {
        let read = |file: &File| {
            let mut all = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
            file.read_exact_at(&mut all, 0).unwrap();
            all
        };
        assert!(read(a) == read(b), "the copy differs");
    }

    #[test]
    fn holes_stay_holes() {
        let (from, size) = sparse();
        let to = tempfile::tempfile().unwrap();
        copy_data(&from, &to, size).unwrap();
        same(&from, &to);
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks() + 64);
    }

    #[test]
    fn memory_copies_what_the_kernel_would() {
        let (from, size) = sparse();
        let to = tempfile::tempfile().unwrap();
        copy_through_memory(from.as_fd(), to.as_fd(), 0, size).unwrap();
        same(&from, &to);
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let (from, size) = sparse();
        let to = tempfile::tempfile().unwrap();
        let error = copy_through_memory(from.as_fd(), to.as_fd(), 0, size + 1).unwrap_err();
        assert!(error.is(Errno::IO), "{error}");
    }
}
