//! How does a mount leave the terminal?
//!
//! The process starts itself once more and waits. The child, in a session of its own, mounts,
//! says "ready" on its stdout, and closes the last tie. A bare fork would do no exec, but it
//! needs `unsafe` and a process without threads.
//!
//! The parent relays the child's stderr, so every error arrives as if there were one process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;

use super::error::MountError;

/// Names the parent to the child. The number must be the parent's own: inherited by anybody
/// else, the variable means nothing.
const PARENT: &str = "PLYFS_BACKGROUND_PARENT";

const READY: &[u8] = b"ready";

/// Whether this process is the child.
pub(super) fn am_child() -> bool {
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    match (std::env::var_os(PARENT), parent) {
        (Some(named), Some(parent)) => named == *parent,
        _ => false,
    }
}

/// In the parent: starts the child, and returns its exit code, 0 as soon as it is ready.
pub(super) fn launch() -> Result<u8, MountError> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "plyfs".into());
    start(&name, arguments).map(|started| started.map_or_else(|code| code, |_| 0))
}

/// Starts a daemon by a command line of `plyfs mount`, and waits until it serves. None if it does not: it has said why.
/// A descriptor that is to be handed over must not be closed upon exec.
///
/// # Errors
/// It cannot be started, or is killed.
pub fn start_daemon(arguments: impl Iterator<Item = OsString>) -> Result<Option<Child>, MountError> {
    Ok(start(OsStr::new("plyfs"), arguments)?.ok())
}

/// The child once it is ready, or its exit code.
fn start(name: &OsStr, arguments: impl Iterator<Item = OsString>) -> Result<Result<Child, u8>, MountError> {
    let failed = |what| move |error| MountError::Process { what, error };
    let mut child = Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env(PARENT, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("cannot start the daemon, which takes /proc/self/exe and /dev/null"))?;

    let relay = child
        .stderr
        .take()
        .map(|mut complaints| std::thread::spawn(move || io::copy(&mut complaints, &mut io::stderr())));
    let mut said = Vec::new();
    if let Some(mut words) = child.stdout.take() {
        words.read_to_end(&mut said).map_err(failed("cannot hear the daemon"))?;
    }
    if let Some(relay) = relay
        && let Ok(Err(error)) = relay.join()
    {
        // Our own stderr is closed: nobody reads what could not be written.
        log::debug!("stderr: {error}");
    }
    if said == READY {
        return Ok(Ok(child));
    }
    let status = child.wait().map_err(failed("cannot wait for the daemon"))?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(Err(u8::try_from(code).unwrap_or(1).max(1))),
        (None, signal) => Err(MountError::DaemonKilled(signal.unwrap_or_default())),
    }
}

/// In the child: leaves the terminal's session, so that no Ctrl-C there reaches the mount.
pub(super) fn leave_session() -> Result<(), MountError> {
    let failed = |what| move |errno: Errno| MountError::Process { what, error: errno.into() };
    // The kernel names a process by what was executed, and that was /proc/self/exe.
    rustix::thread::set_name(c"plyfs").map_err(failed("prctl"))?;
    rustix::process::setsid().map(|_| ()).map_err(failed("setsid"))
}

/// In the child: tells the parent that the mount answers, and keeps nothing that a caller could
/// wait for: not the pipes, not the directory.
pub(super) fn announce() -> Result<(), MountError> {
    let failed = |what| move |error: io::Error| MountError::Process { what, error };
    let null = File::options().write(true).open("/dev/null").map_err(failed("/dev/null"))?;
    rustix::process::chdir("/").map_err(|errno| failed("chdir /")(errno.into()))?;
    rustix::stdio::dup2_stderr(&null).map_err(|errno| failed("dup2")(errno.into()))?;
    // A parent that is gone has called the mount off: then this fails, and so does the mount.
    rustix::io::write(rustix::stdio::stdout(), READY)
        .map_err(|errno| failed("cannot tell the caller that the mount is ready")(errno.into()))?;
    rustix::stdio::dup2_stdout(&null).map_err(|errno| failed("dup2")(errno.into()))
}
