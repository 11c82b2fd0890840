//! How is a daemon asked to change its stack whose mount cannot be seen?
//!
//! By a socket in a directory of the user's own: what runs inside the mount does not see it. A request and its answer are those of
//! [`control::CHANGE_STACK`](crate::control::CHANGE_STACK), without the NULs behind; each ends with its side of the
//! connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::live::Live;
use crate::control::{CHANGE_ROOM, DONE, REFUSED};
use crate::fuse::Control;

/// How long whoever has connected may take to say what he wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens in a thread of its own. What was in the socket's place before goes.
pub(super) fn listen(path: &Path, live: Arc<Live>) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let listener = at(path, UnixListener::bind)?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        for client in listener.incoming() {
            if let Err(e) = client.and_then(|client| answer(client, &live)) {
                log::debug!("a request for a change: {e}");
            }
        }
    })?;
    Ok(())
}

fn answer(mut client: UnixStream, live: &Live) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut lines = Vec::new();
    (&mut client).take(CHANGE_ROOM as u64).read_to_end(&mut lines)?;
    let (done, text) = match live.change_stack(&lines) {
        Ok(note) => (DONE, note),
        Err(reason) => (REFUSED, reason),
    };
    client.write_all(&[&[done], text.as_bytes()].concat())
}

/// Asks at a socket, and waits at most for as long as `patience`.
pub(super) fn ask(path: &Path, lines: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut daemon = at(path, UnixStream::connect)?;
    daemon.set_read_timeout(Some(patience))?;
    daemon.write_all(lines)?;
    daemon.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    daemon.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A socket's address has 108 bytes: by the directory's descriptor any path fits.
fn at<T>(path: &Path, call: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    call(PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name))
}
