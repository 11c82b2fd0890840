//! What does the machine have?

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit};

/// Facts about the machine and the user.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) is_root: bool,
    /// Whether the user is the root of a user namespace, and no other.
    pub(super) in_namespace: bool,
    pub(super) container: Option<&'static str>,
    pub(super) device: Device,
    pub(super) fusermount: Option<Fusermount>,
    pub(super) user_allow_other: bool,
    /// What keeps an ordinary user from making user namespaces.
    pub(super) no_namespaces: Option<&'static str>,
    pub(super) open_files: Option<u64>,
    pub(super) mounts: Option<(u64, u64)>,
}

/// /dev/fuse.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Device {
    #[default]
    Missing,
    NotFuse,
    Refused(String),
    Opens,
}

/// The program that mounts for users.
#[derive(Debug)]
pub(super) struct Fusermount {
    pub(super) path: PathBuf,
    pub(super) has_roots_rights: bool,
    pub(super) version: Option<String>,
}

pub(super) fn facts() -> Machine {
    let read = |path: &str| fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let uname = rustix::system::uname();
    let is_zero = |path: &str| number(path) == Some(0);
    Machine {
        kernel: uname.release().to_string_lossy().into_owned(),
        is_root: rustix::process::geteuid().is_root(),
        // The first namespace has all ids.
        in_namespace: read("/proc/self/uid_map")
            .is_some_and(|map| map.split_whitespace().ne(["0", "0", "4294967295"])),
        container: [("/run/.containerenv", "podman"), ("/.dockerenv", "docker")]
            .into_iter()
            .find(|(path, _)| Path::new(path).exists())
            .map(|(_, name)| name),
        device: device(),
        fusermount: fusermount(),
        user_allow_other: read("/etc/fuse.conf")
            .is_some_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other")),
        no_namespaces: if is_zero("/proc/sys/user/max_user_namespaces") {
            Some("user.max_user_namespaces is 0")
        } else if is_zero("/proc/sys/kernel/unprivileged_userns_clone") {
            Some("kernel.unprivileged_userns_clone is 0")
        } else if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_some_and(|on| on > 0) {
            Some("AppArmor restricts them (kernel.apparmor_restrict_unprivileged_userns)")
        } else {
            None
        },
        open_files: getrlimit(Resource::Nofile).maximum,
        mounts: number("/proc/sys/fs/mount-max")
            .and_then(|limit| Some((read("/proc/self/mountinfo")?.lines().count() as u64, limit))),
    }
}

fn device() -> Device {
    let path = "/dev/fuse";
    match fs::metadata(path) {
        Err(_) => Device::Missing,
        Ok(found) if !found.file_type().is_char_device() || found.rdev() != rustix::fs::makedev(10, 229) => {
            Device::NotFuse
        }
        Ok(_) => match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(_) => Device::Opens,
            Err(errno) => Device::Refused(errno.to_string()),
        },
    }
}

fn fusermount() -> Option<Fusermount> {
    let search = std::env::var_os("PATH")?;
    let path =
        std::env::split_paths(&search).map(|dir| dir.join("fusermount3")).find(|path| path.is_file())?;
    let found = fs::metadata(&path).ok()?;
    let has_capabilities = rustix::fs::getxattr(&path, "security.capability", &mut [0; 64]).is_ok();
    let said = Command::new(&path).arg("--version").output().ok();
    let version = said.and_then(|said| {
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        Some(text.split_whitespace().last()?.to_owned())
    });
    let has_roots_rights = found.uid() == 0 && found.mode() & 0o4000 != 0 || has_capabilities;
    Some(Fusermount { path, has_roots_rights, version })
}
