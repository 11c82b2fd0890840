//! How does an empty file come into the upper at the least cost?
//!
//! As one more name of an empty file that is kept in the workdir: a link changes a directory, a new file
//! also takes an inode. AUFS and overlayfs make their whiteouts in the same way.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::upper::UpperDir;
use crate::error::Result;

/// An empty file of mode 0644 that can have any number of names.
#[derive(Debug)]
pub(super) struct Blank {
    can_link: AtomicBool,
}

const TEMPLATE: &str = "blank";

impl Blank {
    pub(super) fn new() -> Self {
        Self { can_link: AtomicBool::new(true) }
    }

    /// Gives it a name. It is no error if there is an entry of that name already. `stage` is where the file
    /// itself is kept, `fresh` a name there that was never used.
    pub(super) fn make(
        &self,
        stage: &UpperDir,
        fresh: impl FnOnce() -> OsString,
        dir: &UpperDir,
        name: &OsStr,
    ) -> Result<()> {
        if self.can_link.load(Ordering::Relaxed) {
            let template = stage.upper_at(OsStr::new(TEMPLATE));
            let linked = match dir.link(&template, name) {
                // The first one, or the last one that the filesystem allows of this file.
                Err(e) if e.is(Errno::NOENT) || e.is(Errno::MLINK) => {
                    let fresh = fresh();
                    make_empty(stage, &fresh)?;
                    stage.rename(&fresh, stage, OsStr::new(TEMPLATE))?;
                    dir.link(&template, name)
                }
                linked => linked,
            };
            match linked {
                Err(e) if e.is(Errno::EXIST) => return Ok(()),
                // vfat and its kind have no hard links.
                Err(e) if e.is(Errno::PERM) || e.is(Errno::OPNOTSUPP) => {
                    self.can_link.store(false, Ordering::Relaxed);
                }
                linked => return linked,
            }
        }
        match make_empty(dir, name) {
            Err(e) if e.is(Errno::EXIST) => Ok(()),
            made => made,
        }
    }
}

fn make_empty(dir: &UpperDir, name: &OsStr) -> Result<()> {
    let mode = Mode::from_raw_mode(0o644);
    match dir.make_node(name, FileType::RegularFile, mode, 0) {
        // Many a FUSE filesystem makes files only by opening them.
        Err(e) if e.is(Errno::OPNOTSUPP) => dir.create(name, mode).map(drop),
        made => made,
    }
}
