//! How does a whole file get from a lower to the upper at the least cost?
//!
//! As a reflink where the filesystem shares blocks, else by copy_file_range(2) extent by extent so
//! that holes stay holes, else through memory.

use std::os::fd::{AsFd, BorrowedFd};

use parking_lot::Mutex;
use rustix::fs::{self, SeekFrom};
use rustix::io::{self, Errno};

use super::sys::{Context, Stat};
use crate::error::{Error, Result};

/// Copies files to one filesystem, and remembers which others it cannot share blocks with.
#[derive(Debug, Default)]
pub struct Copier {
    /// By device number.
    shares_nothing: Mutex<Vec<u64>>,
}

impl Copier {
    /// Copies the data of a file, of which `stat` speaks, to another, empty one.
    ///
    /// # Errors
    /// Those of the calls that it takes. EIO if the source ends early: it must not change below us.
    pub fn copy_data(&self, from: impl AsFd, stat: &Stat, to: impl AsFd) -> Result<()> {
        let (from, to) = (from.as_fd(), to.as_fd());
        let size = stat.st_size as u64;
        if size == 0 || self.share_blocks(from, stat.st_dev, to) {
            return Ok(());
        }
        if size <= SMALL && stat.st_blocks as u64 * STAT_BLOCK >= size {
            return copy_extent(from, to, 0, size);
        }
        copy_sparse(from, to, size)
    }

    fn share_blocks(&self, from: BorrowedFd<'_>, device: u64, to: BorrowedFd<'_>) -> bool {
        if self.shares_nothing.lock().contains(&device) {
            return false;
        }
        match fs::ioctl_ficlone(to, from) {
            Ok(()) => true,
            // Neither will the next file's be shared.
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY) => {
                self.shares_nothing.lock().push(device);
                false
            }
            Err(_) => false,
        }
    }
}

/// Up to this size, in bytes, a file has no blocks but those of its data: it has no holes if they are enough. Asking
/// for holes costs as much as copying the rest.
const SMALL: u64 = 64 * 1024;

/// The unit of `st_blocks`, in bytes.
const STAT_BLOCK: u64 = 512;

fn copy_sparse(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<()> {
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
        let (from, _) = sparse();
        let to = tempfile::tempfile().unwrap();
        Copier::default().copy_data(&from, &fs::fstat(&from).unwrap(), &to).unwrap();
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
