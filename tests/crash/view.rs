//! What do users see, and is it what they should see?
//!
//! A walk through the union's own interface, as the kernel would make it: names from listings, each looked up, its
//! attributes, data, target and extended attributes read. Listings and lookups must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::ops::ControlFlow;

use plyfs::error::Error;
use plyfs::union::{Attr, NodeId, Union};
use rustix::fs::FileType;

/// Everything that users see, by path. The root's path is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    entries: BTreeMap<String, Entry>,
    /// Where a listing gives another number than a lookup.
    pub listed_otherwise: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: FileType,
    pub mode: u32,
    pub owner: (u32, u32),
    pub device: u64,
    /// Data of a file, target of a symbolic link.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The time of modification; None if it is later than the stack.
    pub mtime: Option<(i64, u64)>,
    /// Not of directories: there it says nothing.
    pub links: u32,
    pub number: u64,
}

/// Whether the kernel remembers what it has looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// It does: nodes and open files are known from the walk.
    Remembers,
    /// It has forgotten everything.
    Forgets,
}

/// What may differ.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lenience {
    /// Numbers: the stacks are two.
    pub numbers: bool,
    /// Numbers and link counts of what was copied up: the workdir misses a note.
    pub notes: bool,
    /// Times of directories in which something has been made that users do not see.
    pub dir_times: bool,
}

/// Anything later is "now".
const LONG_PAST: i64 = 1_600_000_000;

impl View {
    /// Walks over everything. What is looked up goes to `known` if the kernel remembers it.
    pub fn of(union: &Union, kernel: Kernel, known: &mut Vec<NodeId>) -> Result<Self, String> {
        let mut view = Self::default();
        let attr = union.getattr(NodeId::ROOT).map_err(|e| format!("the root: {e}"))?;
        view.add(union, "", &attr, kernel, known)?;
        Ok(view)
    }

    fn add(
        &mut self,
        union: &Union,
        path: &str,
        attr: &Attr,
        kernel: Kernel,
        known: &mut Vec<NodeId>,
    ) -> Result<(), String> {
        let entry = Entry::of(union, attr).map_err(|e| format!("`{path}`: {e}"))?;
        let is_dir = entry.kind == FileType::Directory;
        self.entries.insert(path.to_owned(), entry);
        if !is_dir {
            return Ok(());
        }
        let listed = list(union, attr.id).map_err(|e| format!("`{path}` cannot be listed: {e}"))?;
        for (name, (id, kind)) in listed {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let looked = union.lookup(attr.id, OsStr::new(&name)).map_err(|e| format!("`{below}`: {e}"))?;
            let Some(looked) = looked.found else {
                return Err(format!("`{below}` is listed, and not there"));
            };
            let looked_up = (looked.attr.id, looked.attr.stat.kind());
            if kind != looked_up.1 {
                return Err(format!("`{below}` is listed as a {kind:?}, and is a {:?}", looked_up.1));
            }
            if id != looked_up.0 {
                self.listed_otherwise.push(format!("`{below}`: {} and {}", id.0, looked_up.0.0));
            }
            self.add(union, &below, &looked.attr, kernel, known)?;
            match kernel {
                Kernel::Remembers => known.push(looked.attr.id),
                Kernel::Forgets => union.forget(looked.attr.id, 1),
            }
        }
        Ok(())
    }

    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    pub fn is_dir(&self, path: &str) -> bool {
        self.get(path).is_some_and(|entry| entry.kind == FileType::Directory)
    }

    pub fn is_file(&self, path: &str) -> bool {
        self.get(path).is_some_and(|entry| entry.kind == FileType::RegularFile)
    }

    pub fn paths(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    pub fn files(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.kind == FileType::RegularFile)
    }

    /// All names, and what they lead to.
    pub fn kinds(&self) -> BTreeMap<&String, u32> {
        self.entries.iter().map(|(path, entry)| (path, entry.kind.as_raw_mode())).collect()
    }

    /// The names of files with several, by their numbers.
    pub fn groups(&self) -> BTreeSet<Vec<String>> {
        let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (path, entry) in &self.entries {
            groups.entry(entry.number).or_default().push(path.clone());
        }
        groups.into_values().filter(|names| names.len() > 1).collect()
    }

    /// In what this differs from what was expected; None if in nothing.
    pub fn differs(&self, expected: &Self, may: Lenience) -> Option<String> {
        let mut said = String::new();
        let paths: BTreeSet<&String> = self.entries.keys().chain(expected.entries.keys()).collect();
        for path in paths {
            match (expected.get(path), self.get(path)) {
                (Some(expected), Some(seen)) => {
                    if let Some(what) = seen.differs(expected, may) {
                        write!(said, "`{path}`: {what}; ").expect("a string");
                    }
                }
                (None, Some(seen)) => write!(said, "`{path}` is there: {seen}; ").expect("a string"),
                (Some(_), None) => write!(said, "`{path}` is missing; ").expect("a string"),
                (None, None) => {}
            }
        }
        let (groups, expected) = (self.groups(), expected.groups());
        if groups != expected {
            write!(said, "names of one file: {groups:?} instead of {expected:?}").expect("a string");
        }
        (!said.is_empty()).then_some(said)
    }
}

impl Entry {
    fn of(union: &Union, attr: &Attr) -> Result<Self, Error> {
        // As a later getattr would answer: it must say the same as the lookup.
        let again = union.getattr(attr.id)?;
        let Attr { id, stat, links, .. } = again;
        let kind = stat.kind();
        if (kind, stat.st_ino, stat.st_size, links)
            != (attr.stat.kind(), attr.stat.st_ino, attr.stat.st_size, attr.links)
        {
            log::error!("lookup and getattr differ: {attr:?} {again:?}");
            return Err(Error::Bug("lookup and getattr differ"));
        }
        let content = match kind {
            FileType::RegularFile => {
                let mut data = vec![0; stat.st_size as usize + 1];
                let length = union.read(id, 0, &mut data)?;
                data.truncate(length);
                data
            }
            FileType::Symlink => union.readlink(id)?.into_encoded_bytes(),
            _ => Vec::new(),
        };
        let mut xattrs = BTreeMap::new();
        for key in union.listxattr(id)? {
            let value = union.getxattr(id, &key)?;
            xattrs.insert(key, value);
        }
        let is_dir = kind == FileType::Directory;
        Ok(Self {
            kind,
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            device: stat.st_rdev,
            content,
            xattrs,
            mtime: (stat.st_mtime < LONG_PAST).then_some((stat.st_mtime, stat.st_mtime_nsec)),
            links: if is_dir { 1 } else { links },
            number: id.0,
        })
    }

    fn differs(&self, expected: &Self, may: Lenience) -> Option<String> {
        let mut expected = expected.clone();
        if may.numbers || may.notes {
            expected.number = self.number;
        }
        if may.notes {
            expected.links = self.links;
        }
        if may.dir_times && self.kind == FileType::Directory {
            expected.mtime = self.mtime;
        }
        (*self != expected).then(|| format!("{self} instead of {expected}"))
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, mode, owner, content, xattrs, mtime, links, number, .. } = self;
        let shown = &content[..content.len().min(24)];
        write!(
            f,
            "{kind:?} {mode:o} {owner:?} `{}`[{}] {xattrs:?} {mtime:?} {links} links, number {number}",
            shown.escape_ascii(),
            content.len(),
        )
    }
}

type Listed = BTreeMap<String, (NodeId, FileType)>;

fn list(union: &Union, id: NodeId) -> Result<Listed, Error> {
    let mut listed = Listed::new();
    union.readdir(id, 0, |item| {
        let name = item.name.to_str().expect("a plain name");
        if name != "." && name != ".." {
            let before = listed.insert(name.to_owned(), (item.id, item.kind));
            assert!(before.is_none(), "`{name}` is listed twice");
        }
        ControlFlow::Continue(())
    })?;
    Ok(listed)
}
