//! What is the kernel told to forget?
//!
//! Notifications of the FUSE protocol (linux/fuse.h, `enum fuse_notify_code`) that fuser does not know. They go to the
//! kernel over the session's own device, at any time, and are never answered. Some take locks that a request may hold
//! which waits for us: none of these is sent by whoever holds up requests.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustix::io::Errno;

use crate::rules::name::Name;
use crate::union::{InBranch, NodeId, Outdated};

const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;
const PRUNE: i32 = 9;

/// Flag of [`INVAL_ENTRY`]: the name is looked up again, and what is mounted on it stays.
const EXPIRE_ONLY: u32 = 1;

/// So many inodes go into one notification.
const PRUNED_AT_ONCE: usize = 512;

/// The kernel's side of a session.
#[derive(Debug)]
pub struct Kernel {
    /// None once the session is over: whoever keeps the device open keeps the kernel waiting for answers.
    device: RwLock<Option<OwnedFd>>,
    expires: AtomicBool,
    prunes: AtomicBool,
}

impl Kernel {
    /// That of the session on a device.
    #[must_use]
    pub fn new(device: OwnedFd) -> Self {
        Self {
            device: RwLock::new(Some(device)),
            expires: AtomicBool::new(false),
            prunes: AtomicBool::new(true),
        }
    }

    /// The session is over.
    pub fn close(&self) {
        *self.device.write() = None;
    }

    /// It can be told to look a name up again without dropping what is mounted on it (Linux 6.2).
    pub(super) fn can_expire(&self) {
        self.expires.store(true, Ordering::Relaxed);
    }

    /// Lets it look up again what may have changed.
    pub fn look_again(&self, outdated: &Outdated) {
        for (dir, name) in &outdated.names {
            let flags = if self.expires.load(Ordering::Relaxed) { EXPIRE_ONLY } else { 0 };
            self.forget_name(*dir, name, flags);
        }
        for inode in outdated.dirs.iter().chain(&outdated.inodes) {
            // From the beginning to the end: the attributes, and the data or the listing that it has cached. After the
            // names: whoever was just listing the directory has let go of it by then.
            self.tell(INVAL_INODE, &[&inode.0.to_ne_bytes(), &[0; 16]]);
        }
        self.prune(&outdated.lost);
        for inode in &outdated.attributes {
            // A negative offset: no data.
            self.tell(INVAL_INODE, &[&inode.0.to_ne_bytes(), &(-1i64).to_ne_bytes(), &[0; 8]]);
        }
    }

    fn forget_name(&self, dir: NodeId, name: &Name, flags: u32) {
        let name = name.as_os_str().as_encoded_bytes();
        let length = name.len() as u32;
        self.tell(
            INVAL_ENTRY,
            &[&dir.0.to_ne_bytes(), &length.to_ne_bytes(), &flags.to_ne_bytes(), name, &[0]],
        );
    }

    /// Lets it drop inodes that nobody uses, if it can be told to: what others have removed takes room until then.
    pub fn prune(&self, inodes: &[NodeId]) {
        for some in inodes.chunks(PRUNED_AT_ONCE) {
            if self.prunes.load(Ordering::Relaxed)
                && self.send_prune(some.iter().copied()) == Err(Errno::INVAL)
            {
                self.prunes.store(false, Ordering::Relaxed);
            }
        }
    }

    fn send_prune(&self, inodes: impl ExactSizeIterator<Item = NodeId>) -> Result<(), Errno> {
        let count = inodes.len() as u32;
        let ids: Vec<u8> = inodes.flat_map(|id| id.0.to_ne_bytes()).collect();
        self.send(PRUNE, &[&count.to_ne_bytes(), &[0; 12], &ids])
    }

    /// Lets it drop inodes that nobody uses; it then says FORGET.
    pub fn drop_unused(&self, inodes: &[InBranch]) {
        for some in inodes.chunks(PRUNED_AT_ONCE) {
            let can = self.prunes.load(Ordering::Relaxed);
            if can && self.send_prune(some.iter().map(|inode| inode.id)) != Err(Errno::INVAL) {
                continue;
            }
            // Before Linux 6.18. Names of what is in use go as well, until they are looked up again.
            self.prunes.store(false, Ordering::Relaxed);
            for (dir, name) in some.iter().flat_map(|inode| &inode.names) {
                self.forget_name(*dir, name, 0);
            }
        }
    }

    /// Says it, and says in the log if the kernel does not understand.
    fn tell(&self, code: i32, parts: &[&[u8]]) {
        if let Err(errno) = self.send(code, parts) {
            log::debug!("the kernel was not told to forget something: {}", io::Error::from(errno));
        }
    }

    fn send(&self, code: i32, parts: &[&[u8]]) -> Result<(), Errno> {
        let length = 16 + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(code.to_ne_bytes());
        message.extend(0u64.to_ne_bytes());
        parts.iter().for_each(|part| message.extend(*part));
        let device = self.device.read();
        let device = device.as_ref().ok_or(Errno::NODEV)?;
        match rustix::io::write(device, &message) {
            Ok(_) => Ok(()),
            // It does not know that name or inode, and so has nothing to forget.
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
