//! When does nobody need the record of an inode any more that is kept in the workdir?
//!
//! Once it has lost its last name and nobody has it open. What a crash leaves behind takes room and says nothing: the
//! inode has a name for ever that no later one has.

use super::Union;
use super::locked::LockedEntry;
use super::node::{Node, NodeId};
use super::stack::Seen;
use crate::branch::LastingId;
use crate::error::Result;

impl Union {
    /// Waits until the node's record is on disk, if it has one in the workdir.
    pub(super) fn sync_record(&self, node: &Node) -> Result<()> {
        match self.stack.upper.as_ref().and_then(|upper| upper.overrides()) {
            Some(overrides) if overrides.is_beside(node.kind) => overrides.sync(),
            _ => Ok(()),
        }
    }

    /// That of what is about to lose its last name; None if it has none there, or will have other names.
    pub(super) fn record_of(&self, locked: &LockedEntry) -> Option<LastingId> {
        let upper = locked.upper().ok()?;
        let overrides = upper.overrides()?;
        let stat = match &locked.seen {
            Seen::Leaf { branch, stat } if branch.is_upper() && stat.st_nlink == 1 => stat,
            Seen::Dir { parts, stat, .. } if parts.first()?.branch.is_upper() => stat,
            _ => return None,
        };
        if !overrides.is_beside(stat.kind()) {
            return None;
        }
        let inode = upper.open_inode(locked.entry.name.as_os_str());
        inode.and_then(|inode| inode.lasting_id(stat)).unwrap_or_else(|e| {
            log::warn!("the record of a removed file stays in the workdir: {e}");
            None
        })
    }

    /// The name is gone: so is the record, or it goes once nobody has the inode open.
    pub(super) fn drop_record(&self, id: NodeId, record: Option<LastingId>) {
        let Some(record) = record else { return };
        if self.table.find(id).is_some() {
            self.unneeded_records.lock().insert(id, record);
        } else {
            self.remove_record(&record);
        }
    }

    /// Nobody has the node open any more.
    pub(super) fn forget_record(&self, id: NodeId) {
        let record = self.unneeded_records.lock().remove(&id);
        if let Some(record) = record {
            self.remove_record(&record);
        }
    }

    fn remove_record(&self, record: &LastingId) {
        let overrides = self.stack.upper.as_ref().and_then(|upper| upper.overrides());
        if let Some(Err(e)) = overrides.map(|overrides| overrides.forget(record)) {
            log::warn!("the record of a removed file stays in the workdir: {e}");
        }
    }
}
