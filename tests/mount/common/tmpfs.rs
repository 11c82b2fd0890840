//! A small filesystem of its own, for what a full or a foreign disk does.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A tmpfs of a given size. Declare it before the union that uses it: it must outlive it.
pub(crate) struct Tmpfs {
    root: TempDir,
}

impl Tmpfs {
    pub(crate) fn of_kib(kib: u32) -> Self {
        Self::mount(&format!("size={kib}k"))
    }

    /// With room for so many files, their further names counted.
    pub(crate) fn of_files(files: u32) -> Self {
        Self::mount(&format!("nr_inodes={files}"))
    }

    fn mount(options: &str) -> Self {
        let root = super::temp_dir();
        let options = CString::new(format!("{options},mode=0755")).unwrap();
        mount("tmpfs", root.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self { root }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// A new directory on it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
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

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(self.path(), UnmountFlags::DETACH).expect("the tmpfs is still mounted");
    }
}
