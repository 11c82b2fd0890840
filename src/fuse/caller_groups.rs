//! Which groups is the caller in, and is it in the daemon's user namespace?
//!
//! A request carries one: that which the caller's new files get (its fsgid). The others are in
//! `/proc/PID/status` of the thread that asks, which waits for the answer meanwhile. They cannot be known if it runs in another PID
//! namespace that the daemon does not see into, if /proc hides it, or if it has been killed. Then it counts as
//! being in its first group only, which takes from it and never gives.

use std::fs;

use fuser::Request;

/// Who asks, as users see the numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pid: u32,
}

impl Asker {
    pub(super) fn of(request: &Request) -> Self {
        Self { uid: request.uid(), gid: request.gid(), pid: request.pid() }
    }

    /// Whether suid and sgid do not survive a change of data by this caller, where the kernel does not say so.
    pub(super) fn kills(&self) -> bool {
        self.uid != 0
    }

    /// Whether the caller is in the group.
    pub(super) fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.supplementary_groups().contains(&gid)
    }

    /// Whether the caller is in the daemon's user namespace, or in one that the daemon cannot see into: around its own.
    pub(super) fn is_at_home(&self) -> bool {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user"));
        // A process inside would have a number here.
        if self.pid == 0 {
            return true;
        }
        match (namespace("self"), namespace(&self.pid.to_string())) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            // No /proc, or a kernel without user namespaces.
            (Err(_), _) => true,
            // Root's are not for everybody to see. In a namespace inside this one nobody is root here.
            (Ok(_), Err(_)) => self.status().is_some_and(|status| effective_uid(&status) == Some(0)),
        }
    }

    fn status(&self) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid));
        status.inspect_err(|e| log::debug!("process {}: {e}", self.pid)).ok()
    }

    fn supplementary_groups(&self) -> Vec<u32> {
        // The kernel says 0 of a process that it has no number for here.
        if self.pid == 0 {
            return Vec::new();
        }
        self.status().map(|status| groups_in(&status)).unwrap_or_default()
    }
}

/// As the daemon's own user namespace has it.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn groups_in(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.into_iter().flat_map(str::split_whitespace).filter_map(|gid| gid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_line_that_names_them() {
        let status = "Name:\tGroups: 9\nGid:\t5\t5\t5\t5\nFDSize:\t64\nGroups:\t4 24 54321 \nNStgid:\t7\n";
        assert_eq!(groups_in(status), [4, 24, 54_321]);
        assert_eq!(groups_in("Groups:\t\n"), Vec::<u32>::new());
        assert_eq!(groups_in(""), Vec::<u32>::new());
    }

    #[test]
    fn the_effective_user_is_the_second_of_four() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t1000\t1000\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t7\n"), None);
    }

    #[test]
    fn who_is_not_known_is_in_one_group() {
        for pid in [0, u32::MAX] {
            let asker = Asker { uid: 1, gid: 7, pid };
            assert!(asker.is_in_group(7) && !asker.is_in_group(8));
        }
    }
}
