//! rename: how does an entry get another name?

use std::ffi::OsStr;

use super::Union;
use super::locked::LockedNames;
use super::names::Outlives;
use super::node::NodeId;
use crate::error::Result;
use crate::rules::plan::{self, Plan, Replace};

/// What may happen to an entry that has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// There must be none (`RENAME_NOREPLACE`).
    NoReplace,
    /// It gets the old name (`RENAME_EXCHANGE`).
    Exchange,
}

impl Union {
    /// Moves an entry. Whatever a lower supplies of it is copied up first, a directory with all that is in
    /// it: an OCI layer has no way to say "moved from".
    ///
    /// # Errors
    /// As rename(2) has them; ENAMETOOLONG if the old name is too long for the whiteout that it needs.
    pub fn rename(
        &self,
        (parent, name): (NodeId, &OsStr),
        (new_parent, new_name): (NodeId, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        self.with_descriptors(|| {
            let from = self.entry_ref(parent, name)?;
            let to = self.entry_ref(new_parent, new_name)?;
            let (locked, plan) = self.plan(Some(&from), &to, |locked| self.plan_rename(locked, mode))?;
            let moved = self.node_at(locked.source()?)?;
            let replaced = self.node_at(&locked.target)?;
            let outlives = match &replaced {
                Some(replaced) if mode != RenameMode::Exchange => self.outlive(&locked.target, replaced)?,
                _ => Outlives::Anyway,
            };
            let record = self.record_of(&locked.target);
            let done = self.execute(&locked, &plan, None, None);
            if let (Err(_), Some(replaced)) = (&done, &replaced) {
                self.lives_on(replaced, &outlives);
            }
            done?;
            if let Some(replaced) = replaced {
                if mode == RenameMode::Exchange {
                    self.move_name(&replaced, &to, &from);
                } else {
                    self.lose_name(&locked.target, &replaced, outlives);
                    self.drop_record(replaced.id, record);
                }
            }
            if let Some(moved) = moved {
                self.move_name(&moved, &from, &to);
            }
            Ok(())
        })
    }

    fn plan_rename(&self, locked: &LockedNames, mode: RenameMode) -> Result<Plan> {
        let (source, target) = (locked.source()?.at(), locked.target.at());
        let replace = match mode {
            RenameMode::Exchange => return Ok(plan::exchange(source, target)?),
            RenameMode::NoReplace => Replace::Refused,
            RenameMode::Replace => Replace::Allowed,
        };
        Ok(plan::rename(source, target, self.content(&locked.target)?, replace)?)
    }
}
