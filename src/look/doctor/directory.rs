//! What can a directory do that is to be a branch?
//!
//! In a directory that can be written, by trying it in a temporary one, which goes again.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Access, AtFlags, FileType, Mode, OFlags, RenameFlags, StatVfsMountFlags, XattrFlags};

use super::super::show::filesystem;
use crate::branch::{Atime, Inodes, UpperDir};
use crate::union;

/// Facts about one directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// Why it cannot be a branch at all.
    pub(super) unreadable: Option<String>,
    pub(super) filesystem: Option<&'static str>,
    pub(super) is_read_only_disk: bool,
    pub(super) forbidden: Vec<&'static str>,
    pub(super) is_writable: bool,
    /// Bytes and inodes that are free; None where the disk does not bound them.
    pub(super) free_bytes: u64,
    pub(super) free_inodes: Option<u64>,
    pub(super) tried: Option<Tried>,
}

/// What was tried in a writable directory.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Why it cannot be an upper.
    pub(super) unfit: Option<String>,
    pub(super) keeps_numbers: bool,
    pub(super) user_xattrs: bool,
    pub(super) acls: bool,
    pub(super) hard_links: bool,
    pub(super) symlinks: bool,
    pub(super) unnamed_files: bool,
    pub(super) reflinks: bool,
    pub(super) exchange: bool,
    pub(super) types_in_listings: bool,
}

pub(super) fn facts(path: &Path) -> Directory {
    let mut facts = Directory { path: path.to_owned(), ..Directory::default() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(errno) => {
            facts.unreadable = Some(errno.to_string());
            return facts;
        }
    };
    facts.filesystem = filesystem(path);
    if let Ok(disk) = fs::fstatvfs(&dir) {
        facts.is_read_only_disk = disk.f_flag.contains(StatVfsMountFlags::RDONLY);
        // ST_NODEV and ST_NOEXEC of statvfs(3).
        for (flag, name) in [(2, "nosuid"), (4, "nodev"), (8, "noexec")] {
            if disk.f_flag.bits() & flag != 0 {
                facts.forbidden.push(name);
            }
        }
        facts.free_bytes = disk.f_bavail * disk.f_frsize;
        // btrfs makes inodes as they are needed, and says 0 of all.
        facts.free_inodes = (disk.f_files > 0).then_some(disk.f_favail);
    }
    let write = Access::WRITE_OK | Access::EXEC_OK;
    facts.is_writable = !facts.is_read_only_disk && fs::accessat(&dir, c".", write, AtFlags::EACCESS).is_ok();
    if facts.is_writable {
        facts.tried = match tempfile::Builder::new().prefix(".plyfs-doctor.").tempdir_in(path) {
            Ok(place) => Some(try_in(place.path())),
            Err(error) => Some(Tried {
                unfit: Some(format!("no directory can be made in it ({error})")),
                ..Tried::default()
            }),
        };
    }
    facts
}

fn try_in(place: &Path) -> Tried {
    let open = || fs::open(place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let Ok(dir) = open() else { return Tried::default() };
    let mut tried = Tried::default();
    if let Ok(root) = open() {
        let outer = UpperDir::workdir(root, Atime::AsDisk, Inodes::MayChange);
        tried.keeps_numbers =
            outer.stat_self().and_then(|stat| outer.inode().lasting_id(&stat)).is_ok_and(|id| id.is_some());
        tried.unfit = union::try_upper(outer).err().map(|error| error.to_string());
    }
    let file = |name: &str| -> Option<OwnedFd> { Some(File::create_new(place.join(name)).ok()?.into()) };
    let (Some(one), Some(two)) = (file("one"), file("two")) else { return tried };
    tried.user_xattrs = fs::fsetxattr(&one, c"user.plyfs.doctor", b"x", XattrFlags::empty()).is_ok();
    // One named user: what a mode cannot say.
    let entry =
        |tag: u16, id: u32| [&tag.to_le_bytes()[..], &6_u16.to_le_bytes(), &id.to_le_bytes()].concat();
    let no_id = u32::MAX;
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, no_id),
        entry(0x02, 0),
        entry(0x04, no_id),
        entry(0x10, no_id),
        entry(0x20, no_id),
    ]
    .concat();
    tried.acls = fs::fsetxattr(&one, c"system.posix_acl_access", &acl, XattrFlags::empty()).is_ok();
    tried.hard_links = fs::linkat(&dir, c"one", &dir, c"link", AtFlags::empty()).is_ok();
    tried.symlinks = fs::symlinkat(c"one", &dir, c"symlink").is_ok();
    tried.unnamed_files =
        fs::openat(&dir, c".", OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::RUSR).is_ok();
    tried.reflinks = rustix::io::pwrite(&one, &[0; 4096], 0).is_ok() && fs::ioctl_ficlone(&two, &one).is_ok();
    tried.exchange = fs::renameat_with(&dir, c"one", &dir, c"two", RenameFlags::EXCHANGE).is_ok();
    tried.types_in_listings = fs::Dir::read_from(&dir).is_ok_and(|listing| {
        listing
            .filter_map(std::result::Result::ok)
            .filter(|entry| OsStr::new("one").as_encoded_bytes() == entry.file_name().to_bytes())
            .all(|entry| entry.file_type() == FileType::RegularFile)
    });
    tried
}
