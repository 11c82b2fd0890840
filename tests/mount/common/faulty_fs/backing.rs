//! Where is an inode of the filesystem in the directory behind it?

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, INodeNo, TimeOrNow};
use rustix::fs::{self as sys, AtFlags, Mode, OFlags, Timespec, Timestamps};

use super::fault::{Call, Fault, Faults};
use super::missing::MissingFeature;

/// Which numbers do inodes show?
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// How often they were forgotten.
    age: AtomicU64,
}

impl Numbers {
    /// No inode of a test's directory has a number of so many bits.
    const BITS: u32 = 40;
    /// libfuse's FUSE_UNKNOWN_INO.
    const UNKNOWN: INodeNo = INodeNo(0xffff_ffff);

    pub(super) fn forget_all(&self) {
        self.age.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, real: u64) -> INodeNo {
        INodeNo(real | self.age.load(Ordering::Relaxed) << Self::BITS)
    }
}

/// The directory, and what the kernel knows of it.
pub(super) struct Backing {
    missing: Vec<MissingFeature>,
    pub(super) faults: Arc<Faults>,
    numbers: Arc<Numbers>,
    /// The number on disk of what the kernel calls 1.
    root: u64,
    /// Every inode that was looked up, held until the end: so no number is given twice.
    inodes: Mutex<HashMap<u64, Inode>>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    listings: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
    /// The handles of listings whose beginning was read.
    begun: Mutex<HashSet<u64>>,
    next: AtomicU64,
}

pub(super) type Listed = (INodeNo, FileType, OsString);

/// An inode, held open while a request is about it.
#[derive(Clone)]
pub(super) struct Inode {
    pub(super) fd: Arc<OwnedFd>,
    shown: INodeNo,
    real: u64,
}

impl Inode {
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    pub(super) fn entry(&self, name: &OsStr) -> PathBuf {
        self.path().join(name)
    }
}

impl Backing {
    pub(super) fn of(
        dir: &Path,
        missing: &[MissingFeature],
        faults: Arc<Faults>,
        numbers: Arc<Numbers>,
    ) -> Self {
        // The kernel asks for a root by the number 1 only.
        let fd = Arc::new(sys::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap());
        let root = fs::metadata(dir).unwrap().ino();
        let top = Inode { fd, shown: INodeNo::ROOT, real: root };
        Self {
            missing: missing.to_vec(),
            faults,
            numbers,
            root,
            inodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, top)])),
            files: Mutex::default(),
            listings: Mutex::default(),
            begun: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    pub(super) fn lacks(&self, what: MissingFeature) -> bool {
        self.missing.contains(&what)
    }

    pub(super) fn refuse(&self, what: MissingFeature, errno: i32) -> io::Result<()> {
        if self.lacks(what) { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) }
    }

    /// Answers a read, unless it fails or waits.
    pub(super) fn may_read(&self, ino: INodeNo, second_half: bool) -> io::Result<()> {
        let file = self.inode(ino)?.real;
        self.faults.meet(Call::Read { file, second_half })
    }

    /// The inode of a request that looks into it.
    pub(super) fn inside(&self, ino: INodeNo) -> io::Result<Inode> {
        let inode = self.inode(ino)?;
        match *self.faults.now() {
            Fault::Inside(bad, errno) if bad == inode.real => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(inode),
        }
    }

    pub(super) fn inode(&self, ino: INodeNo) -> io::Result<Inode> {
        let inode = self.inodes.lock().unwrap().get(&ino.0).cloned();
        inode.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    pub(super) fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let file = self.files.lock().unwrap().get(&handle.0).cloned();
        file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    pub(super) fn keep(&self, file: File) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.files.lock().unwrap().insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    pub(super) fn close(&self, handle: FileHandle) {
        self.files.lock().unwrap().remove(&handle.0);
    }

    pub(super) fn keep_listing(&self, listed: Vec<Listed>) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.listings.lock().unwrap().insert(handle, Arc::new(listed));
        FileHandle(handle)
    }

    pub(super) fn list_again(&self, ino: INodeNo, handle: FileHandle) -> io::Result<Arc<Vec<Listed>>> {
        let cannot = self.lacks(MissingFeature::Rewinding) && !self.begun.lock().unwrap().insert(handle.0);
        let listed = Arc::new(if cannot { Vec::new() } else { self.list(ino)? });
        self.listings.lock().unwrap().insert(handle.0, Arc::clone(&listed));
        Ok(listed)
    }

    pub(super) fn listing(&self, handle: FileHandle) -> Arc<Vec<Listed>> {
        self.listings.lock().unwrap().get(&handle.0).cloned().unwrap_or_default()
    }

    pub(super) fn close_listing(&self, handle: FileHandle) {
        self.listings.lock().unwrap().remove(&handle.0);
    }

    /// The name under which an entry is kept.
    pub(super) fn kept(&self, name: &OsStr) -> OsString {
        if self.lacks(MissingFeature::Case) { name.to_ascii_uppercase() } else { name.to_owned() }
    }

    pub(super) fn find(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let parent = self.inside(parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = Arc::new(sys::openat(&parent.fd, self.kept(name), flags, Mode::empty())?);
        let real = sys::fstat(&fd)?.st_ino;
        let shown = if real == self.root { INodeNo::ROOT } else { self.numbers.of(real) };
        let found = Inode { fd, shown, real };
        let attr = self.attributes(&found)?;
        self.inodes.lock().unwrap().entry(shown.0).or_insert(found);
        Ok(attr)
    }

    /// What was made has the mode that was asked for, whatever the umask of the tests.
    pub(super) fn made(&self, parent: INodeNo, name: &OsStr, mode: Option<u32>) -> io::Result<FileAttr> {
        if let Some(mode) = mode {
            let path = self.inside(parent)?.entry(&self.kept(name));
            fs::set_permissions(path, fs::Permissions::from_mode(self.mode(mode) & 0o7777))?;
        }
        self.find(parent, name)
    }

    /// The mode that the disk can hold.
    fn mode(&self, mode: u32) -> u32 {
        if self.lacks(MissingFeature::Modes) || self.lacks(MissingFeature::ModesSilently) {
            0o755
        } else {
            mode
        }
    }

    pub(super) fn attributes(&self, inode: &Inode) -> io::Result<FileAttr> {
        let stat = sys::fstat(&inode.fd)?;
        let time = |seconds: i64, nanos| match u64::try_from(seconds) {
            Ok(after) => UNIX_EPOCH + Duration::new(after, nanos),
            Err(_) => UNIX_EPOCH,
        };
        Ok(FileAttr {
            ino: inode.shown,
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

    pub(super) fn change(
        &self,
        ino: INodeNo,
        mode: Option<u32>,
        (uid, gid): (Option<u32>, Option<u32>),
        size: Option<u64>,
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
    ) -> io::Result<FileAttr> {
        let inode = self.inode(ino)?;
        let now = self.attributes(&inode)?;
        if uid.is_some_and(|uid| uid != now.uid) || gid.is_some_and(|gid| gid != now.gid) {
            self.refuse(MissingFeature::Owners, libc::EPERM)?;
            let (uid, gid) = (uid.map(sys::Uid::from_raw), gid.map(sys::Gid::from_raw));
            sys::chownat(&inode.fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = mode {
            if self.mode(mode) & 0o777 != mode & 0o777 {
                self.refuse(MissingFeature::Modes, libc::EPERM)?;
            }
            fs::set_permissions(inode.path(), fs::Permissions::from_mode(self.mode(mode) & 0o7777))?;
        }
        if let Some(size) = size {
            File::options().write(true).open(inode.path())?.set_len(size)?;
        }
        if times.0.is_some() || times.1.is_some() {
            let times = Timestamps { last_access: timespec(times.0), last_modification: timespec(times.1) };
            sys::utimensat(&inode.fd, "", &times, AtFlags::EMPTY_PATH)?;
        }
        self.attributes(&inode)
    }

    pub(super) fn list(&self, ino: INodeNo) -> io::Result<Vec<Listed>> {
        let dots = [(ino, FileType::Directory, ".".into()), (ino, FileType::Directory, "..".into())];
        let mut listed = Vec::from(dots);
        let without = self.lacks(MissingFeature::NumbersInListings);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC;
        for entry in sys::Dir::new(sys::open(self.inside(ino)?.path(), flags, Mode::empty())?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                let ino = if without { Numbers::UNKNOWN } else { self.numbers.of(entry.ino()) };
                listed.push((ino, kind(entry.file_type()), name.to_owned()));
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
