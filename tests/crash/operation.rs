//! Which operations are there, and how does the kernel ask for them?

use std::ffi::OsStr;
use std::fmt;

use plyfs::branch::Caller;
use plyfs::error::{Error, Result};
use plyfs::rules::kill_priv::KillPriv;
use plyfs::rules::plan::Refusal;
use plyfs::union::{Changes, NewNode, NodeId, RenameMode, SetTime, Union};
use rustix::fs::{FileType, Timespec, XattrFlags};

use super::view::View;

type Path = &'static str;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create(Path),
    Mkdir(Path),
    Mkfifo(Path),
    Symlink(Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, RenameMode),
    /// At an offset.
    Write(Path, u64),
    Truncate(Path, u64),
    Chmod(Path),
    Chown(Path),
    Utimens(Path),
    SetXattr(Path),
    RemoveXattr(Path),
    Fallocate(Path),
    CopyRange(Path, Path),
    /// Of a file or a directory.
    Fsync(Path),
}

use Operation::*;

/// What [`Operation::Write`] writes.
pub const WRITTEN: &[u8] = b"WRITTEN";

/// Whoever plays.
fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, umask: 0o022 }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// All that are played on every stack where the kernel would ask for them.
pub fn all() -> Vec<Operation> {
    let mut all = Vec::new();
    for path in ["a", "c", "d", "d/x", "d/z"] {
        all.extend([Create(path), Mkdir(path), Symlink(path)]);
    }
    all.push(Mkfifo("c"));
    all.extend(
        [("a", "c"), ("a", "d/z"), ("b", "a"), ("d/x", "c"), ("l", "c")].map(|(from, to)| Link(from, to)),
    );
    all.extend(["a", "b", "l", "d/x", "d/y"].map(Unlink));
    all.extend(["d", "e", "d/s"].map(Rmdir));
    for (from, to) in [
        ("a", "c"),
        ("a", "b"),
        ("b", "a"),
        ("a", "d/z"),
        ("a", "d/x"),
        ("d/x", "a"),
        ("d/x", "d/y"),
        ("l", "c"),
        ("l", "a"),
        ("d", "c"),
        ("d", "e"),
        ("e", "d"),
        ("e", "c"),
        ("d/s", "c"),
        ("d/s", "e"),
    ] {
        all.push(Rename(from, to, RenameMode::Replace));
    }
    all.extend(
        [("a", "c"), ("d", "c"), ("b", "a")].map(|(from, to)| Rename(from, to, RenameMode::NoReplace)),
    );
    for (one, other) in [("a", "b"), ("a", "d"), ("d", "e"), ("d/x", "a"), ("d/s", "e"), ("l", "d/y")] {
        all.push(Rename(one, other, RenameMode::Exchange));
    }
    all.extend([Write("a", 0), Write("a", 3), Write("b", 200_000), Write("d/x", 0)]);
    all.extend([Truncate("a", 0), Truncate("a", 2), Truncate("a", 100), Truncate("d/x", 0)]);
    for path in ["a", "d", "d/x"] {
        all.extend([Chmod(path), Chown(path), Utimens(path), SetXattr(path), RemoveXattr(path)]);
    }
    all.extend([Chown("l"), Utimens("l"), Fallocate("a"), Fallocate("d/x")]);
    all.extend([CopyRange("b", "a"), CopyRange("a", "d/x")]);
    all
}

impl Operation {
    /// Whether the kernel would ask for it: it answers by itself what it knows to be impossible.
    pub fn is_asked_for(&self, view: &View) -> bool {
        let is_there = |path: &str| view.get(path).is_some();
        let is_free = |path: &str| !is_there(path) && view.is_dir(parent_of(path).0);
        let is_leaf = |path: &str| is_there(path) && !view.is_dir(path);
        match *self {
            Create(path) | Mkdir(path) | Mkfifo(path) | Symlink(path) => is_free(path),
            Link(from, to) => is_leaf(from) && is_free(to),
            Unlink(path) => is_leaf(path),
            Rmdir(path) => view.is_dir(path),
            Rename(from, to, mode) => {
                let (Some(old), new) = (view.get(from), view.get(to)) else { return false };
                let is_inside = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}/"));
                let same_kind =
                    |kind: FileType| (old.kind == FileType::Directory) == (kind == FileType::Directory);
                match (mode, new) {
                    _ if is_inside(from, to) || is_inside(to, from) => false,
                    (_, Some(new)) if new.number == old.number => false,
                    (RenameMode::Replace, Some(new)) => same_kind(new.kind),
                    (RenameMode::NoReplace, Some(_)) | (RenameMode::Exchange, None) => false,
                    (RenameMode::Exchange, Some(_)) => true,
                    (_, None) => is_free(to),
                }
            }
            Write(path, _) | Truncate(path, _) | Fallocate(path) => view.is_file(path),
            CopyRange(from, to) => {
                let number = |path| view.get(path).map(|entry| entry.number);
                view.is_file(from) && view.is_file(to) && number(from) != number(to)
            }
            Chmod(path) => is_there(path) && view.get(path).is_some_and(|e| e.kind != FileType::Symlink),
            SetXattr(path) | RemoveXattr(path) => view.is_file(path) || view.is_dir(path),
            Chown(path) | Utimens(path) | Fsync(path) => is_there(path),
        }
    }

    /// Does it, with the lookups that the kernel makes before. All that is looked up goes to `known`.
    pub fn run(&self, union: &Union, known: &mut Vec<NodeId>) -> Result<()> {
        let make = |known: &mut Vec<NodeId>, path: &str, new: NewNode<'_>| {
            let (dir, name) = parent(union, path, known)?;
            known.push(union.make(dir, name.as_ref(), new, caller())?.attr.id);
            Ok(())
        };
        let set = |known: &mut Vec<NodeId>, path: &str, changes: Changes| {
            let id = find(union, path, known)?;
            union.setattr(id, &changes, KillPriv::Keep).map(drop)
        };
        let file = |mode| NewNode::Other { mode, device: 0 };
        match *self {
            Create(path) => make(known, path, file(0o100_644)),
            Mkfifo(path) => make(known, path, file(0o010_644)),
            Mkdir(path) => make(known, path, NewNode::Dir(0o755)),
            Symlink(path) => make(known, path, NewNode::Symlink(OsStr::new("a target"))),
            Link(from, to) => {
                let id = find(union, from, known)?;
                let (dir, name) = parent(union, to, known)?;
                known.push(union.link(id, dir, name.as_ref())?.attr.id);
                Ok(())
            }
            Unlink(path) => unlink(union, path, known),
            Rmdir(path) => {
                find(union, path, known)?;
                let (dir, name) = parent(union, path, known)?;
                union.rmdir(dir, name.as_ref())
            }
            Rename(from, to, mode) => {
                find(union, from, known)?;
                let (old_dir, old) = parent(union, from, known)?;
                let (new_dir, new) = parent(union, to, known)?;
                if let Some(there) = union.lookup(new_dir, new.as_ref())?.found {
                    known.push(there.attr.id);
                }
                union.rename((old_dir, old.as_ref()), (new_dir, new.as_ref()), mode)
            }
            Write(path, offset) => {
                let id = find(union, path, known)?;
                let written = union.write(id, offset, WRITTEN, KillPriv::Keep)?;
                assert_eq!(written.bytes, WRITTEN.len(), "a short write");
                Ok(())
            }
            Truncate(path, size) => set(known, path, Changes { size: Some(size), ..Changes::default() }),
            Chmod(path) => set(known, path, Changes { mode: Some(0o4710), ..Changes::default() }),
            Chown(path) => {
                set(known, path, Changes { uid: Some(1234), gid: Some(4321), ..Changes::default() })
            }
            Utimens(path) => {
                let time = Some(SetTime::To(Timespec { tv_sec: 1_500_000_000, tv_nsec: 3 }));
                set(known, path, Changes { atime: time, mtime: time, ..Changes::default() })
            }
            SetXattr(path) => {
                let id = find(union, path, known)?;
                union.setxattr(id, OsStr::new("user.new"), b"value", XattrFlags::empty(), KillPriv::Keep)
            }
            RemoveXattr(path) => {
                let id = find(union, path, known)?;
                union.removexattr(id, OsStr::new("user.old"))
            }
            Fallocate(path) => {
                let id = find(union, path, known)?;
                union.fallocate(id, 10, 5000, 0, KillPriv::Keep).map(drop)
            }
            CopyRange(from, to) => {
                let (from, to) = (find(union, from, known)?, find(union, to, known)?);
                union.copy_range((from, 0), (to, 1), 4, KillPriv::Keep).map(drop)
            }
            Fsync(path) => {
                let id = find(union, path, known)?;
                match union.getattr(id)?.stat.kind() {
                    FileType::Directory => union.fsync_dir(id),
                    _ => union.fsync(id, false),
                }
            }
        }
    }
}

pub fn unlink(union: &Union, path: &str, known: &mut Vec<NodeId>) -> Result<()> {
    find(union, path, known)?;
    let (dir, name) = parent(union, path, known)?;
    union.unlink(dir, name.as_ref())
}

/// The directory's path and the name in it.
pub fn parent_of(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn parent<'a>(union: &Union, path: &'a str, known: &mut Vec<NodeId>) -> Result<(NodeId, &'a str)> {
    let (dir, name) = parent_of(path);
    Ok((find(union, dir, known)?, name))
}

fn find(union: &Union, path: &str, known: &mut Vec<NodeId>) -> Result<NodeId> {
    let mut at = NodeId::ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let looked = union.lookup(at, OsStr::new(name))?.found.ok_or(Error::Refused(Refusal::NotFound))?;
        known.push(looked.attr.id);
        at = looked.attr.id;
    }
    Ok(at)
}
