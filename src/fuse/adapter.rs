//! Which call of the union answers which request?
//!
//! Decode, one call, reply: nothing is decided here. Opens are not answered at all, once, and the kernel
//! then sends every request by node, without OPEN, RELEASE, OPENDIR, RELEASEDIR and FLUSH. What is
//! cached is cached for a day: while a union is mounted its branches are ours, and every change goes
//! through the kernel, which knows what it has to forget.
//!
//! A request that may take long, or wait for one that does, is answered by a worker: then it takes its names and
//! data along. The union says which ones those are.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::caller_groups::Asker;
use super::convert::{FlagsIoctl, device_number, node, rename_mode, seek_to, set_time};
use super::opcodes::Opcode;
use super::reply;
use super::service::{Control, Service};
use super::view::View;
use crate::rules::kill_priv::KillPriv;
use crate::sched::{Listeners, Pool, guarded};
use crate::union::{Changes, LiveUnion, NewNode, Union};

/// What we ask of the kernel; all of it is optional.
///
/// Not FUSE_ASYNC_DIO: the kernel then does not drop the pages that were read into the cache while a direct write
/// was under way, and they stay old.
const WANTED: [InitFlags; 9] = [
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_DO_READDIRPLUS,
    // A node is known for as long as the kernel remembers it, which no file handle outlives.
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
];

thread_local! {
    /// Each thread answers one read at a time.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers the kernel from a union.
#[derive(Debug)]
pub struct Adapter {
    service: Arc<Service>,
    listeners: Arc<Listeners>,
    workers: Pool,
}

impl Adapter {
    /// An adapter in front of `union` that shows it as `view` says, for a session with so many loops, of which one may answer
    /// a caller on its own CPU.
    #[must_use]
    pub fn new(
        union: Arc<LiveUnion>,
        view: View,
        control: Arc<dyn Control>,
        loops: usize,
        follows_callers: bool,
    ) -> Self {
        Self {
            service: Arc::new(Service::new(union, view, control)),
            listeners: Arc::new(Listeners::new(loops, follows_callers)),
            workers: Pool::new(prepare_worker),
        }
    }

    /// Where the session's notifier goes once there is one.
    #[must_use]
    pub fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.service.notifier)
    }

    /// Whoever changes the stack.
    #[must_use]
    pub fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.service.control)
    }

    /// The session's event loops, as far as they have answered something.
    #[must_use]
    pub fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(&self.listeners)
    }

    /// Answers a request on this loop, or on a worker if it may take long.
    fn serve(
        &self,
        request: &Request,
        opcode: Opcode,
        is_long: impl FnOnce(&Union) -> bool,
        answer: impl FnOnce(&Service) + Send + 'static,
    ) {
        self.serve_with(request, opcode, is_long, &(), |service, ()| answer(service));
    }

    /// The same for a request with a name or data, which a worker gets a copy of.
    fn serve_with<D>(
        &self,
        request: &Request,
        opcode: Opcode,
        is_long: impl FnOnce(&Union) -> bool,
        data: &D,
        answer: impl FnOnce(&Service, &D) + Send + 'static,
    ) where
        D: ToOwned<Owned: Send + 'static> + ?Sized,
    {
        self.service.opcodes.count(opcode);
        self.listeners.answer(request.pid(), || {
            guarded(|| {
                if !is_long(&self.service.union()) {
                    return answer(&self.service, data);
                }
                let (service, data) = (Arc::clone(&self.service), data.to_owned());
                let work = self.listeners.long_work();
                let job = move || {
                    answer(&service, data.borrow());
                    drop(work);
                };
                if let Some(job) = self.workers.take(Box::new(job)) {
                    job();
                }
            });
        });
    }
}

/// Of requests that wait for nobody.
fn never(_: &Union) -> bool {
    false
}

/// A worker acts as its callers do, and shares nothing of that with the loop that has started it.
fn prepare_worker() {
    if let Err(e) = crate::branch::prepare_thread() {
        log::error!("a thread has no umask of its own: {e}");
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let view = &self.service.view;
        let revalidates = view.timeouts.revalidate();
        let more = (revalidates || view.tells_changes).then_some(InitFlags::FUSE_AUTO_INVAL_DATA);
        // A target that was read once is never asked for again.
        let wanted =
            WANTED.into_iter().filter(|flag| !revalidates || *flag != InitFlags::FUSE_CACHE_SYMLINKS);
        if config.add_capabilities(InitFlags::FUSE_HAS_EXPIRE_ONLY).is_ok() {
            self.service.control.kernel().can_expire();
        }
        for flag in wanted.chain(more) {
            if let Err(missing) = config.add_capabilities(flag) {
                log::info!("this kernel has no {missing:?}");
            }
        }
        Ok(())
    }

    /// No loop is left: what the workers have begun is done before the union is closed.
    fn destroy(&mut self) {
        self.workers.finish();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dir = node(parent);
        self.serve_with(request, Opcode::Lookup, never, name, move |service, name| {
            reply::looked_up(reply, service.fresh(service.union().lookup(dir, name)), &service.view);
        });
    }

    /// fuser takes batches apart itself.
    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.service.opcodes.count(Opcode::Forget);
        self.listeners.take_one_of_many(|| guarded(|| self.service.union().forget(node(ino), lookups)));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let id = node(ino);
        self.serve(request, Opcode::Getattr, never, move |service| {
            reply::attr(reply, service.fresh(service.union().getattr(id)), &service.view);
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
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let changes = Changes { mode, uid, gid, size, atime, mtime };
        let asker = Asker::of(request);
        let is_long = move |union: &Union| union.is_long_setattr(node(ino), &changes);
        self.serve(request, Opcode::Setattr, is_long, move |service| {
            reply::attr(reply, service.fresh(service.setattr(asker, ino, changes)), &service.view);
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let id = node(ino);
        self.serve(request, Opcode::Readlink, never, move |service| {
            reply::data(
                reply,
                service.fresh(service.union().readlink(id)).map(std::ffi::OsString::into_encoded_bytes),
            );
            service.has_read_link(id);
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
        let asker = Asker::of(request);
        self.serve_with(request, Opcode::Mknod, never, name, move |service, name| {
            let new = NewNode::Other { mode, device: device_number(rdev) };
            reply::entry(reply, service.fresh(service.make(asker, umask, parent, name, new)), &service.view);
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
        let asker = Asker::of(request);
        self.serve_with(request, Opcode::Mkdir, never, name, move |service, name| {
            let made = service.fresh(service.make(asker, umask, parent, name, NewNode::Dir(mode)));
            reply::entry(reply, made, &service.view);
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = node(parent);
        self.serve_with(request, Opcode::Unlink, never, name, move |service, name| {
            reply::empty(reply, service.fresh(service.union().unlink(dir, name)));
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = node(parent);
        self.serve_with(request, Opcode::Rmdir, never, name, move |service, name| {
            reply::empty(reply, service.fresh(service.union().rmdir(dir, name)));
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let asker = Asker::of(request);
        let target = target.to_owned();
        self.serve_with(request, Opcode::Symlink, never, name, move |service, name| {
            let new = NewNode::Symlink(target.as_os_str());
            reply::entry(reply, service.fresh(service.make(asker, 0, parent, name, new)), &service.view);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (dir, new_dir, new_name) = (node(parent), node(new_parent), new_name.to_owned());
        let target = new_name.clone();
        let is_long = |union: &Union| union.is_long_rename((dir, name), (new_dir, &target));
        self.serve_with(request, Opcode::Rename, is_long, name, move |service, name| {
            let rename = |mode| service.union().rename((dir, name), (new_dir, &new_name), mode);
            reply::empty(reply, service.fresh(rename_mode(flags).and_then(rename)));
        });
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (id, dir) = (node(ino), node(new_parent));
        self.serve_with(
            request,
            Opcode::Link,
            |union| union.is_long_change(id),
            new_name,
            move |service, new_name| {
                reply::entry(reply, service.fresh(service.union().link(id, dir, new_name)), &service.view);
            },
        );
    }

    fn open(&self, request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(request, Opcode::Open, never, |_| reply::never_again(reply));
    }

    fn opendir(&self, request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(request, Opcode::Opendir, never, |service| {
            if service.view.timeouts.revalidate() {
                // Of what was never opened the kernel caches the listing, until the topmost part changes.
                reply::opened(reply);
            } else {
                reply::never_again(reply);
            }
        });
    }

    /// Without CREATE the kernel sends MKNOD, and then no RELEASE either.
    fn create(
        &self,
        request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.serve(request, Opcode::Create, never, |_| reply::never_again(reply));
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        _file: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Opcode::Flush, never, |_| reply::never_again(reply));
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let id = node(ino);
        self.serve(request, Opcode::Read, never, move |service| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let read = service.fresh(service.union().read(id, offset, &mut buffer[..size]));
                reply::data(reply, read.map(|read| &buffer[..read]));
            });
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (id, asker) = (node(ino), Asker::of(request));
        let kills = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.serve_with(
            request,
            Opcode::Write,
            |union| union.is_long_change(id),
            data,
            move |service, data| {
                let write = |kill: KillPriv<'_>| service.union().write(id, offset, data, kill);
                reply::written(reply, service.fresh(service.change_data(asker, kills, ino, write)));
            },
        );
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _file: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let id = node(ino);
        self.serve(
            request,
            Opcode::Fsync,
            |union| union.is_long_sync(id),
            move |service| {
                reply::empty(reply, service.fresh(service.union().fsync(id, data_only)));
            },
        );
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let id = node(ino);
        self.serve(
            request,
            Opcode::Fsyncdir,
            |union| union.is_long_sync(id),
            move |service| {
                reply::empty(reply, service.fresh(service.union().fsync_dir(id)));
            },
        );
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let id = node(ino);
        self.serve(request, Opcode::Readdir, never, move |service| {
            reply::listing(reply, |take| service.fresh(service.union().readdir(id, offset, take)));
            service.has_listed(id);
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let id = node(ino);
        self.serve(request, Opcode::Readdirplus, never, move |service| {
            reply::listing_plus(reply, &service.view, |take| {
                service.fresh(service.union().readdirplus(id, offset, take))
            });
            service.has_listed(id);
        });
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.serve(request, Opcode::Statfs, never, |service| reply::statfs(reply, service.union().stat_fs()));
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
        let is_long = |union: &Union| Service::is_sync(ino, name) || union.is_long_change(node(ino));
        let (asker, key) = (Asker::of(request), name.to_owned());
        self.serve_with(request, Opcode::Setxattr, is_long, value, move |service, value| {
            reply::empty(reply, service.fresh(service.setxattr(asker, ino, &key, value, flags)));
        });
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let asker = Asker::of(request);
        self.serve_with(request, Opcode::Getxattr, never, name, move |service, name| {
            reply::xattr(reply, size, service.fresh(service.getxattr(asker, ino, name)));
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let id = node(ino);
        self.serve(request, Opcode::Listxattr, never, move |service| {
            reply::xattr(
                reply,
                size,
                service.fresh(service.union().listxattr(id)).map(|keys| super::convert::key_list(&keys)),
            );
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let id = node(ino);
        self.serve_with(
            request,
            Opcode::Removexattr,
            |union| union.is_long_change(id),
            name,
            move |service, name| {
                reply::empty(reply, service.fresh(service.union().removexattr(id, name)));
            },
        );
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
        let (id, asker) = (node(ino), Asker::of(request));
        self.serve(
            request,
            Opcode::Fallocate,
            |union| union.is_long_change(id),
            move |service| {
                let allocate =
                    |kill: KillPriv<'_>| service.union().fallocate(id, offset, length, mode as u32, kill);
                let allocated = service.fresh(service.change_data(asker, asker.kills(), ino, allocate));
                reply::empty(reply, allocated.map(|_| ()));
            },
        );
    }

    /// What lsattr(1) and chattr(1) ask for; nothing else is known to mean the same through a union.
    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        let id = node(ino);
        let wish = FlagsIoctl::of(command, data);
        let is_long = |union: &Union| matches!(wish, FlagsIoctl::Set(_)) && union.is_long_change(id);
        if wish == FlagsIoctl::ChangeStack {
            let asker = Asker::of(request);
            return self.serve_with(
                request,
                Opcode::Ioctl,
                |_| true,
                data,
                move |service, data| {
                    reply::changed(reply, out_size, service.change_stack(asker, ino, data));
                },
            );
        }
        self.serve(request, Opcode::Ioctl, is_long, move |service| match wish {
            FlagsIoctl::Get => reply::flags(reply, out_size, service.fresh(service.union().flags(id))),
            FlagsIoctl::GetExtended => reply::extended_flags(reply, service.fresh(service.union().flags(id))),
            FlagsIoctl::Set(flags) => reply::done(reply, service.fresh(service.union().set_flags(id, flags))),
            FlagsIoctl::ChangeStack | FlagsIoctl::Other => reply::unknown(reply),
        });
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let id = node(ino);
        self.serve(request, Opcode::Lseek, never, move |service| {
            let seek = |to| service.fresh(service.union().seek(id, to));
            reply::offset(reply, seek_to(whence, offset).and_then(seek));
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
        let (from, to, asker) = (node(ino_in), node(ino_out), Asker::of(request));
        let is_long = |union: &Union| union.is_long_change(to);
        self.serve(request, Opcode::CopyFileRange, is_long, move |service| {
            // The reply has 32 bits for the count.
            let length = usize::try_from(length.min(1 << 30)).unwrap_or(usize::MAX);
            let copy = |kill: KillPriv<'_>| {
                service.union().copy_range((from, offset_in), (to, offset_out), length, kill)
            };
            reply::written(reply, service.fresh(service.change_data(asker, asker.kills(), ino_out, copy)));
        });
    }
}
