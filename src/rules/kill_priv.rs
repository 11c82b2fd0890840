//! What does a change of a file's data, or of its ACL, take from its mode?
//!
//! What the kernel's `setattr_should_drop_suidgid` and `posix_acl_update_mode` take on a local disk. File capabilities are
//! no part of the mode: the disk takes them away by itself, whoever writes.

const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;

/// Whether suid and sgid survive what a caller does to a file.
#[derive(Clone, Copy)]
pub enum KillPriv<'a> {
    /// They do: the caller has `CAP_FSETID`.
    Keep,
    /// They do not, but for the sgid of a group that the caller is in, where it means no more than
    /// mandatory locking once did. The answer to "is the caller in this group (as on disk)?" may cost something,
    /// and is asked for where it counts.
    Strip(&'a dyn Fn(u32) -> bool),
}

impl KillPriv<'_> {
    /// The mode that a regular file with this mode and group has after a change of its data.
    #[must_use]
    pub fn mode_after(self, mode: u32, gid: u32) -> u32 {
        let Self::Strip(is_in_group) = self else { return mode };
        let keeps_sgid = mode & SGID != 0 && mode & GROUP_EXEC == 0 && is_in_group(gid);
        mode & !(if keeps_sgid { SUID } else { SUID | SGID })
    }

    /// The mode that a file with this mode and group has once its access ACL has been set.
    #[must_use]
    pub fn mode_after_acl(self, mode: u32, gid: u32) -> u32 {
        match self {
            Self::Strip(is_in_group) if mode & SGID != 0 && !is_in_group(gid) => mode & !SGID,
            _ => mode,
        }
    }
}

/// The mode that anything but a directory has after a change of its owner, whoever makes it.
#[must_use]
pub fn mode_after_chown(mode: u32) -> u32 {
    let sgid = if mode & GROUP_EXEC == 0 { 0 } else { SGID };
    mode & !(SUID | sgid)
}

/// Whether there is nothing in a mode that a change of data could take away.
#[must_use]
pub fn is_plain(mode: u32) -> bool {
    mode & (SUID | SGID) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u32 = 7;

    #[test]
    fn suid_goes_and_sgid_stays_for_members_where_the_group_may_not_execute() {
        let member = |gid| gid == GROUP;
        let outsider = |gid| gid != GROUP;
        // The mode, and what it is after a member and after an outsider.
        for (before, by_member, by_outsider) in [
            (0o100_644, 0o100_644, 0o100_644),
            (0o104_755, 0o100_755, 0o100_755),
            (0o102_755, 0o100_755, 0o100_755),
            (0o106_775, 0o100_775, 0o100_775),
            (0o102_644, 0o102_644, 0o100_644),
            (0o106_666, 0o102_666, 0o100_666),
            (0o101_666, 0o101_666, 0o101_666),
        ] {
            assert_eq!(KillPriv::Strip(&member).mode_after(before, GROUP), by_member, "{before:o}");
            assert_eq!(KillPriv::Strip(&outsider).mode_after(before, GROUP), by_outsider, "{before:o}");
            assert_eq!(KillPriv::Keep.mode_after(before, GROUP), before);
        }
    }

    #[test]
    fn an_acl_that_an_outsider_sets_takes_sgid_away_and_never_suid() {
        let member = |gid| gid == GROUP;
        let outsider = |gid| gid != GROUP;
        for (before, by_outsider) in [(0o106_755, 0o104_755), (0o102_644, 0o100_644), (0o104_755, 0o104_755)]
        {
            assert_eq!(KillPriv::Strip(&member).mode_after_acl(before, GROUP), before);
            assert_eq!(KillPriv::Strip(&outsider).mode_after_acl(before, GROUP), by_outsider);
            assert_eq!(KillPriv::Keep.mode_after_acl(before, GROUP), before);
        }
    }

    #[test]
    fn a_change_of_owner_takes_what_gives_rights() {
        for (before, after) in [(0o106_755, 0o100_755), (0o106_644, 0o102_644), (0o101_777, 0o101_777)] {
            assert_eq!(mode_after_chown(before), after, "{before:o}");
        }
    }

    #[test]
    fn the_group_is_asked_for_only_where_it_counts() {
        let asked = |_| -> bool { panic!("a question that changes nothing") };
        let ask = KillPriv::Strip(&asked);
        let after = [0o100_644, 0o104_755, 0o102_755].map(|mode| ask.mode_after(mode, GROUP));
        assert_eq!(after, [0o100_644, 0o100_755, 0o100_755]);
        assert_eq!(ask.mode_after_acl(0o104_755, GROUP), 0o104_755);
        assert!(is_plain(0o101_777) && !is_plain(0o102_644) && !is_plain(0o104_644));
    }
}
