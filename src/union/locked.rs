//! How is a name changed?
//!
//! The same way for every operation: lock the directories, ask the branches, let the rules plan, do the
//! steps. A plan that begins with a copy-up has that done first, with nothing locked, and is then made anew:
//! copying may take long, and the facts may be others when it is done.

use std::ffi::OsStr;
use std::sync::Arc;

use super::Union;
use super::copy_up::Data;
use super::inode_table::Lookup;
use super::node::{Body, Node, NodeGuard, NodeId, Place};
use super::stack::{OpenPart, Seen};
use crate::branch::UpperDir;
use crate::error::{Error, Result};
use crate::rules::name::Name;
use crate::rules::plan::{At, Content, Plan, Refusal, Side, Step};
use crate::rules::resolve::EntryStack;

/// How often in a row an operation is planned anew that others interfere with.
const MOST_PLANS: usize = 1000;

/// A name in a directory.
#[derive(Clone, Debug)]
pub(super) struct EntryRef {
    pub(super) dir: Arc<Node>,
    pub(super) name: Name,
    /// The node that must have the name, if it is not just any.
    pub(super) meant: Option<NodeId>,
}

/// One name of an operation while its directory is locked: nothing of this can change.
pub(super) struct LockedEntry {
    pub(super) entry: EntryRef,
    pub(super) parts: Vec<OpenPart>,
    pub(super) seen: Seen,
    pub(super) stack: EntryStack,
    /// What the directory was true of.
    as_of: u32,
    /// The directory in the upper, if it is there.
    upper: Option<UpperDir>,
}

/// All names of an operation, locked.
pub(super) struct LockedNames {
    pub(super) source: Option<LockedEntry>,
    pub(super) target: LockedEntry,
    _guards: (NodeGuard, Option<NodeGuard>),
}

impl LockedEntry {
    pub(super) fn at(&self) -> At<'_> {
        At { name: &self.entry.name, stack: &self.stack }
    }

    pub(super) fn upper(&self) -> Result<&UpperDir> {
        self.upper.as_ref().ok_or(Error::Bug("a change of a directory that is not in the upper"))
    }
}

impl LockedNames {
    pub(super) fn side(&self, side: Side) -> Result<&LockedEntry> {
        match side {
            Side::Target => Ok(&self.target),
            Side::Source => self.source(),
        }
    }

    pub(super) fn source(&self) -> Result<&LockedEntry> {
        self.source.as_ref().ok_or(Error::Bug("an operation on one name has no source"))
    }
}

impl Union {
    /// A name that a mutation may be about.
    ///
    /// # Errors
    /// EINVAL for a name that begins with `.wh.`, EROFS without an upper.
    pub(super) fn entry_ref(&self, dir: NodeId, name: &OsStr) -> Result<EntryRef> {
        self.writable()?;
        Ok(EntryRef { dir: self.node(dir)?, name: Name::new(name)?, meant: None })
    }

    /// Locks the names of an operation and plans it by `decide`; does what a plan begins with that changes nothing
    /// users see, and plans anew. What is left of the plan can be executed.
    pub(super) fn plan(
        &self,
        source: Option<&EntryRef>,
        target: &EntryRef,
        decide: impl Fn(&LockedNames) -> Result<Plan>,
    ) -> Result<(LockedNames, Plan)> {
        for _ in 0..MOST_PLANS {
            let locked = self.lock_names(source, target)?;
            self.check_known(&locked.target)?;
            locked.source.iter().try_for_each(|source| self.check_known(source))?;
            let plan = decide(&locked)?;
            let first = plan.steps().first().copied();
            if let Some(step @ (Step::CopyUp(side) | Step::CopyUpTree(side))) = first {
                drop(locked);
                let entry = if side == Side::Source { source.unwrap_or(target) } else { target };
                self.prepare(step, entry)?;
                continue;
            }
            let in_upper = locked.target.upper.is_some()
                && locked.source.as_ref().is_none_or(|source| source.upper.is_some());
            if !in_upper && !plan.steps().is_empty() {
                drop(locked);
                for entry in [source, Some(target)].into_iter().flatten() {
                    self.bring_up_dir(&entry.dir)?;
                }
                continue;
            }
            return Ok((locked, plan));
        }
        Err(Error::Bug("what a plan begins with is never done"))
    }

    fn lock_names(&self, source: Option<&EntryRef>, target: &EntryRef) -> Result<LockedNames> {
        loop {
            let open = |entry: &EntryRef| -> Result<_> {
                let parts = self.open_parts(&entry.dir)?;
                let in_upper = parts.first().is_some_and(|open| open.part.branch.is_upper());
                let upper = if in_upper { Some(self.upper_dir(&entry.dir)?) } else { None };
                Ok((parts, upper))
            };
            let target_open = open(target)?;
            let source_open = source.map(&open).transpose()?;
            let guards = lock_both(&target.dir, source.map(|source| &source.dir));
            let still = |entry: &EntryRef, parts: &[OpenPart]| -> Result<bool> {
                Ok(entry.dir.parts()?.iter().eq(parts.iter().map(|open| &open.part)))
            };
            let as_it_was = still(target, &target_open.0)?
                && match (source, &source_open) {
                    (Some(source), Some((parts, _))) => still(source, parts)?,
                    _ => true,
                };
            if !as_it_was {
                // Copied up in between: what came to be in that part must be seen.
                continue;
            }
            let dirs = || [Some(target), source].into_iter().flatten().map(|entry| &entry.dir);
            if dirs().any(|dir| self.table.is_outdated(dir)) {
                drop(guards);
                dirs().try_for_each(|dir| self.look_again(dir))?;
                continue;
            }
            let view = |entry: &EntryRef, (parts, upper): (Vec<OpenPart>, Option<UpperDir>)| {
                if entry.dir.is_gone() {
                    return Err(Error::from(Refusal::NotFound));
                }
                let as_of = entry.dir.generation();
                let (stack, seen) = self.stack.survey(&parts, &entry.name)?;
                Ok(LockedEntry { entry: entry.clone(), parts, seen, stack, as_of, upper })
            };
            let target = view(target, target_open)?;
            let source = match (source, source_open) {
                (Some(source), Some(open)) => Some(view(source, open)?),
                _ => None,
            };
            return Ok(LockedNames { source, target, _guards: guards });
        }
    }

    /// What the kernel knows by a name, and has checked, must be what has the name.
    fn check_known(&self, locked: &LockedEntry) -> Result<()> {
        let EntryRef { dir, name, .. } = &locked.entry;
        let Some(known) = self.table.find_name(dir, name) else { return Ok(()) };
        match self.node_at(locked)? {
            Some(node) if !Arc::ptr_eq(&node, &known) => Err(Error::Stale(known.id.0)),
            _ => Ok(()),
        }
    }

    /// Does a step that changes nothing users see.
    fn prepare(&self, step: Step, entry: &EntryRef) -> Result<()> {
        let node = {
            let (parts, _locked) = self.lock_open(&entry.dir, Node::lock_shared)?;
            let node = self.peek(&entry.dir, &parts, &entry.name)?.ok_or(Refusal::NotFound)?;
            if let Some(meant) = entry.meant.filter(|meant| *meant != node.id) {
                return Err(Error::Stale(meant.0));
            }
            // A file is copied up under the name that it is about to be moved from.
            self.table.gain(&node, Place::Entry(Arc::clone(&entry.dir), entry.name.clone()));
            node
        };
        if self.table.is_outdated(&node) {
            // It is known by another name only: whether it is in the upper was true of an older stack.
            self.look_again(&node)?;
        }
        match step {
            Step::CopyUpTree(_) => self.copy_up_tree(&node),
            _ if node.is_in_upper() => self.bring_up_name(&node, entry),
            _ => self.bring_up(&node, Data::Whole),
        }
    }

    /// The file's data is in the upper already, by another of its names: this one joins it.
    pub(super) fn bring_up_name(&self, node: &Node, entry: &EntryRef) -> Result<()> {
        let Body::Linked(link) = node.state().body else { return Ok(()) };
        let upper = self.bring_up_dir(&entry.dir)?;
        let (parts, _locked) = self.lock_open(&entry.dir, Node::lock)?;
        let Seen::Leaf { branch, stat } = self.stack.see(&parts, &entry.name)? else { return Ok(()) };
        if branch.is_upper() {
            return Ok(());
        }
        let copy = self.writable()?.index.upper_copy(link)?;
        let id = || super::lookup::lasting_id(&parts, branch, &entry.name, &stat);
        let key = self.key_of(branch, &stat, id)?;
        self.note_base(&entry.dir, &entry.name, branch, &stat, None);
        upper.keeping_times(|| upper.link(&copy, entry.name.as_os_str()))?;
        self.has_new_name(&entry.dir);
        self.cover(key.as_ref(), &stat);
        Ok(())
    }

    /// Whether the directory that a name shows is empty.
    pub(super) fn content(&self, locked: &LockedEntry) -> Result<Content> {
        let children = self.stack.open_children(&locked.parts, &locked.entry.name, &locked.seen)?;
        let is_empty = self.stack.list(&children)?.is_empty();
        Ok(if is_empty { Content::Empty } else { Content::Occupied })
    }

    /// The node that a name shows, as the table knows it.
    pub(super) fn node_at(&self, locked: &LockedEntry) -> Result<Option<Arc<Node>>> {
        let LockedEntry { entry: EntryRef { dir, name, .. }, parts, seen, as_of, .. } = locked;
        Ok(self.meet(dir, parts, name, (seen, *as_of), Lookup::Internal)?.map(|(node, _)| node))
    }

    /// The node that was just made, for the kernel. It is in the upper, and a directory merges with nothing.
    pub(super) fn look_at_new(&self, locked: &LockedEntry) -> Result<(Arc<Node>, super::Looked)> {
        let EntryRef { dir, name, .. } = &locked.entry;
        let upper = locked.parts.partition_point(|open| open.part.branch.is_upper());
        let found = self.look(dir, &locked.parts[..upper], name, Lookup::Counted)?;
        found.ok_or_else(|| Refusal::NotFound.into())
    }
}

/// In the order of their numbers, so that two who lock the same two do not wait for each other.
fn lock_both(target: &Arc<Node>, source: Option<&Arc<Node>>) -> (NodeGuard, Option<NodeGuard>) {
    match source {
        Some(source) if source.id < target.id => {
            let first = source.lock();
            (target.lock(), Some(first))
        }
        Some(source) if !Arc::ptr_eq(source, target) => (target.lock(), Some(source.lock())),
        _ => (target.lock(), None),
    }
}
