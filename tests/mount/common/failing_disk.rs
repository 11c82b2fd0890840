//! A disk that fails or does not answer on demand: in the middle of a listing, in the middle of a file.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
};
use tempfile::TempDir;

use super::{pattern, temp_dir};

/// A mounted disk with a file `f`, and a directory `d` with [`FailingDisk::FILES`] more files
/// like it, named by their numbers. Declare it before the union that uses it.
pub(crate) struct FailingDisk {
    state: Arc<State>,
    /// Unmounts when it is dropped, so it comes before the directory.
    _session: BackgroundSession,
    root: TempDir,
}

/// How the second half of every listing and of every file reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    Failing,
    /// Reads of files wait.
    Stalling,
    /// At least one read is waiting.
    Stalled,
}

struct State {
    mood: Mutex<Mood>,
    changed: Condvar,
}

impl State {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }

    fn is_failing(&self) -> bool {
        *self.mood.lock().unwrap() == Mood::Failing
    }

    /// A read of what is in the second half.
    fn wait_while_stalling(&self) {
        let mut mood = self.mood.lock().unwrap();
        if *mood == Mood::Stalling {
            *mood = Mood::Stalled;
            self.changed.notify_all();
        }
        let (mut mood, waited) =
            self.changed.wait_timeout_while(mood, PATIENCE, |mood| *mood == Mood::Stalled).unwrap();
        if waited.timed_out() {
            // A test that has gone wrong must end all the same.
            *mood = Mood::Failing;
        }
    }
}

impl FailingDisk {
    pub(crate) const FILES: u64 = 60;
    const FILE_SIZE: usize = 600_000;

    pub(crate) fn mount() -> Self {
        let root = temp_dir();
        let state = Arc::new(State { mood: Mutex::new(Mood::Well), changed: Condvar::new() });
        let disk = Disk { state: state.clone(), content: Self::content() };
        let mut config = Config::default();
        // Whoever does not read what stalls is served.
        config.n_threads = Some(4);
        let session = fuser::spawn_mount(disk, root.path(), &config).unwrap();
        Self { state, _session: session, root }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// What every file holds.
    pub(crate) fn content() -> Vec<u8> {
        pattern(11, Self::FILE_SIZE)
    }

    /// From now on the second half of every listing and of every file is unreadable.
    pub(crate) fn fail(&self) {
        self.state.set(Mood::Failing);
    }

    /// From now on whoever reads in the second half of a file waits, and everybody who asks after that.
    pub(crate) fn stall(&self) {
        self.state.set(Mood::Stalling);
    }

    /// Returns when somebody waits.
    pub(crate) fn until_stalled(&self) {
        let mood = self.state.mood.lock().unwrap();
        let stalling = |mood: &mut Mood| *mood == Mood::Stalling;
        let (mood, waited) = self.state.changed.wait_timeout_while(mood, PATIENCE, stalling).unwrap();
        drop(mood);
        assert!(!waited.timed_out(), "nobody reads");
    }

    pub(crate) fn recover(&self) {
        self.state.set(Mood::Well);
    }
}

impl Drop for FailingDisk {
    /// Nobody must wait for what is about to go.
    fn drop(&mut self) {
        self.recover();
    }
}

/// Inode 1 is the root, 2 is `d`, 3 is `f`, and 100 + n is `d/n`.
struct Disk {
    state: Arc<State>,
    content: Vec<u8>,
}

const DIR: INodeNo = INodeNo(2);
const FILE: INodeNo = INodeNo(3);
const FIRST: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(3600);

impl Disk {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_dir = ino == INodeNo::ROOT || ino == DIR;
        FileAttr {
            ino,
            size: if is_dir { 0 } else { self.content.len() as u64 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_dir { FileType::Directory } else { FileType::RegularFile },
            perm: if is_dir { 0o755 } else { 0o644 },
            nlink: if is_dir { 2 } else { 1 },
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        let found = match (parent, number) {
            (INodeNo::ROOT, _) if name == "d" => Some(DIR),
            (INodeNo::ROOT, _) if name == "f" => Some(FILE),
            (DIR, Some(n)) if n < FailingDisk::FILES => Some(INodeNo(FIRST + n)),
            _ => None,
        };
        match found {
            Some(ino) => reply.entry(&TTL, &self.attributes(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = self.content.len();
        let start = len.min(usize::try_from(offset).unwrap());
        let end = len.min(start + size as usize);
        if end > len / 2 {
            self.state.wait_while_stalling();
            if self.state.is_failing() {
                reply.error(Errno::EIO);
                return;
            }
        }
        reply.data(&self.content[start..end]);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut entries = vec![
            (INodeNo(1), FileType::Directory, ".".to_owned()),
            (INodeNo(1), FileType::Directory, "..".to_owned()),
        ];
        if ino == DIR {
            let file = |n: u64| (INodeNo(FIRST + n), FileType::RegularFile, n.to_string());
            entries.extend((0..FailingDisk::FILES).map(file));
        } else {
            entries.push((DIR, FileType::Directory, "d".to_owned()));
            entries.push((FILE, FileType::RegularFile, "f".to_owned()));
        }
        let mut readable = entries.len();
        if self.state.is_failing() && ino == DIR {
            readable /= 2;
            if offset >= readable as u64 {
                reply.error(Errno::EIO);
                return;
            }
        }
        let from = usize::try_from(offset).unwrap();
        for (at, (ino, kind, name)) in entries.into_iter().enumerate().take(readable).skip(from) {
            if reply.add(ino, at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
