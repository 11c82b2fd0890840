//! How does a whole file get from a lower to the upper at the least cost?
//!
//! As a reflink where the filesystem shares blocks, else by copy_file_range(2) extent by extent so
//! that holes stay holes, else through memory.

use parking_lot::Mutex;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::read::ReadFile;
use super::stat::Stat;
use super::write::WriteFile;
use crate::error::{Error, Place, Result};
use crate::rules::BranchId;

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
    pub fn copy_data(&self, from: &ReadFile, stat: &Stat, to: &WriteFile) -> Result<()> {
        let size = stat.st_size as u64;
        if size == 0 || self.share_blocks(from, stat.st_dev, to) {
            return Ok(());
        }
        if size <= SMALL && stat.st_blocks as u64 * STAT_BLOCK >= size {
            return copy_extent(from, to, 0, size);
        }
        copy_sparse(from, to, size)
    }

    fn share_blocks(&self, from: &ReadFile, device: u64, to: &WriteFile) -> bool {
        if self.shares_nothing.lock().contains(&device) {
            return false;
        }
        match to.clone_from(from) {
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

fn copy_sparse(from: &ReadFile, to: &WriteFile, size: u64) -> Result<()> {
    let mut offset = 0;
    while let Some((start, end)) = next_extent(from, offset, size)? {
        copy_extent(from, to, start, end)?;
        offset = end;
    }
    // A hole at the end has no data to copy, but it has a length.
    to.truncate(size)
}

/// The next run of data at or after `offset`, None if only a hole is left.
fn next_extent(from: &ReadFile, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    let start = match from.seek(SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(e) if e.is(Errno::NXIO) => return Ok(None),
        // The filesystem does not know where its holes are.
        Err(e) if e.is(Errno::INVAL) || e.is(Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(e) => return Err(e),
    };
    if start >= size {
        return Ok(None);
    }
    let end = from.seek(SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))))
}

fn copy_extent(from: &ReadFile, to: &WriteFile, start: u64, end: u64) -> Result<()> {
    let mut offset = start;
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX).min(1 << 30);
        match to.copy_range(from, offset, offset, left) {
            // Some filesystems answer 0 for files that are not empty (procfs): then reading says more.
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_through_memory(from, to, offset, end);
            }
            Ok(copied) => offset += copied as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("copy_file_range", errno)),
        }
    }
    Ok(())
}

fn copy_through_memory(from: &ReadFile, to: &WriteFile, start: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX).min(1 << 20)];
    let mut offset = start;
    while offset < end {
        let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        let read = from.read_at(offset, &mut buffer[..want])?;
        if read == 0 {
            return Err(failed("pread", Errno::IO));
        }
        to.write_all_at(offset, &buffer[..read])?;
        offset += read as u64;
    }
    Ok(())
}

fn failed(call: &'static str, errno: Errno) -> Error {
    Error::Sys { call, errno, place: Place::branch(BranchId::UPPER) }
}

#[cfg(test)]
mod tests {
    use super::super::read::{Atime, Dir, Inodes};
    use super::super::write::UpperDir;
    use super::*;
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    /// A file with data in two places of a hole, and an empty one, beside each other.
    fn sparse_and_empty(dir: &tempfile::TempDir) -> (ReadFile, WriteFile, u64) {
        let upper = UpperDir::root(File::open(dir.path()).unwrap().into(), Atime::Kept, Inodes::MayChange);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let from = upper.create(OsStr::new("from"), mode).unwrap();
        let size = 64 << 20;
        from.truncate(size).unwrap();
        from.write_all_at(0, b"begin").unwrap();
        from.write_all_at((32 << 20) + 17, &[7; 10_000]).unwrap();
        let lower =
            Dir::root(File::open(dir.path()).unwrap().into(), BranchId(1), Atime::Kept, Inodes::MayChange);
        let from = lower.open_inode(OsStr::new("from")).unwrap().open_read().unwrap();
        (from, upper.create(OsStr::new("to"), mode).unwrap(), size)
    }

    fn same(dir: &tempfile::TempDir) {
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("from") == read("to"), "the copy differs");
    }

    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, _) = sparse_and_empty(&dir);
        Copier::default().copy_data(&from, &from.inode().stat().unwrap(), &to).unwrap();
        same(&dir);
        let blocks = |name| std::fs::metadata(dir.path().join(name)).unwrap().blocks();
        assert!(blocks("to") <= blocks("from") + 64);
    }

    #[test]
    fn memory_copies_what_the_kernel_would() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, size) = sparse_and_empty(&dir);
        copy_through_memory(&from, &to, 0, size).unwrap();
        same(&dir);
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, size) = sparse_and_empty(&dir);
        let error = copy_through_memory(&from, &to, 0, size + 1).unwrap_err();
        assert!(error.is(Errno::IO), "{error}");
    }
}
