//! unlink, rmdir: how does a name go?

use std::ffi::OsStr;

use super::Union;
use super::locked::LockedNames;
use super::names::Outlives;
use super::node::NodeId;
use crate::error::Result;
use crate::rules::plan::{self, Plan};

impl Union {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// ENOENT, EISDIR; ENAMETOOLONG if the name is too long for the whiteout that it needs.
    pub fn unlink(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(parent, name, |locked| Ok(plan::unlink(locked.target.at())?))
    }

    /// Removes a directory that shows no entry.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY; ENAMETOOLONG if the name is too long for the whiteout that it needs.
    pub fn rmdir(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(parent, name, |locked| {
            Ok(plan::rmdir(locked.target.at(), self.content(&locked.target)?)?)
        })
    }

    fn remove(
        &self,
        parent: NodeId,
        name: &OsStr,
        decide: impl Fn(&LockedNames) -> Result<Plan>,
    ) -> Result<()> {
        self.with_descriptors(|| {
            let entry = self.entry_ref(parent, name)?;
            let (locked, plan) = self.plan(None, &entry, &decide)?;
            let node = self.node_at(&locked.target)?;
            let outlives = match &node {
                Some(node) => self.outlive(&locked.target, node)?,
                None => Outlives::Anyway,
            };
            let record = self.record_of(&locked.target);
            let done = self.execute(&locked, &plan, None, None);
            if let Some(node) = node {
                match &done {
                    Ok(()) => {
                        self.lose_name(&locked.target, &node, outlives);
                        self.drop_record(node.id, record);
                    }
                    Err(_) => self.lives_on(&node, &outlives),
                }
            }
            done
        })
    }
}
