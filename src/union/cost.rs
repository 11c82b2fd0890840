//! What may take long?
//!
//! Whoever serves requests asks before it begins, to have a thread at hand that nobody else waits for. The answers
//! are cheap and need not be exact: they change where the work is done, never what is done. One that comes
//! too early, just before somebody begins to copy, makes that one request wait where it should not.
//!
//! Only a file is locked while it is copied. No directory is locked for long, so who looks at names never waits.

use std::ffi::OsStr;

use rustix::fs::FileType;

use super::Union;
use super::attr::Changes;
use super::node::NodeId;
use super::stack::Seen;
use crate::branch::Stat;
use crate::error::Result;
use crate::rules::name::Name;

/// Up to this many bytes are copied while others wait.
const SHORT: u64 = 1 << 20;

impl Union {
    /// Whether a change of the inode copies much first, or waits for somebody who does.
    #[must_use]
    pub fn is_long_change(&self, id: NodeId) -> bool {
        let Ok(node) = self.node(id) else { return false };
        if node.kind != FileType::RegularFile || node.is_in_upper() {
            return false;
        }
        node.is_locked() || self.stat_of(&node).is_ok_and(|stat| is_much(&stat))
    }

    /// The same for setattr, which copies nothing of a file that it cuts off.
    #[must_use]
    pub fn is_long_setattr(&self, id: NodeId, changes: &Changes) -> bool {
        if changes.size != Some(0) {
            return self.is_long_change(id);
        }
        self.node(id).is_ok_and(|node| !node.is_in_upper() && node.is_locked())
    }

    /// Whether moving an entry copies much first, or waits for somebody who does. What has the new name is copied if
    /// it gets the old one.
    #[must_use]
    pub fn is_long_rename(&self, from: (NodeId, &OsStr), to: (NodeId, &OsStr)) -> bool {
        self.upper.is_some()
            && [from, to].iter().any(|(dir, name)| self.copies_much(*dir, name).unwrap_or(false))
    }

    /// Whether syncing the inode waits for a disk.
    #[must_use]
    pub fn is_long_sync(&self, id: NodeId) -> bool {
        let is_in_upper = || self.node(id).is_ok_and(|node| node.is_in_upper());
        !self.options.volatile && (is_in_upper() || *self.unsynced_snapshots.lock())
    }

    fn copies_much(&self, parent: NodeId, name: &OsStr) -> Result<bool> {
        let parent = self.node(parent)?;
        let parts = self.open_parts(&parent)?;
        Ok(match self.stack.see(&parts, &Name::new(name)?)? {
            Seen::Leaf { branch, stat } => !branch.is_upper() && is_much(&stat),
            // It is not wholly in the upper.
            Seen::Dir { parts, .. } => parts.iter().any(|part| !part.branch.is_upper()),
            Seen::Absent => false,
        })
    }
}

fn is_much(stat: &Stat) -> bool {
    stat.kind() == FileType::RegularFile && stat.st_size as u64 > SHORT
}
