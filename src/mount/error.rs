//! Why is there no mount, what can the user do about it, and which exit code says so?

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use super::snapshots::SnapshotError;
use crate::error::Error;
use crate::exit::Exit;
use crate::options::OptionError;
use crate::shown::shown;

/// What a directory is to the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A read-only branch.
    Lower,
    /// The writable branch.
    Upper,
    /// The upper's staging directory.
    Work,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lower => "lower",
            Self::Upper => "upper",
            Self::Work => "workdir",
        })
    }
}

/// A directory in an error message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dir {
    /// What it is to the mount.
    pub role: Role,
    /// Where it is.
    pub path: PathBuf,
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, shown(&self.path))
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The options contradict themselves.
    #[error(transparent)]
    Options(#[from] OptionError),

    /// A branch or the workdir is not there.
    #[error(
        "{0} does not exist: create it with `mkdir`, or correct the path (a colon or comma of its name is written `\\:` or `\\,`)"
    )]
    Missing(Dir),
    /// A branch or the workdir is something else.
    #[error("{0} is not a directory: every branch and the workdir must be one")]
    NotADirectory(Dir),
    /// A branch or the workdir cannot be opened.
    #[error("{dir} cannot be read: {errno}; give this user read and search permission")]
    Unreadable {
        /// The directory.
        dir: Dir,
        /// What the kernel said.
        errno: Errno,
    },
    /// The upper or the workdir cannot be written.
    #[error("{dir} cannot be written: {errno}; give this user write permission, or mount with -o ro")]
    Unwritable {
        /// The directory.
        dir: Dir,
        /// What the kernel said.
        errno: Errno,
    },
    /// The upper lies on something that is mounted read-only.
    #[error("{0} is on a read-only filesystem: mount with -o ro, or take a writable directory")]
    ReadOnlyDisk(Dir),
    /// One directory in two places of the stack.
    #[error("{0} and {1} are the same directory: name each directory once")]
    Same(Dir, Dir),
    /// One directory inside another.
    #[error(
        "{inner} is inside {outer}: a change in one would appear in the other; take directories that do not contain each other"
    )]
    Nested {
        /// The contained one.
        inner: Dir,
        /// The containing one.
        outer: Dir,
    },
    /// Files could not be renamed from the workdir into the upper.
    #[error("workdir {} and upper {} are not on the same mounted filesystem: put the workdir beside the upper", shown(.work), shown(.upper))]
    WorkElsewhere {
        /// The workdir.
        work: PathBuf,
        /// The upper.
        upper: PathBuf,
    },
    /// There can be no default workdir.
    #[error("no workdir could be made beside upper {} ({reason}): give workdir=DIR, an empty directory on the upper's filesystem, outside every branch", shown(.upper))]
    NeedsWork {
        /// The upper.
        upper: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A branch in the kernel's eyes changed while we looked at it.
    #[error("{dir}: {call}: {errno}")]
    Directory {
        /// The directory.
        dir: Dir,
        /// The call that failed.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },

    /// The upper's snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The daemon is of a version that cannot do it.
    #[error("the plyfs on {} was mounted by a version that cannot change its stack: unmount it, and mount it anew", shown(.0))]
    CannotChange(PathBuf),
    /// Not allowed, for instance.
    #[error(
        "{}: the stack is not changed: {errno}; only who has mounted, and root, may change it",
        shown(path)
    )]
    ChangeFailed {
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// More than one request has room for.
    #[error("so many changes at once do not fit into one request (16 KiB): make them one after the other")]
    TooManyChanges,
    /// The daemon says why.
    #[error("the stack is not changed: {0}")]
    StackStays(String),

    /// The mountpoint is not there.
    #[error("mountpoint {} does not exist: create it with `mkdir`", shown(.0))]
    NoMountpoint(PathBuf),
    /// The mountpoint is something else.
    #[error("mountpoint {} is not a directory", shown(.0))]
    MountpointNotADirectory(PathBuf),
    /// A descriptor was handed over that is of no use.
    #[error("mountpoint {} is not an open /dev/fuse: hand over a descriptor that was opened there and mounted with, or name a directory", shown(.0))]
    NotFuse(PathBuf),
    /// Whoever has mounted has left it open who may do what.
    #[error("the mount of this session checks no permissions: mount with -o default_permissions")]
    NoDefaultPermissions,
    /// A daemon died and left its mount.
    #[error("mountpoint {} holds a dead mount (its daemon is gone): remove it with `plyfs umount {}`", shown(.0), shown(.0))]
    DeadMount(PathBuf),
    /// The mountpoint cannot be opened.
    #[error("mountpoint {} cannot be opened: {errno}", shown(.path))]
    MountpointUnreadable {
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The union would contain itself.
    #[error("mountpoint {} is inside {dir}: the union would contain itself; mount somewhere else", shown(.path))]
    MountpointInside {
        /// The mountpoint.
        path: PathBuf,
        /// The directory around it.
        dir: Dir,
    },

    /// What is to be hidden is nowhere.
    #[error("cannot hide {}: {errno}: name something in a directory that is there, and that you may search", shown(.path))]
    CannotHide {
        /// What is to be hidden.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },

    /// A live mount has the directory locked.
    #[error("{dir} is in use by another mount{}: unmount that first, or take another directory", by(*.pid))]
    InUse {
        /// The directory.
        dir: Dir,
        /// The process that has it, if it can be seen.
        pid: Option<i32>,
    },
    /// Something in the workdir where plyfs' own should be.
    #[error("{} {reason}: remove it, or take another workdir", shown(.path))]
    NotOurs {
        /// What it is.
        path: PathBuf,
        /// Why it is not used.
        reason: String,
    },

    /// The machine has no FUSE.
    #[error(
        "/dev/fuse cannot be opened: {0}; load the module with `modprobe fuse`, and give users the device with `chmod 0666 /dev/fuse`"
    )]
    NoDevice(Errno),
    /// Something else has its name.
    #[error(
        "/dev/fuse is not the FUSE device: make it with `mknod -m 666 /dev/fuse c 10 229`, or ask whoever runs the container for it"
    )]
    WrongDevice,
    /// mount(2) is not for this user, and the program that could do it is missing.
    #[error(
        "this user may not mount, and fusermount3 cannot be started ({0}): install the package fuse3, or mount as root or in a user namespace (`unshare -Urm`)"
    )]
    NoHelper(io::Error),
    /// fusermount3 says no.
    #[error("fusermount3 refuses to mount on {}: {reason}", shown(.path))]
    HelperRefused {
        /// The mountpoint.
        path: PathBuf,
        /// In its own words.
        reason: String,
    },
    /// fusermount3 says no to `allow_other`.
    #[error(
        "allow_other is not for ordinary users here: leave it out, or let root write `user_allow_other` into /etc/fuse.conf"
    )]
    AllowOtherRefused,

    /// The kernel or fusermount3 does not know the flag.
    #[error(
        "nosymfollow is not available here: it takes Linux 5.10, and for ordinary users fusermount3 of fuse 3.17; leave it out, or mount as root"
    )]
    NoSymFollow,
    /// fusermount3 takes no security context.
    #[error("{} is not available through fusermount3: mount as root, or leave it out", shown(.0))]
    LabelRefused(OsString),

    /// mount(2) failed.
    #[error("mount on {} failed: {errno}", shown(.path))]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel has the mount, but not where it was asked for.
    #[error("the mount does not appear at {}: something else was mounted there at the same time", shown(.0))]
    NotVisible(PathBuf),
    /// The mount does not answer.
    #[error("the mount at {} does not answer: {error}", shown(.path))]
    NoAnswer {
        /// The mountpoint.
        path: PathBuf,
        /// What a look at its root said.
        error: io::Error,
    },
    /// The union cannot start.
    #[error("the branches cannot be united: {0}")]
    Union(#[from] Error),
    /// The session with the kernel broke.
    #[error("the session with the kernel failed: {0}")]
    Session(io::Error),
    /// The process could not be set up.
    #[error("{what}: {error}")]
    Process {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// The daemon was killed before its mount was ready.
    #[error("the daemon was killed by signal {0} before the mount was ready")]
    DaemonKilled(i32),

    /// There is no plyfs there.
    #[error("{} is not the mountpoint of a plyfs: `grep fuse.plyfs /proc/self/mounts` shows them all", shown(.0))]
    NotMounted(PathBuf),
    /// The mount has users.
    #[error("{} is in use: end what works there (`fuser -vm {}` shows it), or use `plyfs umount --lazy`", shown(.0), shown(.0))]
    Busy(PathBuf),
    /// The mount stays.
    #[error("{} cannot be unmounted: {reason}", shown(.path))]
    CannotUnmount {
        /// The mountpoint.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The mount is gone, its daemon is not.
    #[error("unmounted, but the daemon still has upper {} in use: wait for it before the directory is used otherwise", shown(.0))]
    Unfinished(PathBuf),
    /// The path leads nowhere that could be looked at.
    #[error("{} cannot be looked at: {error}", shown(.path))]
    Unfound {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The daemon does not answer in time.
    #[error("the mount at {} does not answer within {} s: its daemon is stopped or hangs (`pgrep -a plyfs` shows it); `plyfs umount --lazy` takes the mount away", shown(.path), .patience.as_secs())]
    Silent {
        /// The mountpoint.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The daemon is of another version.
    #[error("the daemon of {} is of a version that does not know how to sync: use `sync -f` on its upper (`plyfs branches` shows it)", shown(.0))]
    CannotSync(PathBuf),
    /// The sync failed.
    #[error("{} cannot be synced: {errno}; it takes write permission on the mountpoint", shown(.path))]
    SyncFailed {
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The mount does not say what it is asked about itself.
    #[error("the mount at {} does not answer: {errno}", shown(.path))]
    TellsNothing {
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
}

impl MountError {
    /// The exit code that tells a script what kind of failure this is.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Options(_) | Self::TooManyChanges => Exit::CommandLine,
            Self::Missing(_)
            | Self::NotADirectory(_)
            | Self::Unreadable { .. }
            | Self::Unwritable { .. }
            | Self::ReadOnlyDisk(_)
            | Self::Same(..)
            | Self::Nested { .. }
            | Self::WorkElsewhere { .. }
            | Self::NeedsWork { .. }
            | Self::Directory { .. }
            | Self::NoMountpoint(_)
            | Self::MountpointNotADirectory(_)
            | Self::DeadMount(_)
            | Self::NotFuse(_)
            | Self::NoDefaultPermissions
            | Self::NotOurs { .. }
            | Self::Unfound { .. }
            | Self::MountpointUnreadable { .. }
            | Self::MountpointInside { .. }
            | Self::CannotHide { .. }
            | Self::Union(
                Error::NoWhiteouts(_)
                | Error::UnfitUpper(_)
                | Error::UnfitWorkdir { .. }
                | Error::NewerWorkdir(_)
                | Error::VolatileCrash,
            )
            | Self::CannotChange(_)
            | Self::Snapshot(_)
            | Self::StackStays(_)
            | Self::NotMounted(_) => Exit::Setup,
            Self::InUse { .. } | Self::Busy(_) => Exit::InUse,
            Self::NoSymFollow
            | Self::LabelRefused(_)
            | Self::NoDevice(_)
            | Self::WrongDevice
            | Self::NoHelper(_)
            | Self::HelperRefused { .. }
            | Self::AllowOtherRefused => Exit::NoFuse,
            Self::Mount { .. }
            | Self::NotVisible(_)
            | Self::NoAnswer { .. }
            | Self::Union(_)
            | Self::Session(_)
            | Self::Process { .. }
            | Self::DaemonKilled(_)
            | Self::ChangeFailed { .. }
            | Self::CannotUnmount { .. }
            | Self::Unfinished(_)
            | Self::Silent { .. }
            | Self::CannotSync(_)
            | Self::SyncFailed { .. }
            | Self::TellsNothing { .. } => Exit::Failure,
        }
    }
}

fn by(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
