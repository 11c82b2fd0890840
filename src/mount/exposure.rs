//! Can other users get at a directory behind the mount's back?
//!
//! What they own in an upper they can rename there, past everything that plyfs checks.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use super::place;

/// Whether we mount for everybody: as root, and not of a user namespace.
pub(super) fn matters() -> bool {
    let all_ids = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    rustix::process::geteuid().is_root() && all_ids
}

/// Whether others may search every directory from the root down to `dir`, itself included: because they belong to
/// everybody, to a group or to somebody else than us.
pub(super) fn is_reachable(dir: impl AsFd) -> Result<bool, Errno> {
    let us = rustix::process::geteuid().as_raw();
    let is_open = |stat: &Stat| {
        let mode = Mode::from_raw_mode(stat.st_mode);
        let by_group = mode.contains(Mode::XGRP) && stat.st_gid != 0;
        mode.contains(Mode::XOTH) || by_group || stat.st_uid != us
    };
    let stat = rustix::fs::statat(&dir, c"", AtFlags::EMPTY_PATH)?;
    if !is_open(&stat) {
        return Ok(false);
    }
    let mut below = place::Place::of(&dir)?;
    let mut parent = place::open_parent(dir)?;
    loop {
        let here = place::Place::of(&parent)?;
        if here == below {
            return Ok(true);
        }
        if !is_open(&rustix::fs::statat(&parent, c"", AtFlags::EMPTY_PATH)?) {
            return Ok(false);
        }
        below = here;
        parent = place::open_parent(&parent)?;
    }
}
