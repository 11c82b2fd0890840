//! How is a live mount asked to change its stack?

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Dir, MountError, Role};
use super::inspect::root;
use super::listener;
use super::place::Place;
use super::question::{self, Silence};
use crate::control::{self, Change};
use crate::options::Wish;

/// How long a daemon may take: it waits itself for requests that take long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Changes the stack of the plyfs at `given`, all at once or not at all. What there is left to say, if anything.
///
/// # Errors
/// No plyfs there, or it does not answer, or refuses: then nothing has changed.
pub fn change(given: &Path, wishes: &[Wish]) -> Result<String, MountError> {
    let root = root(given)?;
    let path = root.entry.mountpoint.clone();
    let changes = wishes.iter().map(meant).collect::<Result<Vec<_>, _>>()?;
    let lines = control::change_lines(&changes);
    // A NUL ends them.
    if lines.len() >= control::CHANGE_ROOM {
        return Err(MountError::TooManyChanges);
    }
    let answer = question::change(root.fd, &lines, PATIENCE).map_err(|silence| match silence {
        Silence::Late => MountError::Silent { path: path.clone(), patience: PATIENCE },
        Silence::Error(rustix::io::Errno::NOTTY) => MountError::CannotChange(path.clone()),
        Silence::Error(errno) => MountError::ChangeFailed { path: path.clone(), errno },
        Silence::Nobody(error) => MountError::Process { what: "cannot ask the daemon", error },
    })?;
    understood(&answer).unwrap_or(Err(MountError::CannotChange(path)))
}

/// The same for a daemon that listens at a socket.
///
/// # Errors
/// As [`change`].
pub fn change_by_socket(socket: &Path, wishes: &[Wish]) -> Result<String, MountError> {
    let changes = wishes.iter().map(meant).collect::<Result<Vec<_>, _>>()?;
    let lines = control::change_lines(&changes);
    if lines.len() >= control::CHANGE_ROOM {
        return Err(MountError::TooManyChanges);
    }
    let failed = |error| MountError::Process { what: "cannot ask the daemon", error };
    let answer = listener::ask(socket, &lines, PATIENCE).map_err(failed)?;
    understood(&answer).unwrap_or_else(|| Err(failed(std::io::ErrorKind::UnexpectedEof.into())))
}

/// What a daemon has answered; None if it is no answer.
fn understood(answer: &[u8]) -> Option<Result<String, MountError>> {
    let text = |text: &[u8]| {
        let length = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    match answer.split_first()? {
        (&control::DONE, note) => Some(Ok(text(note))),
        (&control::REFUSED, reason) => Some(Err(MountError::StackStays(text(reason)))),
        _ => None,
    }
}

/// The change that a wish means to the daemon, which has its own idea of relative paths.
fn meant(wish: &Wish) -> Result<Change, MountError> {
    Ok(match wish {
        Wish::Add(at, given) => {
            let dir = Dir { role: Role::Lower, path: given.clone() };
            let opened = super::branches::open_dir(given, Role::Lower)?;
            let place = Place::of(&opened).map_err(|errno| MountError::Directory {
                dir: dir.clone(),
                call: "statx",
                errno,
            })?;
            let path = given.canonicalize().map_err(|_| MountError::Missing(dir))?;
            Change::Add { at: *at, identity: place.identity.inode_id(), dir: path }
        }
        Wish::Remove(given, strict) => Change::Remove { strict: *strict, dir: named(given) },
        Wish::Snapshot(name) => Change::Snapshot(name.clone()),
        Wish::Rewind(name) => Change::Rewind(name.clone()),
        Wish::Move(given, to) => Change::Move { to: *to, dir: named(given) },
    })
}

/// A branch by the path under which the daemon lists it. It need not be there any more.
fn named(given: &Path) -> PathBuf {
    given.canonicalize().or_else(|_| std::path::absolute(given)).unwrap_or_else(|_| given.to_owned())
}
