//! What does plyfs keep in the workdir, and how does a new entry come into the upper in one step, or not at all?
//!
//! All of it is in one directory, `plyfs`, that is ours alone; docs/WORKDIR.md has the format. What else is in the
//! workdir is somebody else's. An entry is made in `plyfs/stage`, which is on the upper's filesystem, and linked or
//! moved to its name when it is complete. What is dropped before that leaves nothing behind; what a crash leaves
//! is removed by the next mount, and is never looked at: names in it are used once.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::policy::Policy;
use super::read::Dir;
use super::shared_whiteout::SharedWhiteouts;
use super::write::{UpperDir, UpperInode, WriteFile};
use crate::error::{Error, Result};

/// The workdir of a mount that writes.
#[derive(Debug)]
pub struct WorkDir {
    outer: UpperDir,
    home: Mutex<Homes>,
    next: AtomicU64,
    has_unnamed: AtomicBool,
    whiteouts: SharedWhiteouts,
}

/// Our directories in it, as far as they are there: on a full disk they are made once there is room.
#[derive(Debug, Default)]
struct Homes {
    root: Option<UpperDir>,
    stage: Option<UpperDir>,
    unlinked: Option<UpperDir>,
    links: Option<UpperDir>,
    owners: Option<UpperDir>,
    /// How the upper departs from what its disk says, and so what is made here for it.
    policy: Option<Arc<Policy>>,
}

/// An entry that is not in the upper yet. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    inode: UpperInode,
    /// Where it is in the workdir; None for a file without a name (`O_TMPFILE`).
    parked: Option<Parked>,
}

/// A staged entry by its name in the workdir alone. Dropping it removes the entry.
#[derive(Debug)]
pub struct Parked {
    dir: UpperDir,
    name: OsString,
    /// Whether it is somebody else's by now.
    kept: bool,
    /// The staged directory that it is in, if that is to go with its last entry.
    _around: Option<Arc<Self>>,
}

/// Our directory in the workdir.
pub const HOME: &str = "plyfs";
const STAGE: &str = "stage";
const UNLINKED: &str = "unlinked";
const LINKS: &str = "links";
/// Where in it notes are made ready that are to take the place of those of now.
pub const NEXT_NOTES: &str = "next";
/// Where in it the notes are of what was changed, as it was before.
const BASES: &str = "bases";
/// Where in it the records are of what can have no attribute.
pub const OWNERS: &str = "owners";
const PRIVATE: Mode = Mode::RWXU;
/// The permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

impl WorkDir {
    /// The directory itself, for looking at.
    #[must_use]
    pub fn outer(&self) -> &Dir {
        &self.outer
    }

    /// What the workdir of an upper is called if the user names none: it is beside the upper.
    #[must_use]
    pub fn default_name(upper: &OsStr) -> OsString {
        let mut name = OsString::from(".");
        name.push(upper);
        name.push(".plyfs-work");
        name
    }

    /// Prepares the workdir; removes what a crash left of staged and of unlinked files.
    ///
    /// # Errors
    /// Those of the calls that it takes, but for a full disk: then it is prepared once there is room, so that
    /// something can be deleted. [`Error::UnfitWorkdir`] if the directory `plyfs` is not ours alone.
    pub fn open(outer: UpperDir) -> Result<Self> {
        let work = Self {
            outer,
            home: Mutex::default(),
            next: AtomicU64::new(0),
            has_unnamed: AtomicBool::new(true),
            whiteouts: SharedWhiteouts::default(),
        };
        match work.prepare() {
            Err(e) if e.is(Errno::NOSPC) || e.is(Errno::DQUOT) => {
                log::warn!(
                    "the workdir is not ready, the disk is full: only what the upper holds can be deleted"
                );
            }
            prepared => prepared?,
        }
        Ok(work)
    }

    fn prepare(&self) -> Result<()> {
        let root = self.root()?;
        for name in [STAGE, UNLINKED, NEXT_NOTES] {
            if root.stat(OsStr::new(name))?.is_some() {
                let dir = open_private(&root, OsStr::new(name))?;
                dir.list()?.iter().try_for_each(|entry| dir.remove_tree(&entry.name))?;
            }
        }
        let stage = self.stage()?;
        self.whiteouts.prepare(&stage, &self.fresh_name())
    }

    /// The directory `plyfs`.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub fn root(&self) -> Result<UpperDir> {
        let homes = &mut *self.home.lock();
        self.root_of(homes)
    }

    fn root_of(&self, homes: &mut Homes) -> Result<UpperDir> {
        if let Some(root) = &homes.root {
            return Ok(root.clone());
        }
        let name = OsStr::new(HOME);
        let is_new = self.outer.stat(name)?.is_none();
        make_private(&self.outer, name)?;
        let root = open_private(&self.outer, name)?;
        if is_new {
            // What an fsync(2) leaves in it must not go with its name.
            self.outer.sync()?;
        }
        homes.root = Some(root.clone());
        Ok(root)
    }

    /// The directory for entries that are staged by name.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub fn stage(&self) -> Result<UpperDir> {
        self.dir(STAGE, |homes| &mut homes.stage)
    }

    /// The directory for inodes that are open and have lost their last name.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub fn unlinked(&self) -> Result<UpperDir> {
        self.dir(UNLINKED, |homes| &mut homes.unlinked)
    }

    /// The directory for the copies of lower files with several names.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub fn links(&self) -> Result<UpperDir> {
        self.dir(LINKS, |homes| &mut homes.links)
    }

    /// The directory for the notes of what was changed, as it was before. Users see nothing of it.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub fn bases(&self) -> Result<UpperDir> {
        let root = self.root()?;
        make_private(&root, OsStr::new(BASES))?;
        Ok(open_private(&root, OsStr::new(BASES))?.under(None))
    }

    /// The upper is another one: its markers share nothing with those of the one before.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn begin_markers_anew(&self) -> Result<()> {
        self.whiteouts.begin_anew(&self.stage()?, &self.fresh_name())
    }

    /// The directory of links is another one.
    pub fn have_links(&self, links: UpperDir) {
        let homes = &mut *self.home.lock();
        homes.links = Some(links.under(homes.policy.clone()));
    }

    /// The directory for the records of what can have no attribute, see [`Overrides`](super::Overrides). Users see nothing of it.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub fn owners(&self) -> Result<UpperDir> {
        Ok(self.dir(OWNERS, |homes| &mut homes.owners)?.under(None))
    }

    /// From now on what is made here for the upper is made as there.
    pub fn follow(&self, policy: &Arc<Policy>) {
        if policy.quota.is_some() {
            // What has no name goes without a word, and would be counted for ever.
            self.has_unnamed.store(false, Ordering::Relaxed);
        }
        let homes = &mut *self.home.lock();
        homes.policy = Some(Arc::clone(policy));
        for dir in [&mut homes.stage, &mut homes.unlinked, &mut homes.links] {
            *dir = dir.take().map(|dir| dir.under(Some(Arc::clone(policy))));
        }
    }

    fn dir(&self, name: &str, slot: impl Fn(&mut Homes) -> &mut Option<UpperDir>) -> Result<UpperDir> {
        let homes = &mut *self.home.lock();
        if let Some(dir) = slot(homes) {
            return Ok(dir.clone());
        }
        let root = self.root_of(homes)?;
        make_private(&root, OsStr::new(name))?;
        let dir = open_private(&root, OsStr::new(name))?;
        // What is made in it must not inherit anything from where it is made.
        match dir.upper_inode().remove_xattr(OsStr::new("system.posix_acl_default")) {
            Err(e) if e.is(Errno::NODATA) || e.is(Errno::OPNOTSUPP) => {}
            removed => removed?,
        }
        let dir = dir.under(homes.policy.clone());
        *slot(homes) = Some(dir.clone());
        Ok(dir)
    }

    /// Removes what need not be kept between mounts.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn close(&self) -> Result<()> {
        let homes = std::mem::take(&mut *self.home.lock());
        let Some(root) = homes.root else { return Ok(()) };
        for name in [STAGE, UNLINKED] {
            root.remove_tree(OsStr::new(name))?;
        }
        for name in [LINKS, OWNERS] {
            match root.remove_dir(OsStr::new(name)) {
                Err(e) if [Errno::NOTEMPTY, Errno::EXIST, Errno::NOENT].iter().any(|n| e.is(*n)) => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// An empty regular file. If it has no name, and so cannot be opened by anybody, it has these permission bits
    /// already.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn file(&self, mode: Mode) -> Result<(Staged, WriteFile)> {
        let stage = self.stage()?;
        if self.has_unnamed.load(Ordering::Relaxed) {
            match stage.create_unnamed(mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO)) {
                Ok(file) => return Ok((Staged { inode: file.upper_inode(), parked: None }, file)),
                // vfat, NFS and most FUSE filesystems have no O_TMPFILE.
                Err(e) if [Errno::OPNOTSUPP, Errno::ISDIR, Errno::INVAL].iter().any(|n| e.is(*n)) => {
                    self.has_unnamed.store(false, Ordering::Relaxed);
                }
                Err(e) => return Err(e),
            }
        }
        self.file_at(&stage, &self.fresh_name())
    }

    /// The same with a name in a staged directory, so that a whole tree can be staged.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn file_at(&self, dir: &UpperDir, name: &OsStr) -> Result<(Staged, WriteFile)> {
        let file = dir.create(name, Mode::RUSR | Mode::WUSR)?;
        Ok((Staged { inode: file.upper_inode(), parked: Some(Parked::new(dir, name.to_owned())) }, file))
    }

    /// A name in [`Self::stage`] that was never used before.
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
        let stat = dir.stat_on_disk()?;
        self.make_marker_of((stat.st_uid, stat.st_gid), dir, name)
    }

    /// The same in a directory that will belong to `owner`, a user and a group.
    ///
    /// # Errors
    /// As [`Self::make_marker`].
    pub fn make_marker_of(&self, owner: (u32, u32), dir: &UpperDir, name: &OsStr) -> Result<()> {
        self.whiteouts.make(&self.stage()?, || self.fresh_name(), owner, dir, name)
    }

    /// A directory, for us alone until it takes on its original's mode, and the same to stage its children in.
    ///
    /// # Errors
    /// Those of mkdirat(2) and openat(2).
    pub fn make_dir(&self, dir: &UpperDir, name: OsString) -> Result<(Staged, UpperDir)> {
        dir.make_dir(&name, PRIVATE)?;
        // Before it is opened: should that fail, it goes again.
        let parked = Parked::new(dir, name);
        let inside = dir.open_upper_dir(&parked.name)?;
        Ok((Staged { inode: inside.upper_inode(), parked: Some(parked) }, inside))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn make_symlink(&self, dir: &UpperDir, name: OsString, target: &OsStr) -> Result<Staged> {
        dir.make_symlink(&name, target)?;
        Staged::named(dir, name)
    }

    /// A device, fifo or socket.
    ///
    /// # Errors
    /// Those of mknodat(2).
    pub fn make_node(&self, dir: &UpperDir, name: OsString, kind: FileType, device: u64) -> Result<Staged> {
        dir.make_node(&name, kind, Mode::RUSR | Mode::WUSR, device)?;
        Staged::named(dir, name)
    }

    /// One more name for an inode of the upper.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn make_link(&self, dir: &UpperDir, name: OsString, from: &UpperInode) -> Result<Staged> {
        dir.link(from, &name)?;
        Staged::named(dir, name)
    }
}

impl Staged {
    fn named(dir: &UpperDir, name: OsString) -> Result<Self> {
        let parked = Parked::new(dir, name);
        let inode = dir.open_upper_inode(&parked.name)?;
        Ok(Self { inode, parked: Some(parked) })
    }

    /// The inode, to be completed.
    #[must_use]
    pub fn inode(&self) -> &UpperInode {
        &self.inode
    }

    /// Gives the entry its name in the upper, which must be free.
    ///
    /// # Errors
    /// Those of linkat(2) and renameat2(2); EEXIST for a name that is taken.
    pub fn commit(self, dir: &UpperDir, name: &OsStr) -> Result<()> {
        match self.parked {
            None => dir.link(&self.inode, name),
            Some(parked) => parked.commit(dir, name),
        }
    }

    /// Lets go of the inode of an entry that has a name: there can be any number of these.
    #[must_use]
    pub fn park(self) -> Option<Parked> {
        self.parked
    }
}

impl Parked {
    fn new(dir: &UpperDir, name: OsString) -> Self {
        Self { dir: dir.clone(), name, kept: false, _around: None }
    }

    /// As [`Staged::commit`].
    ///
    /// # Errors
    /// As [`Staged::commit`].
    pub fn commit(mut self, dir: &UpperDir, name: &OsStr) -> Result<()> {
        self.dir.rename_to_free(&self.name, dir, name)?;
        self.kept = true;
        Ok(())
    }

    /// The same, but gives the entry back if the name is taken.
    ///
    /// # Errors
    /// Those of renameat2(2) but for EEXIST.
    pub fn try_commit(mut self, dir: &UpperDir, name: &OsStr) -> Result<Result<(), Self>> {
        match self.dir.rename_to_free(&self.name, dir, name) {
            Err(e) if e.is(Errno::EXIST) => Ok(Err(self)),
            moved => {
                moved?;
                self.kept = true;
                Ok(Ok(()))
            }
        }
    }

    /// Moves the entry to another place in the workdir.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn move_to(mut self, dir: &UpperDir, name: &OsStr) -> Result<Self> {
        self.dir.rename(&self.name, dir, name)?;
        (self.dir, self.name) = (dir.clone(), name.to_owned());
        Ok(self)
    }

    /// The entries of a staged directory, each staged by itself now. The directory goes with the last of them.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn into_children(self) -> Result<Vec<(OsString, Self)>> {
        let dir = self.dir.open_upper_dir(&self.name)?;
        let shell = Arc::new(self);
        let child = |name: OsString| {
            let around = Some(Arc::clone(&shell));
            (name.clone(), Self { dir: dir.clone(), name, kept: false, _around: around })
        };
        Ok(dir.list()?.into_iter().map(|entry| child(entry.name)).collect())
    }

    /// Leaves the entry where it is: it belongs to a staged directory from now on, and shares its fate.
    pub fn leave(mut self) {
        self.kept = true;
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if !self.kept
            && let Err(e) = self.dir.remove_tree(&self.name)
        {
            // Nobody can be told from a drop. The next mount removes what is left.
            log::warn!("a staged entry stays in the workdir for now: {e}");
        }
    }
}

fn make_private(dir: &UpperDir, name: &OsStr) -> Result<()> {
    match dir.make_dir(name, PRIVATE) {
        Err(e) if e.is(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Opens a directory that nobody but us can look into.
fn open_private(dir: &UpperDir, name: &OsStr) -> Result<UpperDir> {
    let shown = if name == HOME { "" } else { name.to_str().unwrap_or_default() };
    let unfit = |what| Error::UnfitWorkdir { name: shown.into(), what };
    let opened = dir.open_upper_dir(name).map_err(|e| match e.errno() {
        Errno::NOTDIR | Errno::LOOP => unfit("is not a directory"),
        _ => e,
    })?;
    let stat = opened.stat_self()?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(unfit("belongs to another user"));
    }
    if stat.st_mode & OTHERS != 0 {
        let inode = opened.upper_inode();
        let keeps_modes = inode.chmod(PRIVATE).is_ok() && inode.stat()?.st_mode & OTHERS == 0;
        if !keeps_modes {
            return Err(Error::UnfitUpper("does not keep permission bits"));
        }
        // As it was: whoever could has put something into it.
        inode.chmod(Mode::from_raw_mode(stat.st_mode))?;
        return Err(unfit("is open to others"));
    }
    Ok(opened)
}
