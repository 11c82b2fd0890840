//! How do the process that goes into a run and the one that waits outside talk to each other?
//!
//! By messages over a pair of sockets, in turns. What is outside can be done by one only, what is inside by the other.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// From inside: there is a namespace.
    Unshared = b'u' as isize,
    /// From outside: it has its ids.
    Mapped = b'm' as isize,
    /// From inside: it is mounted; with the session's descriptor.
    Mounted = b'f' as isize,
    /// From outside: the mount is served.
    Served = b's' as isize,
    /// From inside: the command comes next; with the mount namespace.
    Ready = b'r' as isize,
    /// From inside: it failed; with the errno and the step.
    Failed = b'x' as isize,
}

/// A word, what comes with it, and maybe a descriptor.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) word: Word,
    pub(super) text: Vec<u8>,
    pub(super) fd: Option<OwnedFd>,
}

impl Word {
    fn of(byte: u8) -> Option<Self> {
        let all = [Self::Unshared, Self::Mapped, Self::Mounted, Self::Served, Self::Ready, Self::Failed];
        all.into_iter().find(|word| *word as u8 == byte)
    }
}

impl Channel {
    /// Both ends.
    pub(super) fn pair() -> Result<(Self, Self), Errno> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Says a word.
    pub(super) fn say(&self, word: Word, text: &[u8], fd: Option<&OwnedFd>) -> Result<(), Errno> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut room);
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            with.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let byte = [word as u8];
        let parts = [IoSlice::new(&byte), IoSlice::new(text)];
        rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.0, &parts, &mut with, SendFlags::NOSIGNAL))
            .map(drop)
    }

    /// Waits for a word; None if there is nobody any more.
    pub(super) fn hear(&self) -> Result<Option<Message>, Errno> {
        let mut text = vec![0; 4096];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = RecvAncillaryBuffer::new(&mut room);
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut text)];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut with, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                heard => break heard?.bytes,
            }
        };
        let fd = with.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        text.truncate(length);
        let Some((byte, text)) = text.split_first() else { return Ok(None) };
        let word = Word::of(*byte).ok_or(Errno::PROTO)?;
        Ok(Some(Message { word, text: text.to_vec(), fd }))
    }
}
