//! How are a plan's steps done on the upper?
//!
//! In their order, each by one or two system calls. If one fails, what was made ahead of it goes again.

use rustix::fs::FileType;

use super::Union;
use super::mutate::{Acts, Stage};
use crate::branch::UpperDir;
use crate::error::{Error, Result};
use crate::rules::name::{MarkerName, Name, Spelling};
use crate::rules::plan::{Plan, Refusal, Side, Step};

impl Union {
    /// Does the steps of a plan that has no preparations left.
    pub(super) fn execute(&self, stage: &Stage<'_>, plan: &Plan, acts: &Acts<'_>) -> Result<()> {
        let mut made = Vec::new();
        let mut shows = false;
        for step in plan.steps() {
            if let Err(e) = self.execute_step(stage, *step, acts) {
                if shows {
                    // It is done, as everybody can see. What is left to do is tidying up, and the steps after
                    // this one count on it: a whiteout that stays beside a new directory keeps it opaque.
                    log::warn!("a marker more or less than needed stays in the upper: {e}");
                    return Ok(());
                }
                // Nothing shows yet that did not show before. The whiteouts that were made ahead are not
                // needed any more.
                for (dir, name) in made {
                    if let Err(e) = clear_whiteout(dir, name) {
                        log::warn!("a whiteout stays beside its entry, where it hides nothing: {e}");
                    }
                }
                return Err(e);
            }
            match step {
                Step::Whiteout(side) => {
                    let scene = stage.side(*side)?;
                    made.push((scene.upper()?, &scene.spot.name));
                }
                // From here on the whiteouts do what the markers did.
                Step::ClearMarkers(_) => made.clear(),
                Step::Create(_) | Step::Link | Step::Rename | Step::Exchange => shows = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn execute_step(&self, stage: &Stage<'_>, step: Step, acts: &Acts<'_>) -> Result<()> {
        match step {
            Step::CopyUp(_) | Step::Complete(_) => Err(Error::Invalid),
            Step::Whiteout(side) => {
                let scene = stage.side(side)?;
                let marker = scene.spot.name.whiteout().ok_or(Refusal::WhiteoutTooLong)?;
                self.writable()?.staging.make_marker(scene.upper()?, marker.as_os_str())
            }
            Step::ClearWhiteout(side) => {
                let scene = stage.side(side)?;
                clear_whiteout(scene.upper()?, &scene.spot.name)
            }
            Step::Create(side) => {
                let scene = stage.side(side)?;
                (acts.create)(scene.upper()?, scene.spot.name.as_os_str())
            }
            Step::Link => {
                let (from, to) = (stage.side(Side::Source)?, &stage.target);
                let file = from.upper()?.upper_at(from.spot.name.as_os_str());
                to.upper()?.link(&file, to.spot.name.as_os_str())
            }
            Step::MarkOpaque(side) => {
                let scene = stage.side(side)?;
                let dir = scene.upper()?.open_upper_dir(scene.spot.name.as_os_str())?;
                // Users see no change in a directory that is about to be moved.
                dir.keeping_times(|| self.mark_opaque(&dir))
            }
            Step::ClearMarkers(side) => {
                let scene = stage.side(side)?;
                let dir = scene.upper()?.open_upper_dir(scene.spot.name.as_os_str())?;
                dir.keeping_times(|| self.clear_markers(&dir))
            }
            Step::Unlink(side) => {
                let scene = stage.side(side)?;
                scene.upper()?.unlink(scene.spot.name.as_os_str())
            }
            Step::RemoveDir(side) => {
                let scene = stage.side(side)?;
                scene.upper()?.remove_dir(scene.spot.name.as_os_str())
            }
            Step::Rename => {
                let (from, to) = (stage.side(Side::Source)?, &stage.target);
                let (old, new) = (from.spot.name.as_os_str(), to.spot.name.as_os_str());
                from.upper()?.rename(old, to.upper()?, new)
            }
            Step::Exchange => {
                let (from, to) = (stage.side(Side::Source)?, &stage.target);
                let (old, new) = (from.spot.name.as_os_str(), to.spot.name.as_os_str());
                from.upper()?.exchange(old, to.upper()?, new)
            }
        }
    }

    /// Makes a directory of the upper opaque.
    pub(super) fn mark_opaque(&self, dir: &UpperDir) -> Result<()> {
        self.writable()?.staging.make_marker(dir, MarkerName::opaque().as_os_str())
    }

    /// Removes every marker from a directory of the upper that shows nothing.
    fn clear_markers(&self, dir: &UpperDir) -> Result<()> {
        for entry in dir.list()? {
            let is_device = entry.kind == FileType::CharacterDevice && self.options.overlay_upper;
            match Spelling::of(&entry.name) {
                Spelling::Entry(_) if !is_device => {}
                // AUFS' own: directories among them, never entries.
                Spelling::Reserved => dir.remove_tree(&entry.name)?,
                _ => dir.unlink(&entry.name)?,
            }
        }
        Ok(())
    }
}

fn clear_whiteout(dir: &UpperDir, name: &Name) -> Result<()> {
    match name.whiteout() {
        Some(marker) => dir.remove_marker(marker.as_os_str()),
        None => Ok(()),
    }
}
