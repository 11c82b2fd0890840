//! How does the kernel see what the union says, and for how long may it remember it?

use std::time::Duration;

use crate::rules::ids::{Guest, IdMaps};

/// How long the kernel may remember what it was told, unless the options say otherwise.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// For how long the kernel need not ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// What attributes an inode has.
    pub attr: Duration,
    /// That a name leads to an inode.
    pub entry: Duration,
    /// That a name leads nowhere.
    pub negative: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { attr: DAY, entry: DAY, negative: DAY }
    }
}

impl Timeouts {
    /// Whether the kernel asks again of what it knows: then what is cached must be looked at again as well.
    #[must_use]
    pub fn revalidate(&self) -> bool {
        *self != Self::default()
    }
}

/// What stands between the union's answers and the kernel.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Which ids are shown.
    pub ids: IdMaps,
    /// Whom the mount serves, if it is in a user namespace that has not all ids.
    pub guest: Option<Guest>,
    /// For how long an answer holds.
    pub timeouts: Timeouts,
    /// Whether the kernel is told of changes that others make in lowers.
    pub tells_changes: bool,
    /// Every directory has one link, whatever is in it.
    pub static_nlink: bool,
    /// What does not change of what the daemon says of itself, as [`crate::control::STATUS`] has it.
    pub status: Vec<u8>,
}

impl View {
    /// Permission bits to show of the root, with that group.
    ///
    /// The kernel makes the root's inode before it knows that there are ACLs, and so never remembers that it has none: whoever
    /// is not its owner pays a request for each path, unless its group has no rights. Nobody in a guest's namespace is in a group
    /// that is not his.
    pub(super) fn root_mode(&self, mode: u32, gid: u32) -> u32 {
        match &self.guest {
            Some(guest) if guest.gid != gid => mode & !0o070,
            _ => mode,
        }
    }

    /// Owner and group to show of an inode with these ids on disk, and this mode.
    pub(super) fn owner(&self, uid: u32, gid: u32, mode: u32) -> (u32, u32) {
        let (uid, gid) = (self.ids.uid.shown(uid), self.ids.gid.shown(gid));
        match &self.guest {
            Some(guest) => guest.shown(uid, gid, mode),
            None => (uid, gid),
        }
    }
}
