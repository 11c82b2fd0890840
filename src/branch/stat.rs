//! What does statx(2) say of an inode?

use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io;
use rustix::path::Arg;

/// The attributes of an inode: those of stat(2), under its names, and the time of birth.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Stat {
    pub st_dev: u64,
    pub st_ino: u64,
    pub st_mode: u32,
    pub st_nlink: u64,
    pub st_uid: u32,
    pub st_gid: u32,
    pub st_rdev: u64,
    pub st_size: i64,
    pub st_blocks: i64,
    pub st_blksize: i64,
    pub st_atime: i64,
    pub st_atime_nsec: u64,
    pub st_mtime: i64,
    pub st_mtime_nsec: u64,
    pub st_ctime: i64,
    pub st_ctime_nsec: u64,
    /// The time of birth in nanoseconds since 1970; 0 where the filesystem keeps none. No call changes it.
    pub st_birth: u64,
}

impl Stat {
    /// Looks at the entry `name` of a directory, or with `""` and `AT_EMPTY_PATH` at the descriptor's own inode.
    /// No symbolic link is followed.
    pub(super) fn of(dir: impl AsFd, name: impl Arg, flags: AtFlags) -> io::Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        fs::statx(dir, name, flags | AtFlags::SYMLINK_NOFOLLOW, wanted).map(Self::from)
    }

    /// The type of the inode.
    #[must_use]
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.st_mode)
    }

    /// The device number of a device node in the form in which the FUSE protocol and mknod(2) carry it: 32 bits.
    #[must_use]
    pub fn rdev(&self) -> u32 {
        let (major, minor) = (fs::major(self.st_rdev), fs::minor(self.st_rdev));
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    /// Whether the inode may have other names.
    #[must_use]
    pub fn is_hard_linked(&self) -> bool {
        self.st_nlink > 1 && self.kind() != FileType::Directory
    }
}

impl From<Statx> for Stat {
    fn from(stat: Statx) -> Self {
        let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Self {
            st_dev: fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            st_ino: stat.stx_ino,
            st_mode: stat.stx_mode.into(),
            st_nlink: stat.stx_nlink.into(),
            st_uid: stat.stx_uid,
            st_gid: stat.stx_gid,
            st_rdev: fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            st_size: stat.stx_size as i64,
            st_blocks: stat.stx_blocks as i64,
            st_blksize: stat.stx_blksize.into(),
            st_atime: stat.stx_atime.tv_sec,
            st_atime_nsec: stat.stx_atime.tv_nsec.into(),
            st_mtime: stat.stx_mtime.tv_sec,
            st_mtime_nsec: stat.stx_mtime.tv_nsec.into(),
            st_ctime: stat.stx_ctime.tv_sec,
            st_ctime_nsec: stat.stx_ctime.tv_nsec.into(),
            st_birth: if has_birth { nanoseconds(stat.stx_btime) } else { 0 },
        }
    }
}

fn nanoseconds(time: StatxTimestamp) -> u64 {
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.into())
}
