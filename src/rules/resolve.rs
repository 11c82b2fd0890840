//! Which branches supply this name?
//!
//! Branches are heard from the top down. The first that holds the name decides its type; only
//! directories merge; a whiteout, an opaque directory or a non-directory ends the search.

use std::ops::ControlFlow;

use super::BranchId;

/// What a branch holds under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Anything that is not a directory.
    Leaf,
    /// A directory, with or without a marker in it that hides its namesakes below.
    Dir {
        /// Whether it carries an opaque marker.
        opaque: bool,
    },
}

/// Everything one branch says of one name.
///
/// An entry and a whiteout may both be there: a whiteout hides the branches below its own, never the entry beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The entry itself.
    pub found: Option<Found>,
    /// Whether the branch holds a whiteout for the name, `.wh.NAME`.
    pub whiteout: bool,
    /// Whether what has the name in the branch is a whiteout itself, as overlayfs makes them: then nothing is found,
    /// and the name is taken.
    pub whiteout_inode: bool,
}

impl Entry {
    /// Whether it hides the branches below, whatever else it is.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.whiteout || self.whiteout_inode
    }
}

/// Which branches supply a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// None does.
    #[default]
    Absent,
    /// One branch, with something that is not a directory.
    Leaf(BranchId),
    /// A directory; its branches from the top down, at least one.
    Merged(Vec<BranchId>),
}

impl Resolution {
    /// Whether there is anything to see.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Self::Merged(_))
    }
}

/// Hears the branches one after the other, from the top down.
#[derive(Debug, Default)]
pub struct Resolver {
    so_far: Resolution,
}

impl Resolver {
    /// Takes the next branch's word. `Break` means that no branch below has a say.
    pub fn hear(&mut self, branch: BranchId, entry: Entry) -> ControlFlow<()> {
        let merging = self.so_far.is_dir();
        match entry.found {
            Some(Found::Leaf) => {
                if !merging {
                    self.so_far = Resolution::Leaf(branch);
                }
                return ControlFlow::Break(());
            }
            Some(Found::Dir { opaque }) => {
                match &mut self.so_far {
                    Resolution::Merged(branches) => branches.push(branch),
                    so_far => *so_far = Resolution::Merged(vec![branch]),
                }
                if opaque {
                    return ControlFlow::Break(());
                }
            }
            None => {}
        }
        if entry.is_whiteout() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// The verdict.
    #[must_use]
    pub fn resolution(self) -> Resolution {
        self.so_far
    }
}

/// What all branches of a directory say of one name, as a mutation needs to know it: the upper
/// on its own, and what the lowers would show if the upper said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryStack {
    /// The upper's own word.
    pub upper: Entry,
    /// What would show without the upper.
    pub lowers: Resolution,
}

impl EntryStack {
    /// What users see.
    #[must_use]
    pub fn visible(&self) -> Resolution {
        let mut resolver = Resolver::default();
        if resolver.hear(BranchId::UPPER, self.upper).is_continue() {
            match (&mut resolver.so_far, &self.lowers) {
                (Resolution::Merged(all), Resolution::Merged(lowers)) => all.extend(lowers),
                (Resolution::Merged(_), _) => {}
                (so_far, lowers) => *so_far = lowers.clone(),
            }
        }
        resolver.resolution()
    }

    /// Whether a lower would show the name if the upper said nothing: then, and only then, its
    /// deletion needs a whiteout.
    #[must_use]
    pub fn lowers_show(&self) -> bool {
        !self.lowers.is_absent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Entry = Entry { found: None, whiteout: false, whiteout_inode: false };
    const WHITEOUT: Entry = Entry { whiteout: true, ..NOTHING };
    const WHITEOUT_INODE: Entry = Entry { whiteout_inode: true, ..NOTHING };
    const LEAF: Entry = Entry { found: Some(Found::Leaf), ..NOTHING };
    const DIR: Entry = Entry { found: Some(Found::Dir { opaque: false }), ..NOTHING };
    const OPAQUE: Entry = Entry { found: Some(Found::Dir { opaque: true }), ..NOTHING };
    const DIR_BESIDE_WHITEOUT: Entry = Entry { whiteout: true, ..DIR };

    fn merged(branches: &[u16]) -> Resolution {
        Resolution::Merged(branches.iter().copied().map(BranchId).collect())
    }

    /// Each row: the branches from the top down, and what users see of them.
    #[test]
    fn branches_are_heard_from_the_top_down() {
        let leaf = |branch| Resolution::Leaf(BranchId(branch));
        let rows: &[(&[Entry], Resolution)] = &[
            (&[NOTHING, NOTHING], Resolution::Absent),
            (&[NOTHING, LEAF], leaf(1)),
            (&[LEAF, DIR], leaf(0)),
            (&[WHITEOUT, LEAF], Resolution::Absent),
            (&[WHITEOUT_INODE, LEAF], Resolution::Absent),
            (&[NOTHING, WHITEOUT_INODE, DIR], Resolution::Absent),
            (&[NOTHING, WHITEOUT, DIR], Resolution::Absent),
            (&[DIR, DIR, DIR], merged(&[0, 1, 2])),
            (&[DIR, NOTHING, DIR], merged(&[0, 2])),
            (&[DIR, LEAF, DIR], merged(&[0])),
            (&[DIR, WHITEOUT, DIR], merged(&[0])),
            (&[DIR, OPAQUE, DIR], merged(&[0, 1])),
            (&[OPAQUE, DIR], merged(&[0])),
            (&[DIR_BESIDE_WHITEOUT, DIR], merged(&[0])),
            (&[NOTHING, DIR_BESIDE_WHITEOUT, DIR], merged(&[1])),
        ];
        for (entries, expected) in rows {
            let mut resolver = Resolver::default();
            for (branch, entry) in entries.iter().enumerate() {
                if resolver.hear(BranchId(branch as u16), *entry).is_break() {
                    break;
                }
            }
            assert_eq!(&resolver.resolution(), expected, "{entries:?}");

            let mut lowers = Resolver::default();
            for (branch, entry) in entries.iter().enumerate().skip(1) {
                if lowers.hear(BranchId(branch as u16), *entry).is_break() {
                    break;
                }
            }
            let stack = EntryStack { upper: entries[0], lowers: lowers.resolution() };
            assert_eq!(&stack.visible(), expected, "in two halves: {entries:?}");
        }
    }
}
