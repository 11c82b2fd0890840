//! Which branches are there, and what do they together say of one name?
//!
//! The stack looks only; it knows no nodes.

use std::path::{Path, PathBuf};

use super::node::{DirPart, DirParts, RealId, Youngest};
use super::xino::Xino;
use crate::branch::{Dir, Stat, UpperDir};
use crate::error::{Error, Result};
use crate::layer::{self, Ask, DirMarkers, Known, Word};
use crate::rules::BranchId;
use crate::rules::merge::{Listed, Merge, MergedListing};
use crate::rules::name::{Name, Spelling};
use crate::rules::resolve::{EntryStack, Resolution, Resolver};

/// The branches of a union.
#[derive(Debug)]
pub(super) struct Stack {
    /// The root of the upper, if there is one, whether it may be written or not.
    pub(super) upper: Option<UpperDir>,
    /// From the top down.
    lowers: Vec<Branch>,
    /// Lowers that are in the stack no more, and may still have files that are open.
    retired: Vec<Branch>,
    /// The upper's.
    upper_top: Top,
    /// The lower, and the snapshot, that came last.
    pub(super) youngest: Youngest,
    /// Whether a device 0:0 in the upper, and in what was the upper, is a whiteout.
    overlay_upper: bool,
    /// Tells inodes apart.
    pub(super) xino: Xino,
}

/// A lower, and what its root says.
#[derive(Debug)]
pub(super) struct Branch {
    root: Dir,
    /// As users see it.
    path: PathBuf,
    top: Top,
}

impl Branch {
    fn id(&self) -> BranchId {
        self.root.branch()
    }
}

/// What a branch's root says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Top {
    traits: Traits,
    /// It is a part of the union's root; None without a branch.
    part: Option<DirPart>,
    /// It hides all branches below.
    opaque: bool,
}

/// A lower that is or comes to be in the stack.
#[derive(Debug)]
pub(super) struct Lower {
    pub(super) root: Dir,
    /// As users see it.
    pub(super) path: PathBuf,
}

/// What holds for all of a branch.
#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    /// A device 0:0 is a whiteout. In our own upper somebody made it through the mount.
    devices: bool,
    /// Markers of all directories are read, also where no branch is below: the root says that its files may be
    /// whiteouts, or kept elsewhere.
    reads_all_markers: bool,
    /// The filesystem may show an inode under another number once nobody holds it.
    renumbers: bool,
}

/// A directory's part in one branch, open.
#[derive(Clone, Debug)]
pub(super) struct OpenPart {
    pub(super) part: DirPart,
    pub(super) dir: Dir,
}

/// What users see under a name.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Absent,
    Leaf {
        branch: BranchId,
        stat: Stat,
    },
    Dir {
        /// From the top down, at least one.
        parts: Vec<DirPart>,
        /// The topmost part's.
        stat: Stat,
        /// The lowers' parts that had to be opened on the way.
        opened: Vec<(BranchId, Dir)>,
    },
}

impl Seen {
    /// The topmost lower part of a directory, if there is one: it gives the directory its number. What was the upper once is
    /// none as long as there is another.
    pub(super) fn number_part(&self) -> Option<&DirPart> {
        let Self::Dir { parts, .. } = self else { return None };
        let is_ours = |part: &&DirPart| part.branch.is_upper() || part.branch.is_snapshot();
        parts.iter().find(|part| !is_ours(part)).or(parts.last())
    }
}

type Words = Vec<(BranchId, Word)>;

impl Stack {
    /// Takes the branches over, from the topmost down, and looks at their roots.
    ///
    /// # Errors
    /// What the disk says of a branch's root.
    pub(super) fn new(upper: Option<UpperDir>, lowers: Vec<Lower>, overlay_upper: bool) -> Result<Self> {
        let xino = Xino::default();
        let upper_top = match &upper {
            Some(upper) => Top::of(upper, overlay_upper, &xino)?,
            None => Top::default(),
        };
        let youngest = Youngest { lower: BranchId::UPPER, snapshot: BranchId::BEFORE_SNAPSHOTS };
        let (branches, retired) = (Vec::with_capacity(lowers.len()), Vec::new());
        let mut stack = Self { upper, lowers: branches, retired, upper_top, youngest, overlay_upper, xino };
        let lowers = lowers.into_iter().map(|lower| stack.look_at(lower)).collect::<Result<_>>()?;
        stack.set_lowers(lowers);
        Ok(stack)
    }

    /// Looks at a lower that is or comes into the stack.
    ///
    /// # Errors
    /// What the disk says of its root.
    pub(super) fn look_at(&self, lower: Lower) -> Result<Branch> {
        let Lower { root, path } = lower;
        let top = match self.branch(root.branch()) {
            Ok(known) => known.top,
            Err(_) => {
                // Whoever made a device through the mount has made a device.
                let devices = !root.branch().is_snapshot() || self.overlay_upper;
                Top::of(&root, devices, &self.xino)?
            }
        };
        Ok(Branch { root, path, top })
    }

    /// Looks at a directory that is to be the upper.
    ///
    /// # Errors
    /// What the disk says of it.
    pub(super) fn look_at_upper(&self, upper: &UpperDir) -> Result<Top> {
        Top::of(upper, self.overlay_upper, &self.xino)
    }

    fn set_lowers(&mut self, lowers: Vec<Branch>) -> Vec<Branch> {
        for id in lowers.iter().map(Branch::id) {
            let Youngest { lower, snapshot } = &mut self.youngest;
            let youngest = if id.is_snapshot() { snapshot } else { lower };
            *youngest = id.max(*youngest);
        }
        std::mem::replace(&mut self.lowers, lowers)
    }

    /// Has these lowers from now on, from the top down; says which are in it no more. Those may still have files that
    /// are open, until [`Self::let_go`].
    pub(super) fn restack(&mut self, lowers: Vec<Branch>) -> Vec<BranchId> {
        let before = self.set_lowers(lowers);
        let is_in = |branch: &Branch| self.lowers.iter().any(|other| other.id() == branch.id());
        let gone: Vec<_> = before.into_iter().filter(|branch| !is_in(branch)).collect();
        let ids = gone.iter().map(Branch::id).collect();
        self.retired.extend(gone);
        ids
    }

    /// Has another upper from now on. The one of before is nowhere in the stack then.
    pub(super) fn swap_upper(&mut self, upper: UpperDir, top: Top) {
        (self.upper, self.upper_top) = (Some(upper), top);
    }

    /// What was the upper is in the stack no more, and may still have files that are open.
    pub(super) fn retire_upper(&mut self, upper: &UpperDir, id: BranchId, path: PathBuf) {
        self.youngest.snapshot = id;
        let branch = Branch { root: upper.as_snapshot(id, None), path, top: Top::default() };
        self.retired.push(branch);
    }

    /// Looks at the roots of all lowers again.
    ///
    /// # Errors
    /// What the disk says of one: then nothing has changed.
    pub(super) fn look_at_roots(&mut self) -> Result<()> {
        let look = |branch: &Branch| Top::of(&branch.root, true, &self.xino);
        let tops = self.lowers.iter().map(look).collect::<Result<Vec<_>>>()?;
        self.lowers.iter_mut().zip(tops).for_each(|(branch, top)| branch.top = top);
        Ok(())
    }

    /// Lets go of lowers that are in the stack no more, unless they are still in use.
    pub(super) fn let_go(&mut self, is_used: impl Fn(BranchId) -> bool) {
        self.retired.retain(|branch| is_used(branch.id()));
    }

    /// The lowers that are in the stack no more, and may still have files that are open.
    pub(super) fn retired(&self) -> impl Iterator<Item = (BranchId, &Path)> {
        self.retired.iter().map(|branch| (branch.id(), &*branch.path))
    }

    /// The parts of the union's root: an opaque marker in one hides all branches below.
    pub(super) fn root_parts(&self) -> DirParts {
        let mut hidden = false;
        let tops = std::iter::once(&self.upper_top).chain(self.lowers.iter().map(|branch| &branch.top));
        let shown = tops.filter(|top| top.part.is_some()).take_while(|top| {
            let shows = !hidden;
            hidden |= top.opaque;
            shows
        });
        shown.filter_map(|top| top.part).collect()
    }

    /// The root of a lower.
    pub(super) fn lower(&self, id: BranchId) -> Result<&Dir> {
        self.branch(id).map(|branch| &branch.root)
    }

    /// The roots of all lowers, from the top down.
    pub(super) fn lowers(&self) -> impl Iterator<Item = &Dir> {
        self.lowers.iter().map(|branch| &branch.root)
    }

    /// The roots of all branches, also of those that are in the stack no more.
    pub(super) fn all_roots(&self) -> impl Iterator<Item = &Dir> {
        let lowers = self.lowers.iter().chain(&self.retired).map(|branch| &branch.root);
        self.upper.as_deref().into_iter().chain(lowers)
    }

    /// Where all lowers are, from the top down.
    pub(super) fn lower_paths(&self) -> impl Iterator<Item = (BranchId, &Path)> {
        self.lowers.iter().map(|branch| (branch.id(), &*branch.path))
    }

    fn branch(&self, id: BranchId) -> Result<&Branch> {
        // So long as no branch has come or gone, its id is its position.
        let expected = self.lowers.get(usize::from(id.0).wrapping_sub(1)).filter(|branch| branch.id() == id);
        let all = || self.lowers.iter().chain(&self.retired);
        let found = expected.or_else(|| all().find(|branch| branch.id() == id));
        // It has gone, and nothing in it was in use.
        found.ok_or(Error::Stale(0))
    }

    fn traits(&self, id: BranchId) -> Traits {
        if id.is_upper() {
            return self.upper_top.traits;
        }
        self.branch(id).map_or_else(|_| Traits::default(), |branch| branch.top.traits)
    }

    /// Whether what a branch's directory says of a name that is a directory depends on what is in that one, when the
    /// branch is asked as the last of these.
    pub(super) fn reads_markers(&self, id: BranchId, parts: &[OpenPart]) -> bool {
        let is_last = parts.last().is_some_and(|open| open.part.branch == id);
        !is_last
            || self.traits(id).reads_all_markers
            || parts.last().is_some_and(|open| open.part.formats.impure)
    }

    /// Whether inodes of a branch cannot be told apart by their numbers alone.
    pub(super) fn renumbers(&self, id: BranchId) -> bool {
        self.traits(id).renumbers
    }

    /// Whether a device 0:0 in the upper is a whiteout.
    pub(super) fn devices_in_upper(&self) -> bool {
        self.upper_top.traits.devices
    }

    /// Whether the inode on disk is the one that was meant. Where inodes are given new numbers, it is whatever has
    /// the name and was born at the same time; its type is looked at by whoever opens it.
    pub(super) fn is_meant(&self, branch: BranchId, stat: &Stat, meant: RealId) -> bool {
        self.xino.real(stat) == meant || (self.renumbers(branch) && stat.st_birth == meant.birth)
    }

    /// What users see under `name` in the directory of these parts. Asks no branch more than is needed.
    pub(super) fn see(&self, dir: &[OpenPart], name: &Name) -> Result<Seen> {
        let (resolution, words) = self.hear(dir, name, Ask::Show)?;
        Ok(self.seen(&resolution, words))
    }

    /// What the branches say of `name`, as a mutation needs to know it, and what users see.
    pub(super) fn survey(&self, dir: &[OpenPart], name: &Name) -> Result<(EntryStack, Seen)> {
        let (uppers, lowers) = dir.split_at(dir.partition_point(|open| open.part.branch.is_upper()));
        let mut words = Vec::new();
        let mut stack = EntryStack::default();
        if let [open] = uppers {
            let word = layer::ask(&open.dir, open.part.formats, name, Ask::Everything)?;
            stack.upper = word.entry;
            words.push((open.part.branch, word));
        }
        let (resolution, lower_words) = self.hear(lowers, name, Ask::Markers)?;
        stack.lowers = resolution;
        words.extend(lower_words);
        let seen = self.seen(&stack.visible(), words);
        Ok((stack, seen))
    }

    /// Hears the branches from the top down until none further has a say.
    fn hear(&self, dir: &[OpenPart], name: &Name, ask: Ask) -> Result<(Resolution, Words)> {
        let mut resolver = Resolver::default();
        let mut words = Vec::new();
        for (i, open) in dir.iter().enumerate() {
            // Below the last there is nothing to hide.
            let is_last = i + 1 == dir.len() && !self.traits(open.part.branch).reads_all_markers;
            let ask = if is_last { Ask::Existence } else { ask };
            let word = layer::ask(&open.dir, open.part.formats, name, ask)?;
            let flow = resolver.hear(open.part.branch, word.entry);
            words.push((open.part.branch, word));
            if flow.is_break() {
                break;
            }
        }
        Ok((resolver.resolution(), words))
    }

    /// Puts together what users see from what the branches said.
    fn seen(&self, resolution: &Resolution, mut words: Words) -> Seen {
        match resolution {
            Resolution::Absent => Seen::Absent,
            Resolution::Leaf(branch) => {
                match words.into_iter().find(|(from, _)| from == branch).and_then(|(_, word)| word.stat) {
                    Some(stat) => Seen::Leaf { branch: *branch, stat },
                    None => Seen::Absent,
                }
            }
            Resolution::Merged(branches) => {
                words.retain(|(branch, _)| branches.contains(branch));
                let Some(stat) = words.first().and_then(|(_, word)| word.stat) else {
                    return Seen::Absent;
                };
                let part = |(branch, word): &(BranchId, Word)| {
                    let real = self.xino.real(word.stat.as_ref()?);
                    let Word { formats, closed, .. } = *word;
                    Some(DirPart { branch: *branch, closed, watched: false, formats, real })
                };
                let parts = words.iter().filter_map(part).collect();
                let opened = words
                    .into_iter()
                    .filter(|(branch, _)| !branch.is_upper())
                    .filter_map(|(branch, word)| Some((branch, word.opened?)))
                    .collect();
                Seen::Dir { parts, stat, opened }
            }
        }
    }

    /// The parts of a directory that was seen within the parts of its parent; none if it is not a directory.
    pub(super) fn open_children(
        &self,
        parent: &[OpenPart],
        name: &Name,
        seen: &Seen,
    ) -> Result<Vec<OpenPart>> {
        let Seen::Dir { parts, opened, .. } = seen else { return Ok(Vec::new()) };
        let open = |part: &DirPart| {
            if let Some((_, dir)) = opened.iter().find(|(branch, _)| *branch == part.branch) {
                return Ok(OpenPart { part: *part, dir: dir.clone() });
            }
            let above = parent.iter().find(|open| open.part.branch == part.branch);
            let above = above.ok_or(Error::Bug("a part without a part of its parent"))?;
            let dir = above.dir.open_dir(name.as_os_str())?;
            if self.is_meant(part.branch, &dir.stat_self()?, part.real) {
                Ok(OpenPart { part: *part, dir })
            } else {
                Err(Error::Stale(0))
            }
        };
        parts.iter().map(open).collect()
    }

    /// The merged listing of a directory.
    pub(super) fn list(&self, parts: &[OpenPart]) -> Result<MergedListing<Known>> {
        let mut merge = Merge::default();
        for open in parts {
            merge.add(open.part.branch, self.list_part(open)?);
        }
        Ok(merge.finish())
    }

    fn list_part(&self, open: &OpenPart) -> Result<Vec<(Spelling, Listed<Known>)>> {
        layer::list(&open.dir, open.part.formats)
    }
}

impl Top {
    fn of(root: &Dir, devices: bool, xino: &Xino) -> Result<Self> {
        let markers = DirMarkers::of(root)?;
        let formats = markers.formats(devices);
        let real = xino.real(&root.stat_self()?);
        let part = Some(DirPart { branch: root.branch(), closed: false, watched: false, formats, real });
        let reads_all_markers = formats.xattr_whiteouts || formats.impure;
        let traits = Traits { devices, reads_all_markers, renumbers: root.renumbers()? };
        Ok(Self { traits, part, opaque: markers.opaque })
    }
}

/// What an entry's attributes say to a listing.
pub(super) fn known_of(stat: &Stat) -> Known {
    Known { kind: stat.kind(), ino: stat.st_ino }
}
