//! What do users see of a stack of branches?
//!
//! The branches are applied from the bottom up, as OCI's image-spec (`layer.md`) unpacks layers:
//! a layer first takes away what its whiteouts and opaque markers name, then lays its own entries
//! over the rest. The rules under test search from the top down; nothing is shared with them.

use std::collections::BTreeMap;

use crate::disk::{self, Dir, FileName, Inode, Node, OPAQUE};

/// The upper, as a bit of [`Seen::from`].
pub const UPPER: u8 = 1;

/// An entry as users see it. Entries are equal if users cannot tell them apart, wherever they
/// come from.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The branches that supply it: bit 0 for the upper, bit 1 for the topmost lower …
    pub from: u8,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File(Inode),
    Dir(BTreeMap<FileName, Seen>),
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Seen {}

impl Seen {
    /// A directory without entries that no branch supplies yet.
    pub fn nothing() -> Self {
        let kind = Kind::Dir(BTreeMap::new());
        Self { from: 0, kind }
    }

    /// Applies one layer. `self` is the directory as the layers below leave it.
    pub fn apply(&mut self, layer: &Dir, branch: usize) {
        if layer.contains_key(OPAQUE) || !self.is_dir() {
            *self = Self::nothing();
        }
        self.from |= 1 << branch;
        let entries = self.entries_mut();
        for hidden in layer.iter().filter_map(|(name, node)| disk::hidden_by(name, node)) {
            entries.remove(hidden);
        }
        for (name, node) in layer.iter().filter(|(name, node)| !disk::is_marker(name, node)) {
            match node {
                Node::Whiteout => {}
                Node::File(inode) => {
                    let (from, kind) = (1 << branch, Kind::File(*inode));
                    entries.insert(name, Self { from, kind });
                }
                Node::Dir(dir) => {
                    let below = entries.entry(name).or_insert_with(Self::nothing);
                    below.apply(dir, branch);
                }
            }
        }
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir(_))
    }

    /// Whether lower branches supply a part of it.
    pub fn is_from_lowers(&self) -> bool {
        self.from & !UPPER != 0
    }

    /// Whether it is a directory with something in it.
    pub fn is_occupied(&self) -> bool {
        matches!(&self.kind, Kind::Dir(entries) if !entries.is_empty())
    }

    /// The entries of a directory; a file has none.
    pub fn entries(&self) -> impl Iterator<Item = (FileName, &Self)> {
        let entries = match &self.kind {
            Kind::Dir(entries) => Some(entries),
            Kind::File(_) => None,
        };
        let entries = entries.into_iter().flatten();
        entries.map(|(name, entry)| (*name, entry))
    }

    /// The entries of what must be a directory.
    pub fn entries_mut(&mut self) -> &mut BTreeMap<FileName, Self> {
        match &mut self.kind {
            Kind::Dir(entries) => entries,
            Kind::File(_) => panic!("a file has no entries"),
        }
    }

    pub fn find(&self, path: &[FileName]) -> Option<&Self> {
        path.iter().try_fold(self, |entry, name| match &entry.kind {
            Kind::Dir(entries) => entries.get(name),
            Kind::File(_) => None,
        })
    }

    /// The entries of the directory that holds `path`, and the name there.
    pub fn slot(&mut self, path: &[FileName]) -> (&mut BTreeMap<FileName, Self>, FileName) {
        let (dir, name) = disk::split(path);
        let entries = dir.iter().fold(self.entries_mut(), |entries, name| {
            let dir = entries.get_mut(name).expect("the parent is visible");
            dir.entries_mut()
        });
        (entries, name)
    }
}

/// What users see of `branches`, topmost first.
pub fn flatten(branches: &[Dir]) -> Seen {
    let mut seen = Seen::nothing();
    for (index, branch) in branches.iter().enumerate().rev() {
        seen.apply(branch, index);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir<const N: usize>(entries: [(FileName, Node); N]) -> Node {
        Node::Dir(entries.into())
    }

    /// A whiteout in a middle branch, and a new directory above it.
    #[test]
    fn a_whiteout_in_the_middle_hides_what_is_below_it_only() {
        let top = [("d", dir([("new", Node::File(1))]))].into();
        for whiteout in [(".wh.d", Node::File(0)), ("d", Node::Whiteout)] {
            let middle = [whiteout, ("e", Node::File(2))].into();
            let bottom = [("d", dir([("secret", Node::File(3))]))].into();
            let seen = flatten(&[Dir::clone(&top), middle, bottom]);
            let names: Vec<_> = seen.entries().map(|(name, _)| name).collect();
            assert_eq!(names, ["d", "e"]);
            assert!(seen.find(&["d", "new"]).is_some() && seen.find(&["d", "secret"]).is_none());
            assert_eq!(seen.find(&["d"]).map(|d| d.from), Some(UPPER));
        }
    }
}
