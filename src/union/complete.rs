//! How does a directory with lower parts become one that can be moved?
//!
//! Everything that lowers supply beneath it is copied up in place, and it is made opaque: nothing of this
//! shows. What is missing is staged first, whole subtrees at a time, then synced once, then published; so if
//! the disk is full the upper is as it was. Every directory beneath is held meanwhile: only those who work in
//! this very tree wait for it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::Arc;

use super::Union;
use super::copy_up::{Copy, Data, entry_place};
use super::node::{Body, Held, Node, NodeId};
use super::numbering::Numbering;
use super::probe::{OpenPart, Seen, open_children};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::branch::{Staged, Stat, UpperDir};
use crate::error::{Error, Result};
use crate::rules::name::Name;
use crate::rules::plan::Refusal;

/// What has been prepared so far. Dropping it drops what is staged.
#[derive(Default)]
struct Work {
    held: Vec<Held>,
    seen: HashSet<NodeId>,
    missing: Vec<Missing>,
    /// Directories that are in the upper already, and will be there alone.
    in_place: Vec<(Arc<Node>, Stat)>,
    /// Files with several lower names that have a staged copy, by number.
    tied: HashSet<NodeId>,
}

/// An entry that the upper lacks: staged with all that is in it.
struct Missing {
    parent: UpperDir,
    name: Name,
    staged: Staged,
    nodes: Vec<Arrival>,
}

/// A directory that is being staged.
struct StagedDir {
    node: Arc<Node>,
    parts: Vec<OpenPart>,
    staged: Staged,
    /// The staged directory itself.
    inside: UpperDir,
    /// The names that are not staged yet.
    left: Vec<Name>,
}

/// A node that is in the upper once its entry is published.
struct Arrival {
    node: Arc<Node>,
    original: Stat,
    copy: Stat,
    linked: Option<NodeId>,
}

impl Work {
    /// Holds a directory until the work is done.
    fn hold(&mut self, dir: &Arc<Node>) -> Result<()> {
        if !self.seen.insert(dir.id) {
            // A branch shows one directory in two places, by a bind mount: it cannot be in the upper twice.
            return Err(Error::Sys { call: "rename", errno: Errno::BUSY });
        }
        self.held.push(dir.hold());
        Ok(())
    }
}

impl Union {
    /// Brings a directory wholly into the upper and makes it opaque.
    pub(super) fn complete(&self, dir: &Arc<Node>) -> Result<()> {
        let (parent, _) = entry_place(dir).ok_or(Refusal::NotFound)?;
        let parent_dir = self.bring_up_dir(&parent)?;
        let parent_parts = self.open_parts(&parent)?;

        let _rename = self.rename.lock();
        let mut work = Work::default();
        work.hold(&parent)?;
        let name = match entry_place(dir) {
            Some((now, name)) if Arc::ptr_eq(&now, &parent) => name,
            // It has moved meanwhile: the plan is made anew.
            _ => return Ok(()),
        };
        let parts = self.child_parts(&parent_parts, &name)?;
        let top = if dir.is_in_upper() { Some(parent_dir.open_upper_dir(name.as_os_str())?) } else { None };
        let staged = match &top {
            Some(upper) => self.fill(&mut work, dir, parts, upper.clone()),
            None => self.stage_missing(&mut work, dir, &parts, &parent_dir, &name),
        };
        if let Err(e) = staged.and_then(|()| self.publish(&mut work)) {
            self.untie(&work);
            return Err(e);
        }
        if let Some(upper) = &top {
            upper.keeping_times(|| self.mark_opaque(upper))?;
        }
        for (node, stat) in &work.in_place {
            self.settle_in_upper(node, stat, None, None);
            self.has_new_name(node);
        }
        self.has_new_name(&parent);
        Ok(())
    }

    /// Stages what the upper's part of a directory, and of every one beneath it, lacks.
    fn fill(&self, work: &mut Work, dir: &Arc<Node>, parts: Vec<OpenPart>, upper: UpperDir) -> Result<()> {
        let mut left = vec![(Arc::clone(dir), parts, upper)];
        while let Some((dir, parts, upper)) = left.pop() {
            work.hold(&dir)?;
            for name in self.merged_names(&dir, &parts)? {
                let Some(node) = self.peek(&dir, &parts, &name)? else { continue };
                let child_parts = self.child_parts(&parts, &name)?;
                if upper.stat(name.as_os_str())?.is_none() {
                    let source = if child_parts.is_empty() { &parts } else { &child_parts };
                    self.stage_missing(work, &node, source, &upper, &name)?;
                } else if child_parts.iter().any(|open| !open.part.branch.is_upper()) {
                    let child = upper.open_upper_dir(name.as_os_str())?;
                    left.push((node, child_parts, child));
                }
            }
            work.in_place.push((dir, upper.stat_self()?));
        }
        Ok(())
    }

    /// Stages an entry that the upper lacks. `parts` are its own for a directory, else its parent's.
    fn stage_missing(
        &self,
        work: &mut Work,
        node: &Arc<Node>,
        parts: &[OpenPart],
        parent: &UpperDir,
        name: &Name,
    ) -> Result<()> {
        let staging = &self.writable()?.staging;
        let place = (staging.dir(), &*staging.fresh_name());
        let mut nodes = Vec::new();
        let staged = if node.kind == FileType::Directory {
            self.stage_tree(work, &mut nodes, node, parts, place)?
        } else {
            self.stage_entry(work, &mut nodes, node, parts, name, place)?
        };
        work.missing.push(Missing { parent: parent.clone(), name: name.clone(), staged, nodes });
        Ok(())
    }

    /// Stages a directory with all that is in it, opaque.
    fn stage_tree(
        &self,
        work: &mut Work,
        nodes: &mut Vec<Arrival>,
        top: &Arc<Node>,
        parts: &[OpenPart],
        place: (&UpperDir, &OsStr),
    ) -> Result<Staged> {
        let parts = parts.iter().map(OpenPart::clone).collect();
        // A tree may be deeper than the stack: the directories that are being staged, from the top down.
        let mut way = vec![self.begin_dir(work, top, parts, place)?];
        // Inside an opaque directory nothing merges, so one marker does.
        self.mark_opaque(&way[0].inside)?;
        loop {
            let last = way.len() - 1;
            let dir = &mut way[last];
            let Some(name) = dir.left.pop() else {
                let staged = self.end_dir(nodes, way.swap_remove(last))?;
                if last == 0 {
                    return Ok(staged);
                }
                staged.leave();
                continue;
            };
            let Some(node) = self.peek(&dir.node, &dir.parts, &name)? else { continue };
            let place = (&dir.inside, name.as_os_str());
            if node.kind == FileType::Directory {
                let parts = self.child_parts(&dir.parts, &name)?;
                let child = self.begin_dir(work, &node, parts, place)?;
                way.push(child);
            } else {
                self.stage_entry(work, nodes, &node, &dir.parts, &name, place)?.leave();
            }
        }
    }

    fn begin_dir(
        &self,
        work: &mut Work,
        dir: &Arc<Node>,
        parts: Vec<OpenPart>,
        (into, name): (&UpperDir, &OsStr),
    ) -> Result<StagedDir> {
        work.hold(dir)?;
        let (staged, inside) = self.writable()?.staging.make_dir(into, name.to_owned())?;
        let left = self.merged_names(dir, &parts)?;
        Ok(StagedDir { node: Arc::clone(dir), parts, staged, inside, left })
    }

    /// What a directory has besides its entries comes last: making them has changed its times.
    fn end_dir(&self, nodes: &mut Vec<Arrival>, dir: StagedDir) -> Result<Staged> {
        let StagedDir { node, parts, staged, inside, .. } = dir;
        let original = parts.first().ok_or(Refusal::NotFound)?.dir.object();
        let Copy { staged, original, .. } = self.complete_copy(staged, &original, original.stat()?, None)?;
        nodes.push(Arrival { node, original, copy: inside.stat_self()?, linked: None });
        Ok(staged)
    }

    /// Stages anything but a directory. `parts` are its parent's.
    fn stage_entry(
        &self,
        work: &mut Work,
        nodes: &mut Vec<Arrival>,
        node: &Arc<Node>,
        parts: &[OpenPart],
        name: &Name,
        (into, staged_name): (&UpperDir, &OsStr),
    ) -> Result<Staged> {
        let upper = self.writable()?;
        let Seen::Leaf { branch, stat } = self.see(parts, name)? else {
            return Err(Refusal::NotFound.into());
        };
        let number = Numbering::number(self.numbering.real(&stat));
        let linked = match node.state().body {
            Body::Linked(number) => Some(number),
            _ => Some(number).filter(|number| work.tied.contains(number)),
        };
        if let Some(number) = linked {
            let copy = upper.index.link(number)?;
            let staged = upper.staging.make_link(into, staged_name.to_owned(), &copy)?;
            let copy = copy.stat()?;
            nodes.push(Arrival { node: Arc::clone(node), original: stat, copy, linked });
            return Ok(staged);
        }
        let from = parts.iter().find(|open| open.part.branch == branch).ok_or(Error::Invalid)?;
        let original = from.dir.at(name.as_os_str());
        let Copy { staged, original, .. } =
            self.stage_leaf(into, Some(staged_name), &original, Data::Whole)?;
        let linked = self.tie_links(staged.object(), &original)?;
        work.tied.extend(linked);
        let copy = staged.object().stat()?;
        nodes.push(Arrival { node: Arc::clone(node), original, copy, linked });
        Ok(staged)
    }

    /// Syncs what is staged, once, and gives every entry its name.
    fn publish(&self, work: &mut Work) -> Result<()> {
        let upper = self.writable()?;
        if !work.missing.is_empty() && !self.options.volatile {
            upper.root.sync_filesystem()?;
        }
        for Missing { parent, name, staged, nodes } in work.missing.drain(..) {
            parent.keeping_times(|| staged.commit(&parent, name.as_os_str()))?;
            for Arrival { node, original, copy, linked } in nodes {
                if let Some(number) = linked {
                    work.tied.remove(&number);
                    upper.index.set_copied_up(number, &original);
                }
                self.cover(&original)?;
                self.settle_in_upper(&node, &copy, linked, None);
                self.listings.forget(node.id);
            }
        }
        Ok(())
    }

    /// Nothing has become of these copies.
    fn untie(&self, work: &Work) {
        let Some(upper) = &self.upper else { return };
        for number in &work.tied {
            if let Err(e) = upper.index.discard_link(*number) {
                // The next mount removes what has no note.
                log::warn!("an unused link stays in the workdir for now: {e}");
            }
        }
    }

    fn merged_names(&self, dir: &Node, parts: &[OpenPart]) -> Result<Vec<Name>> {
        Ok(self.listing(dir, parts)?.names().cloned().collect())
    }

    /// The parts of a directory within the parts of its parent; none if it is not a directory. Unlike
    /// `open_parts` this takes no locks.
    pub(super) fn child_parts(&self, parent: &[OpenPart], name: &Name) -> Result<Vec<OpenPart>> {
        open_children(parent, name, &self.see(parent, name)?)
    }
}
