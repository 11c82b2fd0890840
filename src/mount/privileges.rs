//! Which of root's powers does a daemon keep?
//!
//! Those that its system calls need, and no more: a daemon that serves other users' requests for months should not be
//! able to load a module, trace a process or open a raw socket. Threads inherit what is left, so this comes before the
//! first one starts.

use log::debug;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What is kept, and what for.
const KEPT: CapabilitySet = CapabilitySet::CHOWN // copies belong to whom the original belongs to
    // Branches are read and written for callers whom the kernel has checked.
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH) // the same, and open_by_handle_at(2)
    .union(CapabilitySet::FOWNER) // chmod(2), utimensat(2) and O_NOATIME on others' files
    .union(CapabilitySet::FSETID) // sgid stays on a copy
    .union(CapabilitySet::SETUID) // entries are made as the caller
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP) // file capabilities of a copy
    .union(CapabilitySet::MKNOD) // devices
    .union(CapabilitySet::SYS_ADMIN) // mount(2), umount(2), trusted.* and security.* attributes
    // Blocks that the disk reserves for root, and quotas: a deletion must work on a full disk.
    .union(CapabilitySet::SYS_RESOURCE);
// Not LINUX_IMMUTABLE: an immutable file of an upper stays what it is. Not MAC_ADMIN: Smack's labels are set by whoever
// may. Not SYS_PTRACE, NET_*, SYS_MODULE, SYS_RAWIO, SYS_BOOT, BPF and what else there is.

/// Gives up everything else, for good.
pub(super) fn bound() {
    if let Err(errno) = try_bound() {
        debug!("capabilities stay as they are: {errno}");
    }
}

fn try_bound() -> Result<(), Errno> {
    let sets = rustix::thread::capabilities(None)?;
    // Of an ordinary user the bounding set stays: fusermount3 needs it, and the user has nothing else.
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if KEPT.contains(capability) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // One more than this kernel knows.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
    }
    let kept = CapabilitySets {
        effective: sets.effective & KEPT,
        permitted: sets.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, kept)
}
