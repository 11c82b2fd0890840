//! Does the caller want a mount, or has he made one and wants it served?
//!
//! mount.fuse3 with `drop_privileges`, and sandboxes without /dev/fuse, open the device, mount, and hand the descriptor
//! on: the mountpoint is `/dev/fd/N` then. Source: libfuse, mount.fuse3(8) and `fuse_session_mount`.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::device::is_fuse;
use super::error::MountError;
use super::inherited::Inherited;
use super::mountinfo;
use super::mountpoint::Mountpoint;
use super::warn_user;

/// Where the union goes.
#[derive(Debug)]
pub(super) enum Target {
    /// On a directory.
    Directory(Mountpoint),
    /// To whoever has mounted with this descriptor.
    Session(OwnedFd),
}

impl Target {
    /// What `given` means.
    pub(super) fn open(
        given: &Path,
        session_checks: bool,
        inherited: &mut Inherited,
    ) -> Result<Self, MountError> {
        let not_fuse = || MountError::NotFuse(given.to_owned());
        let Some(number) = session_number(given) else {
            return Ok(Self::Directory(Mountpoint::open(given)?));
        };
        let stat = rustix::fs::stat(given).map_err(|_| not_fuse())?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(Self::Directory(Mountpoint::open(given)?));
        }
        let device = inherited.take(number).filter(is_fuse).ok_or_else(not_fuse)?;
        let session = Self::Session(device);
        if !session_checks {
            session.check_permissions()?;
        }
        Ok(session)
    }

    /// The directory, if there is one.
    pub(super) fn mountpoint(&self) -> Option<&Mountpoint> {
        match self {
            Self::Directory(mountpoint) => Some(mountpoint),
            Self::Session(_) => None,
        }
    }

    /// Who may do what the kernel checks, if it was told to.
    fn check_permissions(&self) -> Result<(), MountError> {
        let Self::Session(device) = self else { return Ok(()) };
        let mounts =
            mountinfo::all().map_err(|error| MountError::Process { what: "/proc/self/mountinfo", error })?;
        let session = mountinfo::device_of_session(device);
        match mounts.iter().find(|mount| session.as_ref() == Some(&mount.device)) {
            Some(mount) if mount.has("default_permissions") => Ok(()),
            // Root's own, who may do everything.
            Some(mount) if mount.has("user_id=0") && !mount.has("allow_other") => Ok(()),
            Some(_) => Err(MountError::NoDefaultPermissions),
            None => {
                warn_user("the mount of this session is not to be seen: it must have default_permissions");
                Ok(())
            }
        }
    }
}

/// N of `/dev/fd/N`.
fn session_number(given: &Path) -> Option<RawFd> {
    given.to_str()?.strip_prefix("/dev/fd/")?.parse().ok().filter(|number| *number >= 0)
}

/// For messages.
pub(super) fn name(target: &Target) -> PathBuf {
    match target {
        Target::Directory(mountpoint) => mountpoint.path.clone(),
        Target::Session(device) => format!("/dev/fd/{}", device.as_raw_fd()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_by_its_number_alone() {
        assert_eq!(session_number(Path::new("/dev/fd/7")), Some(7));
        for other in
            ["/dev/fd/", "/dev/fd/7/d", "/dev/fd/-7", "/dev/fd/x", "/dev/fd", "dev/fd/7", "/dev/fd//7"]
        {
            assert_eq!(session_number(Path::new(other)), None, "{other}");
        }
    }
}
