//! A small filesystem of its own, for what a full or a foreign disk does.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A tmpfs of a given size. Declare it before the union that uses it: it must outlive it.
pub(crate) struct Tmpfs {
    root: TempDir,
}

impl Tmpfs {
    pub(crate) fn of_kib(kib: u32) -> Self {
        Self::mount(&format!("size={kib}k"), MountFlags::empty())
    }

    /// On which every read sets an access time.
    pub(crate) fn with_access_times() -> Self {
        Self::mount("size=4m", MountFlags::STRICTATIME)
    }

    /// With room for so many files, their further names counted.
    pub(crate) fn of_files(files: u32) -> Self {
        Self::mount(&format!("nr_inodes={files}"), MountFlags::empty())
    }

    /// With little room for files and for data.
    pub(crate) fn small() -> Self {
        Self::mount("size=256k,nr_inodes=60", MountFlags::empty())
    }

    fn mount(options: &str, flags: MountFlags) -> Self {
        let root = super::temp_dir();
        let options = CString::new(format!("{options},mode=0755")).unwrap();
        mount("tmpfs", root.path(), "tmpfs", flags, options.as_c_str()).unwrap();
        Self { root }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// A new directory on it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Takes all room for files and all room for data but for so much of each. What takes it goes when it is dropped.
    pub(crate) fn leave_room(&self, files: u64, blocks: u64) -> Fillers {
        const BLOCK: usize = 4096;
        let name = |index| self.path().join(format!("filler{index}"));
        let fillers = Fillers((0..self.free_files().saturating_sub(files).max(1)).map(name).collect());
        fillers.0.iter().for_each(|filler| fs::write(filler, "").unwrap());
        let wanted = usize::try_from(self.free().saturating_sub(blocks)).unwrap();
        fs::write(&fillers.0[0], vec![1; wanted * BLOCK]).unwrap();
        fillers
    }

    /// How many blocks are free.
    pub(crate) fn free(&self) -> u64 {
        rustix::fs::statvfs(self.path()).unwrap().f_bfree
    }

    /// How many more files there is room for.
    pub(crate) fn free_files(&self) -> u64 {
        rustix::fs::statvfs(self.path()).unwrap().f_ffree
    }
}

/// Files that take room, until they are dropped.
#[derive(Debug)]
pub(crate) struct Fillers(Vec<PathBuf>);

impl Drop for Fillers {
    fn drop(&mut self) {
        for filler in &self.0 {
            fs::remove_file(filler).expect("our own file");
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(self.path(), UnmountFlags::DETACH).expect("the tmpfs is still mounted");
    }
}
