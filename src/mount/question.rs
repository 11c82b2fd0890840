//! How is a daemon asked something, if it may never answer?
//!
//! A daemon can be stopped, or hang on a dead disk. Whoever asks it waits in the kernel, and once the daemon has read
//! the request not even SIGKILL ends that. So a process of its own asks, with the mount's root as its stdin, and
//! whoever started it waits only for so long.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use log::debug;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::exchange::exchange;

/// Names the process that wants to know, to the one that asks. Inherited by anybody else it means nothing.
const FOR: &str = "PLYFS_QUESTION_FOR";
/// What to ask.
const ATTRIBUTE: &str = "PLYFS_QUESTION";
/// Or how to change the stack.
const CHANGES: &str = "PLYFS_CHANGES";

/// How long a process that was killed may take to go.
const GRACE: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// The daemon did not answer in time.
    Late,
    /// It answered with an error.
    Error(Errno),
    /// Nobody could be sent to ask.
    Nobody(io::Error),
}

impl From<io::Error> for Silence {
    fn from(error: io::Error) -> Self {
        Self::Nobody(error)
    }
}

/// Asks the mount whose root is `root` for an attribute, and waits at most for as long as `patience`.
pub(super) fn ask(root: OwnedFd, attribute: &str, patience: Duration) -> Result<Vec<u8>, Silence> {
    send(root, (ATTRIBUTE, OsStr::new(attribute)), patience)
}

/// Asks for changes of the stack.
pub(super) fn change(root: OwnedFd, lines: &[u8], patience: Duration) -> Result<Vec<u8>, Silence> {
    send(root, (CHANGES, OsStr::from_bytes(lines)), patience)
}

fn send(root: OwnedFd, (what, text): (&str, &OsStr), patience: Duration) -> Result<Vec<u8>, Silence> {
    let mut child = Command::new("/proc/self/exe")
        .arg0("plyfs")
        .env(FOR, std::process::id().to_string())
        .env(what, text)
        .stdin(Stdio::from(root))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let said = listen(&mut child, Instant::now() + patience);
    if said.is_err()
        && let Err(error) = child.kill()
    {
        debug!("kill: {error}");
    }
    reap(&mut child);
    let said = said?;
    let (errno, value) =
        said.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)?;
    match i32::from_le_bytes(*errno) {
        0 => Ok(value.to_vec()),
        errno => Err(Silence::Error(Errno::from_raw_os_error(errno))),
    }
}

fn listen(child: &mut Child, deadline: Instant) -> Result<Vec<u8>, Silence> {
    let mut said = Vec::new();
    let mut pipe = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe).map_err(io::Error::from)?;
    let mut part = [0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let ready = rustix::event::poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&left));
        match ready {
            Ok(0) => return Err(Silence::Late),
            Ok(_) => match pipe.read(&mut part)? {
                0 => return Ok(said),
                length => said.extend(&part[..length]),
            },
            Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
}

/// It holds the mount's root open, so it should be gone before an unmount. One that cannot be killed is left to init.
fn reap(child: &mut Child) {
    let deadline = Instant::now() + GRACE;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some(_)) => return,
            Ok(None) => return debug!("the process that asks cannot be killed"),
            Err(error) => return debug!("wait: {error}"),
        }
    }
}

/// In the process that was sent to ask: asks, and tells. None in every other process.
pub fn answer_if_sent() -> Option<ExitCode> {
    let parent = rustix::process::getppid()?.as_raw_nonzero().to_string();
    if std::env::var_os(FOR)? != *parent {
        return None;
    }
    let answer = match (std::env::var_os(ATTRIBUTE), std::env::var_os(CHANGES)) {
        (Some(attribute), _) => read(&attribute),
        (None, Some(lines)) => exchange(ROOT, lines.as_bytes()),
        (None, None) => return None,
    };
    let (errno, value) = match answer {
        Ok(value) => (0, value),
        Err(errno) => (errno.raw_os_error(), Vec::new()),
    };
    let mut out = io::stdout();
    let told =
        out.write_all(&errno.to_le_bytes()).and_then(|()| out.write_all(&value)).and_then(|()| out.flush());
    Some(if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const ROOT: &str = "/proc/self/fd/0";

fn read(attribute: &OsStr) -> Result<Vec<u8>, Errno> {
    let root = ROOT;
    let length = rustix::fs::getxattr_query(root, attribute)?;
    // A counter may get a digit more before it is read.
    let mut value = vec![0; length + 256];
    let length = rustix::fs::getxattr(root, attribute, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}
