//! What comes of an operation on one of the two trees?

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode as Bits, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fallocate, fchmod, fchown, fsetxattr, fsync,
    ftruncate, futimens, lgetxattr, linkat, lremovexattr, lsetxattr, makedev, mkdirat, mknodat, openat,
    readlinkat, renameat_with, seek, statx, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite, writev};
use rustix::process::umask;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::accepted::listed_to;
use super::layer::pattern;
use super::look::{Shape, look, shape, xattr_names};
use super::op::{Mode, Op, SLOTS, SetTime, Slot, Step};
use super::times::Clock;

/// One of the two trees, with its open files.
pub(crate) struct Side {
    pub(crate) root: PathBuf,
    pub(crate) clock: Clock,
    open: [Option<OwnedFd>; SLOTS],
}

/// What an operation answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    Done,
    Count(usize),
    Bytes(Vec<u8>),
    Shape(Shape),
    Names(BTreeMap<String, FileType>),
    XattrNames(Vec<String>),
}

pub(crate) type Outcome = Result<Seen, Errno>;

impl Side {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, clock: Clock::default(), open: Default::default() }
    }

    pub(crate) fn close_all(&mut self) {
        self.open = Default::default();
    }

    /// Does one step.
    pub(crate) fn play(&mut self, step: &Step, seed: u8) -> Outcome {
        let mut clock = std::mem::take(&mut self.clock);
        let outcome = clock.time(|| {
            let _user = As::user(step.user);
            self.act(&step.op, seed)
        });
        self.clock = clock;
        let outcome = match outcome {
            Ok(Seen::XattrNames(names)) => Ok(Seen::XattrNames(listed_to(step.user, names))),
            outcome => outcome,
        };
        // Its time is looked up when the clock has gone on.
        match (&step.op, outcome) {
            (Op::Lstat(path), Ok(_)) => {
                look(&path.under(&self.root), &self.clock).map(|(shape, _)| Seen::Shape(shape))
            }
            (Op::FdStat(slot), Ok(_)) => self.fd(*slot).and_then(|fd| self.stat_fd(fd)),
            (_, outcome) => outcome,
        }
    }

    fn act(&mut self, op: &Op, seed: u8) -> Outcome {
        let bits = Bits::from_raw_mode;
        match op {
            Op::Create { path, mode, umask, exclusive, slot } => {
                let flags = OFlags::CREATE | OFlags::RDWR;
                let flags = if *exclusive { flags | OFlags::EXCL } else { flags };
                let path = path.under(&self.root);
                let file = masked(*umask, || openat(CWD, &path, flags | OFlags::CLOEXEC, bits(*mode)));
                self.keep(*slot, file)
            }
            Op::Open { path, how, slot } => {
                let flags = match how {
                    Mode::Read => OFlags::RDONLY,
                    Mode::Write => OFlags::WRONLY,
                    Mode::Both => OFlags::RDWR,
                    Mode::Append => OFlags::WRONLY | OFlags::APPEND,
                    Mode::Truncate => OFlags::RDWR | OFlags::TRUNC,
                    Mode::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
                };
                let file = self.open(path, flags);
                self.keep(*slot, file)
            }
            Op::Read(path) => {
                let file = self.open(path, OFlags::RDONLY)?;
                regular(&file)?;
                read_at(&file, 0, 1 << 20)
            }
            Op::Write { path, offset, len } => {
                let file = self.open(path, OFlags::WRONLY)?;
                regular(&file)?;
                pwrite(&file, &pattern(seed, *len), *offset).map(Seen::Count)
            }
            Op::Append { path, len } => {
                let file = self.open(path, OFlags::WRONLY | OFlags::APPEND)?;
                regular(&file)?;
                writev(&file, &[IoSlice::new(&pattern(seed, *len))]).map(Seen::Count)
            }
            Op::Truncate { path, len } => {
                // truncate(2) itself has no safe wrapper; its checks are those of an open.
                let file = self.open(path, OFlags::WRONLY)?;
                done(ftruncate(&file, *len))
            }
            Op::Unlink(path) => done(unlinkat(CWD, path.under(&self.root), AtFlags::empty())),
            Op::Rmdir(path) => done(unlinkat(CWD, path.under(&self.root), AtFlags::REMOVEDIR)),
            Op::Mkdir { path, mode, umask } => {
                done(masked(*umask, || mkdirat(CWD, path.under(&self.root), bits(*mode))))
            }
            Op::Symlink { path, target } => done(symlinkat(*target, CWD, path.under(&self.root))),
            Op::Mknod { path, kind, device, mode, umask } => {
                let device = makedev(device.0, device.1);
                done(masked(*umask, || mknodat(CWD, path.under(&self.root), *kind, bits(*mode), device)))
            }
            Op::Link { from, to } => {
                done(linkat(CWD, from.under(&self.root), CWD, to.under(&self.root), AtFlags::empty()))
            }
            Op::Rename { from, to, flags } => {
                self.rename(from.under(&self.root), to.under(&self.root), *flags)
            }
            Op::Chmod { path, mode } => done(chmod(path.under(&self.root), bits(*mode))),
            Op::Chown { path, owner, group, follow } => {
                let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
                done(chownat(CWD, path.under(&self.root), owner, group, at_flags(*follow)))
            }
            Op::Utimens { path, time, follow } => {
                done(utimensat(CWD, path.under(&self.root), &times(*time), at_flags(*follow)))
            }
            Op::SetXattr { path, key, value, flags } => {
                done(lsetxattr(path.under(&self.root), *key, value.as_bytes(), *flags))
            }
            Op::GetXattr { path, key } => {
                let mut value = vec![0; 100];
                let len = lgetxattr(path.under(&self.root), *key, &mut *value)?;
                value.truncate(len);
                Ok(Seen::Bytes(value))
            }
            Op::RemoveXattr { path, key } => done(lremovexattr(path.under(&self.root), *key)),
            Op::ListXattr(path) => xattr_names(&path.under(&self.root)).map(Seen::XattrNames),
            Op::List(path) => list(&self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?),
            Op::Stat(path) => done(self.open(path, OFlags::PATH).map(|_| ())),
            Op::Lstat(path) => look(&path.under(&self.root), &self.clock).map(|_| Seen::Done),
            Op::ReadLink(path) => {
                readlinkat(CWD, path.under(&self.root), Vec::new()).map(|t| Seen::Bytes(t.into_bytes()))
            }
            Op::Close(slot) => {
                self.open[*slot] = None;
                Ok(Seen::Done)
            }
            Op::Compare | Op::Remount | Op::Snapshot => Ok(Seen::Done),
            _ => self.act_on_open(op, seed),
        }
    }

    fn act_on_open(&mut self, op: &Op, seed: u8) -> Outcome {
        match op {
            Op::FdStat(slot) => self.fd(*slot).map(|_| Seen::Done),
            Op::FdRead { slot, offset, len } => read_at(self.fd(*slot)?, *offset, *len),
            Op::FdWrite { slot, offset, len } => {
                pwrite(self.fd(*slot)?, &pattern(seed, *len), *offset).map(Seen::Count)
            }
            Op::FdWriteOn { slot, len } => {
                writev(self.fd(*slot)?, &[IoSlice::new(&pattern(seed, *len))]).map(Seen::Count)
            }
            Op::FdTruncate { slot, len } => done(ftruncate(self.fd(*slot)?, *len)),
            Op::FdChmod { slot, mode } => done(fchmod(self.fd(*slot)?, Bits::from_raw_mode(*mode))),
            Op::FdChown { slot, owner } => done(fchown(self.fd(*slot)?, Some(Uid::from_raw(*owner)), None)),
            Op::FdUtimens { slot, time } => done(futimens(self.fd(*slot)?, &times(*time))),
            Op::FdSetXattr { slot, key, value } => {
                done(fsetxattr(self.fd(*slot)?, *key, value.as_bytes(), XattrFlags::empty()))
            }
            Op::FdAllocate { slot, how, offset, len } => {
                done(fallocate(self.fd(*slot)?, *how, *offset, *len))
            }
            Op::FdSync(slot) => done(fsync(self.fd(*slot)?)),
            Op::FdList(slot) => list(self.fd(*slot)?),
            Op::FdCopy { from, to, offset, len } => {
                let (mut at_from, mut at_to) = (0, *offset);
                let (from, to) = (self.fd(*from)?, self.fd(*to)?);
                rustix::fs::copy_file_range(from, Some(&mut at_from), to, Some(&mut at_to), *len)
                    .map(Seen::Count)
            }
            Op::FdCreate { slot, name } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let dir = self.fd(*slot)?;
                done(masked(0o022, || openat(dir, *name, flags, Bits::from_raw_mode(0o666))).map(|_| ()))
            }
            Op::FdUnlink { slot, name } => done(unlinkat(self.fd(*slot)?, *name, AtFlags::empty())),
            _ => unreachable!("{op:?} has no open file"),
        }
    }

    fn rename(&self, from: PathBuf, to: PathBuf, flags: RenameFlags) -> Outcome {
        done(renameat_with(CWD, from, CWD, to, flags))
    }

    fn open(&self, path: &super::name::Where, flags: OFlags) -> Result<OwnedFd, Errno> {
        // No fifo shall keep us waiting.
        openat(CWD, path.under(&self.root), flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Bits::empty())
    }

    fn keep(&mut self, slot: Slot, file: Result<OwnedFd, Errno>) -> Outcome {
        let file = file?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        // What is written to a device or a fifo is not kept by a tree.
        let kept = matches!(kind, FileType::RegularFile | FileType::Directory);
        self.open[slot] = kept.then_some(file);
        Ok(Seen::Done)
    }

    fn fd(&self, slot: Slot) -> Result<&OwnedFd, Errno> {
        self.open[slot].as_ref().ok_or(Errno::BADF)
    }

    fn stat_fd(&self, fd: impl AsFd) -> Outcome {
        let wanted = rustix::fs::StatxFlags::BASIC_STATS;
        let stat = statx(fd, "", AtFlags::EMPTY_PATH, wanted)?;
        Ok(Seen::Shape(shape(&stat, &self.clock).0))
    }
}

fn done(outcome: Result<(), Errno>) -> Outcome {
    outcome.map(|()| Seen::Done)
}

/// Devices and fifos are opened, and no more.
fn regular(file: impl AsFd) -> Result<(), Errno> {
    match FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) {
        FileType::RegularFile | FileType::Directory => Ok(()),
        _ => Err(Errno::NOTSUP),
    }
}

fn read_at(file: impl AsFd, offset: u64, len: usize) -> Outcome {
    let mut bytes = vec![0; len];
    let len = pread(file, &mut *bytes, offset)?;
    bytes.truncate(len);
    Ok(Seen::Bytes(bytes))
}

fn list(dir: &OwnedFd) -> Outcome {
    seek(dir, SeekFrom::Start(0))?;
    let mut names = BTreeMap::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        assert_eq!(names.insert(name.clone(), entry.file_type()), None, "{name} is listed twice");
    }
    Ok(Seen::Names(names))
}

fn at_flags(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn times(time: SetTime) -> Timestamps {
    let modification = match time {
        SetTime::To((tv_sec, tv_nsec)) => Timespec { tv_sec, tv_nsec },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    let access = match time {
        SetTime::Keep => Timespec { tv_sec: 77, tv_nsec: 7 },
        _ => modification,
    };
    Timestamps { last_access: access, last_modification: modification }
}

fn masked<T>(mask: u32, act: impl FnOnce() -> T) -> T {
    let before = umask(Bits::from_raw_mode(mask));
    let outcome = act();
    umask(before);
    outcome
}

/// This thread acts as a user, until it is dropped.
struct As;

impl As {
    fn user(id: u32) -> Self {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        set_thread_groups(&[]).expect("root");
        set_thread_res_gid(None, gid, None).expect("root");
        set_thread_res_uid(None, uid, None).expect("root");
        Self
    }
}

impl Drop for As {
    fn drop(&mut self) {
        set_thread_res_uid(None, Uid::ROOT, None).expect("the saved id is root's");
        set_thread_res_gid(None, Gid::ROOT, None).expect("root");
    }
}
