//! A disk that lacks what other filesystems have, or fails or does not answer where it is told to: a small FUSE filesystem
//! that passes everything else on to a directory.
//!
//! It plays the uppers and lowers that a machine with ext4 and tmpfs does not have: vfat, NFS, other people's
//! FUSE filesystems. Like most of those it has no `O_TMPFILE`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::{self as sys, AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use tempfile::TempDir;

use super::{pattern, temp_dir};

/// What a disk may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Extended attributes: EOPNOTSUPP.
    Xattrs,
    /// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`: EINVAL.
    RenameFlags,
    /// link(2): EPERM, as vfat has it.
    HardLinks,
    /// mknod(2) of anything: ENOSYS. Files are made by open(2) only.
    Nodes,
    /// symlink(2): EPERM, as vfat has it.
    Symlinks,
    /// Owners other than one for all: chown(2) is EPERM, as vfat has it.
    Owners,
    /// Permission bits: chmod(2) to others is EPERM, as vfat has it.
    Modes,
    /// chmod(2) does nothing, as on a CIFS share or a quiet vfat.
    ModesSilently,
    /// Lower case: `a` and `A` are one name.
    Case,
}

/// What goes wrong on a disk from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trouble {
    #[default]
    None,
    /// The second half of every listing and of every file is unreadable.
    SecondHalf,
    /// Nothing in the directory of this number can be reached.
    Inside(u64, i32),
    /// Whoever reads in the second half of a file waits.
    Stalling,
    /// At least one reader is waiting.
    Stalled,
}

#[derive(Debug, Default)]
struct Troubles {
    now: Mutex<Trouble>,
    changed: Condvar,
}

impl Troubles {
    fn set(&self, trouble: Trouble) {
        *self.now.lock().unwrap() = trouble;
        self.changed.notify_all();
    }

    /// A read of what is in the second half.
    fn wait_while_stalling(&self) {
        let mut now = self.now.lock().unwrap();
        if *now == Trouble::Stalling {
            *now = Trouble::Stalled;
            self.changed.notify_all();
        }
        let stalled = |now: &mut Trouble| *now == Trouble::Stalled;
        let (mut now, waited) = self.changed.wait_timeout_while(now, PATIENCE, stalled).unwrap();
        if waited.timed_out() {
            // A test that has gone wrong must end all the same.
            *now = Trouble::SecondHalf;
        }
    }
}

/// A mounted disk. Declare it before the union that uses it.
pub(crate) struct OddDisk {
    troubles: Arc<Troubles>,
    /// Unmounts when it is dropped, so it comes before the directories.
    _session: BackgroundSession,
    root: TempDir,
    backing: TempDir,
}

impl OddDisk {
    /// How many files [`Self::with_files`] has in `d`.
    pub(crate) const FILES: usize = 60;

    /// An empty disk.
    pub(crate) fn without(lacks: &[Lack]) -> Self {
        let (root, backing) = (temp_dir(), temp_dir());
        let troubles = Arc::<Troubles>::default();
        // The kernel asks no root of ours for number 1 but by that number.
        let top = sys::open(backing.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let disk = Disk {
            lacks: lacks.to_vec(),
            troubles: troubles.clone(),
            root: fs::metadata(backing.path()).unwrap().ino(),
            inodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, Arc::new(top))])),
            files: Mutex::default(),
            listings: Mutex::default(),
            next: AtomicU64::new(1),
        };
        let mut config = Config::default();
        // Whoever does not read what stalls is served: the kernel sends no more than 12 reads ahead at once.
        config.n_threads = Some(16);
        let session = fuser::spawn_mount(disk, root.path(), &config).unwrap();
        Self { troubles, _session: session, root, backing }
    }

    /// A disk with a file `f`, and a directory `d` with more files like it, named by their numbers.
    pub(crate) fn with_files() -> Self {
        let disk = Self::without(&[]);
        let dir = disk.backing.path().join("d");
        fs::create_dir(&dir).unwrap();
        let files = (0..Self::FILES).map(|n| dir.join(n.to_string()));
        for file in files.chain([disk.backing.path().join("f")]) {
            fs::write(file, Self::content()).unwrap();
        }
        disk
    }

    /// A file on it, in directories that are made.
    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let place = self.backing.path().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// A new directory on it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        fs::create_dir(self.backing.path().join(name)).unwrap();
        self.path().join(name)
    }

    /// What every file of [`Self::with_files`] holds.
    pub(crate) fn content() -> Vec<u8> {
        pattern(11, 600_000)
    }

    /// From now on the second half of every listing and of every file is unreadable.
    pub(crate) fn fail(&self) {
        self.troubles.set(Trouble::SecondHalf);
    }

    /// From now on nothing in the directory can be reached.
    pub(crate) fn fail_inside(&self, path: &str, with: rustix::io::Errno) {
        let ino = fs::metadata(self.backing.path().join(path)).unwrap().ino();
        self.troubles.set(Trouble::Inside(ino, with.raw_os_error()));
    }

    /// From now on whoever reads in the second half of a file waits, and everybody who asks after that.
    pub(crate) fn stall(&self) {
        self.troubles.set(Trouble::Stalling);
    }

    /// Returns when somebody waits.
    pub(crate) fn until_stalled(&self) {
        let now = self.troubles.now.lock().unwrap();
        let stalling = |now: &mut Trouble| *now == Trouble::Stalling;
        let (now, waited) = self.troubles.changed.wait_timeout_while(now, PATIENCE, stalling).unwrap();
        drop(now);
        assert!(!waited.timed_out(), "nobody reads");
    }

    pub(crate) fn recover(&self) {
        self.troubles.set(Trouble::None);
    }
}

impl Drop for OddDisk {
    /// Nobody must wait for what is about to go.
    fn drop(&mut self) {
        self.recover();
    }
}

struct Disk {
    lacks: Vec<Lack>,
    troubles: Arc<Troubles>,
    /// The number on disk of what the kernel calls 1.
    root: u64,
    /// Every inode that was looked up, held until the end: so no number is given twice.
    inodes: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    listings: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
    next: AtomicU64,
}

type Listed = (INodeNo, FileType, OsString);

/// Nothing is remembered: troubles come and go.
const TTL: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(20);

/// An inode, held open while a request is about it.
struct Held(Arc<OwnedFd>);

impl Held {
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    fn entry(&self, name: &OsStr) -> PathBuf {
        self.path().join(name)
    }
}

impl Disk {
    fn lacks(&self, what: Lack) -> bool {
        self.lacks.contains(&what)
    }

    fn refuse(&self, what: Lack, errno: i32) -> io::Result<()> {
        if self.lacks(what) { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) }
    }

    fn trouble(&self) -> Trouble {
        *self.troubles.now.lock().unwrap()
    }

    /// The inode of a request that looks into it.
    fn inside(&self, ino: INodeNo) -> io::Result<Held> {
        match self.trouble() {
            Trouble::Inside(bad, errno) if bad == ino.0 => Err(io::Error::from_raw_os_error(errno)),
            _ => self.held(ino),
        }
    }

    fn held(&self, ino: INodeNo) -> io::Result<Held> {
        let held = self.inodes.lock().unwrap().get(&ino.0).cloned();
        held.map(Held).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let file = self.files.lock().unwrap().get(&handle.0).cloned();
        file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn keep(&self, file: File) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.files.lock().unwrap().insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    /// The name under which an entry is kept.
    fn kept(&self, name: &OsStr) -> OsString {
        if self.lacks(Lack::Case) { name.to_ascii_uppercase() } else { name.to_owned() }
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let parent = self.inside(parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = Held(Arc::new(sys::openat(&parent.0, self.kept(name), flags, Mode::empty())?));
        let attr = self.attributes(&found)?;
        self.inodes.lock().unwrap().entry(attr.ino.0).or_insert(found.0);
        Ok(attr)
    }

    /// What was made has the mode that was asked for, whatever the umask of the tests.
    fn made(&self, parent: INodeNo, name: &OsStr, mode: Option<u32>) -> io::Result<FileAttr> {
        if let Some(mode) = mode {
            let path = self.inside(parent)?.entry(&self.kept(name));
            fs::set_permissions(path, fs::Permissions::from_mode(self.mode(mode) & 0o7777))?;
        }
        self.find(parent, name)
    }

    /// The mode that the disk can hold.
    fn mode(&self, mode: u32) -> u32 {
        if self.lacks(Lack::Modes) || self.lacks(Lack::ModesSilently) { 0o755 } else { mode }
    }

    fn attributes(&self, held: &Held) -> io::Result<FileAttr> {
        let stat = sys::fstat(&held.0)?;
        let time = |seconds: i64, nanos| match u64::try_from(seconds) {
            Ok(after) => UNIX_EPOCH + Duration::new(after, nanos),
            Err(_) => UNIX_EPOCH,
        };
        Ok(FileAttr {
            ino: if stat.st_ino == self.root { INodeNo::ROOT } else { INodeNo(stat.st_ino) },
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            atime: time(stat.st_atime, stat.st_atime_nsec as u32),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec as u32),
            crtime: UNIX_EPOCH,
            kind: kind(sys::FileType::from_raw_mode(stat.st_mode)),
            perm: (stat.st_mode & 0o7777) as u16,
            nlink: stat.st_nlink as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev as u32,
            blksize: 4096,
            flags: 0,
        })
    }

    fn change(
        &self,
        ino: INodeNo,
        mode: Option<u32>,
        (uid, gid): (Option<u32>, Option<u32>),
        size: Option<u64>,
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
    ) -> io::Result<FileAttr> {
        let held = self.held(ino)?;
        let now = self.attributes(&held)?;
        if uid.is_some_and(|uid| uid != now.uid) || gid.is_some_and(|gid| gid != now.gid) {
            self.refuse(Lack::Owners, libc::EPERM)?;
            let (uid, gid) = (uid.map(sys::Uid::from_raw), gid.map(sys::Gid::from_raw));
            sys::chownat(&held.0, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = mode {
            if self.mode(mode) & 0o777 != mode & 0o777 {
                self.refuse(Lack::Modes, libc::EPERM)?;
            }
            fs::set_permissions(held.path(), fs::Permissions::from_mode(self.mode(mode) & 0o7777))?;
        }
        if let Some(size) = size {
            File::options().write(true).open(held.path())?.set_len(size)?;
        }
        if times.0.is_some() || times.1.is_some() {
            let times = Timestamps { last_access: timespec(times.0), last_modification: timespec(times.1) };
            sys::utimensat(&held.0, "", &times, AtFlags::EMPTY_PATH)?;
        }
        self.attributes(&held)
    }

    fn list(&self, ino: INodeNo) -> io::Result<Vec<Listed>> {
        let dots = [(ino, FileType::Directory, ".".into()), (ino, FileType::Directory, "..".into())];
        let mut listed = Vec::from(dots);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC;
        for entry in sys::Dir::new(sys::open(self.inside(ino)?.path(), flags, Mode::empty())?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                listed.push((INodeNo(entry.ino()), kind(entry.file_type()), name.to_owned()));
            }
        }
        Ok(listed)
    }
}

fn kind(kind: sys::FileType) -> FileType {
    match kind {
        sys::FileType::Directory => FileType::Directory,
        sys::FileType::Symlink => FileType::Symlink,
        sys::FileType::Fifo => FileType::NamedPipe,
        sys::FileType::Socket => FileType::Socket,
        sys::FileType::CharacterDevice => FileType::CharDevice,
        sys::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: sys::UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: sys::UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => Timespec {
            tv_sec: since(time).as_secs().try_into().unwrap(),
            tv_nsec: since(time).subsec_nanos().into(),
        },
    }
}

/// Runs what may end at any `?`.
fn tried<T>(attempt: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    attempt()
}

/// Answers a request with what `outcome` is.
macro_rules! answer {
    ($reply:ident, $outcome:expr, $done:pat => $answer:expr) => {
        match tried(|| $outcome) {
            Ok($done) => $answer,
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

/// A value, or its length for those who ask with a size of 0.
fn sized(reply: ReplyXattr, value: &[u8], size: u32) {
    match u32::try_from(value.len()).unwrap() {
        len if size == 0 => reply.size(len),
        len if len > size => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.find(parent, name), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.attributes(&self.held(ino)?), attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = || self.change(ino, mode, (uid, gid), size, (atime, mtime));
        answer!(reply, changed(), attr => reply.attr(&TTL, &attr));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = || Ok(sys::readlinkat(&self.held(ino)?.0, "", Vec::new())?);
        answer!(reply, target(), target => reply.data(target.as_bytes()));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let make = || {
            self.refuse(Lack::Nodes, libc::ENOSYS)?;
            let place = self.inside(parent)?.entry(&self.kept(name));
            let kind = sys::FileType::from_raw_mode(mode);
            sys::mknodat(CWD, place, kind, Mode::from_raw_mode(mode), rdev.into())?;
            self.made(parent, name, Some(mode))
        };
        answer!(reply, make(), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let make = || {
            fs::create_dir(self.inside(parent)?.entry(&self.kept(name)))?;
            self.made(parent, name, Some(mode))
        };
        answer!(reply, make(), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, fs::remove_file(self.inside(parent)?.entry(&self.kept(name))), () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, fs::remove_dir(self.inside(parent)?.entry(&self.kept(name))), () => reply.ok());
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = || {
            self.refuse(Lack::Symlinks, libc::EPERM)?;
            std::os::unix::fs::symlink(target, self.inside(parent)?.entry(&self.kept(name)))?;
            self.made(parent, name, None)
        };
        answer!(reply, make(), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            if !flags.is_empty() {
                self.refuse(Lack::RenameFlags, libc::EINVAL)?;
            }
            let (from, to) = (self.inside(parent)?, self.inside(new_parent)?);
            let flags = sys::RenameFlags::from_bits_retain(flags.bits());
            Ok(sys::renameat_with(&from.0, self.kept(name), &to.0, self.kept(new_name), flags)?)
        };
        answer!(reply, rename(), () => reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let link = || {
            self.refuse(Lack::HardLinks, libc::EPERM)?;
            let (from, to) = (self.held(ino)?.path(), self.inside(parent)?.entry(&self.kept(name)));
            sys::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)?;
            self.made(parent, name, None)
        };
        answer!(reply, link(), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        // Who reads leaves no trace: a lower must be as it was.
        let mut options = File::options();
        options.read(true).write(writes).custom_flags(libc::O_NOATIME);
        let open = || options.open(self.held(ino)?.path());
        answer!(reply, open(), file => reply.opened(self.keep(file), FopenFlags::empty()));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let make = || {
            let place = self.inside(parent)?.entry(&self.kept(name));
            let file = File::options().read(true).write(true).create_new(true).open(place)?;
            Ok((self.made(parent, name, Some(mode))?, file))
        };
        answer!(reply, make(), (attr, file) => {
            reply.created(&TTL, &attr, Generation(0), self.keep(file), FopenFlags::empty());
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            let file = self.file(handle)?;
            let len = file.metadata()?.len();
            if len.min(offset + u64::from(size)) > len / 2 {
                self.troubles.wait_while_stalling();
                if self.trouble() == Trouble::SecondHalf {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
            }
            let mut buffer = vec![0; size as usize];
            let read = file.read_at(&mut buffer, offset)?;
            buffer.truncate(read);
            Ok(buffer)
        };
        answer!(reply, read(), data => reply.data(&data));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || self.file(handle)?.write_all_at(data, offset);
        answer!(reply, write(), () => reply.written(u32::try_from(data.len()).unwrap()));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().unwrap().remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.file(handle)?.sync_data(), () => reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.list(ino), listed => {
            let handle = self.next.fetch_add(1, Ordering::Relaxed);
            self.listings.lock().unwrap().insert(handle, Arc::new(listed));
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.listings.lock().unwrap().get(&handle.0).cloned().unwrap_or_default();
        let failing = self.trouble() == Trouble::SecondHalf && ino != INodeNo::ROOT;
        let readable = if failing { listed.len() / 2 } else { listed.len() };
        let from = usize::try_from(offset).unwrap();
        if failing && from >= readable {
            return reply.error(Errno::EIO);
        }
        for (at, (ino, kind, name)) in listed.iter().enumerate().take(readable).skip(from) {
            if reply.add(*ino, at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().unwrap().remove(&handle.0);
        reply.ok();
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let set = || {
            self.refuse(Lack::Xattrs, libc::EOPNOTSUPP)?;
            let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
            Ok(sys::setxattr(self.held(ino)?.path(), name, value, flags)?)
        };
        answer!(reply, set(), () => reply.ok());
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let get = || {
            self.refuse(Lack::Xattrs, libc::EOPNOTSUPP)?;
            let mut value = vec![0; 64 * 1024];
            let len = sys::getxattr(self.inside(ino)?.path(), name, &mut value)?;
            value.truncate(len);
            Ok(value)
        };
        answer!(reply, get(), value => sized(reply, &value, size));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || {
            self.refuse(Lack::Xattrs, libc::EOPNOTSUPP)?;
            let mut list = vec![0; 64 * 1024];
            let len = sys::listxattr(self.inside(ino)?.path(), &mut list)?;
            list.truncate(len);
            Ok(list)
        };
        answer!(reply, list(), list => sized(reply, &list, size));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || {
            self.refuse(Lack::Xattrs, libc::EOPNOTSUPP)?;
            Ok(sys::removexattr(self.held(ino)?.path(), name)?)
        };
        answer!(reply, remove(), () => reply.ok());
    }
}
