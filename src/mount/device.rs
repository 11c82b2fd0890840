//! How does a mount come into being, and with it the descriptor that its requests arrive on?
//!
//! By mount(2) for root, here or in a user namespace; for anybody else through fusermount3.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use log::debug;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::error::MountError;
use super::helper;
use super::mountinfo::FS_TYPE;
use crate::options::{Access, MountOptions, Sharing};

/// Mounts on `target` and returns the session's descriptor.
pub(super) fn mount(target: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let read_write = OFlags::RDWR | OFlags::CLOEXEC;
    let device = match rustix::fs::open("/dev/fuse", read_write, Mode::empty()) {
        Ok(device) => device,
        // fusermount3 opens the device as root.
        Err(Errno::ACCESS | Errno::PERM) if !rustix::process::geteuid().is_root() => {
            return helper::mount(target, options);
        }
        Err(errno) => return Err(MountError::NoDevice(errno)),
    };
    match mount_directly(&device, target, options) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => {
            debug!("mount(2) is not for this user: asking fusermount3");
            helper::mount(target, options)
        }
        Err(Errno::NODEV) => Err(MountError::NoDevice(Errno::NODEV)),
        Err(errno) => Err(MountError::Mount { path: target.to_owned(), errno }),
    }
}

fn mount_directly(device: &OwnedFd, target: &Path, options: &MountOptions) -> Result<(), Errno> {
    // A container's users are not its root, and would see nothing without allow_other. It is
    // safe only together with default_permissions: the kernel then checks as on any disk.
    let allow_other = match options.sharing {
        Sharing::Everybody => ",allow_other",
        Sharing::ByPrivilege if rustix::process::geteuid().is_root() => ",allow_other",
        Sharing::ByPrivilege => "",
    };
    let data = CString::new(format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{allow_other}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    ))
    .map_err(|_| Errno::INVAL)?;
    let mut flags = options.flags;
    flags.set(MountFlags::RDONLY, options.access == Access::ReadOnly);
    let source: &OsStr = &options.source;
    rustix::mount::mount(source, target, FS_TYPE, flags, data.as_c_str())
}
