//! The meeting point: every branch is asked, the rules decide, the upper is changed.
//!
//! One file an operation, and beneath them what they share: `probe` asks the branches,
//! `mutate` has a plan made and `execute` does it, `copy_up` brings entries into the upper, `objects` finds the
//! inode behind a node. Each operation is a method of [`Union`].
//!
//! # Locks, in the order in which they are taken
//!
//! 1. `rename`: whoever changes names in two directories, or completes a directory.
//! 2. A file's own (`Node::hold`): one copy-up at a time of one file, however long.
//! 3. A directory's own: to look up, list or change names in it. Never held while data is copied, but
//!    by a directory rename, and then only within that directory.
//! 4. The short ones: a node's state, the caches, the inode table. Never held across a system call.
//!
//! A directory's descriptor is fetched before its lock is taken: opening it may need its parent's.

mod attr;
mod caches;
mod complete;
mod copy_up;
mod create;
mod execute;
mod index;
#[doc(hidden)] // For benches/inode_table.rs.
pub mod inode_table;
mod io;
mod lookup;
mod mutate;
#[doc(hidden)] // For benches/inode_table.rs.
pub mod node;
mod numbering;
mod objects;
mod positions;
mod probe;
mod readdir;
mod remove;
mod rename;
mod xattr;

pub use attr::{Attr, Changes, SetTime};
pub use create::NewNode;
pub use io::Written;
pub use lookup::Looked;
pub use node::NodeId;
pub use readdir::{DirItem, Found, PlusItem};
pub use rename::RenameMode;

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, StatVfs};
use rustix::io::Errno;

use crate::branch::{BranchRoot, BranchRoots, Copier, Dir, Ownership, Staging, UpperDir};
use crate::control;
use crate::error::{Error, Result};
use crate::rules::BranchIndex;
use crate::rules::name::Name;
use caches::{DirCache, FileCache, ListingCache};
use index::Index;
use inode_table::InodeTable;
use node::{Body, DirPart, Node, NodeState, Place, RealId};
use numbering::Numbering;

/// The kernel's limit for the value of an extended attribute.
const XATTR_SIZE_MAX: usize = 64 * 1024;

/// How a union behaves, beyond its branches.
#[derive(Debug, Clone, Default)]
pub struct UnionOptions {
    /// Skip every sync: a crash of the machine may lose or empty files that were copied up.
    pub volatile: bool,
    /// The upper was written by overlayfs: a character device 0:0 in it is a whiteout.
    pub overlay_upper: bool,
    /// All files are shown as owned by one user or group, so copies need not keep their owners.
    pub squashed: bool,
}

/// A union of branches. All operations may be called from any thread.
#[derive(Debug)]
pub struct Union {
    lowers: Vec<Dir>,
    upper: Option<Upper>,
    options: UnionOptions,
    numbering: Numbering,
    table: InodeTable,
    dirs: DirCache,
    files: FileCache,
    listings: ListingCache,
    copier: Copier,
    rename: Mutex<()>,
    /// Branches whose root says that they hold whiteouts by attribute.
    xattr_branches: Vec<BranchIndex>,
    /// Directories of the upper whose copied-up entries may not be on disk yet.
    unsynced: Mutex<HashSet<NodeId>>,
    /// One `PATH=rw` or `PATH=ro` line a branch, topmost first.
    labels: Vec<u8>,
}

/// The writable branch, and what the workdir holds for it.
#[derive(Debug)]
struct Upper {
    root: UpperDir,
    work: UpperDir,
    staging: Staging,
    index: Index,
}

impl Union {
    /// Takes the branches over.
    ///
    /// # Errors
    /// What the disk says of a branch's root or of the workdir.
    pub fn open(branches: BranchRoots, options: UnionOptions) -> Result<Self> {
        let mut labels = Vec::new();
        let mut label = |root: &BranchRoot, access| {
            let line = control::branch_line(&root.path, access);
            // An attribute's value has an end; so many branches are told as fit.
            if labels.len() + line.len() <= XATTR_SIZE_MAX {
                labels.extend(line);
            }
        };
        let numbering = Numbering::default();
        let upper = match branches.upper {
            None => None,
            Some(roots) => {
                label(&roots.upper, control::Access::Writable);
                let root = UpperDir::root(roots.upper.fd);
                numbering.real(&root.stat_self()?);
                let work = UpperDir::root(roots.work.fd);
                let staging = Staging::open(&work)?;
                if let Err(e) = probe(&staging) {
                    staging.close(&work)?;
                    return Err(e);
                }
                let index = Index::open(work.clone())?;
                Some(Upper { root, work, staging, index })
            }
        };
        let mut lowers = Vec::with_capacity(branches.lowers.len());
        for root in branches.lowers {
            label(&root, control::Access::ReadOnly);
            let dir = Dir::new(root.fd);
            numbering.real(&dir.stat_self()?);
            lowers.push(dir);
        }
        let mut union = Self {
            lowers,
            upper,
            options,
            numbering,
            table: InodeTable::default(),
            dirs: DirCache::new(),
            files: FileCache::new(),
            listings: ListingCache::new(),
            copier: Copier::default(),
            rename: Mutex::new(()),
            xattr_branches: Vec::new(),
            unsynced: Mutex::default(),
            labels,
        };
        let parts = union.root_parts()?;
        union.xattr_branches =
            parts.iter().filter(|part| part.xattr_whiteouts).map(|part| part.branch).collect();
        let state = NodeState { place: Place::Root, other: None, body: Body::Dir(parts), real: RealId::NONE };
        union.table.insert_root(Node::detached(NodeId::ROOT, FileType::Directory, state));
        Ok(union)
    }

    /// An opaque marker in a branch's own root hides everything below it.
    fn root_parts(&self) -> Result<Arc<[DirPart]>> {
        let upper = self.upper.as_ref().map(|upper| (BranchIndex::UPPER, &*upper.root));
        let lowers = (1..).map(BranchIndex).zip(&self.lowers);
        let mut parts = Vec::new();
        for (branch, dir) in upper.into_iter().chain(lowers) {
            let markers = self.dir_markers(dir)?;
            let filesystem = self.numbering.real(&dir.stat_self()?).filesystem;
            let xattr_whiteouts = markers.xattr_whiteouts;
            parts.push(DirPart { branch, filesystem, xattr_whiteouts, closed: false });
            if markers.opaque {
                break;
            }
        }
        if parts.is_empty() {
            return Err(Error::Invalid);
        }
        Ok(parts.into())
    }

    /// The clean end of a mount: what the workdir need not keep is removed.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn close(&self) -> Result<()> {
        self.files.clear();
        match &self.upper {
            None => Ok(()),
            Some(upper) => {
                upper.staging.close(&upper.work)?;
                upper.index.close()
            }
        }
    }

    /// The state of the filesystem that new data goes to: the upper's, else the topmost lower's.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn stat_fs(&self) -> Result<StatVfs> {
        match &self.upper {
            Some(upper) => upper.root.stat_fs(),
            None => self.lowers[0].stat_fs(),
        }
    }

    /// The kernel drops `lookups` references to a node.
    pub fn forget(&self, id: NodeId, lookups: u64) {
        if let Some(node) = self.table.forget(id, lookups) {
            self.files.forget(id);
            self.listings.forget(id);
            if let Ok(parts) = node.parts() {
                self.dirs.forget(id, &parts);
            }
        }
    }

    fn writable(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Error::ReadOnly)
    }

    fn ownership(&self) -> Ownership {
        if self.options.squashed { Ownership::Ours } else { Ownership::AsOriginal }
    }
}

/// Makes and removes a whiteout on the upper's filesystem, in the workdir, and looks at what became of it: better
/// refused now than at the first deletion, or than a private file that everybody can read once it was copied up.
fn probe(staging: &Staging) -> Result<()> {
    let name = Name::new(&staging.fresh_name())?;
    let whiteout = name.whiteout().ok_or(Error::Invalid)?;
    let (dir, marker) = (staging.dir(), whiteout.as_os_str());
    staging.make_marker(dir, marker).map_err(|e| match e.errno() {
        Errno::INVAL => Error::NoWhiteouts(Errno::INVAL),
        _ => e,
    })?;
    let folds_case = dir.stat(&marker.to_ascii_uppercase())?.is_some();
    dir.remove_marker(marker)?;
    if folds_case {
        return Err(Error::UnfitUpper("does not tell upper case from lower case in names"));
    }
    let (file, _) = staging.file_at(dir, &staging.fresh_name())?;
    let mode = Mode::RUSR | Mode::RGRP;
    let keeps_modes =
        file.object().chmod(mode).is_ok() && Mode::from_raw_mode(file.object().stat()?.st_mode) == mode;
    if !keeps_modes {
        return Err(Error::UnfitUpper("does not keep permission bits"));
    }
    Ok(())
}
