//! How is a request answered?
//!
//! Every reply goes through here, so that every error is logged and translated in one place.

use std::ops::ControlFlow;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};
use rustix::fs::{FileType, IFlags, StatVfs};

use super::convert::{bare_attr, file_attr, file_type};
use super::view::View;
use crate::error::{Error, Result};
use crate::union::{Answer, Attr, DirItem, Found, Looked, NodeId, PlusItem};

/// Numbers are not reused while the kernel knows them, so there is one generation.
const GENERATION: Generation = Generation(0);

/// Something that an error can be answered to.
pub(super) trait Reply {
    fn fail(self, errno: Errno);
}

macro_rules! can_fail {
    ($($reply:ty),*) => {
        $(impl Reply for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
can_fail!(ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry);
can_fail!(ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr);

fn answer<R: Reply, T>(reply: R, result: Result<T>, done: impl FnOnce(R, T)) {
    match result {
        Ok(value) => done(reply, value),
        Err(e) => refuse(reply, &e),
    }
}

fn refuse(reply: impl Reply, error: &Error) {
    log::debug!("{error}");
    reply.fail(Errno::from_i32(error.errno().raw_os_error()));
}

/// Tells the kernel not to send such requests any more.
pub(super) fn never_again(reply: impl Reply) {
    reply.fail(Errno::ENOSYS);
}

/// Flags, in as many bytes as there is room for.
pub(super) fn flags(reply: ReplyIoctl, room: u32, result: Result<IFlags>) {
    answer(reply, result, |reply, flags| {
        let bytes = u64::from(flags.bits()).to_ne_bytes();
        reply.ioctl(0, &bytes[..bytes.len().min(room as usize)]);
    });
}

/// The same as `struct fsxattr`.
pub(super) fn extended_flags(reply: ReplyIoctl, result: Result<IFlags>) {
    answer(reply, result, |reply, flags| reply.ioctl(0, &super::convert::extended_flags(flags)));
}

/// An ioctl that has nothing to say.
pub(super) fn done(reply: ReplyIoctl, result: Result<()>) {
    answer(reply, result, |reply, ()| reply.ioctl(0, &[]));
}

/// A text, whether the stack was changed or not.
pub(super) fn changed(reply: ReplyIoctl, room: u32, result: Result<(u8, String)>) {
    answer(reply, result, |reply, (outcome, text)| {
        let mut bytes = vec![outcome];
        bytes.extend(text.as_bytes());
        // The last byte is a NUL.
        bytes.resize(room as usize, 0);
        bytes.pop();
        bytes.push(0);
        reply.ioctl(0, &bytes);
    });
}

/// An ioctl that nobody knows.
pub(super) fn unknown(reply: ReplyIoctl) {
    reply.fail(Errno::ENOTTY);
}

/// An open directory that nothing is kept of: neither here nor by the kernel.
pub(super) fn opened(reply: ReplyOpen) {
    reply.opened(FileHandle(0), FopenFlags::empty());
}

pub(super) fn empty(reply: ReplyEmpty, result: Result<()>) {
    answer(reply, result, |reply, ()| reply.ok());
}

pub(super) fn attr(reply: ReplyAttr, result: Result<Attr>, view: &View) {
    answer(reply, result, |reply, attr| reply.attr(&attr_ttl(&attr, view), &file_attr(&attr, view)));
}

pub(super) fn data(reply: ReplyData, result: Result<impl AsRef<[u8]>>) {
    answer(reply, result, |reply, data| reply.data(data.as_ref()));
}

pub(super) fn written(reply: ReplyWrite, result: Result<usize>) {
    answer(reply, result, |reply, bytes| reply.written(u32::try_from(bytes).unwrap_or(u32::MAX)));
}

pub(super) fn offset(reply: ReplyLseek, result: Result<u64>) {
    answer(reply, result, |reply, offset| reply.offset(offset as i64));
}

/// An entry that is there.
pub(super) fn entry(reply: ReplyEntry, result: Result<Looked>, view: &View) {
    looked_up(reply, result.map(|looked| Answer { found: Some(looked), holds: true }), view);
}

/// An entry that may be there.
pub(super) fn looked_up(reply: ReplyEntry, result: Result<Answer>, view: &View) {
    answer(reply, result, |reply, Answer { found, holds }| match found {
        Some(looked) => {
            let attr = file_attr(&looked.attr, view);
            let (attr_ttl, name_ttl) = (attr_ttl(&looked.attr, view), name_ttl(&looked, view));
            reply.entry_with_ttls(&attr_ttl, &name_ttl, &attr, GENERATION);
        }
        // Number 0 says "there is nothing", and for how long that holds.
        None => {
            let ttl = if holds { view.timeouts.negative } else { Duration::ZERO };
            reply.entry(&ttl, &bare_attr(NodeId(0), FileType::RegularFile), GENERATION)
        }
    });
}

fn attr_ttl(attr: &Attr, view: &View) -> Duration {
    if attr.holds { view.timeouts.attr } else { Duration::ZERO }
}

fn name_ttl(looked: &Looked, view: &View) -> Duration {
    if looked.name_is_stable { view.timeouts.entry } else { Duration::ZERO }
}

/// A listing, as far as there is room. `list` calls its argument for each entry.
pub(super) fn listing(
    mut reply: ReplyDirectory,
    list: impl FnOnce(&mut dyn FnMut(DirItem<'_>) -> ControlFlow<()>) -> Result<()>,
) {
    let listed =
        list(&mut |item| full(reply.add(INodeNo(item.id.0), item.cookie, file_type(item.kind), item.name)));
    answer(reply, listed, |reply, ()| reply.ok());
}

/// The same with attributes.
pub(super) fn listing_plus(
    mut reply: ReplyDirectoryPlus,
    view: &View,
    list: impl FnOnce(&mut dyn FnMut(&PlusItem<'_>) -> ControlFlow<()>) -> Result<()>,
) {
    let listed = list(&mut |item| {
        let (attr, ttl) = match &item.found {
            // One time for both.
            Found::Node(looked) if !looked.attr.holds => (file_attr(&looked.attr, view), Duration::ZERO),
            Found::Node(looked) => (file_attr(&looked.attr, view), name_ttl(looked, view)),
            Found::Dot(id) => (bare_attr(*id, FileType::Directory), Duration::ZERO),
            // The kernel lists an entry of impossible size, and forgets its node at once. (Node 0 would say
            // the same, but the library writes one number for the node and the entry.)
            Found::Failing(id, kind) => {
                (FileAttr { size: u64::MAX, ..bare_attr(*id, *kind) }, Duration::ZERO)
            }
        };
        full(reply.add(attr.ino, item.cookie, item.name, &ttl, &attr, GENERATION))
    });
    answer(reply, listed, |reply, ()| reply.ok());
}

fn full(is_full: bool) -> ControlFlow<()> {
    if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

pub(super) fn statfs(reply: ReplyStatfs, result: Result<StatVfs>) {
    answer(reply, result, |reply, s| {
        reply.statfs(
            s.f_blocks,
            s.f_bfree,
            s.f_bavail,
            s.f_files,
            s.f_ffree,
            u32::try_from(s.f_bsize).unwrap_or(4096),
            u32::try_from(s.f_namemax).unwrap_or(255),
            u32::try_from(s.f_frsize).unwrap_or(4096),
        );
    });
}

/// Answers the value, or its length to a caller that has no room yet.
pub(super) fn xattr(reply: ReplyXattr, room: u32, result: Result<Vec<u8>>) {
    answer(reply, result, |reply, value| match value.len() {
        len if room == 0 => reply.size(u32::try_from(len).unwrap_or(u32::MAX)),
        len if len > room as usize => reply.fail(Errno::ERANGE),
        _ => reply.data(&value),
    });
}
