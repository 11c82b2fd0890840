//! How does a union get onto the tree, and off it again?
//!
//! In the order of a mount's life: the branches are opened and checked, the device is mounted,
//! the session serves, the unmount ends it. What the user can do wrong is all in [`MountError`].

mod background;
mod branches;
mod change;
mod device;
mod error;
mod exchange;
mod exposure;
mod helper;
mod inherited;
mod inspect;
mod leaving;
mod listener;
mod live;
mod lock;
mod memory;
mod mountinfo;
mod mountpoint;
mod notify;
mod place;
mod privileges;
mod question;
mod root;
mod session;
mod snapshots;
mod target;
mod unmount;
mod watch;
mod work;

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use log::{debug, info, warn};
use rustix::process::{Resource, Rlimit};

pub use background::start_daemon;
pub use change::{change, change_by_socket};
pub use error::{Dir, MountError, Role};
pub use inspect::{Inside, branches, find, messages, snapshots, status as ask_status, sync};
pub use mountinfo::FS_TYPE;
pub use question::answer_if_sent;
pub use snapshots::{Found, Snapshot, SnapshotError, snapshots_below};
pub use unmount::umount;

use crate::branch::{Believed, BranchRoots, Limits};
use crate::control;
use crate::exit::Exit;
use crate::fuse::{Adapter, Kernel, Timeouts, View};
use crate::options::{MountOptions, Warning};
use crate::rules::ids::Guest;
use crate::shown::shown;
use crate::union::{LiveUnion, Union, UnionOptions};
use branches::Around;
use device::{Before, Wanted};
use inherited::Inherited;
use live::Live;
use lock::WorkLock;
use mountpoint::Mountpoint;
use session::{End, Events};
use target::Target;
use unmount::Mounted;

/// Mounts, in the background unless the options say otherwise.
///
/// In the foreground this returns when the mount has ended; else when it answers, or with the
/// daemon's exit code when it could not be made.
///
/// # Errors
/// Every way in which a mount can fail, see [`MountError`].
pub fn mount(options: &MountOptions, warnings: &[Warning]) -> Result<ExitCode, MountError> {
    let inherited = Inherited::note();
    let ready = if options.foreground {
        Ready::Silent
    } else if background::am_child() {
        background::leave_session()?;
        Ready::Announced
    } else {
        return background::launch().map(ExitCode::from);
    };
    for warning in warnings {
        warn_user(warning);
    }
    serve(options, ready, inherited)?;
    Ok(Exit::Success.into())
}

/// Something that the user should know and that does not stop the mount, whatever the log's level.
fn warn_user(warning: impl Display) {
    eprintln!("plyfs: warning: {warning}");
}

/// Who waits for a mount to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// Nobody: we are in the foreground.
    Silent,
    /// The process that started us.
    Announced,
}

fn serve(options: &MountOptions, ready: Ready, mut inherited: Inherited) -> Result<(), MountError> {
    raise_open_files();
    // Whoever finds a directory locked looks for this name.
    if let Err(errno) = rustix::thread::set_name(c"plyfs") {
        debug!("prctl: {errno}");
    }
    // New entries get their caller's umask; what we make for ourselves has the mode that we say.
    rustix::process::umask(rustix::fs::Mode::empty());

    let target = Target::open(&options.mountpoint, options.session_checks, &mut inherited)?;
    let stack = branches::open(options, target.mountpoint())?;
    inherited.close();
    let _held = options.hold.as_deref().map(lock::hold).transpose()?;
    let ids = options.ids.of_daemon(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut forbidden = stack.forbidden;
    if exposure::matters() && !ids.is_identity() {
        // A program would run with the rights of whoever is shown as its owner.
        forbidden |= rustix::mount::MountFlags::NOSUID;
    }
    let wanted =
        Wanted { access: stack.access, flags: options.flags | forbidden.difference(options.decided) };
    let listing = listing(&stack.roots);
    let upper = stack.roots.upper.as_ref();
    let work = upper.and_then(|upper| upper.work.as_ref()).map(|work| work.path.clone());
    let longest = Timeouts::default();
    let timeouts = Timeouts {
        attr: options.timeouts.attr.unwrap_or(longest.attr),
        entry: options.timeouts.entry.unwrap_or(longest.entry),
        negative: options.timeouts.negative.unwrap_or(longest.negative),
    };
    let union_options = UnionOptions {
        volatile: options.volatile,
        overlay_upper: options.overlay_upper,
        squashed: ids.uid.is_squashed() || ids.gid.is_squashed(),
        noatime: options.flags.contains(rustix::mount::MountFlags::NOATIME),
        stable_inodes: options.stable_inodes,
        overrides: options.overrides.map(|xattr| {
            let believed = if exposure::matters() { Believed::Own } else { Believed::All };
            (xattr, believed)
        }),
        one_filesystem: options.one_filesystem,
        empties_unreadable: options.empties_unreadable,
        plain_lowers: options.plain_lowers,
        bases: options.bases,
        revalidates: timeouts.revalidate(),
        watches: options.watch.map(watch::most),
        limits: Limits { bytes: options.size, inodes: options.inodes },
    };
    crate::branch::keep_capabilities();
    privileges::bound();
    let events = Events::listen()?;
    let union = match Union::open(stack.roots, union_options) {
        Ok(union) => Arc::new(LiveUnion::new(union)),
        Err(error) => {
            stack.lock.into_iter().for_each(WorkLock::withdraw);
            return Err(error.into());
        }
    };

    let name = target::name(&target);
    let around = Around::of(target.mountpoint(), options)?;
    let (device, mounted) = match target {
        Target::Session(device) => (device, None),
        // The mountpoint, held open, would keep the filesystem around it in use after a lazy unmount.
        Target::Directory(mountpoint) => match mount_on(&mountpoint, options, wanted) {
            Ok((device, mounted)) => (device, Some(mounted)),
            Err(error) => {
                close(&union);
                return Err(error);
            }
        },
    };
    // From here on every way out drops `mounted`, which detaches the mount.
    let status = status(options, work.as_deref());
    let guest = options.userns_ids.map(|ids| Guest {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect(),
        ids,
    });
    let view = View {
        ids,
        guest,
        timeouts,
        tells_changes: options.watch.is_some(),
        static_nlink: options.static_nlink,
        status,
    };
    let kernel = device.try_clone().map_err(|error| MountError::Process { what: "/dev/fuse", error })?;
    let flags = (wanted.flags, options.decided);
    let live = Arc::new(Live::new(Arc::clone(&union), Kernel::new(kernel), around, flags));
    if options.watch.is_some() {
        watch::start(&live).map_err(|error| MountError::Process { what: "cannot start a thread", error })?;
    }
    if let Some(path) = &options.control {
        listener::listen(path, Arc::clone(&live))
            .map_err(|error| MountError::Process { what: "--control", error })?;
    }
    let tidying = Arc::clone(&live);
    let adapter = Adapter::new(Arc::clone(&union), view, live, options.threads, options.follows_callers);
    if let Err(error) = events.start(adapter, device, options.threads) {
        close(&union);
        return Err(error);
    }
    tidying.tidy();
    info!("mounted on {}", shown(&name));
    for branch in listing {
        info!("{branch}");
    }
    match ready {
        Ready::Announced => {
            // In the foreground nobody waits for an answer, and it could make the mount busy for who unmounts at once.
            mounted.as_ref().map_or(Ok(()), Mounted::answers)?;
            background::announce()?;
        }
        Ready::Silent => {
            if notify::is_wanted() {
                mounted.as_ref().map_or(Ok(()), Mounted::answers)?;
                notify::notify(notify::Event::Ready);
            }
        }
    }
    let end = events.wait(mounted.as_ref());
    if ready == Ready::Silent {
        notify::notify(notify::Event::Stopping);
    }
    match end? {
        End::Complete => close(&union),
        // Requests may be under way, here and after an error: the next mount tidies up, as
        // after a crash.
        End::CutShort => {}
    }
    drop(stack.lock);
    Ok(())
}

/// Mounts, and makes sure that the mount is where it should be.
fn mount_on(
    mountpoint: &Mountpoint,
    options: &MountOptions,
    wanted: Wanted,
) -> Result<(OwnedFd, Mounted), MountError> {
    let before =
        Before::note().map_err(|error| MountError::Process { what: "/proc/self/mountinfo", error })?;
    let device = device::mount(mountpoint, options, wanted)?;
    let mounted = Mounted::find(mountpoint, &device, &before.after(&device), wanted.flags)?;
    Ok((device, mounted))
}

/// The mount is over, and the branches are as they should be: what cannot be tidied up now the next mount
/// tidies up.
fn close(union: &LiveUnion) {
    if let Err(error) = union.get().close() {
        warn!("the workdir is left as it is: {error}");
    }
}

/// What does not change of what the daemon says of itself.
fn status(options: &MountOptions, work: Option<&Path>) -> Vec<u8> {
    let mut status = [
        control::status_line("version", env!("CARGO_PKG_VERSION")),
        control::status_line("pid", std::process::id().to_string()),
        control::status_line("source", options.source.as_encoded_bytes()),
        control::status_line("options", options.words().join(",")),
    ]
    .concat();
    if let Some(work) = work {
        status.extend(control::status_line("workdir", work.as_os_str().as_encoded_bytes()));
    }
    status
}

/// The branches as AUFS shows them.
fn listing(branches: &BranchRoots) -> Vec<String> {
    let upper = branches.upper.iter().map(|upper| {
        let access = if upper.writes { "rw" } else { "ro" };
        format!("{}={access}", shown(&upper.upper.path))
    });
    let lowers = branches.lowers.iter().map(|lower| format!("{}=ro", shown(&lower.path)));
    upper.chain(lowers).collect()
}

/// A branch is an open directory, and a stack can have hundreds.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, raised) {
        warn!("the limit of open files stays as it is: {errno}");
    }
}
