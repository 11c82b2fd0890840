//! What if the n-th change of a branch fails, or is the last that this process makes, or the power fails after it?
//!
//! Only with the cargo feature `faults`, for tests. One thread arms a fault and makes its changes; other threads are
//! not concerned. After [`Fault::End`] nothing that the thread does reaches the disk any more, not even what
//! destructors do: the disk is as a killed process leaves it.
//!
//! A thread can also record its changes and syncs as [`Event`]s: which inodes got or lost which names and what data.
//! A test plays them again on a disk of its own that loses what was not synced.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, FileType};
use rustix::io::{self, Errno};

use super::door::Call;
use super::read::Dir;
use super::stat::Stat;

/// What happens at the armed change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with this error, once.
    Fails(Errno),
    /// It and all that follow are not made: the process has ended.
    End,
}

#[derive(Debug, Default)]
struct State {
    /// How many changes there have been since the fault was armed.
    changes: usize,
    armed: Option<(usize, Fault)>,
    ended: bool,
    /// What is told of each change that was made, and by whom it is heard.
    names: Vec<&'static str>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Lets the change number `at`, counted from 0 and from now on, meet a fault; None only counts.
pub fn arm(fault: Option<(usize, Fault)>) {
    STATE.with_borrow_mut(|state| *state = State { armed: fault, ..State::default() });
}

/// Ends the fault. Answers the names of the calls that were made, or would have been, since it was armed.
pub fn disarm() -> Vec<&'static str> {
    STATE.with_borrow_mut(|state| std::mem::take(state).names)
}

pub(super) fn change<T>(call: &Call<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let refused = STATE.with_borrow_mut(|state| {
        if state.ended {
            return Some(Errno::IO);
        }
        let number = state.changes;
        state.changes += 1;
        state.names.push(call.name());
        match state.armed {
            Some((at, Fault::Fails(errno))) if at == number => Some(errno),
            Some((at, Fault::End)) if at == number => {
                state.ended = true;
                Some(Errno::IO)
            }
            _ => None,
        }
    });
    match refused {
        Some(errno) => Err(errno),
        None => {
            let made = make()?;
            record_event(call);
            Ok(made)
        }
    }
}

/// An inode of the upper or the workdir: number and time of birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u64, pub u64);

/// A name in a directory.
pub type Slot = (InodeId, OsString);

/// A change that was made, or a sync, as a disk knows it.
#[derive(Clone, Debug)]
pub enum Event {
    /// A name leads to an inode, a new one or one that has other names.
    Add {
        /// The name.
        slot: Slot,
        /// The inode and its attributes.
        inode: InodeId,
        /// What statx(2) says of it.
        stat: Stat,
        /// Data of a file, target of a symbolic link.
        content: Vec<u8>,
    },
    /// A name is gone.
    Remove(Slot),
    /// A name is another one, and what had that one is gone.
    Move(Slot, Slot),
    /// Two names have each other's inode.
    Swap(Slot, Slot),
    /// A file has this data now.
    Data(InodeId, Vec<u8>),
    /// An inode has these attributes now.
    Attributes(InodeId, Stat),
    /// An inode is on disk: a file's data, a directory's names.
    Sync(InodeId),
    /// Everything is on disk.
    SyncAll,
}

thread_local! {
    static RECORD: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

/// Records what this thread changes from now on.
pub fn record() {
    RECORD.set(Some(Vec::new()));
}

/// How many events there are so far.
#[must_use]
pub fn recorded() -> usize {
    RECORD.with_borrow(|record| record.as_ref().map_or(0, Vec::len))
}

/// Ends the recording, and answers it.
pub fn end_record() -> Vec<Event> {
    RECORD.take().unwrap_or_default()
}

impl InodeId {
    /// The inode that a `stat` speaks of.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        Self(stat.st_ino, stat.st_birth)
    }
}

fn record_event(call: &Call<'_>) {
    if RECORD.with_borrow(Option::is_none) {
        return;
    }
    // An inode that cannot be looked at is not what this is made for: the test would be of no use.
    let event = event_of(call).unwrap_or_else(|errno| panic!("cannot record {call:?}: {errno}"));
    RECORD.with_borrow_mut(|record| record.iter_mut().for_each(|events| events.extend(event.clone())));
}

fn event_of(call: &Call<'_>) -> io::Result<Option<Event>> {
    let slot = |dir: &Dir, name: &OsStr| -> io::Result<Slot> {
        let stat = Stat::of(dir, c"", AtFlags::EMPTY_PATH)?;
        Ok((InodeId::of(&stat), name.to_owned()))
    };
    let at = |fd: &dyn AsRawFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let stat_of = |fd: std::os::fd::BorrowedFd<'_>| Stat::of(fd, c"", AtFlags::EMPTY_PATH);
    Ok(Some(match *call {
        Call::Create(dir, name)
        | Call::Mknod(dir, name)
        | Call::Mkdir(dir, name)
        | Call::Symlink(dir, name) => {
            added(slot(dir, name)?, Stat::of(dir, name, AtFlags::empty())?, &at(&dir.as_fd()), name)?
        }
        Call::Link(_, dir, name) => {
            added(slot(dir, name)?, Stat::of(dir, name, AtFlags::empty())?, &at(&dir.as_fd()), name)?
        }
        // Nobody can find it before it is linked.
        Call::CreateUnnamed(_) => return Ok(None),
        Call::Unlink(dir, name) | Call::Rmdir(dir, name) => Event::Remove(slot(dir, name)?),
        Call::Rename(dir, name, to, new) => Event::Move(slot(dir, name)?, slot(to, new)?),
        Call::Exchange(dir, name, to, new) => Event::Swap(slot(dir, name)?, slot(to, new)?),
        Call::Clone(fd)
        | Call::CopyRange(fd)
        | Call::Write(fd)
        | Call::Truncate(fd)
        | Call::Fallocate(fd) => {
            let content = std::fs::read(at(&fd)).map_err(|_| Errno::IO)?;
            Event::Data(InodeId::of(&stat_of(fd)?), content)
        }
        Call::Chmod(fd)
        | Call::Chown(fd)
        | Call::SetTimes(fd)
        | Call::SetFlags(fd)
        | Call::SetXattr(fd, _)
        | Call::RemoveXattr(fd, _) => {
            let stat = stat_of(fd)?;
            Event::Attributes(InodeId::of(&stat), stat)
        }
        Call::Fsync(fd) | Call::Fdatasync(fd) => Event::Sync(InodeId::of(&stat_of(fd)?)),
        Call::Syncfs(_) => Event::SyncAll,
    }))
}

fn added(slot: Slot, stat: Stat, dir: &str, name: &OsStr) -> io::Result<Event> {
    let path = std::path::Path::new(dir).join(name);
    let content = match stat.kind() {
        FileType::RegularFile => std::fs::read(path).map_err(|_| Errno::IO)?,
        FileType::Symlink => {
            std::fs::read_link(path).map_err(|_| Errno::IO)?.into_os_string().into_encoded_bytes()
        }
        _ => Vec::new(),
    };
    Ok(Event::Add { slot, inode: InodeId::of(&stat), stat, content })
}
