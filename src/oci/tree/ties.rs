//! Which names in layers below does the workdir tie to files of the upper, and whose does it say are they?
//!
//! Two names of one file stay one file when it is copied up under one of them, and the upper has no entry for the
//! other: the workdir notes it (docs/WORKDIR.md, `links`). A layer that is taken away from its workdir needs that
//! entry. Only if there are such names are the lowers walked through.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::item::TreePath;
use super::names::{Shows, roots, shows};
use crate::branch::{Dir, Inode, Overrides, WorkDir};
use crate::layer;
use crate::union::{hard_link_copies, records_beside};

/// What a workdir says of its upper.
#[derive(Debug, Default)]
pub struct Ties {
    /// Names to add to what the layer shows, by directory.
    names: HashMap<TreePath, InDir>,
    /// Whose the files are that can have no attribute which says it.
    pub(super) records: Option<Overrides>,
}

/// Names to add to one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct InDir {
    /// The directory, in the topmost layer that has it.
    pub(super) own: Option<Dir>,
    /// More names of copies.
    pub(super) files: Vec<(OsString, Inode)>,
    /// Directories that lead to such names.
    pub(super) dirs: Vec<OsString>,
}

impl Ties {
    /// Without any names to add: whose files are whose in a snapshot of an upper is said by the same records.
    ///
    /// # Errors
    /// Those of reading.
    pub fn of_snapshot(upper: &Dir, work: &Dir) -> Result<Self> {
        Ok(Self { names: HashMap::new(), records: records_beside(work, upper)? })
    }

    /// Reads the notes of a workdir about an upper, and looks for the names in the layers below it.
    ///
    /// # Errors
    /// Those of reading; [`Error::Setup`] if there are such names, and no layer to look for them.
    pub fn of(upper: &Dir, work: &Dir, below: &[Dir]) -> Result<Self> {
        let mut ties = Self { names: HashMap::new(), records: records_beside(work, upper)? };
        let copies = hard_link_copies(work, upper)?;
        let wanted: Vec<_> = copies.into_iter().filter(|copy| copy.has_other_names).collect();
        if wanted.is_empty() {
            return Ok(ties);
        }
        if below.is_empty() {
            return Err(Error::Setup(format!(
                "{} hard-linked files of the lowers were copied up under some of their names, and the layer must have \
                 the others: name the lowers, topmost first, with --lower DIR",
                wanted.len()
            )));
        }
        let stack: Vec<&Dir> = std::iter::once(upper).chain(below).collect();
        for (at, lower) in below.iter().enumerate() {
            let mut places = Vec::new();
            let whole = layer::walk(lower, |way, name, ino| {
                if wanted.iter().any(|copy| copy.original.inode_number() == ino) {
                    places.push((way.to_vec(), name.to_owned()));
                }
            })?;
            if !whole {
                return Err(Error::Setup(format!(
                    "lower {} cannot be read as a whole, and so not searched for the other names of hard-linked files",
                    at + 1
                )));
            }
            for (way, name) in places {
                let dir = way.iter().try_fold(lower.clone(), |dir, name| dir.open_dir(name))?;
                let inode = dir.open_inode(&name)?;
                let Some(id) = inode.lasting_id(&inode.stat()?)? else { continue };
                if let Some(copy) = wanted.iter().find(|copy| copy.original == id) {
                    ties.add(&stack, at + 1, &way, &name, &copy.copy)?;
                }
            }
        }
        Ok(ties)
    }

    pub(super) fn in_dir(&self, path: &TreePath) -> InDir {
        self.names.get(path).cloned().unwrap_or_default()
    }

    /// Adds a name, if it is the one that shows there.
    fn add(
        &mut self,
        stack: &[&Dir],
        layer: usize,
        way: &[OsString],
        name: &OsStr,
        copy: &Inode,
    ) -> Result<()> {
        let parts = roots(stack.iter().copied())?;
        let mut dirs = vec![parts];
        for name in way {
            let Some(Shows::Dir(next)) = dirs.last().map(|parts| shows(parts, name)).transpose()? else {
                return Ok(());
            };
            dirs.push(next);
        }
        let shown = dirs.last().map(|parts| shows(parts, name)).transpose()?;
        if !matches!(shown, Some(Shows::Leaf(at)) if at == layer) {
            return Ok(());
        }
        let mut path = TreePath::default();
        for (at, parts) in dirs.into_iter().enumerate() {
            let here = self.names.entry(path.clone()).or_default();
            here.own = parts.into_iter().next().map(|(_, _, dir)| dir);
            match way.get(at) {
                Some(next) => {
                    if !here.dirs.contains(next) {
                        here.dirs.push(next.clone());
                    }
                    path = path.join(next);
                }
                None => here.files.push((name.to_owned(), copy.clone())),
            }
        }
        Ok(())
    }
}

/// The default workdir of an upper, if there is one.
#[must_use]
pub fn find_workdir(upper: &Path) -> Option<PathBuf> {
    let upper = upper.canonicalize().ok()?;
    let work = upper.with_file_name(WorkDir::default_name(upper.file_name()?));
    work.is_dir().then_some(work)
}
