//! unlink, rmdir: how does a name go?

use std::ffi::OsStr;

use super::Union;
use super::mutate::{Acts, Stage};
use super::node::NodeId;
use crate::error::Result;
use crate::rules::plan::{self, Plan};

impl Union {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// ENOENT, EISDIR; ENAMETOOLONG if the name is too long for the whiteout that it needs.
    pub fn unlink(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(parent, name, |stage| Ok(plan::unlink(stage.target.at())?))
    }

    /// Removes a directory that shows no entry.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY; ENAMETOOLONG if the name is too long for the whiteout that it needs.
    pub fn rmdir(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(parent, name, |stage| Ok(plan::rmdir(stage.target.at(), self.content(&stage.target)?)?))
    }

    fn remove(
        &self,
        parent: NodeId,
        name: &OsStr,
        decide: impl Fn(&Stage<'_>) -> Result<Plan>,
    ) -> Result<()> {
        let spot = self.spot(parent, name)?;
        let node = std::cell::OnceCell::new();
        let before = |stage: &Stage<'_>| {
            if let Some(found) = self.node_at(&stage.target)? {
                self.pin(&stage.target, &found)?;
                node.get_or_init(|| found);
            }
            Ok(())
        };
        let stage = self.perform(None, &spot, decide, &Acts { before: &before, ..Acts::NONE })?;
        match node.get() {
            Some(node) => self.lose_name(&stage.target, node),
            None => Ok(()),
        }
    }
}
