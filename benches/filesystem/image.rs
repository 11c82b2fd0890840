//! Where is a filesystem that shares blocks, on a machine that has none? In a file, with xfs in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use plyfs::units::GIB;

use crate::Result;
use crate::corpus::write_noise;
use crate::ground::Site;
use crate::scale::Scale;
use crate::work::program;

/// A mounted image. Dropped, it is unmounted, and its loop device goes with the mount.
#[derive(Debug)]
pub(crate) struct Image {
    mountpoint: PathBuf,
    pub(crate) site: Site,
}

impl Image {
    pub(crate) fn mount(scratch: &Path, scale: &Scale) -> Result<Self> {
        let (file, mountpoint) = (scratch.join("xfs.img"), scratch.join("xfs"));
        // Who cannot share blocks copies them: the lower files, one copy of each, and room to breathe.
        let largest = scale.copy_up_sizes.iter().sum::<u64>() + scale.big_file;
        File::create(&file)?.set_len(3 * largest + GIB)?;
        fs::create_dir(&mountpoint)?;
        program("mkfs.xfs", &["-q", "-m", "reflink=1"], &[&file])?;
        program("mount", &["-o", "loop"], &[&file, &mountpoint])?;
        // From here on it must be unmounted: the site comes after.
        let unmount = |error| match rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH) {
            Ok(()) => error,
            Err(errno) => format!("{error}; and {} stays mounted: {errno}", mountpoint.display()).into(),
        };
        let site = Site::new(&mountpoint.join("runs")).map_err(unmount)?;
        Ok(Self { mountpoint, site })
    }

    /// A folder with one file, made the first time that it is asked for.
    pub(crate) fn lower(&self, size: u64) -> Result<PathBuf> {
        let dir = self.mountpoint.join(size.to_string());
        if !dir.exists() {
            fs::create_dir(&dir)?;
            write_noise(&dir.join(crate::corpus::BIG), size)?;
        }
        Ok(dir)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(errno) = rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("bench: {} stays mounted: {errno}", self.mountpoint.display());
        }
    }
}
