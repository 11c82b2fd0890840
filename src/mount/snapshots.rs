//! Where are the snapshots of an upper, and on which of them does it lie?
//!
//! Beside the upper NAME, in `NAME.snapshots`. Snapshot S is a directory there, with the directory that was the upper,
//! `S/layer`, and what the workdir noted then, `S/notes`. The file `stack` says what lies on what:
//!
//! ```text
//! plyfs snapshots 1
//! snapshot S PARENT TIME
//! upper IDENTITY S
//! ```
//!
//! PARENT is `-` for the first one, TIME is in seconds since 1970, and IDENTITY is inode number and time of birth. One
//! renameat2(2) decides whether there is a new snapshot: it exchanges the upper and an empty directory. Before it, `stack`
//! speaks of both, the snapshot being `making`; whichever of the two is the upper says which line holds. So a crash shows
//! the stack before or the one after. A copy of it all has other identities: then there is one line, and it holds.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::place::{self, Place};
use super::root::magic_path;
use crate::branch::SnapshotRoot;
use crate::shown::shown;

const HEAD: &str = "plyfs snapshots 1";
const STACK: &str = "stack";
const NEW: &str = "stack.new";
const LAYER: &str = "layer";
const NOTES: &str = "notes";
/// The upper that a rewind makes, and then the one that it has taken away.
const DISCARDED: &str = ".discarded-";
/// What nobody needs any more.
const REMOVED: &str = ".removed-";
const LONGEST_NAME: usize = 100;
const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why something about snapshots does not work.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No name for a directory.
    #[error(
        "{} is no name for a snapshot: write up to {LONGEST_NAME} letters, digits and `._+:@-`, and no dot in front",
        shown(.0)
    )]
    Name(String),
    /// There is one of that name.
    #[error("there is a snapshot {0} already: `plyfs snapshots` shows them")]
    Exists(String),
    /// There is none.
    #[error("there is no snapshot {0}: `plyfs snapshots` shows them")]
    Unknown(String),
    /// The upper cannot be exchanged.
    #[error("upper {} cannot be exchanged for another directory: {reason}", shown(path))]
    Fixed {
        /// The upper.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The record cannot be read.
    #[error("{} is not as plyfs writes it: mount the snapshots as lowers, topmost first, and move the file away", shown(.0))]
    Unreadable(PathBuf),
    /// Neither of two uppers.
    #[error(
        "it is not known on which snapshot upper {} lies: a snapshot was being made, and the files were copied since. \
         `upper` lines in {}/stack name them: keep the right one",
        shown(upper),
        shown(store)
    )]
    Ambiguous {
        /// The upper.
        upper: PathBuf,
        /// The directory of its snapshots.
        store: PathBuf,
    },
    /// Somebody else's.
    #[error("{} belongs to somebody else, or others can write to it: it is not used", shown(.0))]
    NotOurs(PathBuf),
    /// A call failed.
    #[error("{}: {call}: {errno}", shown(path))]
    Sys {
        /// What it was about.
        path: PathBuf,
        /// The call.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
}

type Result<T, E = SnapshotError> = std::result::Result<T, E>;

/// Whether a snapshot can have that name: it is one of a directory beside the others, and a word.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._+:@-".contains(&byte);
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.bytes().all(fits)
        && !name.starts_with('.')
        && ![STACK, NEW, "-"].contains(&name)
}

/// A directory as `stack` knows it: its inode number and time of birth, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, i128);

impl Identity {
    pub(super) fn of(dir: impl AsFd) -> Result<Self, Errno> {
        let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
        let birth = stat.stx_btime;
        let birth = i128::from(birth.tv_sec) * 1_000_000_000 + i128::from(birth.tv_nsec);
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self(stat.stx_ino, if has_birth { birth } else { 0 }))
    }
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// The one that it lies on.
    pub parent: Option<String>,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// Whether it has not been made yet.
    making: bool,
}

/// A snapshot, and where it is.
#[derive(Debug, Clone)]
pub struct Found {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Whether the upper lies on it.
    pub in_stack: bool,
    /// Its layer.
    pub path: PathBuf,
}

/// The snapshots of the upper at `upper`, oldest first.
///
/// # Errors
/// No directory there; what keeps the record from being read.
pub fn snapshots_of(upper: &Path) -> Result<Vec<Found>> {
    let failed = |errno| SnapshotError::Sys { path: upper.to_owned(), call: "open", errno };
    let dir = rustix::fs::open(upper, DIR, Mode::empty()).map_err(failed)?;
    let path = upper.canonicalize().unwrap_or_else(|_| upper.to_owned());
    let Some(store) = Store::find(&dir, &path)? else { return Ok(Vec::new()) };
    let found = |(snapshot, in_stack): (Snapshot, bool)| {
        let path = store.layer_path(&snapshot.name);
        Found { snapshot, in_stack, path }
    };
    Ok(store.list(&dir).into_iter().map(found).collect())
}

/// The snapshots that the upper at `upper` lies on, topmost first.
///
/// # Errors
/// No directory there; what keeps the record from being read.
pub fn snapshots_below(upper: &Path) -> Result<Vec<Found>> {
    let all = snapshots_of(upper)?;
    let find = |name: &str| all.iter().find(|found| found.in_stack && found.snapshot.name == name);
    let is_parent = |found: &Found| {
        all.iter().any(|other| other.in_stack && other.snapshot.parent.as_ref() == Some(&found.snapshot.name))
    };
    let mut at = all.iter().find(|found| found.in_stack && !is_parent(found));
    let mut below = Vec::new();
    while let Some(found) = at.filter(|_| below.len() < all.len()) {
        below.push(found.clone());
        at = found.snapshot.parent.as_deref().and_then(find);
    }
    Ok(below)
}

/// What lies on what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Record {
    snapshots: Vec<Snapshot>,
    /// What an upper lies on.
    uppers: Vec<(Identity, Option<String>)>,
}

impl Record {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return None;
        }
        let mut record = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let parent = |word: &str| (word != "-").then(|| word.to_owned());
            match words[..] {
                [kind @ ("snapshot" | "making"), name, above, time] if is_name(name) => {
                    record.snapshots.push(Snapshot {
                        name: name.to_owned(),
                        parent: parent(above),
                        time: time.parse().ok()?,
                        making: kind == "making",
                    })
                }
                ["upper", identity, name] => {
                    let (ino, birth) = identity.split_once(':')?;
                    let identity = Identity(ino.parse().ok()?, birth.parse().ok()?);
                    record.uppers.push((identity, parent(name)));
                }
                _ => return None,
            }
        }
        Some(record)
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for Snapshot { name, parent, time, making } in &self.snapshots {
            let kind = if *making { "making" } else { "snapshot" };
            // Writing to a String cannot fail.
            writeln!(text, "{kind} {name} {} {time}", parent.as_deref().unwrap_or("-")).unwrap_or_default();
        }
        for (Identity(ino, birth), name) in &self.uppers {
            writeln!(text, "upper {ino}:{birth} {}", name.as_deref().unwrap_or("-")).unwrap_or_default();
        }
        text
    }

    fn find(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == name)
    }

    /// The snapshots below one, itself first.
    fn chain(&self, top: Option<&str>) -> Vec<Snapshot> {
        let mut chain: Vec<Snapshot> = Vec::new();
        let mut at = top.and_then(|name| self.find(name));
        // As many at most as there are: a record that goes round in a circle is not ours.
        while let Some(snapshot) = at.filter(|_| chain.len() < self.snapshots.len()) {
            chain.push(snapshot.clone());
            at = snapshot.parent.as_deref().and_then(|name| self.find(name));
        }
        chain
    }

    /// What the upper lies on, and the record without what has come to nothing. None if that cannot be told.
    fn settled(&self, upper: Identity) -> Option<(Option<String>, Self)> {
        let known = self.uppers.iter().find(|(identity, _)| *identity == upper);
        let top = match (known, &self.uppers[..]) {
            (Some((_, top)), _) | (None, [(_, top)]) => top.clone(),
            (None, []) => None,
            (None, _) => return None,
        };
        let below = self.chain(top.as_deref());
        let is_made =
            |snapshot: &Snapshot| !snapshot.making || below.iter().any(|other| other.name == snapshot.name);
        let snapshots = self.snapshots.iter().filter(|snapshot| is_made(snapshot));
        let snapshots = snapshots.map(|snapshot| Snapshot { making: false, ..snapshot.clone() }).collect();
        Some((top.clone(), Self { snapshots, uppers: vec![(upper, top)] }))
    }
}

/// The snapshots of an upper.
#[derive(Debug)]
pub(super) struct Store {
    dir: OwnedFd,
    path: PathBuf,
    record: Record,
}

/// A directory that is to be the upper, and what has to be done for it.
#[derive(Debug)]
pub(super) struct Next<'a> {
    store: &'a mut Store,
    /// The directory in the store in which it is.
    home: OwnedFd,
    home_name: String,
    /// The empty directory.
    pub(super) layer: OwnedFd,
    /// Where the workdir's notes go.
    pub(super) notes: Option<OwnedFd>,
    before: Record,
}

impl Store {
    fn name_of(upper: &Path) -> Option<OsString> {
        let mut name = upper.file_name()?.to_owned();
        name.push(".snapshots");
        Some(name)
    }

    /// The snapshots of an upper, if it has any.
    pub(super) fn find(upper: impl AsFd, path: &Path) -> Result<Option<Self>> {
        let (Some(name), Ok(parent)) = (Self::name_of(path), place::open_parent(upper)) else {
            return Ok(None);
        };
        let path = path.with_file_name(&name);
        match rustix::fs::openat(&parent, &*name, DIR, Mode::empty()) {
            Ok(dir) => Self::open(dir, path).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
            Err(errno) => Err(SnapshotError::Sys { path, call: "open", errno }),
        }
    }

    fn open(dir: OwnedFd, path: PathBuf) -> Result<Self> {
        let failed = |call| {
            let path = path.clone();
            move |errno| SnapshotError::Sys { path, call, errno }
        };
        let stat = rustix::fs::fstat(&dir).map_err(failed("fstat"))?;
        let others = Mode::WGRP | Mode::WOTH;
        let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
        if !is_ours || Mode::from_raw_mode(stat.st_mode).intersects(others) {
            return Err(SnapshotError::NotOurs(path));
        }
        let record = match std::fs::read_to_string(magic_path(&dir).join(STACK)) {
            Ok(text) => Record::parse(&text).ok_or_else(|| SnapshotError::Unreadable(path.join(STACK)))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Record::default(),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(SnapshotError::Sys { path: path.join(STACK), call: "read", errno });
            }
        };
        Ok(Self { dir, path, record })
    }

    /// The snapshots of an upper; the directory for them is made if it has none.
    pub(super) fn make(upper: impl AsFd, path: &Path) -> Result<Self> {
        let fixed = |reason| SnapshotError::Fixed { path: path.to_owned(), reason };
        let name = Self::name_of(path).ok_or_else(|| fixed("it is the root directory"))?;
        let failed = |call| move |errno| SnapshotError::Sys { path: path.to_owned(), call, errno };
        let parent = place::open_parent(&upper).map_err(failed("open .."))?;
        let own = Place::of(&upper).map_err(failed("statx"))?;
        if Place::of(&parent).map_err(failed("statx"))?.mount_id != own.mount_id {
            return Err(fixed("it is the root of a mounted filesystem; take a directory in it as the upper"));
        }
        match rustix::fs::mkdirat(&parent, &*name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::ACCESS | Errno::PERM) => {
                return Err(fixed("the directory around it cannot be written by this user"));
            }
            Err(errno) => {
                return Err(SnapshotError::Sys { path: path.with_file_name(&name), call: "mkdir", errno });
            }
        }
        let path = path.with_file_name(&name);
        let dir = rustix::fs::openat(&parent, &*name, DIR, Mode::empty())
            .map_err(|errno| SnapshotError::Sys { path: path.clone(), call: "open", errno })?;
        Self::open(dir, path)
    }

    /// What the upper lies on, topmost first, open. What has come to nothing is forgotten, if that may be written.
    pub(super) fn below(&mut self, upper: impl AsFd, path: &Path, writes: bool) -> Result<Vec<SnapshotRoot>> {
        let failed = |errno| SnapshotError::Sys { path: path.to_owned(), call: "statx", errno };
        let identity = Identity::of(upper).map_err(failed)?;
        let Some((top, settled)) = self.record.settled(identity) else {
            return Err(SnapshotError::Ambiguous { upper: path.to_owned(), store: self.path.clone() });
        };
        let chain = self.record.chain(top.as_deref());
        let roots = chain.iter().map(|snapshot| self.root(&snapshot.name)).collect::<Result<Vec<_>>>()?;
        if writes {
            if settled != self.record {
                let gone: Vec<String> = self
                    .record
                    .snapshots
                    .iter()
                    .filter(|snapshot| settled.find(&snapshot.name).is_none())
                    .map(|snapshot| snapshot.name.clone())
                    .collect();
                self.write(settled)?;
                for name in gone {
                    self.remove(&name);
                }
            }
            // No rewind is under way: what one has left, finished or not, is in nobody's way.
            for name in self.names(DISCARDED) {
                self.give_up(&name);
            }
        }
        Ok(roots)
    }

    /// What is called so, and a number.
    fn names(&self, prefix: &str) -> Vec<String> {
        let entries = std::fs::read_dir(magic_path(&self.dir)).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// A number that nothing of ours has in its name.
    fn free_number(&self) -> usize {
        let taken: Vec<String> = [DISCARDED, REMOVED].iter().flat_map(|prefix| self.names(prefix)).collect();
        let is_taken =
            |number: &usize| taken.iter().any(|name| name.rsplit('-').next() == Some(&*number.to_string()));
        (1..).find(|number| !is_taken(number)).unwrap_or_default()
    }

    /// Lets something be removed later, however large it is.
    fn give_up(&self, name: &str) {
        let number = name.rsplit('-').next().unwrap_or_default();
        let to = format!("{REMOVED}{number}");
        if let Err(errno) = rustix::fs::renameat(&self.dir, name, &self.dir, &*to) {
            log::warn!("{}: rename: {errno}", self.path.join(name).display());
        }
    }

    /// A snapshot, open.
    pub(super) fn root(&self, name: &str) -> Result<SnapshotRoot> {
        let failed = |call| {
            let path = self.path.join(name);
            move |errno| SnapshotError::Sys { path, call, errno }
        };
        let home = rustix::fs::openat(&self.dir, name, DIR, Mode::empty()).map_err(failed("open"))?;
        let layer = rustix::fs::openat(&home, LAYER, DIR, Mode::empty()).map_err(failed("open"))?;
        let notes = match rustix::fs::openat(&home, NOTES, DIR, Mode::empty()) {
            Ok(notes) => Some(notes),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed("open")(errno)),
        };
        Ok(SnapshotRoot { path: self.path.join(name).join(LAYER), layer, notes })
    }

    /// All snapshots that are made, and whether the upper lies on them.
    pub(super) fn list(&self, upper: impl AsFd) -> Vec<(Snapshot, bool)> {
        let Some((top, settled)) = Identity::of(upper).ok().and_then(|upper| self.record.settled(upper))
        else {
            return self.record.snapshots.iter().map(|snapshot| (snapshot.clone(), false)).collect();
        };
        let chain = settled.chain(top.as_deref());
        let is_below = |snapshot: &Snapshot| chain.iter().any(|other| other.name == snapshot.name);
        settled.snapshots.iter().map(|snapshot| (snapshot.clone(), is_below(snapshot))).collect()
    }

    /// The snapshots of a stack that ends with one, topmost first.
    pub(super) fn chain(&self, name: &str) -> Result<Vec<Snapshot>> {
        match self.record.find(name) {
            Some(_) => Ok(self.record.chain(Some(name))),
            None => Err(SnapshotError::Unknown(name.to_owned())),
        }
    }

    /// Where a snapshot's layer is.
    pub(super) fn layer_path(&self, name: &str) -> PathBuf {
        self.path.join(name).join(LAYER)
    }

    /// A name that no snapshot has.
    pub(super) fn free_name(&self) -> String {
        let mut number = self.record.snapshots.len() + 1;
        while self.record.find(&number.to_string()).is_some() {
            number += 1;
        }
        number.to_string()
    }

    /// Gets an empty directory ready that is to be the upper, when the one of now is a snapshot of that name.
    pub(super) fn prepare_snapshot(&mut self, name: &str, upper: impl AsFd) -> Result<Next<'_>> {
        if !is_name(name) {
            return Err(SnapshotError::Name(name.to_owned()));
        }
        if self.record.find(name).is_some() {
            return Err(SnapshotError::Exists(name.to_owned()));
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let after = |record: &mut Record, parent: Option<String>| {
            record.snapshots.push(Snapshot { name: name.to_owned(), parent, time, making: true });
            Some(name.to_owned())
        };
        self.prepare(Some(name), upper, after)
    }

    /// Gets an empty directory ready that is to be the upper on a snapshot, when the one of now is not needed any more.
    pub(super) fn prepare_rewind(&mut self, name: &str, upper: impl AsFd) -> Result<Next<'_>> {
        self.prepare(None, upper, |_, _| Some(name.to_owned()))
    }

    /// For a snapshot of that name, or for a rewind.
    fn prepare(
        &mut self,
        snapshot: Option<&str>,
        upper: impl AsFd,
        after: impl FnOnce(&mut Record, Option<String>) -> Option<String>,
    ) -> Result<Next<'_>> {
        // Until it is in the record, nobody misses it.
        let mut home_name = format!("{DISCARDED}{}", self.free_number());
        let place = self.path.join(&home_name);
        let failed = |call| {
            let path = place.clone();
            move |errno| SnapshotError::Sys { path, call, errno }
        };
        let now = Identity::of(&upper).map_err(failed("statx"))?;
        let settled = self.record.settled(now);
        let (top, before) = settled.unwrap_or_else(|| (None, self.record.clone()));
        rustix::fs::mkdirat(&self.dir, &*home_name, Mode::RWXU).map_err(failed("mkdir"))?;
        let made = (|| {
            let home = rustix::fs::openat(&self.dir, &*home_name, DIR, Mode::empty())?;
            rustix::fs::mkdirat(&home, LAYER, Mode::RWXU)?;
            let layer = rustix::fs::openat(&home, LAYER, DIR, Mode::empty())?;
            let notes = if snapshot.is_some() {
                rustix::fs::mkdirat(&home, NOTES, Mode::RWXU)?;
                Some(rustix::fs::openat(&home, NOTES, DIR, Mode::empty())?)
            } else {
                None
            };
            let identity = Identity::of(&layer)?;
            rustix::fs::fsync(&home)?;
            Ok::<_, Errno>((home, layer, notes, identity))
        })();
        let (home, layer, notes, identity) = match made {
            Ok(made) => made,
            Err(errno) => {
                let failed = failed("mkdir")(errno);
                self.remove(&home_name);
                return Err(failed);
            }
        };
        let mut record = before.clone();
        let top = after(&mut record, top);
        record.uppers.push((identity, top));
        let written = self.write(record).and_then(|()| {
            let Some(name) = snapshot else { return Ok(()) };
            rustix::fs::renameat(&self.dir, &*home_name, &self.dir, name).map_err(failed("rename"))
        });
        if let Err(e) = written {
            self.remove(&home_name);
            return Err(e);
        }
        if let Some(name) = snapshot {
            name.clone_into(&mut home_name);
        }
        Ok(Next { store: self, home, home_name, layer, notes, before })
    }

    /// Takes a record on: it is on the disk when this returns.
    fn write(&mut self, record: Record) -> Result<()> {
        let written = (|| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.dir, NEW, flags, Mode::RUSR | Mode::WUSR)?;
            let mut file = std::fs::File::from(file);
            file.write_all(record.text().as_bytes())
                .and_then(|()| file.sync_data())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            rustix::fs::renameat(&self.dir, NEW, &self.dir, STACK)?;
            rustix::fs::fsync(&self.dir)
        })();
        let failed = |errno| SnapshotError::Sys { path: self.path.join(STACK), call: "write", errno };
        written.map_err(failed)?;
        self.record = record;
        Ok(())
    }

    /// Removes a directory of the store with all that is in it.
    fn remove(&self, name: &str) -> bool {
        let removed = match std::fs::remove_dir_all(magic_path(&self.dir).join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let failed = |error| log::warn!("{} takes room: {error}", self.path.join(name).display());
        removed.map_err(failed).is_ok()
    }
}

impl Next<'_> {
    /// Exchanges the upper for the empty directory.
    pub(super) fn exchange(&self, upper: impl AsFd, path: &Path) -> Result<()> {
        let failed = |call| move |errno| SnapshotError::Sys { path: path.to_owned(), call, errno };
        let fixed = |reason| SnapshotError::Fixed { path: path.to_owned(), reason };
        let parent = place::open_parent(&upper).map_err(failed("open .."))?;
        let name = path.file_name().unwrap_or_default();
        let meant = Identity::of(&upper).map_err(failed("statx"))?;
        let at = |dir: &OwnedFd, name: &OsStr| {
            rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .and_then(Identity::of)
        };
        if at(&parent, name) != Ok(meant) {
            return Err(fixed("it is not under its name any more"));
        }
        let swap = || rustix::fs::renameat_with(&parent, name, &self.home, LAYER, RenameFlags::EXCHANGE);
        swap().map_err(|errno| match errno {
            Errno::BUSY => fixed("something is mounted on it"),
            Errno::INVAL | Errno::NOSYS => fixed("its filesystem exchanges no directories (RENAME_EXCHANGE)"),
            Errno::ACCESS | Errno::PERM => fixed("the directory around it cannot be written by this user"),
            errno => failed("renameat2")(errno),
        })?;
        if at(&self.home, OsStr::new(LAYER)) != Ok(meant) {
            swap().map_err(failed("renameat2"))?;
            return Err(fixed("it is not under its name any more"));
        }
        // What has happened is not an error. Until it is on the disk, a crash shows the stack before.
        for dir in [&parent, &self.home] {
            let readable = rustix::fs::openat(dir, c".", DIR, Mode::empty());
            if let Err(errno) = readable.and_then(|dir| rustix::fs::fsync(&dir)) {
                log::warn!("{}: fsync: {errno}", path.display());
            }
        }
        Ok(())
    }

    /// The exchange has been made.
    pub(super) fn finish(self) -> Result<()> {
        let failed = |errno| SnapshotError::Sys { path: self.store.path.clone(), call: "statx", errno };
        let identity = Identity::of(&self.layer).map_err(failed)?;
        if let Some((_, settled)) = self.store.record.settled(identity) {
            self.store.write(settled)?;
        }
        if self.home_name.starts_with(DISCARDED) {
            self.store.give_up(&self.home_name);
        }
        Ok(())
    }

    /// It has come to nothing.
    pub(super) fn abandon(self) {
        if let Err(e) = self.store.write(self.before) {
            log::warn!("{e}");
            return;
        }
        self.store.remove(&self.home_name);
    }
}

/// What rewinds have taken away and nobody needs any more.
#[derive(Debug)]
pub(super) struct Removed(Store, Vec<String>);

/// What of an upper's past can be removed now.
pub(super) fn removed(upper: impl AsFd, path: &Path) -> Option<Removed> {
    let store = Store::find(upper, path).inspect_err(|e| log::warn!("{e}")).ok()??;
    let names = store.names(REMOVED);
    (!names.is_empty()).then_some(Removed(store, names))
}

impl Removed {
    /// Removes it, and says whether all of it is gone. May take long.
    pub(super) fn remove(self) -> bool {
        let Self(store, names) = self;
        let left = names.iter().filter(|name| !store.remove(name)).count();
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record::parse(&format!("{HEAD}\n{text}")).expect("a record")
    }

    #[test]
    fn what_is_written_can_be_read() {
        let text =
            format!("{HEAD}\nsnapshot a - 10\nsnapshot b a 11\nmaking c b 12\nupper 7:-8 b\nupper 9:0 c\n");
        assert_eq!(Record::parse(&text).expect("a record").text(), text);
        for wrong in [
            "",
            "plyfs snapshots 2\n",
            "plyfs snapshots 1\nsnapshot a\n",
            "plyfs snapshots 1\nupper 7 b\n",
            "plyfs snapshots 1\nmaking ../a - 1\n",
        ] {
            assert_eq!(Record::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn whichever_is_the_upper_says_which_line_holds() {
        let torn = record("snapshot a - 10\nmaking b a 11\nupper 1:0 a\nupper 2:0 b\n");
        let names = |record: &Record| -> Vec<_> {
            record.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect()
        };
        let (top, before) = torn.settled(Identity(1, 0)).expect("known");
        assert_eq!((top.as_deref(), names(&before)), (Some("a"), vec!["a".to_owned()]));
        let (top, after) = torn.settled(Identity(2, 0)).expect("known");
        assert_eq!((top.as_deref(), names(&after)), (Some("b"), vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(torn.settled(Identity(3, 0)), None);
        let chain: Vec<_> = after.chain(Some("b")).into_iter().map(|snapshot| snapshot.name).collect();
        assert_eq!(chain, ["b", "a"]);
        // A copy.
        assert!(after.settled(Identity(3, 0)).is_some_and(|(top, _)| top.as_deref() == Some("b")));
        // A rewind that came to nothing has taken nothing away.
        let torn = record("snapshot a - 10\nsnapshot b a 11\nupper 1:0 b\nupper 2:0 a\n");
        assert_eq!(torn.settled(Identity(1, 0)).expect("known").1.snapshots.len(), 2);
        assert_eq!(torn.settled(Identity(2, 0)).expect("known").1.snapshots.len(), 2);
    }

    #[test]
    fn a_record_that_goes_in_a_circle_ends() {
        let circle = record("snapshot a b 10\nsnapshot b a 11\nupper 1:0 b\n");
        assert_eq!(circle.chain(Some("b")).len(), 2);
    }
}
