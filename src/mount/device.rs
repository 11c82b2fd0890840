//! How does a mount come into being, and with it the descriptor that its requests arrive on?
//!
//! By mount(2) for root, here or in a user namespace; for anybody else through fusermount3.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use log::debug;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::error::MountError;
use super::helper;
use super::mountinfo::{self, Entry};
use super::mountpoint::Mountpoint;
use crate::options::{Access, MountOptions, Sharing};

/// What the mount is to be, once the branches are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Read-only if the user says so, or if the upper cannot be written.
    pub(super) access: Access,
    /// The user's, and the branches'.
    pub(super) flags: MountFlags,
}

/// Mounts on the open directory and returns the session's descriptor.
pub(super) fn mount(
    mountpoint: &Mountpoint,
    options: &MountOptions,
    wanted: Wanted,
) -> Result<OwnedFd, MountError> {
    let labels = if Path::new("/sys/fs/selinux/enforce").exists() { &options.labels[..] } else { &[] };
    let through_helper = || match labels {
        [] => helper::mount(&mountpoint.path, options, wanted),
        [label, ..] => Err(MountError::LabelRefused(label.clone())),
    };
    let read_write = OFlags::RDWR | OFlags::CLOEXEC;
    let device = match rustix::fs::open("/dev/fuse", read_write, Mode::empty()) {
        Ok(device) if is_fuse(&device) => device,
        Ok(_) => return Err(MountError::WrongDevice),
        // fusermount3 opens the device as root.
        Err(Errno::ACCESS | Errno::PERM) if !rustix::process::geteuid().is_root() => return through_helper(),
        Err(errno) => return Err(MountError::NoDevice(errno)),
    };
    match mount_directly(&device, &mountpoint.target(), options, wanted, labels) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => {
            debug!("mount(2) is not for this user: asking fusermount3");
            through_helper()
        }
        Err(Errno::NODEV) => Err(MountError::NoDevice(Errno::NODEV)),
        Err(errno) => Err(MountError::Mount { path: mountpoint.path.clone(), errno }),
    }
}

/// Whether a descriptor is of the FUSE device.
pub(super) fn is_fuse(device: &OwnedFd) -> bool {
    // Documentation/admin-guide/devices.txt
    const FUSE: (u32, u32) = (10, 229);
    let stat = rustix::fs::statat(device, c"", AtFlags::EMPTY_PATH);
    stat.is_ok_and(|stat| {
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && number == FUSE
    })
}

fn mount_directly(
    device: &OwnedFd,
    target: &Path,
    options: &MountOptions,
    wanted: Wanted,
    labels: &[OsString],
) -> Result<(), Errno> {
    // A container's users are not its root, and would see nothing without allow_other. It is
    // safe only together with default_permissions: the kernel then checks as on any disk.
    let allow_other = match options.sharing {
        Sharing::Everybody => ",allow_other",
        Sharing::ByPrivilege if rustix::process::geteuid().is_root() => ",allow_other",
        Sharing::ByPrivilege => "",
    };
    let mut data = OsString::from(format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{allow_other}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    ));
    for label in labels {
        data.push(",");
        data.push(label);
    }
    let data = std::ffi::CString::new(data.into_vec()).map_err(|_| Errno::INVAL)?;
    let mut flags = wanted.flags;
    flags.set(MountFlags::RDONLY, wanted.access == Access::ReadOnly);
    let source: &OsStr = &options.source;
    rustix::mount::mount(source, target, mountinfo::fs_type(), flags, data.as_c_str())
}

/// The mounts that were there before ours, by ids that are used again.
#[derive(Debug)]
pub(super) struct Before(HashSet<u64>);

/// What our new mount is known by until its root is open.
#[derive(Debug)]
pub(super) struct Newborn {
    before: Before,
    /// The filesystem of our session, if this kernel tells (Linux 6.16).
    session: Option<String>,
}

impl Before {
    /// To be called right before mounting.
    pub(super) fn note() -> io::Result<Self> {
        Ok(Self(mountinfo::all()?.into_iter().map(|entry| entry.mount_id).collect()))
    }

    /// To be called right after mounting, which gave `device`.
    pub(super) fn after(self, device: &OwnedFd) -> Newborn {
        let session = mountinfo::device_of_session(device);
        Newborn { before: self, session }
    }
}

impl Newborn {
    /// Whether nothing speaks against the plyfs at the right place.
    pub(super) fn may_be(&self, entry: &Entry) -> bool {
        self.session.as_ref().is_none_or(|device| entry.device == *device)
    }

    /// Whether it is ours wherever it is.
    pub(super) fn is(&self, entry: &Entry) -> bool {
        let is_new = || !self.before.0.contains(&entry.mount_id);
        entry.is_plyfs() && self.session.as_ref().map_or_else(is_new, |device| entry.device == *device)
    }
}
