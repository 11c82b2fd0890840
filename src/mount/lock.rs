//! Does another mount use this directory?
//!
//! Two locks say so. The workdir's is a file of plyfs' own, `WORKDIR/plyfs/lock`, which nobody else can open, and so
//! nobody else can hold. The upper's is on the directory itself, against a mount with another workdir; any program
//! that may read the directory can hold that one, so it counts only if a plyfs does.
//!
//! A lock belongs to a descriptor that lives as long as the daemon: no crash leaves it behind.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::{Dir, MountError};
use super::{mountinfo, place, warn_user};

/// plyfs' own directory in a workdir.
const OWN: &str = "plyfs";
const LOCK: &str = "lock";

/// How long a mount waits for an earlier daemon. After `umount` returns, the daemon of that
/// mount still needs a moment to finish; a remount at once must not fail for that.
const PATIENCE: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(5);

/// What else may use the directory at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing.
    Exclusive,
    /// Mounts that only read it.
    Shared,
}

/// What came of an attempt to lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is ours.
    Taken,
    /// Another plyfs has it, or somebody who cannot be seen.
    InUse(Option<i32>),
    /// Programs that are no plyfs have it.
    HeldByOthers(Vec<i32>),
    /// This filesystem locks nothing.
    Unsupported(Errno),
}

/// The workdir's lock, held for as long as this lives.
#[derive(Debug)]
pub(super) struct WorkLock {
    lock: OwnedFd,
    own: OwnedFd,
    work: OwnedFd,
    /// Whether plyfs' own directory was not there before.
    is_new: bool,
}

impl WorkLock {
    /// After a mount that came to nothing: a workdir that was empty is empty again.
    pub(super) fn withdraw(self) {
        if !self.is_new {
            return;
        }
        let removed = rustix::fs::unlinkat(&self.own, LOCK, AtFlags::empty())
            .and_then(|()| rustix::fs::unlinkat(&self.work, OWN, AtFlags::REMOVEDIR));
        if let Err(errno) = removed {
            // Not empty: somebody keeps something there, and so it stays.
            log::debug!("plyfs' directory in the workdir stays: {errno}");
        }
    }

    /// Whether the name still leads to what we have locked: `withdraw` removes it while it is locked.
    fn is_current(&self) -> bool {
        let named = rustix::fs::statat(&self.own, LOCK, AtFlags::SYMLINK_NOFOLLOW);
        let named = named.and_then(|named| Ok((named, rustix::fs::fstat(&self.lock)?)));
        named.is_ok_and(|(named, ours)| (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino))
    }
}

/// Takes the workdir's lock. None on a full disk: what is full must still be mounted, or nothing could be deleted
/// from it.
pub(super) fn take_workdir(work: &OwnedFd, dir: &Dir) -> Result<Option<WorkLock>, MountError> {
    loop {
        let lock = match open_work_lock(work) {
            Ok(lock) => lock,
            Err(Unusable::Full(errno)) => {
                warn_user(format_args!(
                    "{dir} has no room for a lock ({errno}): take care that no other mount uses it"
                ));
                return Ok(None);
            }
            Err(Unusable::NotOurs(what, reason)) => {
                return Err(MountError::NotOurs { path: dir.path.join(what), reason });
            }
            Err(Unusable::Sys(call, errno)) => {
                return Err(MountError::Directory { dir: dir.clone(), call, errno });
            }
        };
        match attempt(&lock.lock, Hold::Exclusive, PATIENCE, None) {
            Outcome::Taken if lock.is_current() => return Ok(Some(lock)),
            Outcome::Taken => {}
            Outcome::InUse(pid) => return Err(MountError::InUse { dir: dir.clone(), pid }),
            // Only we can open it, so it is root looking around.
            Outcome::HeldByOthers(pids) => {
                return Err(MountError::InUse { dir: dir.clone(), pid: pids.first().copied() });
            }
            Outcome::Unsupported(errno) => {
                warn_unguarded(dir, errno);
                return Ok(Some(lock));
            }
        }
    }
}

/// Locks the upper itself, for as long as the descriptor is kept.
pub(super) fn take_upper(upper: impl AsFd, hold: Hold, dir: &Dir) -> Result<(), MountError> {
    let owner = rustix::fs::fstat(&upper).ok().map(|stat| stat.st_uid);
    match attempt(upper, hold, PATIENCE, owner) {
        Outcome::Taken => {}
        Outcome::InUse(pid) => return Err(MountError::InUse { dir: dir.clone(), pid }),
        Outcome::HeldByOthers(pids) => {
            let pids: Vec<_> = pids.iter().map(i32::to_string).collect();
            warn_user(format_args!(
                "{dir} is locked by a program that is no plyfs (process {}): take care that no other mount uses it",
                pids.join(", ")
            ));
        }
        // Some network filesystems lock no directories: better unguarded than not at all.
        Outcome::Unsupported(errno) => warn_unguarded(dir, errno),
    }
    Ok(())
}

/// Locks a file that somebody wants to know by whether the mount lives.
pub(super) fn hold(path: &Path) -> Result<File, MountError> {
    let failed = |error| MountError::Process { what: "--hold", error };
    let file = File::open(path).map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::LockShared).map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

/// Waits until no daemon uses the upper any more.
pub(super) fn wait_upper(upper: impl AsFd, patience: Duration) -> Outcome {
    let owner = rustix::fs::fstat(&upper).ok().map(|stat| stat.st_uid);
    attempt(upper, Hold::Shared, patience, owner)
}

fn warn_unguarded(dir: &Dir, errno: Errno) {
    warn_user(format_args!("{dir} cannot be locked ({errno}): take care that no other mount uses it"));
}

/// Tries to lock for as long as `patience`, and waits for nobody but a plyfs of root, of this user or of `owner`.
fn attempt(fd: impl AsFd, hold: Hold, patience: Duration, owner: Option<u32>) -> Outcome {
    let operation = match hold {
        Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Hold::Shared => FlockOperation::NonBlockingLockShared,
    };
    let deadline = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&fd, operation) {
            Ok(()) => return Outcome::Taken,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                let holders = holders(&fd);
                let plyfs = holders.iter().find(|pid| is_plyfs(**pid, owner)).copied();
                if plyfs.is_none() && !holders.is_empty() {
                    return Outcome::HeldByOthers(holders);
                }
                if Instant::now() >= deadline {
                    return Outcome::InUse(plyfs);
                }
                std::thread::sleep(INTERVAL);
            }
            Err(errno) => return Outcome::Unsupported(errno),
        }
    }
}

/// Who holds a lock on it, as far as this process may see: not those of other pid namespaces.
fn holders(fd: impl AsFd) -> Vec<i32> {
    let found = place::Place::of(&fd).map_err(std::io::Error::from).and_then(|place| {
        // btrfs shows another device in stat(2) than in /proc/locks; mountinfo has the latter's.
        let mounted = mountinfo::by_id(place.mount_id)?;
        let device = mounted.and_then(|entry| {
            let (major, minor) = entry.device.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let stat = rustix::fs::fstat(&fd)?;
        let device =
            device.unwrap_or_else(|| (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)));
        Ok(parse_locks(&std::fs::read_to_string("/proc/locks")?, device, stat.st_ino))
    });
    found.unwrap_or_else(|error| {
        log::debug!("/proc/locks: {error}");
        Vec::new()
    })
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:10076117 0 EOF`. A line with `->` is somebody who waits.
fn parse_locks(table: &str, (major, minor): (u32, u32), inode: u64) -> Vec<i32> {
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    let holders = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, at, ..] = words[..] else {
            return None;
        };
        (at == place).then(|| pid.parse().ok()).flatten()
    });
    holders.collect()
}

/// Whether it is a plyfs, or cannot be seen at all. Everybody can give a process that name, so it must be somebody's
/// who could mount with this upper.
fn is_plyfs(pid: i32, owner: Option<u32>) -> bool {
    let Ok(comm) = std::fs::read(format!("/proc/{pid}/comm")) else {
        return true;
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    let may_be = [Some(0), Some(rustix::process::geteuid().as_raw()), owner];
    comm == b"plyfs\n" && uid.is_none_or(|uid: u32| may_be.contains(&Some(uid)))
}

/// Why there is no lock file.
#[derive(Debug)]
enum Unusable {
    Full(Errno),
    /// What is there, and why it is not used.
    NotOurs(&'static str, String),
    Sys(&'static str, Errno),
}

/// Opens or makes plyfs' own directory in the workdir, and the lock in it.
fn open_work_lock(work: &OwnedFd) -> Result<WorkLock, Unusable> {
    let is_new = match rustix::fs::mkdirat(work, OWN, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => return Err(Unusable::Full(errno)),
        Err(errno) => return Err(Unusable::Sys("mkdir plyfs", errno)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = rustix::fs::openat(work, OWN, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => Unusable::NotOurs(OWN, "is not a directory".to_owned()),
        errno => Unusable::Sys("open plyfs", errno),
    })?;
    keep_private(&own, OWN, FileType::Directory, Mode::RWXU)?;
    let lock = open_lock(&own)?;
    let work = work
        .try_clone()
        .map_err(|error| Unusable::Sys("dup", Errno::from_io_error(&error).unwrap_or(Errno::MFILE)))?;
    Ok(WorkLock { lock, own, work, is_new })
}

fn open_lock(own: &OwnedFd) -> Result<OwnedFd, Unusable> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let private = Mode::RUSR | Mode::WUSR;
    let what = "plyfs/lock";
    let lock = rustix::fs::openat(own, LOCK, flags, private).map_err(|errno| match errno {
        Errno::NOSPC | Errno::DQUOT => Unusable::Full(errno),
        Errno::LOOP | Errno::ISDIR | Errno::NXIO => Unusable::NotOurs(what, "is not a file".to_owned()),
        errno => Unusable::Sys("open plyfs/lock", errno),
    })?;
    keep_private(&lock, what, FileType::RegularFile, private)?;
    Ok(lock)
}

/// Checks that it is ours, and lets nobody else in.
fn keep_private(fd: &OwnedFd, what: &'static str, kind: FileType, mode: Mode) -> Result<(), Unusable> {
    let stat: Stat =
        rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).map_err(|errno| Unusable::Sys("stat", errno))?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(Unusable::NotOurs(what, "is something else".to_owned()));
    }
    let (owner, us) = (stat.st_uid, rustix::process::geteuid().as_raw());
    if owner != us {
        return Err(Unusable::NotOurs(what, format!("belongs to user {owner}, and plyfs runs as user {us}")));
    }
    let found = Mode::from_raw_mode(stat.st_mode);
    if found == mode {
        return Ok(());
    }
    // A disk that keeps no modes: whether it will do at all is for the union to say.
    if let Err(errno) = rustix::fs::fchmod(fd, mode) {
        log::debug!("{what}: chmod: {errno}");
        return Ok(());
    }
    let now: Stat =
        rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).map_err(|errno| Unusable::Sys("stat", errno))?;
    if found.intersects(Mode::WGRP | Mode::WOTH) && Mode::from_raw_mode(now.st_mode) == mode {
        // As it was: whoever could has put something into it.
        rustix::fs::fchmod(fd, found).map_err(|errno| Unusable::Sys("chmod", errno))?;
        return Err(Unusable::NotOurs(what, "can be written by others".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_those_of_this_very_directory() {
        let table = "\
1: FLOCK  ADVISORY  WRITE 25107 fe:00:10074423 0 EOF
1: -> FLOCK  ADVISORY  WRITE 7 fe:00:10074423 0 EOF
2: FLOCK  ADVISORY  READ 12 fe:00:10074423 0 EOF
3: POSIX  ADVISORY  WRITE 13 fe:00:10074423 0 EOF
4: FLOCK  ADVISORY  READ 14 fe:01:10074423 0 EOF
5: FLOCK  ADVISORY  READ 15 fe:00:1007442 0 EOF
";
        assert_eq!(parse_locks(table, (0xfe, 0), 10_074_423), [25107, 12]);
    }

    #[test]
    fn a_lock_of_another_program_is_told_from_a_mounts() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || std::fs::File::open(dir.path()).expect("open");
        let (first, second) = (open(), open());
        assert_eq!(attempt(&first, Hold::Exclusive, Duration::ZERO, None), Outcome::Taken);
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(attempt(&second, Hold::Shared, PATIENCE, None), Outcome::HeldByOthers(vec![own]));
    }
}
