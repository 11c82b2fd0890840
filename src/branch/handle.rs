//! By which name is an inode known again after a remount?
//!
//! By its file handle, which holds what the filesystem itself tells inodes apart by (on most: number and
//! generation). name_to_handle_at(2) needs no privilege. Where there is none, by number and time of birth.
//! Where there is neither, by nothing: such an inode is not remembered. Nor is one of a FUSE filesystem or a FAT: what
//! they call a handle holds a number that goes with the mount.
//!
//! One of the seven files with `unsafe` code: no safe call names a handle.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd};

use parking_lot::Mutex;
use rustix::fs;
use rustix::io::{self, Errno};

use super::read::Inodes;
use super::stat::Stat;
use crate::rules::BranchId;

/// What an inode is called for ever: printable, without spaces, at most 255 bytes, so that it can also be a file's
/// name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LastingId(Box<str>);

impl LastingId {
    /// Reads one that was written down.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= 255;
        let printable = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (fits && text.bytes().all(printable)).then(|| Self(text.into()))
    }

    /// As it is written down.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// That of the inode behind a descriptor, of which `stat` speaks.
    ///
    /// # Errors
    /// Those of fstatfs(2) and name_to_handle_at(2), but for filesystems that have no handles.
    pub(super) fn of(
        fd: impl AsFd,
        stat: &Stat,
        branch: BranchId,
        inodes: Inodes,
    ) -> io::Result<Option<Self>> {
        if inodes == Inodes::Ambiguous {
            return Ok(None);
        }
        let fd = fd.as_fd();
        let tag = filesystem(fd, stat)?;
        let mut text = String::new();
        // Writing to a String cannot fail.
        match handle(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)? {
            Some((kind, bytes)) if tag != FilesystemTag::Unstable => {
                write!(text, "h{kind:x}-").unwrap_or_default();
                bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap_or_default());
            }
            _ if tag != FilesystemTag::Unstable && stat.st_birth != 0 => {
                write!(text, "b{:x}", stat.st_birth).unwrap_or_default();
            }
            // The number alone is not known to be lasting, unless somebody says so.
            _ if inodes == Inodes::Stable => text.push('n'),
            _ => return Ok(None),
        }
        text.push('-');
        text.push_str(&tag.text(stat, branch));
        // A handle has at most 128 bytes: 256 digits. What is longer than a name is cut to a digest of it.
        if text.len() > 200 {
            text = format!("d{:016x}{:016x}", digest(&text, 0), digest(&text, 1));
        }
        write!(text, "-i{:x}", stat.st_ino).unwrap_or_default();
        Ok(Some(Self(text.into())))
    }

    /// The inode number that it had when it was named.
    #[must_use]
    pub fn inode_number(&self) -> u64 {
        let digits = self.0.rsplit_once("-i").map_or("0", |(_, digits)| digits);
        u64::from_str_radix(digits, 16).unwrap_or(0)
    }
}

/// How the inodes of a filesystem are told from those of another with the same handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FilesystemTag {
    /// By what the filesystem says of itself in every mount.
    Id(u64),
    /// It says nothing that stays: by what stays of the inode.
    Inode,
    /// Its inodes have other handles in the next mount.
    Unstable,
}

impl FilesystemTag {
    /// The upper is one filesystem, and its inodes change; those of lowers do not, and there may be several.
    fn text(self, stat: &Stat, branch: BranchId) -> String {
        match self {
            _ if branch.is_upper() || branch.is_snapshot() || branch == BranchId::WORK => "u".to_owned(),
            Self::Id(id) => format!("{id:x}"),
            _ if stat.st_birth != 0 => format!("b{:x}", stat.st_birth),
            // A directory's time changes with every entry.
            _ if stat.kind() == fs::FileType::Directory => "t".to_owned(),
            _ => format!("t{:x}s{:x}n{:x}", stat.st_size, stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

/// What tells a lower's filesystem from others; two that say the same may have the same names for other inodes.
pub(super) fn filesystem_name(root: impl AsFd, stat: &Stat) -> io::Result<String> {
    Ok(match filesystem(root, stat)? {
        FilesystemTag::Id(id) => format!("{id:x}"),
        // One that was copied as a whole has the same times of birth.
        FilesystemTag::Inode if stat.st_birth != 0 => format!("b{:x}", stat.st_birth),
        FilesystemTag::Inode => "by handle alone".to_owned(),
        FilesystemTag::Unstable => "by number alone".to_owned(),
    })
}

/// By device number, of all filesystems so far.
static TAGS: Mutex<Vec<(u64, FilesystemTag)>> = Mutex::new(Vec::new());

fn filesystem(fd: impl AsFd, stat: &Stat) -> io::Result<FilesystemTag> {
    let known = TAGS.lock().iter().find(|(device, _)| *device == stat.st_dev).map(|(_, tag)| *tag);
    if let Some(tag) = known {
        return Ok(tag);
    }
    let tag = tag_of(fd)?;
    TAGS.lock().push((stat.st_dev, tag));
    Ok(tag)
}

fn tag_of(fd: impl AsFd) -> io::Result<FilesystemTag> {
    // What these call f_fsid comes from their UUID; xfs', f2fs' and squashfs' from the device.
    const EXT4: u32 = 0xef53;
    const BTRFS: u32 = 0x9123_683e;
    const TMPFS: u32 = 0x0102_1994;
    const FUSE: u32 = 0x6573_5546;
    const VFAT: u32 = 0x4d44;
    const EXFAT: u32 = 0x2011_bab0;
    let kind = fs::fstatfs(&fd)?.f_type as u32;
    if [FUSE, VFAT, EXFAT].contains(&kind) {
        return Ok(FilesystemTag::Unstable);
    }
    if [EXT4, BTRFS, TMPFS].contains(&kind) {
        return Ok(FilesystemTag::Id(fs::fstatvfs(&fd)?.f_fsid));
    }
    Ok(FilesystemTag::Inode)
}

fn digest(text: &str, seed: u64) -> u64 {
    // FNV-1a: the same in every version of the program.
    text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Room for the largest handle that there is (`MAX_HANDLE_SZ`).
const ROOM: usize = 128;

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; ROOM],
}

/// Type and bytes of a handle; None if the filesystem has none.
fn handle(dir: i32, name: &CStr, flags: i32) -> io::Result<Option<(i32, Vec<u8>)>> {
    let mut handle = Handle { bytes: ROOM as u32, kind: 0, handle: [0; ROOM] };
    let mut mount = 0;
    // SAFETY: `handle` begins as `struct file_handle` does and has the room that `bytes` tells of; the name ends
    // with a NUL; the descriptor is open for as long as the caller borrows it.
    let result = unsafe {
        libc::name_to_handle_at(dir, name.as_ptr(), (&raw mut handle).cast(), &raw mut mount, flags)
    };
    if result == 0 {
        let length = (handle.bytes as usize).min(ROOM);
        return Ok(Some((handle.kind, handle.handle[..length].to_vec())));
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::OPNOTSUPP | Errno::OVERFLOW | Errno::NOSYS | Errno::PERM) => Ok(None),
        errno => Err(errno.unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::AtFlags;
    use std::fs::File;

    fn id(file: &File) -> LastingId {
        let stat = Stat::of(file, c"", AtFlags::EMPTY_PATH).unwrap();
        LastingId::of(file, &stat, BranchId(1), Inodes::MayChange)
            .unwrap()
            .expect("this disk has handles or times of birth")
    }

    #[test]
    fn an_inode_keeps_its_name_whatever_becomes_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        let before = id(&file);
        std::fs::hard_link(&path, dir.path().join("g")).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(id(&file), before);
        let other = File::create(dir.path().join("h")).unwrap();
        assert_ne!(id(&other), before);
        assert_eq!(LastingId::parse(before.as_str()), Some(before));
    }

    #[test]
    fn what_is_no_name_is_not_read() {
        for text in ["", "a b", "a/b", "..", "a\n", "a.b"] {
            assert_eq!(LastingId::parse(text), None, "{text:?}");
        }
    }
}
