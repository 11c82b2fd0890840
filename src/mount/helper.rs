//! How does an ordinary user mount and unmount? Through fusermount3, which is setuid root.
//!
//! It finds a socket's number in `_FUSE_COMMFD`, and sends the opened device back through it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::device::Wanted;
use super::error::MountError;
use super::mountinfo;
use super::root::Spot;
use crate::options::{Access, MountOptions, Sharing, names_of};
use crate::shown::shown;

const PROGRAM: &str = "fusermount3";

/// Mounts on `target` and returns the session's descriptor.
pub(super) fn mount(target: &Path, options: &MountOptions, wanted: Wanted) -> Result<OwnedFd, MountError> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| MountError::Process { what: "socketpair", error: errno.into() })?;

    // The socket is its stdin, so no other descriptor has to survive the exec.
    let mut child = Command::new(PROGRAM)
        .arg("-o")
        .arg(mount_options(options, wanted))
        .arg("--")
        .arg(target)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;

    let device = receive(&ours);
    let complaint =
        finish(&mut child).map_err(|error| MountError::Process { what: "wait for fusermount3", error })?;
    let refused = |reason| MountError::HelperRefused { path: target.to_owned(), reason };
    match (device, complaint) {
        (Ok(Some(device)), None) => Ok(device),
        (_, Some(complaint)) if complaint.contains("user_allow_other") => Err(MountError::AllowOtherRefused),
        (_, Some(complaint)) if complaint.contains("unknown option 'nosymfollow'") => {
            Err(MountError::NoSymFollow)
        }
        (_, Some(complaint)) => Err(refused(complaint)),
        (Ok(None), None) => Err(refused("it sent no descriptor".to_owned())),
        (Err(error), None) => Err(refused(error.to_string())),
    }
}

/// Whether users of a mount keep it in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detach {
    /// A mount in use stays.
    IfUnused,
    /// It vanishes from the tree at once, and ends with its last user.
    Lazily,
}

/// Unmounts; the error is fusermount3's own complaint.
pub(super) fn unmount(spot: &Spot, detach: Detach) -> Result<(), String> {
    let how = match detach {
        Detach::IfUnused => "-u",
        Detach::Lazily => "-uz",
    };
    let mut command = Command::new(PROGRAM);
    command.args([how, "--"]).arg(spot.name());
    // It takes only a path: the shortest there is, from the directory that we have looked at.
    if let Some(parent) = spot.parent() {
        command.current_dir(parent);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{PROGRAM} cannot be started: {error}"))?;
    match finish(&mut child).map_err(|error| error.to_string())? {
        None => Ok(()),
        Some(complaint) => Err(complaint),
    }
}

/// Waits for the program; what it complained of, if it failed.
fn finish(child: &mut Child) -> io::Result<Option<String>> {
    let mut complaint = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut complaint)?;
    }
    if child.wait()?.success() {
        return Ok(None);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let complaint = complaint.trim();
    // It repeats the path as it is.
    Ok(Some(shown(complaint.strip_prefix("fusermount3: ").unwrap_or(complaint)).to_string()))
}

/// The descriptor that comes through the socket; None if the other side closes it instead.
fn receive(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let device = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(device)
}

/// What fusermount3 must know; anything but root's own choice is nosuid and nodev anyway.
fn mount_options(options: &MountOptions, wanted: Wanted) -> OsString {
    let mut words = vec![
        OsString::from(match wanted.access {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        }),
        "default_permissions".into(),
        mountinfo::fs_type().replace("fuse.", "subtype=").into(),
        fsname(&options.source),
    ];
    if options.sharing == Sharing::Everybody {
        words.push("allow_other".into());
    }
    words.extend(names_of(wanted.flags).map(OsString::from));
    words.join(OsStr::new(","))
}

/// A comma or backslash in the name would end it, unless a backslash stands before.
fn fsname(source: &OsStr) -> OsString {
    let mut option = b"fsname=".to_vec();
    for &byte in source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            option.push(b'\\');
        }
        option.push(byte);
    }
    OsString::from_vec(option)
}
