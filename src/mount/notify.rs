//! How does a service manager learn that the mount is there?
//!
//! By a datagram to the socket that it names in `NOTIFY_SOCKET`, from a mount in the foreground: one in the background is
//! no service. Source: sd_notify(3).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const SOCKET: &str = "NOTIFY_SOCKET";

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The mount answers.
    Ready,
    /// It is over; what is left is tidied up.
    Stopping,
}

/// The socket of whoever waits for this very process. What a service starts inherits the variable: a container engine's
/// `mount_program` must not speak for the engine.
fn socket() -> Option<OsString> {
    let is_other = |pid: OsString| pid != *std::process::id().to_string();
    // Set by systemd 248 and later for the process that it starts.
    if std::env::var_os("SYSTEMD_EXEC_PID").is_some_and(is_other) {
        return None;
    }
    std::env::var_os(SOCKET)
}

/// Whether anybody wants to know.
pub(super) fn is_wanted() -> bool {
    socket().is_some()
}

/// Tells it to whoever wants to know. That this fails is no reason for a mount to fail.
pub(super) fn notify(event: Event) {
    let Some(socket) = socket() else { return };
    let message = match event {
        Event::Ready => "READY=1\nSTATUS=mounted",
        Event::Stopping => "STOPPING=1\nSTATUS=unmounted",
    };
    if let Err(error) = send(&socket, message.as_bytes()) {
        log::warn!("{SOCKET}: {error}: nobody is told of the mount's state");
    }
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}
