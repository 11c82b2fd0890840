//! What may take long?
//!
//! Whoever serves requests asks before it begins, to have a thread at hand that nobody else waits for. The answers
//! are cheap and need not be exact: they change where the work is done, never what is done. One
//! that comes too early, just before somebody begins to copy, makes that one request wait where it should not.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Union;
use super::attr::Changes;
use super::node::{Node, NodeId, Place};
use super::probe::Seen;
use crate::branch::{Stat, stat_type};
use crate::error::Result;
use crate::rules::name::Name;

/// Up to this many bytes are copied while others wait.
const SHORT: u64 = 1 << 20;

impl Union {
    /// Whether a change of the inode copies much first, or waits for somebody who does.
    #[must_use]
    pub fn is_long_change(&self, id: NodeId) -> bool {
        let Ok(node) = self.table.get(id) else { return false };
        if self.waits_for_directory(&node) {
            return true;
        }
        if node.kind != FileType::RegularFile || node.is_in_upper() {
            return false;
        }
        node.is_held() || self.with_object(&node, |object| object.stat()).is_ok_and(|stat| is_much(&stat))
    }

    /// The same for setattr, which copies nothing of a file that it cuts off.
    #[must_use]
    pub fn is_long_setattr(&self, id: NodeId, changes: &Changes) -> bool {
        if changes.size != Some(0) {
            return self.is_long_change(id);
        }
        let Ok(node) = self.table.get(id) else { return false };
        self.waits_for_directory(&node) || !node.is_in_upper() && node.is_held()
    }

    /// The same for link, which changes names in two directories: then it waits for whoever copies one.
    #[must_use]
    pub fn is_long_link(&self, id: NodeId) -> bool {
        self.rename.is_locked() || self.is_long_change(id)
    }

    /// Whether moving an entry copies much first, or waits for somebody who does.
    #[must_use]
    pub fn is_long_rename(&self, from: (NodeId, &OsStr), to: (NodeId, &OsStr)) -> bool {
        if self.upper.is_none() {
            return false;
        }
        // Whoever changes names in two directories waits for whoever copies one. What has the new name is copied
        // if it gets the old one.
        self.rename.is_locked()
            || [from, to].iter().any(|(dir, name)| self.copies_much(*dir, name).unwrap_or(false))
    }

    /// Whether looking at the inode, or at names in it, waits for somebody who copies a directory.
    #[must_use]
    pub fn may_wait(&self, id: NodeId) -> bool {
        // Only then is a directory held for long.
        self.rename.is_locked() && self.table.get(id).is_ok_and(|node| self.waits_for_directory(&node))
    }

    /// Whether somebody holds the directory, or one above it, who may be copying it.
    fn waits_for_directory(&self, node: &Arc<Node>) -> bool {
        if !self.rename.is_locked() {
            return false;
        }
        let mut at = Arc::clone(node);
        loop {
            if at.kind == FileType::Directory && at.is_held() {
                return true;
            }
            let above = match &at.state().place {
                Place::Root => return false,
                Place::Entry(parent, _) | Place::Gone(parent, _) => Arc::clone(parent),
            };
            at = above;
        }
    }

    fn copies_much(&self, parent: NodeId, name: &OsStr) -> Result<bool> {
        let parent = self.table.get(parent)?;
        let parts = self.open_parts(&parent)?;
        Ok(match &self.see(&parts, &Name::new(name)?)? {
            Seen::Leaf { branch, stat } => !branch.is_upper() && is_much(stat),
            // It is not wholly in the upper.
            Seen::Dir { lower, .. } => lower.is_some(),
            Seen::Absent => false,
        })
    }
}

fn is_much(stat: &Stat) -> bool {
    stat_type(stat) == FileType::RegularFile && stat.st_size as u64 > SHORT
}
