//! How is a name changed?
//!
//! The same way for every operation: hold the directories, ask the branches, let the rules plan, do the
//! steps. A plan that begins with a copy-up has that done first, with nothing held, and is then made anew:
//! copying may take long, and the facts may be others when it is done.

use std::ffi::OsStr;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::Union;
use super::copy_up::Data;
use super::inode_table::Handed;
use super::node::{Body, Held, Node, Place};
use super::probe::{OpenPart, Seen, open_children};
use crate::branch::UpperDir;
use crate::error::{Error, Result};
use crate::rules::merge::Merge;
use crate::rules::name::Name;
use crate::rules::plan::{At, Content, Plan, Refusal, Side, Step};
use crate::rules::resolve::EntryStack;

/// A name in a directory.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) dir: Arc<Node>,
    pub(super) name: Name,
}

/// One name of an operation while its directory is held: nothing of this can change.
pub(super) struct Scene {
    pub(super) spot: Spot,
    pub(super) parts: Vec<OpenPart>,
    pub(super) seen: Seen,
    pub(super) stack: EntryStack,
    /// The directory in the upper, if it is there.
    upper: Option<UpperDir>,
}

/// Everything that an operation is about, held.
pub(super) struct Stage<'a> {
    pub(super) source: Option<Scene>,
    pub(super) target: Scene,
    _held: (Held, Option<Held>),
    _rename: Option<MutexGuard<'a, ()>>,
}

/// What is done at the time of a plan's steps.
pub(super) struct Acts<'a> {
    /// Before the first step.
    pub(super) before: &'a dyn Fn(&Stage<'_>) -> Result<()>,
    /// For [`Step::Create`].
    pub(super) create: &'a dyn Fn(&UpperDir, &OsStr) -> Result<()>,
}

impl Acts<'_> {
    /// Nothing is done but what the plan says.
    pub(super) const NONE: Acts<'static> = Acts { before: &|_| Ok(()), create: &|_, _| Err(Error::Invalid) };
}

impl Scene {
    pub(super) fn at(&self) -> At<'_> {
        At { name: &self.spot.name, stack: &self.stack }
    }

    pub(super) fn upper(&self) -> Result<&UpperDir> {
        self.upper.as_ref().ok_or(Error::ReadOnly)
    }
}

impl Union {
    /// A name that a mutation may be about.
    ///
    /// # Errors
    /// EINVAL for a name that begins with `.wh.`, EROFS without an upper.
    pub(super) fn spot(&self, dir: super::NodeId, name: &OsStr) -> Result<Spot> {
        self.writable()?;
        Ok(Spot { dir: self.table.get(dir)?, name: Name::new(name)? })
    }

    /// Plans by `decide`, and does it. The names are still held when this returns, so that the table can
    /// be brought in line.
    pub(super) fn perform(
        &self,
        source: Option<&Spot>,
        target: &Spot,
        decide: impl Fn(&Stage<'_>) -> Result<Plan>,
        acts: &Acts<'_>,
    ) -> Result<Stage<'_>> {
        loop {
            let stage = self.set_stage(source, target)?;
            let plan = decide(&stage)?;
            let first = plan.steps().first().copied();
            if let Some(step @ (Step::CopyUp(side) | Step::Complete(side))) = first {
                drop(stage);
                let spot = if side == Side::Source { source.unwrap_or(target) } else { target };
                self.prepare(step, spot)?;
                continue;
            }
            let in_upper = stage.target.upper.is_some()
                && stage.source.as_ref().is_none_or(|source| source.upper.is_some());
            if !in_upper && !plan.steps().is_empty() {
                drop(stage);
                for spot in [source, Some(target)].into_iter().flatten() {
                    self.bring_up_dir(&spot.dir)?;
                }
                continue;
            }
            (acts.before)(&stage)?;
            self.execute(&stage, &plan, acts)?;
            self.relist(&stage.target);
            if let Some(source) = &stage.source {
                self.relist(source);
            }
            return Ok(stage);
        }
    }

    fn set_stage(&self, source: Option<&Spot>, target: &Spot) -> Result<Stage<'_>> {
        let open = |spot: &Spot| -> Result<_> {
            let upper = if spot.dir.is_in_upper() { Some(self.upper_dir(&spot.dir)?) } else { None };
            Ok((self.open_parts(&spot.dir)?, upper))
        };
        let target_open = open(target)?;
        let source_open = source.map(&open).transpose()?;
        let two = source.filter(|source| !Arc::ptr_eq(&source.dir, &target.dir));
        let rename = two.map(|_| self.rename.lock());
        let held = (target.dir.hold(), two.map(|source| source.dir.hold()));
        let view = |spot: &Spot, (parts, upper): (Vec<OpenPart>, Option<UpperDir>)| {
            if spot.dir.is_gone() {
                return Err(Error::from(Refusal::NotFound));
            }
            let (stack, seen) = self.survey(&parts, &spot.name)?;
            Ok(Scene { spot: spot.clone(), parts, seen, stack, upper })
        };
        let target = view(target, target_open)?;
        let source = match (source, source_open) {
            (Some(source), Some(open)) => Some(view(source, open)?),
            _ => None,
        };
        Ok(Stage { source, target, _held: held, _rename: rename })
    }

    /// Does a step that changes nothing users see.
    fn prepare(&self, step: Step, spot: &Spot) -> Result<()> {
        let (parts, held) = self.hold_open(&spot.dir)?;
        let node = self.peek(&spot.dir, &parts, &spot.name)?.ok_or(Refusal::NotFound)?;
        // A file is copied up under the name that it is about to be moved from.
        node.state().gain(Place::Entry(Arc::clone(&spot.dir), spot.name.clone()));
        drop(held);
        match step {
            Step::Complete(_) => self.complete(&node),
            _ if node.is_in_upper() => self.bring_up_name(&node, spot),
            _ => self.bring_up(&node, Data::Whole),
        }
    }

    /// The file's data is in the upper already, by another of its names: this one joins it.
    fn bring_up_name(&self, node: &Node, spot: &Spot) -> Result<()> {
        let Body::Linked(number) = node.state().body else { return Ok(()) };
        let dir = self.bring_up_dir(&spot.dir)?;
        let (parts, _held) = self.hold_open(&spot.dir)?;
        let Seen::Leaf { branch, stat } = self.see(&parts, &spot.name)? else { return Ok(()) };
        if branch.is_upper() {
            return Ok(());
        }
        let copy = self.writable()?.index.link(number)?;
        dir.keeping_times(|| dir.link(&copy, spot.name.as_os_str()))?;
        self.has_new_name(&spot.dir);
        self.cover(&stat)
    }

    /// Whether the directory that a scene shows is empty.
    pub(super) fn content(&self, scene: &Scene) -> Result<Content> {
        let mut merge = Merge::default();
        for open in open_children(&scene.parts, &scene.spot.name, &scene.seen)? {
            merge.add(open.part.branch, self.list_part(&open)?);
        }
        Ok(if merge.finish().is_empty() { Content::Empty } else { Content::Occupied })
    }

    /// The node that a scene shows, as the table knows it.
    pub(super) fn node_at(&self, scene: &Scene) -> Result<Option<Arc<Node>>> {
        let Scene { spot: Spot { dir, name }, parts, seen, .. } = scene;
        Ok(self.meet(dir, parts, name, seen, Handed::ToUs)?.map(|(node, _)| node))
    }

    /// The node that was just made, for the kernel. It is in the upper, and a directory merges with nothing.
    pub(super) fn look_at_new(&self, scene: &Scene) -> Result<(Arc<Node>, super::Looked)> {
        let Spot { dir, name } = &scene.spot;
        let upper = scene.parts.partition_point(|open| open.part.branch.is_upper());
        let found = self.look(dir, &scene.parts[..upper], name, Handed::ToKernel)?;
        found.ok_or_else(|| Refusal::NotFound.into())
    }
}

impl Stage<'_> {
    pub(super) fn side(&self, side: Side) -> Result<&Scene> {
        match side {
            Side::Target => Ok(&self.target),
            Side::Source => self.source.as_ref().ok_or(Error::Invalid),
        }
    }
}
