//! Which number did a copy's original show, and which hard links of lowers were copied up?
//!
//! A file keeps its number when it is copied up, also over a remount, and two lower names of one file
//! stay one file. The upper is an OCI layer and has no room for such notes, so the workdir keeps
//! them, see docs/WORKDIR.md:
//!
//! - `index`, a log of text lines (`log`): the numbers of the upper's inodes, and how many names of a lower file the
//!   upper covers;
//! - `links/ID`: one more hard link to the copy in the upper of a lower file with several names.
//!
//! An inode is noted by what its filesystem calls it for ever ([`LastingId`]); what has no such name is not noted.
//! Losing the log loses stable numbers and link counts, never data: the links say by themselves whose they are.
//!
//! No lock is held across a system call, but for that of the log by those who write to it.

mod adopt;
mod format;
mod log_file;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::{HashMap, HashMapExt as _};
use parking_lot::Mutex;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::node::{NodeId, RealId};
use crate::branch::{Dir, Inode, LastingId, OWNERS, Stat, UpperDir, UpperInode, WorkDir};
use crate::error::{Error, Result};
use crate::layer;
use log_file::Log;

/// A noted lower file with several names, for as long as the mount lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(u32);

/// What is noted of a lower file with several names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkNote {
    key: LastingId,
    /// How many names it has in the lower, if that is known.
    lower_links: Option<u32>,
    /// How many of them the upper covers, by an entry or a whiteout.
    covered: u32,
    /// Whether names that do not lie in the branch count as covered.
    exact: bool,
    /// Whether its line was lost: then `covered` is a guess.
    lost: bool,
    /// Whether there is a copy in the upper, and a link to it in `links`.
    pub copied_up: bool,
    /// Whether that copy is in a snapshot: then all names of the file are those of lowers.
    pub in_snapshot: bool,
}

/// Notes of copies that are in a snapshot.
#[derive(Debug)]
pub struct Frozen(HashMap<LinkId, LinkNote>);

/// Notes that are ready to take the place of those of now.
#[derive(Debug)]
pub struct Back {
    links: UpperDir,
    inner: Inner,
    file: log_file::Open,
}

/// A copy in the upper of a lower file with several names.
#[derive(Clone, Debug)]
pub struct NotedCopy {
    /// By which name the lower file is known.
    pub original: LastingId,
    /// The copy.
    pub copy: Inode,
    /// Whether names in the lowers lead to it that have no entry in the upper.
    pub has_other_names: bool,
}

impl LinkNote {
    /// The same once the upper is a snapshot. `stat` is the copy's.
    fn frozen(&self, stat: &Stat) -> Self {
        let lower_links = Some(self.shown_links(stat));
        let key = self.key.clone();
        Self { key, lower_links, covered: 0, exact: true, lost: false, copied_up: true, in_snapshot: true }
    }

    fn remaining(&self) -> u32 {
        self.lower_links.map_or(1, |links| links.saturating_sub(self.covered))
    }

    /// Whether users see no name of it any more. `stat` is the copy's.
    #[must_use]
    pub fn is_gone(&self, stat: &Stat) -> bool {
        !self.lost && self.shown_links(stat) == 0
    }

    /// The link count that users see. `stat` is the copy's, if there is one: one of that one's links is in `links`.
    #[must_use]
    pub fn shown_links(&self, stat: &Stat) -> u32 {
        let has_names = self.copied_up && !self.in_snapshot;
        let in_upper = if has_names { (stat.st_nlink as u32).saturating_sub(1) } else { 0 };
        self.remaining().saturating_add(in_upper)
    }
}

/// The number that an inode of the upper shows.
#[derive(Clone, Debug)]
struct Origin {
    number: NodeId,
    /// By which the inode is known to be the one that was noted.
    known_by: KnownBy,
}

#[derive(Clone, Debug)]
enum KnownBy {
    /// It was noted or looked at in this mount.
    Birth(u64),
    /// It was noted by an earlier mount.
    Id(LastingId),
}

/// The notes of one upper.
#[derive(Debug)]
pub struct Index {
    store: Store,
    /// Whether the upper can be known again: else nothing is noted for another mount.
    remembers: bool,
    /// Whether a note could not be written down.
    missed: AtomicBool,
    inner: Mutex<Inner>,
}

/// Where the notes are kept.
#[derive(Debug)]
enum Store {
    /// In a workdir that this mount writes to.
    Written(Arc<WorkDir>, Log),
    /// In one that it only reads, or nowhere.
    Read(Option<Dir>),
}

#[derive(Debug, Default)]
struct Inner {
    /// By inode number on the upper's filesystem.
    origins: HashMap<u64, Origin>,
    notes: HashMap<LinkId, LinkNote>,
    by_key: HashMap<LastingId, LinkId>,
    /// By inode number in a lower, which is not theirs alone.
    by_ino: HashMap<u64, Vec<LinkId>>,
    /// By inode number of the copy on the upper's filesystem.
    by_copy: HashMap<u64, LinkId>,
    /// Copies in snapshots that have been copied up again.
    older: HashMap<LastingId, LinkId>,
    next: u32,
}

const LINKS: &str = "links";
/// What is added to the name of a link while another takes its place.
const OLD: &str = ".old";
const NEW: &str = ".new";

/// Where an upper's records are of what can have no attribute, in a workdir that is not written to.
///
/// # Errors
/// Those of the calls that it takes.
pub fn owners(work: Option<&Dir>, upper: &Dir) -> Result<Option<Dir>> {
    let name = OsStr::new(OWNERS);
    match work.map(|work| format::find(work, upper)).transpose()?.flatten() {
        Some(home) if home.stat(name)?.is_some() => home.open_dir(name).map(Some),
        _ => Ok(None),
    }
}

impl Index {
    /// Reads the notes of a workdir that this mount writes to. Those of another upper are set aside.
    ///
    /// # Errors
    /// Those of the calls that it takes, but for a full disk: then there are no notes yet.
    pub fn open(
        work: Arc<WorkDir>,
        outer: &UpperDir,
        upper: &UpperDir,
        lowers: &[Dir],
        snapshot: Option<&UpperDir>,
    ) -> Result<Self> {
        let log = Log::default();
        let remembers = format::is_known(upper)?;
        let inner = match format::claim(&work, upper, snapshot) {
            Err(e) if e.is(Errno::NOSPC) || e.is(Errno::DQUOT) => {
                log::warn!("the workdir has no notes, the disk is full: {e}");
                Inner::default()
            }
            claimed => {
                claimed?;
                let root = work.root()?;
                let mut inner = Inner::default();
                log.replay(&root, &mut |line| inner.replay(line))?;
                if root.stat(OsStr::new(LINKS))?.is_some() {
                    inner.find_copies(&*work.links()?)?;
                }
                let prepared = || log.compact(&work, &inner.lines()).and_then(|()| log.prepare(&work));
                if remembers && let Err(e) = prepared() {
                    log::warn!("the workdir takes no notes for now: {e}");
                }
                inner
            }
        };
        let store = Store::Written(work, log);
        let index = Self { store, remembers, missed: AtomicBool::new(false), inner: Mutex::new(inner) };
        if let Some(snapshot) = snapshot {
            index.know_snapshot(snapshot)?;
        }
        adopt::adopt(&index, outer, upper, lowers);
        Ok(index)
    }

    /// Copies the log of now to another directory. Says how much of it: it goes on.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn save_log(&self, to: &UpperDir) -> Result<u64> {
        match &self.store {
            Store::Written(work, log) => log.copy(work, to, 0),
            Store::Read(_) => Err(Error::ReadOnly),
        }
    }

    /// Copies the rest of the log, what it will say once the upper is a snapshot, and the links. To be called by who is
    /// alone. What [`Self::freeze`] is to take on: a link more would count as a name.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn save_rest(&self, to: &UpperDir, from: u64) -> Result<Frozen> {
        let Store::Written(work, log) = &self.store else { return Err(Error::ReadOnly) };
        let end = log.copy(work, to, from)?;
        let mut lines = String::new();
        let mut links = None;
        let frozen = self.frozen()?;
        for note in frozen.0.values() {
            lines.push_str(&link_line(note));
            let links = match &links {
                Some(links) => links,
                None => {
                    to.make_dir(OsStr::new(LINKS), Mode::RWXU)?;
                    links.insert(to.open_upper_dir(OsStr::new(LINKS))?)
                }
            };
            let copy = work.links()?.open_upper_inode(OsStr::new(note.key.as_str()))?;
            links.link(&copy, OsStr::new(note.key.as_str()))?;
        }
        if !lines.is_empty() {
            log_file::add(to, end, lines.as_bytes())?;
        }
        to.sync()?;
        Ok(frozen)
    }

    /// What the notes will be once the upper is a snapshot.
    ///
    /// # Errors
    /// Those of looking at the copies.
    pub fn frozen(&self) -> Result<Frozen> {
        let frozen = |(id, note): (LinkId, LinkNote)| Ok((id, note.frozen(&self.copy(id)?.stat()?)));
        self.copied().into_iter().map(frozen).collect::<Result<_>>().map(Frozen)
    }

    /// The notes are those of another upper from now on, which lies on that of before.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn now_of(&self, upper: &UpperDir) -> Result<()> {
        format::write(self.work()?, upper)
    }

    /// Gets the notes of a snapshot ready to be those of an upper that lies on it.
    ///
    /// # Errors
    /// Those of the calls that it takes: then nothing has changed.
    pub fn prepare_back(&self, snapshot: Option<&UpperDir>) -> Result<Back> {
        let work = self.work()?;
        let dir = format::make_next(work, snapshot)?;
        let log = Log::default();
        let mut inner = Inner::default();
        log.replay(&dir, &mut |line| inner.replay(line))?;
        inner.find_copies(&*dir.open_upper_dir(OsStr::new(LINKS))?)?;
        if let Some(snapshot) = snapshot {
            inner.know_snapshot(snapshot)?;
        }
        let file = log.open_in(&dir)?;
        Ok(Back { links: dir.open_upper_dir(OsStr::new(LINKS))?, inner, file })
    }

    /// The notes are those that were got ready, and of that upper.
    ///
    /// # Errors
    /// Those of saying so in the workdir. What is said here holds all the same; the next mount begins with the snapshot's.
    pub fn go_back(&self, upper: &UpperDir, back: Back) -> Result<()> {
        let Store::Written(work, log) = &self.store else { return Err(Error::ReadOnly) };
        let Back { links, inner: mut notes, file } = back;
        work.have_links(links);
        log.follow(file);
        {
            let inner = &mut *self.inner.lock();
            // A number stands for one file for as long as the mount lives.
            notes.renumber(inner.next);
            *inner = notes;
        }
        format::take_next(work, upper)
    }

    fn copied(&self) -> Vec<(LinkId, LinkNote)> {
        let inner = self.inner.lock();
        let copied = inner.notes.iter().filter(|(_, note)| note.copied_up);
        copied.map(|(id, note)| (*id, note.clone())).collect()
    }

    /// Reads the notes of a workdir that this mount does not write to, if there is one.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn read_only(work: Option<&Dir>, upper: &Dir, snapshot: Option<&Dir>) -> Result<Self> {
        let mut inner = Inner::default();
        let mut links = None;
        let own = work.map(|work| format::find(work, upper)).transpose()?.flatten();
        if let Some(home) = own.or_else(|| snapshot.cloned()) {
            Log::default().replay(&home, &mut |line| inner.replay(line))?;
            if home.stat(OsStr::new(LINKS))?.is_some() {
                let dir = home.open_dir(OsStr::new(LINKS))?;
                inner.find_copies(&dir)?;
                links = Some(dir);
            }
        }
        let store = Store::Read(links);
        let index =
            Self { store, remembers: false, missed: AtomicBool::new(false), inner: Mutex::new(inner) };
        snapshot.map_or(Ok(()), |snapshot| index.know_snapshot(snapshot))?;
        Ok(index)
    }

    /// The copies of lower files with several names that the workdir notes.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn copies(&self) -> Result<Vec<NotedCopy>> {
        let notes: Vec<(LinkId, LinkNote)> =
            self.inner.lock().notes.iter().map(|(id, note)| (*id, note.clone())).collect();
        let mut copies = Vec::new();
        for (id, note) in notes.into_iter().filter(|(_, note)| note.copied_up) {
            let has_other_names = note.lost || note.remaining() > 0;
            copies.push(NotedCopy { copy: self.copy(id)?, original: note.key, has_other_names });
        }
        copies.sort_by(|one, other| one.original.cmp(&other.original));
        Ok(copies)
    }

    /// Whether names of lower files can be told to follow a copy: they must be in the next mount, too.
    #[must_use]
    pub fn remembers(&self) -> bool {
        self.remembers
    }

    /// Says in the workdir that this mount does without syncs, from now until [`Self::close`].
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn mark_volatile(&self) -> Result<()> {
        match &self.store {
            Store::Written(work, _) => format::mark_volatile(work),
            Store::Read(_) => Ok(()),
        }
    }

    /// The clean end. Nothing is made any more, only removed.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn close(&self) -> Result<()> {
        let Store::Written(work, log) = &self.store else { return Ok(()) };
        let says_something = {
            let inner = self.inner.lock();
            !inner.origins.is_empty() || !inner.notes.is_empty()
        };
        log.close(work, says_something)?;
        format::unmark_volatile(work)
    }

    /// The number that an inode of the upper shows, if it is not its own. `id` tells its lasting name.
    #[must_use]
    pub fn origin(&self, upper: RealId, id: impl FnOnce() -> Option<LastingId>) -> Option<NodeId> {
        if upper.filesystem > 0 {
            return None;
        }
        let RealId { ino, birth, .. } = upper;
        let noted = self.inner.lock().origins.get(&ino).cloned()?;
        let is_same = match &noted.known_by {
            KnownBy::Birth(noted) => *noted == birth,
            KnownBy::Id(noted) => id().as_ref() == Some(noted),
        };
        let inner = &mut *self.inner.lock();
        if is_same {
            if let Some(origin) = inner.origins.get_mut(&ino) {
                origin.known_by = KnownBy::Birth(birth);
            }
            return Some(noted.number);
        }
        // Another inode has the number by now.
        inner.origins.remove(&ino);
        None
    }

    /// The number that an inode of the upper shows as far as its inode number tells.
    #[must_use]
    pub fn origin_of_ino(&self, ino: u64) -> Option<NodeId> {
        self.inner.lock().origins.get(&ino).map(|origin| origin.number)
    }

    /// Notes that an inode of the upper shows that number. Without a lasting name that is so in this mount only.
    pub fn set_origin(&self, upper: RealId, id: Option<&LastingId>, number: NodeId) {
        let origin = Origin { number, known_by: KnownBy::Birth(upper.birth) };
        self.inner.lock().origins.insert(upper.ino, origin);
        if let Some(id) = id {
            self.append(&origin_line(id, number));
        }
    }

    /// Drops the note of an inode of the upper that is no more.
    pub fn drop_origin(&self, upper: RealId) {
        let RealId { filesystem, ino, .. } = upper;
        if filesystem == 0 && self.inner.lock().origins.remove(&ino).is_some() {
            self.append(&format!("X {ino}\n"));
        }
    }

    /// The note of a lower file with several names; `key` tells its lasting name.
    ///
    /// # Errors
    /// Those of `key`.
    pub fn find(
        &self,
        lower: &Stat,
        key: impl FnOnce() -> Result<Option<LastingId>>,
    ) -> Result<Option<LinkId>> {
        if !self.inner.lock().by_ino.contains_key(&lower.st_ino) {
            return Ok(None);
        }
        let Some(key) = key()? else { return Ok(None) };
        let inner = &mut *self.inner.lock();
        let found = inner.by_key.get(&key).copied();
        if let Some(note) = found.and_then(|id| inner.notes.get_mut(&id)) {
            note.see(lower);
        }
        Ok(found)
    }

    /// The note whose copy is this inode of the upper.
    #[must_use]
    pub fn find_copy(&self, upper_ino: u64) -> Option<LinkId> {
        self.inner.lock().by_copy.get(&upper_ino).copied()
    }

    /// The note of a file in a snapshot, which is one of its copies. `key` tells its lasting name.
    ///
    /// # Errors
    /// Those of `key`.
    pub fn find_in_snapshot(
        &self,
        ino: u64,
        key: impl FnOnce() -> Result<Option<LastingId>>,
    ) -> Result<Option<LinkId>> {
        let (copy, may_be_older) = {
            let inner = self.inner.lock();
            let copy = inner.by_copy.get(&ino).copied();
            let copy = copy.filter(|id| inner.notes.get(id).is_some_and(|note| note.in_snapshot));
            (copy, inner.older.keys().any(|key| key.inode_number() == ino))
        };
        if copy.is_some() || !may_be_older {
            return Ok(copy);
        }
        let Some(key) = key()? else { return Ok(None) };
        Ok(self.inner.lock().older.get(&key).copied())
    }

    /// By which name a noted file is known.
    #[must_use]
    pub fn key(&self, id: LinkId) -> Option<LastingId> {
        self.inner.lock().notes.get(&id).map(|note| note.key.clone())
    }

    /// The upper is a snapshot: its copies are not changed any more, and their names are those of lowers.
    pub fn freeze(&self, frozen: Frozen) {
        for (id, frozen) in frozen.0 {
            self.update(id, |note| *note = frozen);
        }
    }

    fn know_snapshot(&self, notes: &Dir) -> Result<()> {
        self.inner.lock().know_snapshot(notes)
    }

    /// Whether any file with several names has a copy.
    #[must_use]
    pub fn has_copies(&self) -> bool {
        !self.inner.lock().by_copy.is_empty()
    }

    /// Whether there is a copy of that lower file.
    fn has_copy(&self, key: &LastingId) -> bool {
        let inner = self.inner.lock();
        let note = inner.by_key.get(key).and_then(|id| inner.notes.get(id));
        note.is_some_and(|note| note.copied_up)
    }

    /// What is noted.
    #[must_use]
    pub fn note(&self, id: LinkId) -> Option<LinkNote> {
        self.inner.lock().notes.get(&id).cloned()
    }

    /// The note of a lower file, a new one if there is none.
    fn note_or_new(&self, key: &LastingId, lower: &Stat) -> LinkId {
        let inner = &mut *self.inner.lock();
        let id = inner.insert(key);
        if let Some(note) = inner.notes.get_mut(&id) {
            note.see(lower);
        }
        id
    }

    /// Notes that the upper covers one more of the lower names of a file with several.
    pub fn cover(&self, key: &LastingId, lower: &Stat) {
        let id = self.note_or_new(key, lower);
        self.update(id, |note| note.covered = note.covered.saturating_add(1));
        let is_over = {
            let inner = &mut *self.inner.lock();
            let is_over = inner.notes.get(&id).is_some_and(|note| !note.copied_up && note.remaining() == 0);
            if is_over {
                // Nobody asks for it any more.
                inner.remove(id);
            }
            is_over
        };
        if is_over {
            self.append(&format!("D {}\n", key.as_str()));
        }
    }

    fn update(&self, id: LinkId, change: impl FnOnce(&mut LinkNote)) {
        let line = {
            let inner = &mut *self.inner.lock();
            let Some(note) = inner.notes.get_mut(&id) else { return };
            change(note);
            link_line(note)
        };
        self.append(&line);
    }

    /// Puts a hard link to the copy of a lower file into `links`. It does not count before [`Self::publish`].
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn tie(&self, key: &LastingId, lower: &Stat, copy: &UpperInode) -> Result<LinkId> {
        let id = self.note_or_new(key, lower);
        // Before the link: a copy without a note has a link count that is a guess.
        self.update(id, |_| ());
        let links = self.work()?.links()?;
        let name = OsStr::new(key.as_str());
        if !self.note(id).is_some_and(|note| note.in_snapshot) {
            links.remove_marker(name)?;
            links.link(copy, name)?;
            return Ok(id);
        }
        // The names that lead to the copy in the snapshot are never without one.
        let (old, new) = (with_suffix(key, OLD), with_suffix(key, NEW));
        let snapshots = links.open_upper_inode(name)?;
        let stat = snapshots.stat()?;
        for left in [&old, &new] {
            links.remove_marker(left)?;
        }
        if let Some(older) = snapshots.lasting_id(&stat)? {
            self.append(&older_line(&older, key));
            self.inner.lock().older.insert(older, id);
        }
        links.link(&snapshots, &old)?;
        links.link(copy, &new)?;
        links.rename(&new, &links, name)?;
        let inner = &mut *self.inner.lock();
        inner.by_copy.remove(&stat.st_ino);
        if let Some(note) = inner.notes.get_mut(&id) {
            note.in_snapshot = false;
        }
        Ok(id)
    }

    /// The copy that was tied has its name: the other names lead to it from now on.
    pub fn publish(&self, id: LinkId, copy: &Stat) {
        if let (Some(key), Ok(work)) = (self.key(id), self.work())
            && let Err(e) = work.links().and_then(|links| links.remove_marker(&with_suffix(&key, OLD)))
        {
            log::debug!("a link stays in the workdir until the next mount: {e}");
        }
        let inner = &mut *self.inner.lock();
        if let Some(note) = inner.notes.get_mut(&id) {
            note.copied_up = true;
        }
        inner.by_copy.insert(copy.st_ino, id);
    }

    /// The copy that was tied has come to nothing.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn untie(&self, id: LinkId) -> Result<()> {
        let Some(note) = self.note(id) else { return Ok(()) };
        let links = self.work()?.links()?;
        let old = with_suffix(&note.key, OLD);
        if let Some(stat) = links.stat(&old)? {
            // The copy in the snapshot is the one again.
            links.rename(&old, &links, OsStr::new(note.key.as_str()))?;
            let inner = &mut *self.inner.lock();
            inner.by_copy.retain(|_, copied| *copied != id);
            inner.by_copy.insert(stat.st_ino, id);
            if let Some(note) = inner.notes.get_mut(&id) {
                note.in_snapshot = true;
            }
            return Ok(());
        }
        if note.copied_up {
            self.update(id, |note| note.copied_up = false);
            self.inner.lock().by_copy.retain(|_, copied| *copied != id);
        }
        links.remove_marker(OsStr::new(note.key.as_str()))
    }

    /// The copy of a lower file with several names, for looking.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn copy(&self, id: LinkId) -> Result<Inode> {
        let note = self.note(id).ok_or(Error::Bug("a link without its note"))?;
        let name = OsStr::new(note.key.as_str());
        match &self.store {
            Store::Written(work, _) => work.links()?.open_inode(name),
            Store::Read(links) => links.as_ref().ok_or(Error::ReadOnly)?.open_inode(name),
        }
    }

    /// The copy of a lower file with several names, for changing.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn upper_copy(&self, id: LinkId) -> Result<UpperInode> {
        let note = self.note(id).ok_or(Error::Bug("a link without its note"))?;
        self.work()?.links()?.open_upper_inode(OsStr::new(note.key.as_str()))
    }

    /// Forgets a file whose copy has no name left, in the lowers or in the upper, and removes the link to it.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn drop_link(&self, id: LinkId) -> Result<()> {
        let Some(note) = self.note(id) else { return Ok(()) };
        self.work()?.links()?.remove_marker(OsStr::new(note.key.as_str()))?;
        self.inner.lock().remove(id);
        self.append(&format!("D {}\n", note.key.as_str()));
        Ok(())
    }

    /// Waits until links and notes are on disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync(&self) -> Result<()> {
        let Store::Written(work, log) = &self.store else { return Ok(()) };
        work.links()?.sync()?;
        log.sync(work)
    }

    /// Looks for copies that nothing leads to any more: a lower file has names outside its branch, and the names
    /// in it are hidden. `is_visible` says whether users see that file under such a way and name. A copy of which no
    /// lower has a name stays: the lower may be another one for once.
    ///
    /// # Errors
    /// Those of the calls that it takes: then all copies stay.
    pub fn drop_unreachable(
        &self,
        upper: &Dir,
        lowers: &[Dir],
        is_visible: impl Fn(&[OsString], &OsStr, &LastingId) -> Result<bool>,
    ) -> Result<()> {
        let mut suspects = HashMap::new();
        for (id, note) in self.inner.lock().notes.clone() {
            if note.copied_up && !note.exact {
                suspects.insert(id, note);
            }
        }
        for (id, note) in suspects.clone() {
            if self.copy(id)?.stat()?.st_nlink > 1 {
                suspects.remove(&id);
            } else {
                log::info!("looking for the names of a copied-up file: {}", note.key.as_str());
            }
        }
        if suspects.is_empty() {
            return Ok(());
        }
        // How many names each has in the lowers, and how many of them users see.
        let mut names: HashMap<LinkId, (u32, u32)> = HashMap::new();
        for lower in lowers {
            let mut places = Vec::new();
            let whole = layer::walk(lower, |way, name, ino| {
                if suspects.values().any(|note| note.key.inode_number() == ino) {
                    places.push((way.to_vec(), name.to_owned()));
                }
            })?;
            if !whole {
                // A name that was not found may be one that shows.
                return Ok(());
            }
            for (way, name) in places {
                let dir = way.iter().try_fold(lower.clone(), |dir, name| dir.open_dir(name))?;
                let inode = dir.open_inode(&name)?;
                let Some(key) = inode.lasting_id(&inode.stat()?)? else { continue };
                for (id, note) in suspects.iter().filter(|(_, note)| note.key == key) {
                    let (all, visible) = names.entry(*id).or_default();
                    *all += 1;
                    *visible += u32::from(is_visible(&way, &name, &note.key)?);
                }
            }
        }
        let is_empty = upper.list()?.is_empty();
        for (id, note) in suspects {
            let Some((_, visible)) = names.get(&id).copied() else { continue };
            // Not if something is in the upper: then it is a whiteout that a power loss has taken.
            let lost_its_upper = is_empty && !note.lost && note.covered > 0 && visible > note.remaining();
            if lost_its_upper {
                self.set_copy_aside(id, &note)?;
            } else if visible == 0 {
                self.drop_link(id)?;
            } else {
                self.update(id, |note| {
                    note.covered = note.lower_links.unwrap_or(visible).saturating_sub(visible);
                    note.lower_links.get_or_insert(visible);
                    note.exact = true;
                    note.lost = false;
                });
            }
        }
        Ok(())
    }

    /// Names that the upper has covered show again: somebody has emptied it. The copy is nobody's by now, and kept.
    fn set_copy_aside(&self, id: LinkId, note: &LinkNote) -> Result<()> {
        log::warn!(
            "the upper was emptied: the copy of a hard-linked file is set aside in plyfs/aside-copies"
        );
        let root = self.work()?.root()?;
        let aside = OsStr::new("aside-copies");
        match root.make_dir(aside, Mode::RWXU) {
            Err(e) if e.is(Errno::EXIST) => {}
            made => made?,
        }
        let name = OsStr::new(note.key.as_str());
        self.work()?.links()?.rename(name, &root.open_upper_dir(aside)?, name)?;
        self.inner.lock().remove(id);
        self.append(&format!("D {}\n", note.key.as_str()));
        Ok(())
    }

    fn work(&self) -> Result<&WorkDir> {
        match &self.store {
            Store::Written(work, _) => Ok(work),
            Store::Read(_) => Err(Error::ReadOnly),
        }
    }

    fn append(&self, line: &str) {
        if let (Store::Written(work, log), true) = (&self.store, self.remembers)
            && let Err(e) = log.append(work, line)
        {
            // The operation itself is done. What is lost is a number or a link count after the next mount.
            log::warn!("the workdir's index misses a note: {e}");
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

impl LinkNote {
    fn see(&mut self, lower: &Stat) {
        if !self.exact || self.lower_links.is_none() {
            self.lower_links = Some(lower.st_nlink as u32);
        }
    }
}

impl Inner {
    fn insert(&mut self, key: &LastingId) -> LinkId {
        if let Some(id) = self.by_key.get(key) {
            return *id;
        }
        let id = LinkId(self.next);
        self.next += 1;
        let key = key.clone();
        self.by_key.insert(key.clone(), id);
        self.by_ino.entry(key.inode_number()).or_default().push(id);
        let note = LinkNote {
            key,
            lower_links: None,
            covered: 0,
            exact: false,
            lost: false,
            copied_up: false,
            in_snapshot: false,
        };
        self.notes.insert(id, note);
        id
    }

    fn remove(&mut self, id: LinkId) {
        let Some(note) = self.notes.remove(&id) else { return };
        self.by_key.remove(&note.key);
        self.by_copy.retain(|_, copied| *copied != id);
        self.older.retain(|_, copied| *copied != id);
        let ino = note.key.inode_number();
        if let Some(ids) = self.by_ino.get_mut(&ino) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_ino.remove(&ino);
            }
        }
    }

    /// The lines that say the same as all lines so far.
    fn lines(&self) -> Vec<String> {
        let origins = self.origins.values().filter_map(|origin| match &origin.known_by {
            KnownBy::Id(id) => Some(origin_line(id, origin.number)),
            KnownBy::Birth(_) => None,
        });
        let older = self
            .older
            .iter()
            .filter_map(|(older, id)| self.notes.get(id).map(|note| older_line(older, &note.key)));
        origins.chain(self.notes.values().map(link_line)).chain(older).collect()
    }

    /// Takes one line of the log. What is no note is passed over.
    fn replay(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next();
        let words: Vec<&str> = words.collect();
        let done = match (kind, &words[..]) {
            (Some("O"), _) => parse_origin(line).map(|(id, number)| {
                let ino = id.inode_number();
                self.origins.insert(ino, Origin { number, known_by: KnownBy::Id(id) });
            }),
            (Some("X"), [ino]) => ino.parse().ok().map(|ino: u64| drop(self.origins.remove(&ino))),
            (Some("L"), _) => parse_link(&words).map(|(key, lower_links, covered, exact)| {
                let id = self.insert(&key);
                if let Some(note) = self.notes.get_mut(&id) {
                    (note.lower_links, note.covered, note.exact) = (lower_links, covered, exact);
                }
            }),
            (Some("S"), [older, key]) => {
                LastingId::parse(older).zip(LastingId::parse(key)).map(|(older, key)| {
                    let id = self.insert(&key);
                    self.older.insert(older, id);
                })
            }
            (Some("D"), [key]) => LastingId::parse(key).map(|key| {
                if let Some(id) = self.by_key.get(&key).copied() {
                    self.remove(id);
                }
            }),
            _ => None,
        };
        if done.is_none() {
            log::debug!("not a line of an index: {}", line.escape_debug());
        }
    }

    /// Which copies are in the topmost snapshot: those that its own links lead to.
    fn know_snapshot(&mut self, notes: &Dir) -> Result<()> {
        if notes.stat(OsStr::new(LINKS))?.is_none() {
            return Ok(());
        }
        let links = notes.open_dir(OsStr::new(LINKS))?;
        for entry in links.list()? {
            let Some(key) = entry.name.to_str().and_then(LastingId::parse) else { continue };
            let Some(stat) = links.stat(&entry.name)? else { continue };
            let Some(id) = self.by_key.get(&key).copied() else { continue };
            if self.by_copy.get(&stat.st_ino) == Some(&id)
                && let Some(note) = self.notes.get_mut(&id)
            {
                note.in_snapshot = true;
            }
        }
        Ok(())
    }

    /// Counts from `first` on.
    fn renumber(&mut self, first: u32) {
        let next = |id: LinkId| LinkId(id.0 + first);
        self.notes = self.notes.drain().map(|(id, note)| (next(id), note)).collect();
        let all = self.by_key.values_mut().chain(self.by_copy.values_mut()).chain(self.older.values_mut());
        all.chain(self.by_ino.values_mut().flatten()).for_each(|id| *id = next(*id));
        self.next += first;
    }

    /// Finds the copies in `links`. One whose note was lost may be all that is left of what was written to it, so
    /// it is noted anew.
    fn find_copies(&mut self, links: &Dir) -> Result<()> {
        for entry in links.list()? {
            let Some(key) = entry.name.to_str().and_then(LastingId::parse) else { continue };
            let is_lost = !self.by_key.contains_key(&key);
            let id = self.insert(&key);
            let Some(stat) = links.stat(&entry.name)? else { continue };
            if let Some(note) = self.notes.get_mut(&id) {
                note.copied_up = true;
                if is_lost {
                    // Most names that a copy has in the upper cover one in the lower.
                    note.lost = true;
                    note.covered = (stat.st_nlink as u32).saturating_sub(1);
                }
            }
            self.by_copy.insert(stat.st_ino, id);
        }
        Ok(())
    }
}

fn parse_origin(line: &str) -> Option<(LastingId, NodeId)> {
    let (id, number) = line.strip_prefix("O ")?.split_once(' ')?;
    Some((LastingId::parse(id)?, NodeId(number.parse().ok()?)))
}

fn older_line(older: &LastingId, key: &LastingId) -> String {
    format!("S {} {}\n", older.as_str(), key.as_str())
}

fn with_suffix(key: &LastingId, suffix: &str) -> OsString {
    format!("{}{suffix}", key.as_str()).into()
}

fn origin_line(id: &LastingId, number: NodeId) -> String {
    format!("O {} {}\n", id.as_str(), number.0)
}

/// Key, names in the lower, names that are covered, and whether that is exact. A line is believed as a whole or not.
fn parse_link(words: &[&str]) -> Option<(LastingId, Option<u32>, u32, bool)> {
    let [key, links, covered, exact] = words else { return None };
    let lower_links = if *links == "?" { None } else { Some(links.parse().ok()?) };
    let exact = ["0", "1"].iter().position(|word| word == exact)? == 1;
    Some((LastingId::parse(key)?, lower_links, covered.parse().ok()?, exact))
}

fn link_line(note: &LinkNote) -> String {
    let mut line = format!("L {} ", note.key.as_str());
    // Writing to a String cannot fail.
    match note.lower_links {
        Some(links) => write!(line, "{links}"),
        None => write!(line, "?"),
    }
    .and_then(|()| writeln!(line, " {} {}", note.covered, u8::from(note.exact)))
    .unwrap_or_default();
    line
}
