//! A filesystem in a file, on a loop device that goes with its mount.

use std::path::Path;
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::{sh, temp_dir};

/// A mounted disk. Declare it before the union that uses it: it must outlive it.
pub(crate) struct LoopDisk {
    root: TempDir,
    /// The file, if it is ours.
    _image: Option<TempDir>,
}

impl LoopDisk {
    /// An empty disk, made by a command that takes its file. None if this machine cannot mount it.
    pub(crate) fn of(make: &str, mib: u32) -> Option<Self> {
        let image = temp_dir();
        sh(image.path(), &format!("truncate -s {mib}M disk; {make} disk >&2"));
        let mut disk = Self::mount(&image.path().join("disk"), "loop")?;
        disk._image = Some(image);
        Some(disk)
    }

    /// A disk that is there. None if this machine cannot mount it.
    pub(crate) fn read_only(image: &Path) -> Option<Self> {
        Self::mount(image, "loop,ro")
    }

    fn mount(image: &Path, options: &str) -> Option<Self> {
        let root = temp_dir();
        let words = [Path::new("-o"), Path::new(options), image, root.path()];
        let mounted = Command::new("mount").args(words).status().expect("mount(8) starts");
        mounted.success().then_some(Self { root, _image: None })
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }
}

/// A disk to which nothing can be written, until this is dropped.
pub(crate) struct Frozen<'a>(&'a LoopDisk);

impl LoopDisk {
    /// Lets everybody wait who writes; what was written before can be read.
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        sh(self.path(), "fsfreeze -f .");
        Frozen(self)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        sh(self.0.path(), "fsfreeze -u .");
    }
}

impl Drop for LoopDisk {
    /// The kernel detaches the loop device with the last user of the mount.
    fn drop(&mut self) {
        unmount(self.root.path(), UnmountFlags::DETACH).expect("the disk is still mounted");
    }
}
