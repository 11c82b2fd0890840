//! How does a service manager learn that the mount is there?
//!
//! By a datagram to the socket that it names in `NOTIFY_SOCKET`. Source: sd_notify(3).

use std::ffi::OsStr;
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

/// Whether anybody wants to know.
pub(super) fn is_wanted() -> bool {
    std::env::var_os(SOCKET).is_some()
}

/// Tells it to whoever wants to know. That this fails is no reason for a mount to fail.
pub(super) fn notify(event: Event) {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let message = match event {
        // The process that was started may not be the one that serves.
        Event::Ready => format!("READY=1\nMAINPID={}\nSTATUS=mounted", std::process::id()),
        Event::Stopping => "STOPPING=1\nSTATUS=unmounted".to_owned(),
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
