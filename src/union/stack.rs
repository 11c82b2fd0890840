//! Which branches are there, and what do they together say of one name?
//!
//! The stack looks only; it knows no nodes.

use super::node::{DirPart, RealId};
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
    lowers: Vec<Branch>,
    /// The upper's.
    upper_traits: Traits,
    /// Tells inodes apart.
    pub(super) xino: Xino,
}

#[derive(Debug)]
struct Branch {
    id: BranchId,
    root: Dir,
    traits: Traits,
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
#[derive(Debug)]
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
    /// The topmost lower part of a directory, if there is one: it gives the directory its number.
    pub(super) fn number_part(&self) -> Option<&DirPart> {
        let Self::Dir { parts, .. } = self else { return None };
        parts.iter().find(|part| !part.branch.is_upper()).or(parts.first())
    }
}

type Words = Vec<(BranchId, Word)>;

impl Stack {
    /// Takes the branches over, from the topmost down, and looks at their roots: an opaque marker there hides all
    /// branches below.
    ///
    /// # Errors
    /// What the disk says of a branch's root; [`Error::Bug`] without a branch.
    pub(super) fn new(
        upper: Option<UpperDir>,
        lowers: Vec<Dir>,
        overlay_upper: bool,
    ) -> Result<(Self, Vec<DirPart>)> {
        let xino = Xino::default();
        let mut parts = Vec::new();
        let mut hidden = false;
        let mut look = |dir: &Dir, devices: bool| -> Result<Traits> {
            let markers = DirMarkers::of(dir)?;
            let formats = markers.formats(devices);
            if !hidden {
                let real = xino.real(&dir.stat_self()?);
                parts.push(DirPart { branch: dir.branch(), closed: false, formats, real });
            }
            hidden |= markers.opaque;
            let reads_all_markers = formats.xattr_whiteouts || formats.impure;
            Ok(Traits { devices, reads_all_markers, renumbers: dir.renumbers()? })
        };
        let upper_traits = match &upper {
            Some(upper) => look(upper, overlay_upper)?,
            None => Traits::default(),
        };
        let mut branches = Vec::with_capacity(lowers.len());
        for root in lowers {
            let traits = look(&root, true)?;
            branches.push(Branch { id: root.branch(), root, traits });
        }
        if parts.is_empty() {
            return Err(Error::Bug("a union without branches"));
        }
        Ok((Self { upper, lowers: branches, upper_traits, xino }, parts))
    }

    /// The root of a lower.
    pub(super) fn lower(&self, id: BranchId) -> Result<&Dir> {
        self.branch(id).map(|branch| &branch.root)
    }

    /// The roots of all lowers.
    pub(super) fn lowers(&self) -> impl Iterator<Item = &Dir> {
        self.lowers.iter().map(|branch| &branch.root)
    }

    fn branch(&self, id: BranchId) -> Result<&Branch> {
        // So long as no branch has come or gone, its id is its position.
        let expected = self.lowers.get(usize::from(id.0).wrapping_sub(1)).filter(|branch| branch.id == id);
        let found = expected.or_else(|| self.lowers.iter().find(|branch| branch.id == id));
        found.ok_or(Error::Bug("an unknown branch"))
    }

    fn traits(&self, id: BranchId) -> Traits {
        if id.is_upper() {
            return self.upper_traits;
        }
        self.branch(id).map_or_else(|_| Traits::default(), |branch| branch.traits)
    }

    /// Whether inodes of a branch cannot be told apart by their numbers alone.
    pub(super) fn renumbers(&self, id: BranchId) -> bool {
        self.traits(id).renumbers
    }

    /// Whether a device 0:0 in the upper is a whiteout.
    pub(super) fn devices_in_upper(&self) -> bool {
        self.upper_traits.devices
    }

    /// Whether the inode on disk is the one that was meant. Where inodes are given new numbers, it is whatever has
    /// the name: its type is looked at by whoever opens it.
    pub(super) fn is_meant(&self, branch: BranchId, stat: &Stat, meant: RealId) -> bool {
        self.xino.real(stat) == meant || self.renumbers(branch)
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
                    Some(DirPart { branch: *branch, closed, formats, real })
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

/// What an entry's attributes say to a listing.
pub(super) fn known_of(stat: &Stat) -> Known {
    Known { kind: stat.kind(), ino: stat.st_ino }
}
