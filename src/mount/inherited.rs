//! Which descriptors did our caller leave open, and how do we get rid of them?
//!
//! A daemon lives for long: a pipe that it inherits never ends for whoever reads from it, and a file or a mount
//! stays in use. They are closed once the branches are open, and not before: a branch may be given as
//! `/proc/self/fd/5`.
//!
//! One of the seven files with `unsafe` code: a descriptor that nobody owns cannot be closed or owned otherwise.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use log::debug;
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

/// Descriptors that were open when the program began.
#[derive(Debug)]
pub(super) struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Everything from 3 on that is open now. To be called before anything of ours is opened.
    pub(super) fn note() -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = rustix::fs::open("/proc/self/fd", flags, Mode::empty())
            .and_then(|list| Ok((list.as_raw_fd(), rustix::fs::Dir::new(list)?)));
        match listing {
            Ok((own, listing)) => {
                let names = listing.filter_map(Result::ok);
                let numbers = names.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok());
                Self(numbers.filter(|&number: &RawFd| number > 2 && number != own).collect())
            }
            Err(errno) => {
                debug!("/proc/self/fd: {errno}: inherited descriptors stay open");
                Self(Vec::new())
            }
        }
    }

    /// One of them, to be used; None if there is none of that number. Whoever we start does not inherit it.
    pub(super) fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        let at = self.0.iter().position(|inherited| *inherited == number)?;
        self.0.swap_remove(at);
        // SAFETY: as in `close`: nobody in this process owns it, and by now it is not in the list either.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        if let Err(errno) = rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC) {
            debug!("fcntl({number}): {errno}");
        }
        Some(fd)
    }

    /// Closes them.
    pub(super) fn close(self) {
        for number in self.0 {
            // SAFETY: it was open before anything of ours was, so no owner in this process knows it, and numbers in
            // use are not given out a second time: it is still what was inherited.
            if unsafe { libc::close(number) } != 0 {
                debug!("close({number}): {}", std::io::Error::last_os_error());
            }
        }
    }
}
