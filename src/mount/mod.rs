//! How does a union get onto the tree, and off it again?
//!
//! In the order of a mount's life: the branches are opened and checked, the device is mounted,
//! the session serves, the unmount ends it. What the user can do wrong is all in [`MountError`].

mod background;
mod branches;
mod device;
mod error;
mod helper;
mod inspect;
mod lock;
mod mountinfo;
mod mountpoint;
mod place;
mod session;
mod unmount;
mod work;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use log::{info, warn};
use rustix::process::{Resource, Rlimit};

pub use error::{Dir, MountError, Role};
pub use inspect::{BRANCHES_XATTR, MESSAGES_XATTR, branches, messages};
pub use unmount::umount;

use crate::branch::BranchRoots;
use crate::exit::Exit;
use crate::fuse::Adapter;
use crate::options::{MountOptions, Warning};
use crate::union::{Union, UnionOptions};
use mountpoint::Mountpoint;
use session::{End, Events};
use unmount::Mounted;

/// Mounts, in the background unless the options say otherwise.
///
/// In the foreground this returns when the mount has ended; else when it answers, or with the
/// daemon's exit code when it could not be made.
///
/// # Errors
/// Every way in which a mount can fail, see [`MountError`].
pub fn mount(options: &MountOptions, warnings: &[Warning]) -> Result<ExitCode, MountError> {
    let ready = if options.foreground {
        Ready::Silent
    } else if background::am_child() {
        background::leave_session()?;
        Ready::Announced
    } else {
        return background::launch().map(ExitCode::from);
    };
    for warning in warnings {
        eprintln!("plyfs: warning: {warning}");
    }
    serve(options, ready)?;
    Ok(Exit::Success.into())
}

/// Who waits for a mount to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// Nobody: we are in the foreground.
    Silent,
    /// The process that started us.
    Announced,
}

fn serve(options: &MountOptions, ready: Ready) -> Result<(), MountError> {
    raise_open_files();
    // New entries get their caller's umask; what we make for ourselves has the mode that we say.
    rustix::process::umask(rustix::fs::Mode::empty());

    let mountpoint = Mountpoint::open(&options.mountpoint)?;
    let branches = branches::open(options, &mountpoint)?;
    let listing = listing(&branches);
    let ids = options.ids.of_daemon(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let union_options = UnionOptions {
        volatile: options.volatile,
        overlay_upper: options.overlay_upper,
        squashed: ids.uid.is_squashed() || ids.gid.is_squashed(),
    };
    crate::branch::keep_capabilities();
    let events = Events::listen()?;
    let union = Arc::new(Union::open(branches, union_options)?);

    let mounted = device::mount(&mountpoint.path, options).and_then(|device| {
        let mounted = Mounted::find(&mountpoint.path, &device)?;
        Ok((device, mounted))
    });
    let (device, mounted) = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            close(&union);
            return Err(error);
        }
    };
    events.start(Adapter::new(Arc::clone(&union), ids), device, options.threads)?;
    info!("mounted on {}", mountpoint.path.display());
    for branch in listing {
        info!("{branch}");
    }
    match ready {
        Ready::Announced => {
            answers(&mountpoint.path)?;
            background::announce()?;
        }
        Ready::Silent => {}
    }
    match events.wait(&mounted)? {
        End::Complete => close(&union),
        // Requests may be under way, here and after an error: the next mount tidies up, as
        // after a crash.
        End::CutShort => {}
    }
    Ok(())
}

/// The mount is over, and the branches are as they should be: what cannot be tidied up now the next mount
/// tidies up.
fn close(union: &Union) {
    if let Err(error) = union.close() {
        warn!("the workdir is left as it is: {error}");
    }
}

/// One question to ourselves: its answer has been through the kernel and the union. In the
/// foreground nobody waits for it, and it could make the mount busy for who unmounts at once.
fn answers(mountpoint: &Path) -> Result<(), MountError> {
    std::fs::metadata(mountpoint)
        .map(|_| ())
        .map_err(|error| MountError::NoAnswer { path: mountpoint.to_owned(), error })
}

/// The branches as AUFS shows them.
fn listing(branches: &BranchRoots) -> Vec<String> {
    let upper = branches.upper.iter().map(|upper| format!("{}=rw", upper.upper.path.display()));
    let lowers = branches.lowers.iter().map(|lower| format!("{}=ro", lower.path.display()));
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
