//! The meeting point: every branch is asked, the rules decide, the upper is changed.
//!
//! One file an operation, and beneath them what they share. Parts that stand alone have types of their own: `Stack`
//! asks the branches, `Index` keeps what the workdir notes, `InodeTable` knows the nodes, `FileCache` and
//! `DirCache` what is open, `ListingCache` what is being listed. `locked` holds the names of an operation still
//! while the rules plan it and `execute` does it; `copy_up` and `copy_up_tree` bring entries into the upper;
//! `real_inode` finds the inode behind a node, and makes sure that it is the one that was meant.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. A file's own (`Node::lock`): one copy-up at a time of one file, however long.
//! 2. A directory's own: shared to look up or list names in it, exclusively to change them. Never held while data is
//!    copied. Several are locked in the order of their numbers; that two renames do not move each
//!    other's directories meanwhile is the kernel's doing.
//! 3. The short ones: the inode table, a node's state, the caches. Never held across a system call.
//!
//! A directory's descriptor is fetched before its lock is taken: opening it may need its parent's. What is found
//! without a lock is compared with what was meant.

mod attr;
mod bases;
mod copy_up;
mod copy_up_tree;
mod cost;
mod create;
mod execute;
mod index;
#[doc(hidden)] // For benches/inode_table.rs.
pub mod inode_table;
mod io;
mod listings;
mod live;
mod locked;
mod lookup;
mod names;
#[doc(hidden)] // For benches/inode_table.rs.
pub mod node;
mod node_lock;
mod open_files;
mod readdir;
mod real_inode;
mod records;
mod remove;
mod rename;
mod snapshot;
mod stack;
mod sync;
mod watch;
mod xattr;
mod xino;

pub use attr::{Attr, Changes, SetTime};
pub use create::NewNode;
pub use index::NotedCopy;
pub use io::Written;
pub use live::{InBranch, LiveUnion, NewLower, Outdated, Prepared, RootRole};
pub use lookup::{Answer, Looked};
pub use node::NodeId;
pub use readdir::{DirItem, Found, PlusItem};
pub use rename::RenameMode;
pub use snapshot::{NextUpper, OldUpper, SavedNotes};

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, StatVfs};
use rustix::io::Errno;

use crate::branch::{
    Atime, Believed, BranchRoots, Copier, Dir, Hidden, LastingId, Limits, Overrides, Ownership, Policy,
    Quota, Reader, UpperDir, UpperRoot, WorkDir,
};
use crate::error::{Error, Result};
use crate::rules::BranchId;
use crate::rules::name::Name;
use crate::rules::override_stat::OverrideXattr;
use bases::Bases;
use index::Index;
use inode_table::InodeTable;
use listings::ListingCache;
use node::{Body, Node, NodeState, Place, RealId};
use open_files::{DirCache, FileCache};
use snapshot::{inodes_of, lower_of, notes_of};
use stack::{Lower, Stack};
use watch::Watches;

/// How a union behaves, beyond its branches.
#[derive(Debug, Clone, Default)]
pub struct UnionOptions {
    /// Skip every sync: a crash of the machine may lose or empty files that were copied up.
    pub volatile: bool,
    /// The upper was written by overlayfs: a character device 0:0 in it is a whiteout.
    pub overlay_upper: bool,
    /// All files are shown as owned by one user or group, so copies need not keep their owners.
    pub squashed: bool,
    /// Reading moves no access times in the upper either.
    pub noatime: bool,
    /// FUSE filesystems and their like keep the numbers of their inodes.
    pub stable_inodes: bool,
    /// Records say whose the branches' files are: in which attribute, and whose are believed.
    pub overrides: Option<(OverrideXattr, Believed)>,
    /// What the mounter may not read of the lowers shows empty.
    pub empties_unreadable: bool,
    /// Records say nothing of the lowers' files.
    pub plain_lowers: bool,
    /// What the upper changes is noted as it was before.
    pub bases: bool,
    /// How much the upper may hold.
    pub limits: Limits,
    /// A lower ends where another filesystem is mounted in it.
    pub one_filesystem: bool,
    /// Somebody may change lowers, and the kernel asks again: nothing of them is remembered here either.
    pub revalidates: bool,
    /// Directories of lowers are watched, so many at most.
    pub watches: Option<usize>,
}

/// The copies of lower files with several names that a workdir notes for an upper. Nothing is written.
///
/// # Errors
/// Those of the calls that it takes; an error if the workdir is not fit to be read, as for a mount.
pub fn hard_link_copies(work: &Dir, upper: &Dir) -> Result<Vec<NotedCopy>> {
    Index::read_only(Some(work), upper, None)?.copies()
}

/// The records in a workdir of whose an upper's files are, where those can have no attribute that says it. None if
/// there are none; nothing is written.
///
/// # Errors
/// As [`hard_link_copies`].
pub fn records_beside(work: &Dir, upper: &Dir) -> Result<Option<Overrides>> {
    let Some(owners) = index::owners(Some(work), upper)? else { return Ok(None) };
    Overrides::new(OverrideXattr::User, Believed::All, upper)?.of_read_upper(upper, Some(owners)).map(Some)
}

/// Whether the filesystem of an empty directory can hold an upper. What is made for that is removed again.
///
/// # Errors
/// [`Error::UnfitUpper`] and its like.
pub fn try_upper(dir: UpperDir) -> Result<()> {
    let work = WorkDir::open(dir)?;
    let probed = try_probe(&work);
    work.close()?;
    probed
}

/// A union of branches. All operations may be called from any thread.
#[derive(Debug)]
pub struct Union {
    stack: Stack,
    upper: Option<Upper>,
    options: UnionOptions,
    table: InodeTable,
    dirs: DirCache,
    files: FileCache,
    listings: ListingCache,
    watches: Option<Arc<Watches>>,
    copier: Copier,
    /// Directories of the upper whose copied-up entries may not be on disk yet, and how many there have been.
    unsynced: Mutex<HashMap<NodeId, u64>>,
    /// Nodes that are kept in the workdir's `unlinked`.
    unlinked: Mutex<HashSet<NodeId>>,
    /// Records in the workdir of nodes that have lost their last name.
    unneeded_records: Mutex<HashMap<NodeId, LastingId>>,
    /// Where the upper is, as users see it.
    upper_path: Option<PathBuf>,
    /// From which generation on what was the upper before is which lower.
    swaps: Vec<(u32, BranchId)>,
    /// The last generation that changed what users see.
    looked_again: u32,
    /// Whether something that was written before a snapshot may not be on disk yet.
    unsynced_snapshots: Mutex<bool>,
    copied_up: CopiedUp,
}

/// What was copied up since the union was opened.
#[derive(Debug, Default)]
struct CopiedUp {
    files: AtomicU64,
    /// Of their data.
    bytes: AtomicU64,
}

/// How much a union has done, and holds in memory.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Inodes that the kernel knows.
    pub nodes: usize,
    /// Files, directories and whatever else was copied up.
    pub copied_up: u64,
    /// Bytes of data that were copied up.
    pub copied_bytes: u64,
    /// What the listings take that are being read, in bytes.
    pub listings: usize,
    /// Directories of lowers that are watched, if any are.
    pub watches: Option<usize>,
}

/// What goes with the writable branch.
#[derive(Debug)]
struct Upper {
    index: Index,
    /// None if the mount may change nothing.
    work: Option<Arc<WorkDir>>,
    /// What was changed, as it was before.
    bases: Option<Bases>,
}

impl Upper {
    /// That of a mount that changes it. Records of whose its files are the root knows of from now on.
    fn written(
        root: &mut UpperDir,
        outer: &UpperDir,
        lowers: &[Dir],
        (snapshots, notes): (&[Dir], Option<&UpperDir>),
        options: &UnionOptions,
    ) -> Result<Self> {
        let work = Arc::new(WorkDir::open(outer.clone())?);
        if let Err(e) = probe(&work) {
            work.close()?;
            return Err(e);
        }
        let index = Index::open(Arc::clone(&work), outer, root, lowers, notes)?;
        // The notes in the workdir are this upper's by now.
        let policy = Self::policy(root, snapshots, &work, options)?;
        if let Some(policy) = &policy {
            work.follow(policy);
        }
        *root = root.clone().under(policy);
        if options.volatile {
            index.mark_volatile()?;
        }
        let bases = options.bases.then(|| Bases::open(&work)).transpose()?;
        Ok(Self { index, work: Some(work), bases })
    }

    fn policy(
        root: &UpperDir,
        snapshots: &[Dir],
        work: &WorkDir,
        options: &UnionOptions,
    ) -> Result<Option<Arc<Policy>>> {
        let mut policy = Policy::default();
        if let Some((xattr, believed)) = options.overrides {
            let overrides = Overrides::new(xattr, believed, root)?;
            let (sample, _) = work.file(Mode::RUSR | Mode::WUSR)?;
            policy.overrides = Some(Arc::new(overrides.of_upper(sample.inode(), work.owners()?)?));
        }
        if !options.limits.are_none() {
            policy.quota = {
                let all = std::iter::once(&**root).chain(snapshots);
                Some(Arc::new(Quota::of(all, options.limits)?))
            };
        }
        Ok((policy.overrides.is_some() || policy.quota.is_some()).then(|| Arc::new(policy)))
    }

    /// That of a mount that changes nothing.
    fn read(
        root: &mut UpperDir,
        outer: Option<UpperDir>,
        notes: Option<&Dir>,
        options: &UnionOptions,
    ) -> Result<Self> {
        let outer = outer.as_deref().cloned();
        let policy = match options.overrides {
            Some((xattr, believed)) => {
                let overrides = Overrides::new(xattr, believed, root)?;
                let owners = index::owners(outer.as_ref(), root)?;
                let overrides = Some(Arc::new(overrides.of_read_upper(root, owners)?));
                Some(Arc::new(Policy { overrides, ..Policy::default() }))
            }
            None => None,
        };
        let outer = outer.map(|outer| outer.under(policy.clone()));
        let index = Index::read_only(outer.as_ref(), root, notes)?;
        *root = root.clone().under(policy);
        Ok(Self { index, work: None, bases: None })
    }
}

/// The upper of a mount that may change it.
#[derive(Clone, Copy)]
struct Writable<'a> {
    root: &'a UpperDir,
    work: &'a WorkDir,
    index: &'a Index,
}

impl Union {
    /// Takes the branches over.
    ///
    /// # Errors
    /// What the disk says of a branch's root or of the workdir.
    pub fn open(branches: BranchRoots, options: UnionOptions) -> Result<Self> {
        let inodes = inodes_of(&options);
        let BranchRoots { upper, lowers, hidden } = branches;
        let (paths, roots): (Vec<_>, Vec<_>) = lowers.into_iter().map(|root| (root.path, root.fd)).unzip();
        let roots = roots.into_iter().zip(1..);
        let lowers = roots.map(|(fd, id)| Dir::root(fd, BranchId(id), Atime::Kept, inodes)).collect();
        let lowers = told_apart(lowers)?;
        let (mut upper_root, mut upper_path, mut below) = (None, None, Vec::new());
        let upper = match upper {
            None => None,
            Some(UpperRoot { upper, work, writes, mut snapshots }) => {
                let atime = if options.noatime || !writes { Atime::Kept } else { Atime::AsDisk };
                let mut root = UpperDir::root(upper.fd, atime, inodes);
                let outer = work.map(|work| UpperDir::workdir(work.fd, atime, inodes));
                let notes = snapshots.first_mut().and_then(|snapshot| notes_of(snapshot, &options));
                let owners = index::owners(outer.as_deref(), &root)?;
                // The oldest has the lowest number.
                for (snapshot, at) in snapshots.into_iter().rev().zip(1..) {
                    let id = BranchId(BranchId::BEFORE_SNAPSHOTS.0 + at);
                    below.insert(0, lower_of(snapshot, id, &options, owners.clone())?);
                }
                let layers: Vec<Dir> = below.iter().map(|lower: &Lower| lower.root.clone()).collect();
                let past = (&layers[..], notes.as_ref());
                let upper_of = match (outer, writes) {
                    (Some(outer), true) => Upper::written(&mut root, &outer, &lowers, past, &options)?,
                    (outer, _) => Upper::read(&mut root, outer, notes.as_deref(), &options)?,
                };
                upper_root = Some(root);
                upper_path = Some(upper.path);
                Some(upper_of)
            }
        };
        let with_policy = |lower| lower_policy(&lower, &hidden, &options).map(|policy| lower.under(policy));
        let lowers = lowers.into_iter().map(with_policy).collect::<Result<Vec<_>>>()?;
        let named = lowers.iter().cloned().zip(paths).map(|(root, path)| Lower { root, path });
        let stack = Stack::new(upper_root, below.into_iter().chain(named).collect(), options.overlay_upper)?;
        let parts = stack.root_parts();
        if parts.is_empty() {
            return Err(Error::Bug("a union without branches"));
        }
        let watches = options.watches.map(|most| Arc::new(Watches::new(most)));
        let mut union = Self {
            stack,
            upper,
            options,
            table: InodeTable::default(),
            dirs: DirCache::new(),
            files: FileCache::new(),
            listings: ListingCache::new(),
            watches,
            copier: Copier::default(),
            unsynced: Mutex::default(),
            unlinked: Mutex::default(),
            unneeded_records: Mutex::default(),
            upper_path,
            swaps: Vec::new(),
            looked_again: 0,
            unsynced_snapshots: Mutex::default(),
            copied_up: CopiedUp::default(),
        };
        let state = NodeState::found(Place::Root, Body::Dir(parts), RealId::NONE);
        union.table.insert_root(Node::detached(NodeId::ROOT, FileType::Directory, state));
        if union.watches.is_some() {
            union.table.expect_changes();
            union.watch_roots()?;
        }
        union.drop_unreachable(&lowers);
        union.note_root_base();
        Ok(union)
    }

    /// Copies of lower files that users see under no name any more, since the other names are outside the branches.
    fn drop_unreachable(&self, lowers: &[Dir]) {
        let Ok(upper) = self.writable() else { return };
        let look = |way: &[OsString], name: &OsStr, key: &LastingId| self.shows_lower(way, name, key);
        if let Err(e) = upper.index.drop_unreachable(upper.root, lowers, look) {
            log::warn!("copies that nobody needs stay in the workdir for now: {e}");
        }
    }

    /// Whether users see a lower's inode under a name.
    fn shows_lower(&self, way: &[OsString], name: &OsStr, key: &LastingId) -> Result<bool> {
        let mut parts = self.open_parts(&self.table.get(NodeId::ROOT)?)?;
        for dir in way {
            let Ok(name) = Name::new(dir) else { return Ok(false) };
            parts = self.stack.open_children(&parts, &name, &self.stack.see(&parts, &name)?)?;
        }
        let Ok(name) = Name::new(name) else { return Ok(false) };
        match self.stack.see(&parts, &name)? {
            stack::Seen::Leaf { branch, stat } if !branch.is_upper() => {
                let dir = parts.iter().find(|open| open.part.branch == branch);
                let dir = &dir.ok_or(Error::Bug("a name without its directory"))?.dir;
                Ok(dir.open_inode(name.as_os_str())?.lasting_id(&stat)?.as_ref() == Some(key))
            }
            _ => Ok(false),
        }
    }

    /// The clean end of a mount: the upper is on disk, and what the workdir need not keep is removed.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn close(&self) -> Result<()> {
        self.files.clear();
        let Ok(Writable { work, index, .. }) = self.writable() else { return Ok(()) };
        if !self.options.volatile {
            self.sync_all()?;
        }
        index.close()?;
        work.close()
    }

    /// The state of the filesystem that new data goes to: the upper's, else the topmost lower's.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn stat_fs(&self) -> Result<StatVfs> {
        match (&self.stack.upper, self.stack.lowers().next()) {
            (Some(upper), _) => {
                let disk = upper.stat_fs()?;
                Ok(match upper.quota() {
                    Some(quota) => quota.bound(disk),
                    None => disk,
                })
            }
            (None, Some(lower)) => lower.stat_fs(),
            (None, None) => Err(Error::Bug("a union without branches")),
        }
    }

    /// How much it has done, and holds.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            nodes: self.table.len(),
            copied_up: self.copied_up.files.load(Ordering::Relaxed),
            copied_bytes: self.copied_up.bytes.load(Ordering::Relaxed),
            listings: self.listings.bytes(),
            watches: self.watches.as_ref().map(|watches| watches.len()),
        }
    }

    /// One inode more has come into the upper, with so many bytes.
    fn count_copy_up(&self, bytes: u64) {
        self.copied_up.files.fetch_add(1, Ordering::Relaxed);
        self.copied_up.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The kernel drops `lookups` references to a node.
    pub fn forget(&self, id: NodeId, lookups: u64) {
        if let Some(node) = self.table.forget(id, lookups) {
            self.files.forget(id);
            self.listings.forget(id);
            if let Ok(parts) = node.parts() {
                self.dirs.forget(id, &parts);
                self.end_watches(&node);
            }
            self.forget_unlinked(id);
            self.forget_record(id);
        }
    }

    /// Runs an operation, and once more with fewer files open if there were too many: an operation that fails has
    /// changed nothing.
    fn with_descriptors<T>(&self, operation: impl Fn() -> Result<T>) -> Result<T> {
        match operation() {
            Err(e) if e.is(Errno::MFILE) || e.is(Errno::NFILE) => {
                log::info!("too many open files: closing what can be opened again");
                self.files.evict();
                self.dirs.clear();
                operation()
            }
            done => done,
        }
    }

    fn upper(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Error::ReadOnly)
    }

    fn writable(&self) -> Result<Writable<'_>> {
        match (&self.stack.upper, &self.upper) {
            (Some(root), Some(Upper { index, work: Some(work), .. })) => Ok(Writable { root, work, index }),
            _ => Err(Error::ReadOnly),
        }
    }

    fn ownership(&self) -> Ownership {
        if self.options.squashed { Ownership::Ours } else { Ownership::AsOriginal }
    }
}

fn lower_policy(lower: &Dir, hidden: &Hidden, options: &UnionOptions) -> Result<Option<Arc<Policy>>> {
    let overrides = options.overrides.filter(|_| !options.plain_lowers);
    if overrides.is_none() && hidden.is_nothing() && !options.one_filesystem && !options.empties_unreadable {
        return Ok(None);
    }
    let overrides = overrides.map(|(xattr, believed)| Overrides::new(xattr, believed, lower));
    let only_mount = options.one_filesystem.then(|| lower.mount()).transpose()?;
    Ok(Some(Arc::new(Policy {
        overrides: overrides.transpose()?.map(Arc::new),
        hidden: hidden.clone(),
        only_mount,
        reader: options.empties_unreadable.then(Reader::this),
        ..Policy::default()
    })))
}

/// Lowers on two filesystems that call inodes by the same names (copies of one image, two squashfs) have no lasting
/// names: the copy of one's file must never be shown for the other's.
fn told_apart(lowers: Vec<Dir>) -> Result<Vec<Dir>> {
    let mut is_ambiguous = vec![false; lowers.len()];
    // Of several on one filesystem, one stands for all.
    let mut first: HashMap<u64, usize> = HashMap::new();
    let mut filesystem = Vec::with_capacity(lowers.len());
    for (at, lower) in lowers.iter().enumerate() {
        filesystem.push(*first.entry(lower.stat_self()?.st_dev).or_insert(at));
    }
    let firsts: Vec<usize> = first.into_values().collect();
    for (i, one) in firsts.iter().enumerate() {
        for other in &firsts[i + 1..] {
            if lowers[*one].may_be_mistaken_for(&lowers[*other])? {
                is_ambiguous[*one] = true;
                is_ambiguous[*other] = true;
            }
        }
    }
    let ambiguous = |at: usize| is_ambiguous[filesystem[at]];
    let lowers = lowers.into_iter().enumerate();
    Ok(lowers.map(|(at, lower)| if ambiguous(at) { lower.ambiguous() } else { lower }).collect())
}

/// Makes and removes a whiteout on the upper's filesystem, in the workdir, and looks at what became of it: better
/// refused now than at the first deletion, or than a private file that everybody can read once it was copied up.
fn probe(work: &WorkDir) -> Result<()> {
    match try_probe(work) {
        // Nothing can be made, but something can be deleted.
        Err(e) if e.is(Errno::NOSPC) || e.is(Errno::DQUOT) => {
            log::warn!("the upper's disk is full: {e}");
            Ok(())
        }
        probed => probed,
    }
}

fn try_probe(work: &WorkDir) -> Result<()> {
    let name = Name::new(&work.fresh_name())?;
    let whiteout = name.whiteout().ok_or(Error::Bug("a number is too long a name"))?;
    let (dir, marker) = (work.stage()?, whiteout.as_os_str());
    work.make_marker(&dir, marker).map_err(|e| match e.errno() {
        Errno::INVAL => Error::NoWhiteouts(Errno::INVAL),
        _ => e,
    })?;
    let folds_case = dir.stat(&marker.to_ascii_uppercase())?.is_some();
    dir.remove_marker(marker)?;
    if folds_case {
        return Err(Error::UnfitUpper("does not tell upper case from lower case in names"));
    }
    let (file, _) = work.file_at(&dir, &work.fresh_name())?;
    let mode = Mode::RUSR | Mode::RGRP;
    let keeps_modes =
        file.inode().chmod(mode).is_ok() && Mode::from_raw_mode(file.inode().stat()?.st_mode) == mode;
    if !keeps_modes {
        return Err(Error::UnfitUpper("does not keep permission bits"));
    }
    Ok(())
}
