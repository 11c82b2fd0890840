//! What was a thing before the upper changed it?
//!
//! With the option `bases`, the workdir notes it when a path that a lower shows comes to differ for the first time: when it is
//! copied up, deleted or replaced. Whoever makes the upper's changes in the lower later, as `plyfs apply` does, sees from it
//! whether somebody else has changed the same there meanwhile; and for a small file it holds the data, the base of a
//! three-way merge. docs/WORKDIR.md has the format.
//!
//! A note that is missing says that there was nothing: then a change of something that is there is one of two, and
//! refused. So what cannot be noted (the disk is full) costs a question later, and never data.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode};

use super::Union;
use super::locked::LockedEntry;
use super::node::Node;
use super::stack::Seen;
use crate::bases::{Base, LARGEST, LOG, now, time_text};
use crate::branch::{Copier, Dir, Inode, Stat, UpperDir, WorkDir, WriteFile};
use crate::error::Result;
use crate::rules::BranchId;
use crate::rules::name::Name;

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The notes of an upper.
#[derive(Debug)]
pub(super) struct Bases {
    dir: UpperDir,
    log: Mutex<Log>,
    next: AtomicU64,
    copier: Copier,
}

#[derive(Debug)]
struct Log {
    file: WriteFile,
    end: u64,
}

impl Bases {
    /// Those in a workdir, which go on.
    pub(super) fn open(work: &WorkDir) -> Result<Self> {
        let dir = work.bases()?;
        let name = OsStr::new(LOG);
        let file = match dir.stat(name)? {
            Some(_) => dir.open_upper_inode(name)?.open_write()?,
            None => dir.create(name, PRIVATE)?,
        };
        let end = file.inode().stat()?.st_size as u64;
        let numbers = dir.list()?.into_iter().filter_map(|entry| entry.name.to_str()?.parse().ok());
        let next = numbers.max().map_or(0, |last: u64| last + 1);
        let bases =
            Self { dir, log: Mutex::new(Log { file, end }), next: next.into(), copier: Copier::default() };
        if end > 0 {
            // Ends a line that a crash has cut short.
            bases.append(b"\n")?;
        }
        Ok(bases)
    }

    fn append(&self, line: &[u8]) -> Result<()> {
        let log = &mut *self.log.lock();
        log.file.write_all_at(log.end, line)?;
        log.end += line.len() as u64;
        Ok(())
    }

    /// Notes what a path was. `inode` is for what is to be kept.
    fn note(&self, path: &Path, stat: &Stat, inode: Option<&Inode>) -> Result<()> {
        if stat.kind() == FileType::Unknown {
            return Ok(());
        }
        // What it was is worth more than what it held: that is for a merge.
        let kept = inode.and_then(|inode| {
            let kept = self.keep(stat, inode);
            kept.unwrap_or_else(|e| {
                log::warn!("what a file held is not kept for a merge: {e}");
                None
            })
        });
        let base = Base { kept: kept.map(|number| number.to_string()), ..Base::of(stat) };
        self.append(&base.line(stat.st_dev, path))
    }

    /// Keeps the data of a small file, or the target of a symbolic link.
    fn keep(&self, stat: &Stat, inode: &Inode) -> Result<Option<u64>> {
        let number = || {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            (number, number.to_string())
        };
        match stat.kind() {
            FileType::RegularFile if stat.st_size as u64 <= LARGEST => {
                let source = inode.open_read()?;
                let (number, name) = number();
                let file = self.dir.create(OsStr::new(&name), PRIVATE)?;
                self.copier.copy_data(&source, stat, &file)?;
                // Somebody writes to it just now: then it is not known what it was.
                let changed = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
                Ok((changed(&inode.stat()?) == changed(stat)).then_some(number))
            }
            FileType::Symlink => {
                let (number, name) = number();
                let file = self.dir.create(OsStr::new(&name), PRIVATE)?;
                file.write_all_at(0, inode.read_link()?.as_bytes())?;
                Ok(Some(number))
            }
            _ => Ok(None),
        }
    }
}

impl Union {
    /// Notes what is copied up, or was: what a lower shows under a name, that the upper has not had yet.
    pub(super) fn note_base(
        &self,
        dir: &Node,
        name: &Name,
        branch: BranchId,
        stat: &Stat,
        inode: Option<&Inode>,
    ) {
        let Some(bases) = self.upper.as_ref().and_then(|upper| upper.bases.as_ref()) else { return };
        if branch.is_upper() || branch.is_snapshot() {
            return;
        }
        if let Err(e) = bases.note(&path(dir, name), stat, inode) {
            log::warn!("what was changed is not noted as it was: {e}");
        }
    }

    /// The same for the union's root, which is in the upper from the first mount on.
    pub(super) fn note_root_base(&self) {
        let Some(bases) = self.upper.as_ref().and_then(|upper| upper.bases.as_ref()) else { return };
        if bases.log.lock().end > 0 {
            return;
        }
        let root = self.stack.lowers().find(|lower| !lower.branch().is_snapshot());
        let noted = root.map(|root| bases.note(Path::new(""), &root.stat_self()?, None));
        if let Some(Err(e)) = noted {
            log::warn!("the root is not noted as it was: {e}");
        }
    }

    /// Notes what a locked name shows, which is about to be deleted or replaced.
    pub(super) fn note_seen(&self, locked: &LockedEntry, is_replaced: bool) {
        if self.upper.as_ref().is_none_or(|upper| upper.bases.is_none()) {
            return;
        }
        let (dir, name) = (&locked.entry.dir, &locked.entry.name);
        match &locked.seen {
            Seen::Absent => {}
            Seen::Dir { parts, stat, .. } => self.note_base(dir, name, parts[0].branch, stat, None),
            Seen::Leaf { branch, stat } => {
                let part = locked.parts.iter().find(|open| open.part.branch == *branch);
                let part = part.filter(|_| is_replaced && !branch.is_upper());
                let inode = part.and_then(|open| entry_of(&open.dir, name));
                self.note_base(dir, name, *branch, stat, inode.as_ref());
            }
        }
    }

    /// Notes that the upper has become a snapshot, or is what it was then.
    pub fn note_change_of_stack(&self, what: &str, name: &str) {
        let Some(bases) = self.upper.as_ref().and_then(|upper| upper.bases.as_ref()) else { return };
        if let Err(e) = bases.append(format!("{what} {} {name}\n", time_text(now())).as_bytes()) {
            log::warn!("a {what} is not noted: {e}");
        }
    }
}

fn entry_of(dir: &Dir, name: &Name) -> Option<Inode> {
    dir.open_inode(name.as_os_str()).inspect_err(|e| log::debug!("{e}")).ok()
}

/// The path of a name, from the root.
fn path(dir: &Node, name: &Name) -> PathBuf {
    let mut names = vec![name.as_os_str().to_owned()];
    let mut above = dir.entry();
    while let Some((parent, name)) = above {
        names.push(name.as_os_str().to_owned());
        above = parent.entry();
    }
    names.iter().rev().collect()
}
