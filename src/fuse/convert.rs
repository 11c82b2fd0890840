//! How do the protocol's types and ours translate?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType as FuseType, INodeNo, RenameFlags, TimeOrNow};
use rustix::fs::{FileType, IFlags, SeekFrom, Timespec};

use super::view::View;
use crate::branch::Stat;
use crate::control::CHANGE_STACK;
use crate::error::{Error, Result};
use crate::union::{Attr, NodeId, RenameMode, SetTime};

pub(super) fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

/// What a rename may do to what has the new name.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode> {
    match flags {
        f if f.is_empty() => Ok(RenameMode::Replace),
        f if f == RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        f if f == RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Error::Invalid),
    }
}

/// What an ioctl wants. Source: linux/fs.h; the numbers hold the size of a `long`, of which four bytes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlagsIoctl {
    /// `FS_IOC_GETFLAGS`
    Get,
    /// `FS_IOC_SETFLAGS`
    Set(IFlags),
    /// `FS_IOC_FSGETXATTR`: the kernel looks at it before it sets flags.
    GetExtended,
    /// `control::CHANGE_STACK`
    ChangeStack,
    Other,
}

impl FlagsIoctl {
    pub(super) fn of(command: u32, data: &[u8]) -> Self {
        const LONG: u32 = (size_of::<libc::c_long>() as u32) << 16;
        const GET: u32 = 0x8000_6601 | LONG;
        const SET: u32 = 0x4000_6602 | LONG;
        const GET_EXTENDED: u32 = 0x801c_581f;
        match (command, data.first_chunk::<4>()) {
            (GET, _) => Self::Get,
            (GET_EXTENDED, _) => Self::GetExtended,
            (CHANGE_STACK, _) => Self::ChangeStack,
            (SET, Some(flags)) => Self::Set(IFlags::from_bits_retain(u32::from_ne_bytes(*flags))),
            _ => Self::Other,
        }
    }
}

/// `struct fsxattr` of linux/fs.h, with these flags, and without the disk's own numbers.
pub(super) fn extended_flags(flags: IFlags) -> [u8; 28] {
    const EXTENDED: [(IFlags, u32); 5] = [
        (IFlags::IMMUTABLE, 0x08),
        (IFlags::APPEND, 0x10),
        (IFlags::SYNC, 0x20),
        (IFlags::NOATIME, 0x40),
        (IFlags::NODUMP, 0x80),
    ];
    let set = EXTENDED.into_iter().filter(|(flag, _)| flags.contains(*flag));
    let extended = set.fold(0_u32, |all, (_, flag)| all | flag);
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&extended.to_ne_bytes());
    bytes
}

/// What an lseek looks for, and from where on.
pub(super) fn seek_to(whence: i32, offset: i64) -> Result<SeekFrom> {
    match (whence, u64::try_from(offset)) {
        (libc::SEEK_DATA, Ok(offset)) => Ok(SeekFrom::Data(offset)),
        (libc::SEEK_HOLE, Ok(offset)) => Ok(SeekFrom::Hole(offset)),
        // As ext4 and xfs have it: there is nothing before the beginning.
        (libc::SEEK_DATA | libc::SEEK_HOLE, Err(_)) => Err(Error::BadOffset),
        // All else the kernel knows by itself.
        _ => Err(Error::Invalid),
    }
}

/// The names of extended attributes as listxattr(2) has them: each ends in a zero.
pub(super) fn key_list(keys: &[OsString]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.as_bytes().iter().copied().chain([0])).collect()
}

/// The attributes as users see them.
pub(super) fn file_attr(attr: &Attr, view: &View) -> FileAttr {
    let stat = &attr.stat;
    let is_static = view.static_nlink && stat.kind() == FileType::Directory;
    let (uid, gid) = view.owner(stat.st_uid, stat.st_gid, stat.st_mode);
    let mode = if attr.id == NodeId::ROOT { view.root_mode(stat.st_mode, gid) } else { stat.st_mode };
    FileAttr {
        ino: INodeNo(attr.id.0),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: system_time(stat.st_atime, stat.st_atime_nsec as u32),
        mtime: system_time(stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: system_time(stat.st_ctime, stat.st_ctime_nsec as u32),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.kind()),
        perm: (mode & 0o7777) as u16,
        nlink: if is_static { 1 } else { attr.links },
        uid,
        gid,
        rdev: device(stat),
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

/// What a reply must hold where only number and type count: an entry that is not there (number 0), or
/// `.` and `..` of a listing.
pub(super) fn bare_attr(id: NodeId, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(id.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn device(stat: &Stat) -> u32 {
    match stat.kind() {
        FileType::CharacterDevice | FileType::BlockDevice => stat.rdev(),
        _ => 0,
    }
}

/// The protocol's device number, as `st_rdev` has it.
pub(super) fn device_number(rdev: u32) -> u64 {
    let (major, minor) = ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00));
    rustix::fs::makedev(major, minor)
}

pub(super) fn file_type(kind: FileType) -> FuseType {
    match kind {
        FileType::Directory => FuseType::Directory,
        FileType::Symlink => FuseType::Symlink,
        FileType::Fifo => FuseType::NamedPipe,
        FileType::CharacterDevice => FuseType::CharDevice,
        FileType::BlockDevice => FuseType::BlockDevice,
        FileType::Socket => FuseType::Socket,
        FileType::RegularFile | FileType::Unknown => FuseType::RegularFile,
    }
}

fn system_time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let whole = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    whole.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(u64::from(nanoseconds))
}

/// A time that the kernel asks us to set.
///
/// fuser reads the protocol's (seconds, nanoseconds) before 1970 as if the nanoseconds counted backward too:
/// taking its value apart the same way gives the two numbers back.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    let TimeOrNow::SpecificTime(time) = time else { return SetTime::Now };
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            (-(before.as_secs() as i64), before.subsec_nanos())
        }
    };
    SetTime::To(Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_fuser() {
        for (seconds, nanoseconds) in [(0, 0), (5, 250_000_000), (-1, 0), (-58, 250_000_000)] {
            // As fuser 0.18 builds it from the protocol.
            let span = Duration::new(i64::unsigned_abs(seconds), nanoseconds);
            let read = if seconds < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span };
            let SetTime::To(time) = set_time(TimeOrNow::SpecificTime(read)) else {
                panic!("not a time to be set")
            };
            assert_eq!((time.tv_sec, time.tv_nsec), (seconds, i64::from(nanoseconds)));
        }
    }

    #[test]
    fn nanoseconds_count_upward_before_1970() {
        let time = system_time(-58, 250_000_000);
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(57_750));
    }

    #[test]
    fn device_numbers_go_both_ways() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 70_000), (4095, 1_048_575)] {
            let number = rustix::fs::makedev(major, minor);
            let wire = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
            assert_eq!(device_number(wire), number, "{major}:{minor}");
        }
    }
}
