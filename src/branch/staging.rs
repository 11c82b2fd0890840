//! How does a new entry come into the upper in one step, or not at all?
//!
//! It is made in the workdir, which is on the upper's filesystem, and linked or moved to its name when
//! it is complete. What is dropped before that leaves nothing behind; what a crash leaves is removed when
//! the workdir is opened again, and is never looked at: names in it are used once.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::blank::Blank;
use super::upper::{UpperDir, UpperObject};
use crate::error::Result;

/// The directory in the workdir where entries are made.
#[derive(Debug)]
pub struct Staging {
    dir: UpperDir,
    next: AtomicU64,
    has_unnamed: AtomicBool,
    blank: Blank,
}

/// An entry that is not in the upper yet. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    object: UpperObject,
    /// Where it is in the workdir; None for a file without a name (`O_TMPFILE`).
    place: Option<(UpperDir, OsString)>,
}

const STAGE: &str = "stage";
const PRIVATE: Mode = Mode::RWXU;

impl Staging {
    /// Prepares the workdir; removes what a crash left in it.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn open(work: &UpperDir) -> Result<Self> {
        let stage = OsStr::new(STAGE);
        if work.stat(stage)?.is_some() {
            work.remove_tree(stage)?;
        }
        work.make_dir(stage, PRIVATE)?;
        let dir = work.open_upper_dir(stage)?;
        // What is staged must not inherit anything from where it is staged.
        match dir.upper_object().remove_xattr(OsStr::new("system.posix_acl_default")) {
            Err(e) if e.is(Errno::NODATA) || e.is(Errno::OPNOTSUPP) => {}
            result => result?,
        }
        Ok(Self { dir, next: AtomicU64::new(0), has_unnamed: AtomicBool::new(true), blank: Blank::new() })
    }

    /// Removes the staging directory itself.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn close(&self, work: &UpperDir) -> Result<()> {
        work.remove_tree(OsStr::new(STAGE))
    }

    /// An empty regular file and the descriptor to fill it by. If it has no name, and so cannot be opened by
    /// anybody, it has these permission bits already.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn file(&self, mode: Mode) -> Result<(Staged, Arc<OwnedFd>)> {
        if self.has_unnamed.load(Ordering::Relaxed) {
            match self.dir.create_unnamed(mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO)) {
                Ok(fd) => {
                    let fd = Arc::new(fd);
                    let object = UpperObject::opened(Arc::clone(&fd));
                    return Ok((Staged { object, place: None }, fd));
                }
                // vfat, NFS and most FUSE filesystems have no O_TMPFILE.
                Err(e) if [Errno::OPNOTSUPP, Errno::ISDIR, Errno::INVAL].iter().any(|n| e.is(*n)) => {
                    self.has_unnamed.store(false, Ordering::Relaxed);
                }
                Err(e) => return Err(e),
            }
        }
        let name = self.fresh_name();
        self.file_at(&self.dir, &name)
    }

    /// The same with a name in a staged directory, so that a whole tree can be staged.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn file_at(&self, dir: &UpperDir, name: &OsStr) -> Result<(Staged, Arc<OwnedFd>)> {
        let fd = Arc::new(dir.create(name, Mode::RUSR | Mode::WUSR)?);
        let object = UpperObject::opened(Arc::clone(&fd));
        Ok((Staged { object, place: Some((dir.clone(), name.to_owned())) }, fd))
    }

    /// The directory for entries that are staged by name.
    #[must_use]
    pub fn dir(&self) -> &UpperDir {
        &self.dir
    }

    /// A name in [`Self::dir`] that was never used before.
    #[must_use]
    pub fn fresh_name(&self) -> OsString {
        self.next.fetch_add(1, Ordering::Relaxed).to_string().into()
    }

    /// Makes an empty file of mode 0644 in a directory of the upper, in one step: a marker. It is no error if
    /// there is one already.
    ///
    /// # Errors
    /// Those of linkat(2) and mknodat(2) but for EEXIST.
    pub fn make_marker(&self, dir: &UpperDir, name: &OsStr) -> Result<()> {
        self.blank.make(&self.dir, || self.fresh_name(), dir, name)
    }

    /// A directory, for us alone until it takes on its original's mode, and the same to stage its children in.
    ///
    /// # Errors
    /// Those of mkdirat(2) and openat(2).
    pub fn make_dir(&self, dir: &UpperDir, name: OsString) -> Result<(Staged, UpperDir)> {
        dir.make_dir(&name, PRIVATE)?;
        // Before it is opened: should that fail, it goes again.
        let mut staged = Staged::named(dir, name.clone());
        let inside = dir.open_upper_dir(&name)?;
        staged.object = inside.upper_object();
        Ok((staged, inside))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn make_symlink(&self, dir: &UpperDir, name: OsString, target: &OsStr) -> Result<Staged> {
        dir.make_symlink(&name, target)?;
        Ok(Staged::named(dir, name))
    }

    /// A device, fifo or socket.
    ///
    /// # Errors
    /// Those of mknodat(2).
    pub fn make_node(&self, dir: &UpperDir, name: OsString, kind: FileType, device: u64) -> Result<Staged> {
        dir.make_node(&name, kind, Mode::RUSR | Mode::WUSR, device)?;
        Ok(Staged::named(dir, name))
    }

    /// One more name for an inode of the upper.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn make_link(&self, dir: &UpperDir, name: OsString, from: &UpperObject) -> Result<Staged> {
        dir.link(from, &name)?;
        Ok(Staged::named(dir, name))
    }
}

impl Staged {
    fn named(dir: &UpperDir, name: OsString) -> Self {
        Self { object: dir.upper_at(&name), place: Some((dir.clone(), name)) }
    }

    /// The inode, to be completed.
    #[must_use]
    pub fn object(&self) -> &UpperObject {
        &self.object
    }

    /// Gives the entry its name in the upper, which must be free.
    ///
    /// # Errors
    /// Those of linkat(2) and renameat2(2); EEXIST for a name that is taken.
    pub fn commit(mut self, dir: &UpperDir, name: &OsStr) -> Result<()> {
        match &self.place {
            None => dir.link(&self.object, name)?,
            Some((stage, staged)) => stage.rename_to_free(staged, dir, name)?,
        }
        self.place = None;
        Ok(())
    }

    /// Leaves the entry where it is: it belongs to a staged directory from now on, and shares its fate.
    pub fn leave(mut self) {
        self.place = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some((stage, name)) = &self.place
            && let Err(e) = stage.remove_tree(name)
        {
            // Nobody can be told from a drop. The next mount removes what is left.
            log::warn!("a staged entry stays in the workdir for now: {e}");
        }
    }
}
