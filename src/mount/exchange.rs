//! How does a request for another stack get to the daemon, and its answer back? By [`control::CHANGE_STACK`].
//!
//! `unsafe` because rustix cannot know how many bytes an ioctl(2) reads and writes.

#![allow(unsafe_code)]

use std::ffi::c_void;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

use crate::control::{self, CHANGE_ROOM};

/// Sends `lines` to the mount whose root a path leads to.
pub(super) fn exchange(root: &str, lines: &[u8]) -> Result<Vec<u8>, Errno> {
    let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut room = Box::new([0; CHANGE_ROOM]);
    room.get_mut(..lines.len()).ok_or(Errno::TOOBIG)?.copy_from_slice(lines);
    // SAFETY: the kernel reads and writes as many bytes as the number says, which is how many `room` has.
    unsafe { ioctl(&root, Exchange(&mut room)) }?;
    Ok(room.to_vec())
}

struct Exchange<'a>(&'a mut [u8; CHANGE_ROOM]);

// SAFETY: the number says that so many bytes are read and written, and the pointer leads to as many.
unsafe impl Ioctl for Exchange<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        control::CHANGE_STACK
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<(), Errno> {
        Ok(())
    }
}
