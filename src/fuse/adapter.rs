//! Which call of the union answers which request?
//!
//! Decode, one call, reply: nothing is decided here. Opens are not answered at all, once, and the kernel
//! then sends every request by node, without OPEN, RELEASE, OPENDIR, RELEASEDIR and FLUSH. What is
//! cached is cached for a day: while a union is mounted its branches are ours, and every change goes
//! through the kernel, which knows what it has to forget.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FileType, SeekFrom, XattrFlags};

use super::convert::{bare_attr, device_number, errno, file_attr, file_type, node, set_time};
use super::listeners::Listeners;
use super::messages::{Message, Messages};
use crate::branch::{Caller, FileCapabilities};
use crate::control::MESSAGES;
use crate::error::{Error, Result};
use crate::rules::ids::IdMaps;
use crate::union::{Changes, Found, Looked, NewNode, NodeId, RenameMode, Union, Written};

/// How long the kernel may remember what it was told.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Numbers are not reused while the kernel knows them, so there is one generation.
const GENERATION: Generation = Generation(0);

/// What we ask of the kernel; all of it is optional.
const WANTED: [InitFlags; 9] = [
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_ASYNC_DIO,
];

thread_local! {
    /// Each event loop answers one read at a time.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers the kernel from a union.
#[derive(Debug)]
pub struct Adapter {
    union: Arc<Union>,
    ids: IdMaps,
    notifier: Arc<OnceLock<Notifier>>,
    messages: Messages,
    listeners: Arc<Listeners>,
}

impl Adapter {
    /// An adapter in front of `union` that shows ids by `ids`.
    #[must_use]
    pub fn new(union: Arc<Union>, ids: IdMaps) -> Self {
        Self {
            union,
            ids,
            notifier: Arc::default(),
            messages: Messages::default(),
            listeners: Arc::default(),
        }
    }

    /// Where the session's notifier goes once there is one.
    #[must_use]
    pub fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.notifier)
    }

    /// The session's event loops, as far as they have answered something.
    #[must_use]
    pub fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(&self.listeners)
    }

    /// The kernel has asked for suid and sgid to go, and does not expect that they are gone.
    fn tell_of_mode(&self, ino: INodeNo, written: Result<Written>) -> Result<usize> {
        let Written { bytes, mode_changed } = written?;
        if mode_changed
            && let Some(notifier) = self.notifier.get()
            // A negative offset: the attributes, and no data.
            && let Err(e) = notifier.inval_inode(ino, -1, 0)
        {
            log::warn!("the kernel may show suid or sgid on node {} for a while: {e}", ino.0);
        }
        Ok(bytes)
    }

    fn serve(&self, message: Message, answer: impl FnOnce()) {
        self.messages.count(message);
        self.listeners.answer(|| guarded(answer));
    }

    fn caller(&self, request: &Request, umask: u32) -> Result<Caller> {
        Ok(Caller { uid: self.uid_on_disk(request.uid())?, gid: self.gid_on_disk(request.gid())?, umask })
    }

    fn uid_on_disk(&self, uid: u32) -> Result<u32> {
        self.ids.uid.disk(uid).ok_or(Error::UnmappedId(uid))
    }

    fn gid_on_disk(&self, gid: u32) -> Result<u32> {
        self.ids.gid.disk(gid).ok_or(Error::UnmappedId(gid))
    }

    fn make(
        &self,
        request: &Request,
        umask: u32,
        parent: INodeNo,
        name: &OsStr,
        new: NewNode<'_>,
    ) -> Result<Looked> {
        let caller = self.caller(request, umask)?;
        self.union.make(node(parent), name, new, caller)
    }

    fn entry(&self, reply: ReplyEntry, looked: Result<Looked>) {
        match looked {
            Ok(Looked { attr, name_is_stable }) => {
                let name_ttl = if name_is_stable { DAY } else { Duration::ZERO };
                let attr = file_attr(&attr, &self.ids);
                reply.entry_with_ttls(&DAY, &name_ttl, &attr, GENERATION);
            }
            Err(e) => reply.error(errno(&e)),
        }
    }
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

/// A panic would end the event loop and with it the mount. The request's reply is dropped on the way,
/// which answers EIO.
fn guarded(answer: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(answer)).is_err() {
        log::error!("a request was given up; this is a defect of plyfs, please report it");
    }
}

/// Whether suid and sgid survive a change of the file's data by this user.
fn capabilities_of(request: &Request) -> FileCapabilities {
    if request.uid() == 0 { FileCapabilities::Keep } else { FileCapabilities::Strip }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in WANTED {
            if let Err(missing) = config.add_capabilities(flag) {
                log::info!("this kernel has no {missing:?}");
            }
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve(Message::Lookup, || match self.union.lookup(node(parent), name) {
            Ok(Some(looked)) => self.entry(reply, Ok(looked)),
            // Number 0 says "there is nothing", and for how long that holds.
            Ok(None) => {
                reply.entry(&DAY, &bare_attr(NodeId(0), FileType::RegularFile), GENERATION);
            }
            Err(e) => reply.error(errno(&e)),
        });
    }

    /// fuser takes batches apart itself.
    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.messages.count(Message::Forget);
        self.listeners.take_one_of_many(|| guarded(|| self.union.forget(node(ino), lookups)));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(Message::Getattr, || match self.union.getattr(node(ino)) {
            Ok(attr) => reply.attr(&DAY, &file_attr(&attr, &self.ids)),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.serve(Message::Setattr, || {
            let changed = || {
                let changes = Changes {
                    mode,
                    // Where all owners are shown as one, there is nothing to change.
                    uid: uid
                        .filter(|_| !self.ids.uid.is_squashed())
                        .map(|uid| self.uid_on_disk(uid))
                        .transpose()?,
                    gid: gid
                        .filter(|_| !self.ids.gid.is_squashed())
                        .map(|gid| self.gid_on_disk(gid))
                        .transpose()?,
                    size,
                    atime: atime.map(set_time),
                    mtime: mtime.map(set_time),
                };
                self.union.setattr(node(ino), &changes, capabilities_of(request))
            };
            match changed() {
                Ok(attr) => reply.attr(&DAY, &file_attr(&attr, &self.ids)),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.serve(Message::Readlink, || match self.union.readlink(node(ino)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.serve(Message::Mknod, || {
            let new = NewNode::Other { mode, device: device_number(rdev) };
            self.entry(reply, self.make(request, umask, parent, name, new));
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.serve(Message::Mkdir, || {
            self.entry(reply, self.make(request, umask, parent, name, NewNode::Dir(mode)))
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(Message::Unlink, || empty(reply, self.union.unlink(node(parent), name)));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(Message::Rmdir, || empty(reply, self.union.rmdir(node(parent), name)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.serve(Message::Symlink, || {
            let new = NewNode::Symlink(target.as_os_str());
            self.entry(reply, self.make(request, 0, parent, name, new));
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.serve(Message::Rename, || {
            let mode = match flags {
                f if f.is_empty() => RenameMode::Replace,
                f if f == RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
                f if f == RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
                _ => return reply.error(Errno::EINVAL),
            };
            let (from, to) = ((node(parent), name), (node(new_parent), new_name));
            empty(reply, self.union.rename(from, to, mode));
        });
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.serve(Message::Link, || {
            self.entry(reply, self.union.link(node(ino), node(new_parent), new_name))
        });
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(Message::Open, || reply.error(Errno::ENOSYS));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(Message::Opendir, || reply.error(Errno::ENOSYS));
    }

    /// Without CREATE the kernel sends MKNOD, and then no RELEASE either.
    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.serve(Message::Create, || reply.error(Errno::ENOSYS));
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _file: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.serve(Message::Flush, || reply.error(Errno::ENOSYS));
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(Message::Read, || {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                match self.union.read(node(ino), offset, &mut buffer[..size]) {
                    Ok(read) => reply.data(&buffer[..read]),
                    Err(e) => reply.error(errno(&e)),
                }
            });
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.serve(Message::Write, || {
            let capabilities = if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                FileCapabilities::Strip
            } else {
                FileCapabilities::Keep
            };
            let result = self.union.write(node(ino), offset, data, capabilities);
            written(reply, self.tell_of_mode(ino, result));
        });
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _file: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.serve(Message::Fsync, || empty(reply, self.union.fsync(node(ino), data_only)));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(Message::Fsyncdir, || empty(reply, self.union.fsync_dir(node(ino))));
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.serve(Message::Readdir, || {
            let listed = self.union.readdir(node(ino), offset, |item| {
                full(reply.add(INodeNo(item.id.0), item.cookie, file_type(item.kind), item.name))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.serve(Message::Readdirplus, || {
            let listed = self.union.readdirplus(node(ino), offset, |item| {
                let (attr, ttl) = match &item.found {
                    Found::Node(Looked { attr, name_is_stable }) => {
                        (file_attr(attr, &self.ids), if *name_is_stable { DAY } else { Duration::ZERO })
                    }
                    Found::Dot(id) => (bare_attr(*id, FileType::Directory), Duration::ZERO),
                    // The kernel lists an entry of impossible size, and forgets its node at once. (Node 0 would say
                    // the same, but the library writes one number for the node and the entry.)
                    Found::Failing(id, kind) => {
                        (FileAttr { size: u64::MAX, ..bare_attr(*id, *kind) }, Duration::ZERO)
                    }
                };
                full(reply.add(attr.ino, item.cookie, item.name, &ttl, &attr, GENERATION))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.serve(Message::Statfs, || match self.union.stat_fs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                u32::try_from(s.f_bsize).unwrap_or(4096),
                u32::try_from(s.f_namemax).unwrap_or(255),
                u32::try_from(s.f_frsize).unwrap_or(4096),
            ),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.serve(Message::Setxattr, || {
            let flags = XattrFlags::from_bits_truncate(flags as u32);
            let set = |caller| self.union.setxattr(node(ino), name, value, flags, caller);
            empty(reply, self.caller(request, 0).and_then(set));
        });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.serve(Message::Getxattr, || {
            let value = if ino == INodeNo::ROOT && name == MESSAGES {
                Ok(self.messages.text().into_bytes())
            } else {
                self.union.getxattr(node(ino), name)
            };
            sized(reply, size, value);
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(Message::Listxattr, || {
            let list = self
                .union
                .listxattr(node(ino))
                .map(|keys| keys.iter().flat_map(|key| key.as_bytes().iter().copied().chain([0])).collect());
            sized(reply, size, list);
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(Message::Removexattr, || empty(reply, self.union.removexattr(node(ino), name)));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve(Message::Fallocate, || {
            let (id, capabilities) = (node(ino), capabilities_of(request));
            let result = self.union.fallocate(id, offset, length, mode as u32, capabilities);
            empty(reply, self.tell_of_mode(ino, result).map(|_| ()));
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.serve(Message::Lseek, || {
            let to = match (whence, u64::try_from(offset)) {
                (libc::SEEK_DATA, Ok(offset)) => SeekFrom::Data(offset),
                (libc::SEEK_HOLE, Ok(offset)) => SeekFrom::Hole(offset),
                // All else the kernel knows by itself.
                _ => return reply.error(Errno::EINVAL),
            };
            match self.union.seek(node(ino), to) {
                Ok(offset) => reply.offset(offset as i64),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        _file_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _file_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.serve(Message::CopyFileRange, || {
            let (from, to) = ((node(ino_in), offset_in), (node(ino_out), offset_out));
            // The reply has 32 bits for the count.
            let length = usize::try_from(length.min(1 << 30)).unwrap_or(usize::MAX);
            let result = self.union.copy_range(from, to, length, capabilities_of(request));
            written(reply, self.tell_of_mode(ino_out, result));
        });
    }
}

fn written(reply: ReplyWrite, result: Result<usize>) {
    match result {
        Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(e) => reply.error(errno(&e)),
    }
}

/// Answers the value, or its length to a caller that has no room yet.
fn sized(reply: ReplyXattr, room: u32, value: Result<Vec<u8>>) {
    match value {
        Err(e) => reply.error(errno(&e)),
        Ok(value) if room == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

fn full(is_full: bool) -> ControlFlow<()> {
    if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
