//! How does an entry come out as if the caller had made it on the disk?
//!
//! By making it as the caller: the event loop's thread takes on the caller's umask, user and group for
//! the one call, and the disk's own filesystem applies default ACLs, setgid directories and umask, all in
//! one step. The thread keeps its other powers: whether the caller may is the kernel's business, and it
//! has checked.
//!
//! One of the seven files with `unsafe` code: a thread must get an umask of its own, which no safe call does.
#![allow(unsafe_code)]

use std::cell::Cell;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, UnshareFlags, set_capabilities_secure_bits, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::error::{Error, Place, Result};
use crate::rules::BranchId;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user, as on disk.
    pub uid: u32,
    /// The group, as on disk.
    pub gid: u32,
    /// The permission bits that new entries do not get, unless a default ACL says otherwise.
    pub umask: u32,
}

thread_local! {
    /// The umask that this thread has now; None while it shares the process's.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Lets threads that are started from now on take on other users and keep their capabilities.
/// Where we are not allowed to, [`act_as`] serves our own user only.
pub fn keep_capabilities() {
    let bits = CapabilitiesSecureBits::NO_SETUID_FIXUP;
    if let Err(errno) = set_capabilities_secure_bits(bits) {
        log::debug!("acting for our own user only: prctl(PR_SET_SECUREBITS): {errno}");
    }
}

/// Runs `make` as the caller.
///
/// # Errors
/// EPERM if we may not act for that user; those of `make`.
pub fn act_as<T>(caller: Caller, make: impl FnOnce() -> Result<T>) -> Result<T> {
    set_umask(caller.umask)?;
    let _umask = OwnUmask;
    let ours = (rustix::process::geteuid(), rustix::process::getegid());
    let theirs = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    if ours == theirs {
        return make();
    }
    if set_effective(theirs).is_err() {
        // Without privilege we are one user, whose other groups cannot be taken on either.
        return if ours.0 == theirs.0 { make() } else { Err(Error::NotPermitted) };
    }
    let _ids = OwnIds(ours);
    make()
}

/// Gives the thread its own umask back, also after a panic: what we make for ourselves has the mode that we say.
struct OwnUmask;

impl Drop for OwnUmask {
    fn drop(&mut self) {
        if let Err(e) = set_umask(0) {
            log::error!("cannot return to our own umask: {e}");
            std::process::abort();
        }
    }
}

/// Gives the thread its own user and group back, also after a panic.
struct OwnIds((Uid, Gid));

impl Drop for OwnIds {
    fn drop(&mut self) {
        if let Err(errno) = set_effective(self.0) {
            // Going on as somebody else would give their name to other people's files.
            log::error!("cannot return to our own user: {errno}");
            std::process::abort();
        }
    }
}

/// Real and saved ids stay ours, so that there is a way back. On failure nothing has changed.
fn set_effective((uid, gid): (Uid, Gid)) -> rustix::io::Result<()> {
    let before = rustix::process::getegid();
    let (real_uid, real_gid) = (rustix::process::getuid(), rustix::process::getgid());
    set_thread_res_gid(real_gid, gid, real_gid)?;
    set_thread_res_uid(real_uid, uid, real_uid).inspect_err(|_| {
        if let Err(errno) = set_thread_res_gid(real_gid, before, real_gid) {
            log::error!("cannot return to our own group: {errno}");
            std::process::abort();
        }
    })
}

fn failed(call: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Sys { call, errno, place: Place::branch(BranchId::UPPER) }
}

fn set_umask(umask: u32) -> Result<()> {
    if UMASK.get().is_none() {
        // SAFETY: CLONE_FS gives this thread its own umask, root and current directory, and touches no
        // memory. No thread of ours relies on another's change of these.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(failed("unshare"))?;
    }
    if UMASK.get() != Some(umask) {
        rustix::process::umask(Mode::from_raw_mode(umask));
        UMASK.set(Some(umask));
    }
    Ok(())
}

/// Gives a thread that another one has started an umask of its own, as [`act_as`] gives each: until then it shares
/// that thread's, which may be some caller's.
///
/// # Errors
/// Those of unshare(2).
pub fn prepare_thread() -> Result<()> {
    set_umask(0)
}
