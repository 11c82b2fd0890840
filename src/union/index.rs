//! Which number did a copy's original show, and which hard links of lowers were copied up?
//!
//! A file keeps its number when it is copied up, also over a remount, and two lower names of one file
//! stay one file. The upper is an OCI layer and has no room for such notes, so the workdir keeps
//! them:
//!
//! - `index`: a log of text lines, rewritten at each mount. `O UPPER NUMBER`: the upper's inode shows
//!   that number. `L NUMBER REMAINING VERSION`: of the lower file, that many lower names are not covered by
//!   the upper. `X UPPER`, `D NUMBER`: what was noted of it no longer holds.
//! - `links/NUMBER.VERSION`: one more hard link to the copy in the upper of a lower file with several names.
//!
//! Losing the log loses stable numbers and link counts, never data: the links say by themselves whose they are.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use foldhash::HashMap;
use parking_lot::Mutex;
use rustix::fs::Mode;

use super::node::{NodeId, RealId};
use crate::branch::{Stat, UpperDir, UpperObject};
use crate::error::{Error, Result};
use crate::rules::plan::Refusal;

/// What is noted of a lower file with several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkNote {
    /// How many of its lower names the upper does not cover.
    pub remaining: u32,
    /// Whether there is a copy in the upper, and a link to it in `links`.
    pub copied_up: bool,
    version: Version,
}

/// Tells a lower inode from a later one of the same number: its time of last change, which nothing but a
/// change offline can alter.
type Version = (i64, u64);

fn version(stat: &Stat) -> Version {
    (stat.st_ctime, stat.st_ctime_nsec)
}

/// The notes of one upper.
#[derive(Debug)]
pub struct Index {
    work: UpperDir,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By inode number on the upper's filesystem.
    origins: HashMap<u64, NodeId>,
    links: HashMap<NodeId, LinkNote>,
    /// Opened on the first note: a mount that copies nothing up leaves nothing in the workdir.
    log: Option<File>,
    links_dir: Option<UpperDir>,
    /// Whether the log may end in the middle of a line.
    torn: bool,
}

const LOG: &str = "index";
const LINKS: &str = "links";

impl Index {
    /// Reads the workdir's notes and drops those that no longer hold.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn open(work: UpperDir) -> Result<Self> {
        let mut inner = Inner::default();
        if let Some(stat) = work.stat(OsStr::new(LOG))? {
            let mut bytes = Vec::new();
            let log = File::from(work.at(OsStr::new(LOG)).open_read()?);
            log.take(stat.st_size as u64).read_to_end(&mut bytes).map_err(io_error("read"))?;
            // What follows the last line's end was cut short by a crash, and may read as something else.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            String::from_utf8_lossy(&bytes[..whole]).lines().for_each(|line| inner.replay(line));
        }
        if work.stat(OsStr::new(LINKS))?.is_some() {
            let dir = work.open_upper_dir(OsStr::new(LINKS))?;
            for entry in dir.list()? {
                let Some((number, version)) = parse_link_name(&entry.name) else {
                    dir.unlink(&entry.name)?;
                    continue;
                };
                // A link whose note was lost in a crash may be all that is left of what was written to it. So long
                // as nobody can tell how many lower names it has, it has one.
                let unknown = LinkNote { remaining: 1, copied_up: true, version };
                let note = inner.links.entry(number).or_insert(unknown);
                if note.version == version {
                    note.copied_up = true;
                } else if dir.stat(&entry.name)?.is_some_and(|stat| stat.st_nlink > 1) {
                    // Of a lower file that is no more, and the copy has a name in the upper. If it had none, this
                    // would be all that is left of it.
                    dir.unlink(&entry.name)?;
                }
            }
            inner.links_dir = Some(dir);
        }
        let index = Self { work, inner: Mutex::new(inner) };
        index.compact()?;
        Ok(index)
    }

    /// Writes the log anew without what was overtaken, or removes it if nothing is left.
    fn compact(&self) -> Result<()> {
        let inner = &mut *self.inner.lock();
        inner.log = None;
        let mut text = String::new();
        for (upper, number) in &inner.origins {
            origin_line(&mut text, *upper, *number);
        }
        for (number, note) in &inner.links {
            link_line(&mut text, *number, note);
        }
        let (log, fresh) = (OsStr::new(LOG), OsStr::new("index.new"));
        self.work.remove_marker(fresh)?;
        if text.is_empty() {
            return self.work.remove_marker(log);
        }
        let mut file = File::from(self.work.create(fresh, Mode::RUSR | Mode::WUSR)?);
        file.write_all(text.as_bytes()).map_err(io_error("write"))?;
        self.work.rename(fresh, &self.work, log)
    }

    /// The clean end: `links` is removed if it is empty, and the log if it says nothing.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn close(&self) -> Result<()> {
        self.compact()?;
        let mut inner = self.inner.lock();
        if let Some(dir) = inner.links_dir.take()
            && dir.list()?.is_empty()
        {
            self.work.remove_dir(OsStr::new(LINKS))?;
        }
        Ok(())
    }

    /// The number that an inode of the upper shows, if it is not its own.
    #[must_use]
    pub fn origin(&self, upper: RealId) -> Option<NodeId> {
        if upper.filesystem > 0 {
            return None;
        }
        self.inner.lock().origins.get(&upper.ino).copied()
    }

    /// Notes that an inode of the upper shows that number.
    pub fn set_origin(&self, upper: RealId, number: NodeId) {
        let mut line = String::new();
        origin_line(&mut line, upper.ino, number);
        let inner = &mut *self.inner.lock();
        inner.origins.insert(upper.ino, number);
        self.append(inner, &line);
    }

    /// Drops the note of an inode of the upper that is no more.
    pub fn drop_origin(&self, upper: RealId) {
        let inner = &mut *self.inner.lock();
        if inner.origins.remove(&upper.ino).is_some() {
            self.append(inner, &format!("X {}\n", upper.ino as i64));
        }
    }

    /// What is noted of a lower file by its number; `stat` is its own on the lower.
    #[must_use]
    pub fn note(&self, number: NodeId, stat: &Stat) -> Option<LinkNote> {
        self.inner.lock().links.get(&number).copied().filter(|note| note.version == version(stat))
    }

    /// What is noted of a file that was copied up.
    #[must_use]
    pub fn copied_up(&self, number: NodeId) -> Option<LinkNote> {
        self.inner.lock().links.get(&number).copied().filter(|note| note.copied_up)
    }

    /// Notes that the upper covers one more of the lower names of a file with several.
    pub fn cover(&self, number: NodeId, stat: &Stat) {
        let mut note = self.note_or_fresh(number, stat);
        note.remaining = note.remaining.saturating_sub(1);
        self.set_note(number, note);
    }

    /// Notes that a file with several lower names has a copy in the upper, which [`Self::keep_link`] kept.
    pub fn set_copied_up(&self, number: NodeId, stat: &Stat) {
        let note = self.note_or_fresh(number, stat);
        self.set_note(number, LinkNote { copied_up: true, ..note });
    }

    fn note_or_fresh(&self, number: NodeId, stat: &Stat) -> LinkNote {
        let fresh = LinkNote { remaining: stat.st_nlink as u32, copied_up: false, version: version(stat) };
        self.note(number, stat).unwrap_or(fresh)
    }

    fn set_note(&self, number: NodeId, note: LinkNote) {
        let mut line = String::new();
        link_line(&mut line, number, &note);
        let inner = &mut *self.inner.lock();
        inner.links.insert(number, note);
        self.append(inner, &line);
    }

    /// Puts a hard link to the copy of a lower file into `links`; `stat` is the lower's.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn keep_link(&self, number: NodeId, stat: &Stat, copy: &UpperObject) -> Result<()> {
        let note = self.note_or_fresh(number, stat);
        self.inner.lock().links.insert(number, note);
        let dir = self.links_dir()?;
        let name = link_name(number, note.version);
        dir.remove_marker(&name)?;
        dir.link(copy, &name)
    }

    /// The copy of a lower file with several names.
    ///
    /// # Errors
    /// Those of opening `links`.
    pub fn link(&self, number: NodeId) -> Result<UpperObject> {
        Ok(self.links_dir()?.upper_at(&self.link_name(number)?))
    }

    /// Removes the link to a copy that was not published after all.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn discard_link(&self, number: NodeId) -> Result<()> {
        self.links_dir()?.remove_marker(&self.link_name(number)?)
    }

    fn link_name(&self, number: NodeId) -> Result<OsString> {
        let note = self.inner.lock().links.get(&number).copied();
        note.map(|note| link_name(number, note.version)).ok_or_else(|| Refusal::NotFound.into())
    }

    /// Removes the link to a copy that has no name left, in the lowers or in the upper.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn drop_link(&self, number: NodeId) -> Result<()> {
        self.discard_link(number)?;
        let inner = &mut *self.inner.lock();
        if inner.links.remove(&number).is_some() {
            self.append(inner, &format!("D {}\n", number.0 as i64));
        }
        Ok(())
    }

    /// Waits until links and notes are on disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync(&self) -> Result<()> {
        self.links_dir()?.sync()?;
        match &self.inner.lock().log {
            Some(log) => log.sync_data().map_err(io_error("fdatasync")),
            None => Ok(()),
        }
    }

    fn links_dir(&self) -> Result<UpperDir> {
        let mut inner = self.inner.lock();
        if let Some(dir) = &inner.links_dir {
            return Ok(dir.clone());
        }
        let name = OsStr::new(LINKS);
        if self.work.stat(name)?.is_none() {
            self.work.make_dir(name, Mode::RWXU)?;
        }
        let dir = self.work.open_upper_dir(name)?;
        inner.links_dir = Some(dir.clone());
        Ok(dir)
    }

    fn append(&self, inner: &mut Inner, line: &str) {
        if let Err(e) = self.try_append(inner, line) {
            // Should a part of the line have got there, the next must not continue it.
            inner.torn = true;
            // The operation itself is done. What is lost is a number or a tie after the next mount.
            log::warn!("the workdir's index misses a note: {e}");
        }
    }

    fn try_append(&self, inner: &mut Inner, line: &str) -> Result<()> {
        let log = match &mut inner.log {
            Some(log) => log,
            None => {
                let name = OsStr::new(LOG);
                let fd: OwnedFd = match self.work.stat(name)? {
                    Some(_) => self.work.upper_at(name).open_write()?,
                    None => self.work.create(name, Mode::RUSR | Mode::WUSR)?,
                };
                rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0))
                    .map_err(|errno| Error::Sys { call: "lseek", errno })?;
                inner.log.insert(File::from(fd))
            }
        };
        let line = if inner.torn { &*format!("\n{line}") } else { line };
        log.write_all(line.as_bytes()).map_err(io_error("write"))?;
        inner.torn = false;
        Ok(())
    }
}

impl Inner {
    /// Takes one line of the log. What is no note is passed over.
    fn replay(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next();
        let numbers: Option<Vec<i64>> = words.map(|word| word.parse().ok()).collect();
        match (kind, numbers.as_deref()) {
            (Some("O"), Some(&[upper, number])) => {
                self.origins.insert(upper as u64, NodeId(number as u64));
            }
            (Some("X"), Some(&[upper])) => {
                self.origins.remove(&(upper as u64));
            }
            (Some("L"), Some(&[number, remaining, seconds, nanoseconds])) => {
                let note = LinkNote {
                    remaining: u32::try_from(remaining).unwrap_or(0),
                    copied_up: false,
                    version: (seconds, nanoseconds as u64),
                };
                self.links.insert(NodeId(number as u64), note);
            }
            (Some("D"), Some(&[number])) => {
                self.links.remove(&NodeId(number as u64));
            }
            _ => log::debug!("not a line of an index: {line}"),
        }
    }
}

fn origin_line(text: &mut String, upper: u64, number: NodeId) {
    // Writing to a String cannot fail.
    writeln!(text, "O {} {}", upper as i64, number.0 as i64).unwrap_or_default();
}

fn link_line(text: &mut String, number: NodeId, note: &LinkNote) {
    let (seconds, nanoseconds) = note.version;
    writeln!(text, "L {} {} {seconds} {nanoseconds}", number.0 as i64, note.remaining).unwrap_or_default();
}

fn link_name(number: NodeId, (seconds, nanoseconds): Version) -> OsString {
    format!("{}.{seconds}.{nanoseconds}", number.0).into()
}

fn parse_link_name(name: &OsStr) -> Option<(NodeId, Version)> {
    let mut words = name.to_str()?.splitn(3, '.');
    let number = words.next()?.parse().ok().map(NodeId)?;
    Some((number, (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
}

fn io_error(call: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |e| {
        let errno = rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO);
        Error::Sys { call, errno }
    }
}

/// The link count that users see of a file with several lower names. `stat` is its copy's, if there is one:
/// one of that one's links is in `links`.
#[must_use]
pub fn shown_links(note: &LinkNote, stat: &Stat) -> u32 {
    let in_upper = if note.copied_up { (stat.st_nlink as u32).saturating_sub(1) } else { 0 };
    note.remaining.saturating_add(in_upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workdir() -> (tempfile::TempDir, UpperDir) {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap().into();
        (dir, UpperDir::root(fd))
    }

    fn real(ino: u64) -> RealId {
        RealId { filesystem: 0, ino }
    }

    #[test]
    fn notes_come_back_with_the_next_mount() {
        let (_dir, work) = workdir();
        let index = Index::open(work.clone()).unwrap();
        index.set_origin(real(5), NodeId(50));
        index.set_origin(real(6), NodeId(60));
        index.drop_origin(real(6));
        let index = Index::open(work.clone()).unwrap();
        assert_eq!(index.origin(real(5)), Some(NodeId(50)));
        assert_eq!(index.origin(real(6)), None);
        index.drop_origin(real(5));
        index.close().unwrap();
        assert!(work.list().unwrap().is_empty(), "nothing to remember, nothing left");
    }

    #[test]
    fn a_damaged_log_costs_only_the_damaged_notes() {
        let (dir, work) = workdir();
        std::fs::write(dir.path().join(LOG), b"O 5 50\n\xff\xfe\nQ 1\n\nO 7 70\nO 8 8").unwrap();
        let index = Index::open(work).unwrap();
        assert_eq!(index.origin(real(5)), Some(NodeId(50)));
        assert_eq!(index.origin(real(7)), Some(NodeId(70)));
        assert_eq!(index.origin(real(8)), None, "a line without an end may be half of one");
    }

    #[test]
    fn what_is_in_links_is_kept_or_known_to_be_foreign() {
        let (dir, work) = workdir();
        let links = dir.path().join(LINKS);
        std::fs::create_dir(&links).unwrap();
        std::fs::write(links.join("9.100.7"), "data").unwrap();
        std::fs::write(links.join("nonsense"), "").unwrap();
        let index = Index::open(work).unwrap();
        assert!(index.copied_up(NodeId(9)).is_some(), "its note is lost, its data must not be");
        assert!(index.link(NodeId(9)).unwrap().stat().is_ok());
        assert!(!links.join("nonsense").exists());
    }
}
