//! rename: how does an entry get another name?

use std::cell::OnceCell;
use std::ffi::OsStr;

use super::Union;
use super::mutate::{Acts, Scene, Stage};
use super::node::NodeId;
use crate::error::{Error, Result};
use crate::rules::plan::{self, Replace};

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
        let source = self.spot(parent, name)?;
        let target = self.spot(new_parent, new_name)?;
        let nodes = OnceCell::new();
        let before = |stage: &Stage<'_>| {
            let moved = self.node_at(source_of(stage)?)?;
            let replaced = self.node_at(&stage.target)?;
            if let (Some(replaced), true) = (&replaced, mode != RenameMode::Exchange) {
                self.pin(&stage.target, replaced)?;
            }
            nodes.get_or_init(|| (moved, replaced));
            Ok(())
        };
        let decide = |stage: &Stage<'_>| {
            let (source, target) = (source_of(stage)?.at(), stage.target.at());
            let plan = match mode {
                RenameMode::Exchange => plan::exchange(source, target),
                RenameMode::NoReplace => {
                    plan::rename(source, target, self.content(&stage.target)?, Replace::Refused)
                }
                RenameMode::Replace => {
                    plan::rename(source, target, self.content(&stage.target)?, Replace::Allowed)
                }
            };
            Ok(plan?)
        };
        let acts = Acts { before: &before, ..Acts::NONE };
        let stage = self.perform(Some(&source), &target, decide, &acts)?;
        let Some((moved, replaced)) = nodes.into_inner() else { return Ok(()) };
        if let Some(replaced) = replaced {
            if mode == RenameMode::Exchange {
                self.move_name(&replaced, &target, &source);
            } else {
                self.lose_name(&stage.target, &replaced)?;
            }
        }
        if let Some(moved) = moved {
            self.move_name(&moved, &source, &target);
        }
        Ok(())
    }
}

fn source_of<'a>(stage: &'a Stage<'_>) -> Result<&'a Scene> {
    stage.source.as_ref().ok_or(Error::Invalid)
}
