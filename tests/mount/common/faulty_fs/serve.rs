//! How is the kernel answered?

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{self as sys, AtFlags, CWD, Mode, XattrFlags};

use super::backing::Backing;
use super::fault::{Call, Fault};
use super::missing::MissingFeature;

/// Nothing is remembered: faults come and go.
const TTL: Duration = Duration::ZERO;

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

impl Filesystem for Backing {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.find(parent, name), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.attributes(&self.inode(ino)?), attr => reply.attr(&TTL, &attr));
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
        let changed = || {
            self.faults.meet(Call::Change)?;
            self.change(ino, mode, (uid, gid), size, (atime, mtime))
        };
        answer!(reply, changed(), attr => reply.attr(&TTL, &attr));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = || Ok(sys::readlinkat(&self.inode(ino)?.fd, "", Vec::new())?);
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
            self.faults.meet(Call::Change)?;
            self.refuse(MissingFeature::Nodes, libc::ENOSYS)?;
            let place = self.inside(parent)?.entry(&self.kept(name));
            let kind = sys::FileType::from_raw_mode(mode);
            sys::mknodat(CWD, place, kind, Mode::from_raw_mode(mode), rdev.into())?;
            self.made(parent, name, Some(mode))
        };
        answer!(reply, make(), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let make = || {
            self.faults.meet(Call::Change)?;
            fs::create_dir(self.inside(parent)?.entry(&self.kept(name)))?;
            self.made(parent, name, Some(mode))
        };
        answer!(reply, make(), attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || {
            self.faults.meet(Call::Unlink)?;
            fs::remove_file(self.inside(parent)?.entry(&self.kept(name)))
        };
        answer!(reply, remove(), () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || {
            self.faults.meet(Call::Change)?;
            fs::remove_dir(self.inside(parent)?.entry(&self.kept(name)))
        };
        answer!(reply, remove(), () => reply.ok());
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = || {
            self.faults.meet(Call::Change)?;
            self.refuse(MissingFeature::Symlinks, libc::EPERM)?;
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
            self.faults.meet(Call::Change)?;
            if !flags.is_empty() {
                self.refuse(MissingFeature::RenameFlags, libc::EINVAL)?;
            }
            let (from, to) = (self.inside(parent)?, self.inside(new_parent)?);
            let flags = sys::RenameFlags::from_bits_retain(flags.bits());
            Ok(sys::renameat_with(&from.fd, self.kept(name), &to.fd, self.kept(new_name), flags)?)
        };
        answer!(reply, rename(), () => reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let link = || {
            self.faults.meet(Call::Change)?;
            self.refuse(MissingFeature::HardLinks, libc::EPERM)?;
            let (from, to) = (self.inode(ino)?.path(), self.inside(parent)?.entry(&self.kept(name)));
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
        let open = || options.open(self.inode(ino)?.path());
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
            self.faults.meet(Call::Change)?;
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
        ino: INodeNo,
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
            self.may_read(ino, len.min(offset + u64::from(size)) > len / 2)?;
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
        let write = || {
            self.faults.meet(Call::Change)?;
            self.file(handle)?.write_all_at(data, offset)
        };
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
        self.close(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = || {
            self.faults.meet(Call::Sync)?;
            self.file(handle)?.sync_data()
        };
        answer!(reply, sync(), () => reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.list(ino), listed => {
            reply.opened(self.keep_listing(listed), FopenFlags::empty());
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        // Who begins anew sees what came since: rewinddir(3).
        let listed = if offset == 0 { self.list_again(ino, handle) } else { Ok(self.listing(handle)) };
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(Errno::from(error)),
        };
        let failing = *self.faults.now() == Fault::SecondHalf && ino != INodeNo::ROOT;
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
        self.close_listing(handle);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.faults.meet(Call::Sync), () => reply.ok());
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
            self.faults.meet(Call::Change)?;
            self.refuse(MissingFeature::Xattrs, libc::EOPNOTSUPP)?;
            let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
            Ok(sys::setxattr(self.inode(ino)?.path(), name, value, flags)?)
        };
        answer!(reply, set(), () => reply.ok());
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let get = || {
            self.refuse(MissingFeature::Xattrs, libc::EOPNOTSUPP)?;
            let mut value = vec![0; 64 * 1024];
            let len = sys::getxattr(self.inside(ino)?.path(), name, &mut value)?;
            value.truncate(len);
            Ok(value)
        };
        answer!(reply, get(), value => sized(reply, &value, size));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || {
            self.refuse(MissingFeature::Xattrs, libc::EOPNOTSUPP)?;
            let mut list = vec![0; 64 * 1024];
            let len = sys::listxattr(self.inside(ino)?.path(), &mut list)?;
            list.truncate(len);
            Ok(list)
        };
        answer!(reply, list(), list => sized(reply, &list, size));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || {
            self.faults.meet(Call::Change)?;
            self.refuse(MissingFeature::Xattrs, libc::EOPNOTSUPP)?;
            Ok(sys::removexattr(self.inode(ino)?.path(), name)?)
        };
        answer!(reply, remove(), () => reply.ok());
    }
}
