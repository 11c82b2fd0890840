//! How does memory that is free again go back to the machine?
//!
//! Inodes that the kernel has forgotten are freed one by one, and the C library keeps most of what they took for the next
//! ones. A daemon lives for long: what a walk over everything took must not stay with it for ever.
//!
//! One of the seven files with `unsafe` code: nothing safe asks the C library for it.
#![allow(unsafe_code)]

/// Gives back what is free. Takes a moment, in which whoever allocates may wait.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and touches nothing but what is free; it may be called at any time, on any thread.
    let given_back = unsafe { libc::malloc_trim(0) };
    // Other C libraries give memory back by themselves, or not at all.
    #[cfg(not(target_env = "gnu"))]
    let given_back = 0;
    log::trace!("malloc_trim: {given_back}");
}
