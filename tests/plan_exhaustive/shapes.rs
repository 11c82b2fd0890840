//! Which small stacks are there?
//!
//! Every branch holds one of 46 [`Shape`]s under a name. Because a stack is flattened from the
//! bottom up, lowers that flatten to the same tree are the same to whatever lies above: they are
//! counted all, and one [`Lowers`] of each class is used.

use std::collections::BTreeMap;

use crate::disk::{self, Dir, FileName, Inode, Node, OPAQUE};
use crate::flatten::{Kind, Seen};

/// What one branch holds under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub held: Held,
    /// Whether a whiteout stands there, beside the entry if there is one.
    pub whiteout: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Nothing,
    File,
    /// A whiteout that has the name itself, as overlayfs makes them.
    WhiteoutInode,
    Dir {
        opaque: bool,
        inside: Inside,
    },
}

/// What a directory holds under the name `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    Nothing,
    File,
    EmptyDir,
    /// A directory with a file `y`.
    Dir,
    OpaqueDir,
    Whiteout,
    FileAndWhiteout,
    DirAndWhiteout,
    WhiteoutInode,
    BothWhiteouts,
}

impl Shape {
    /// All that a branch can hold under `name`: 46, or 23 if no whiteout fits the name.
    pub fn all(name: FileName) -> Vec<Self> {
        let mut shapes = Vec::new();
        let fits = disk::whiteout_of(name).is_some();
        for whiteout in [false, true].into_iter().filter(|w| fits || !w) {
            let mut add = |held| shapes.push(Self { held, whiteout });
            add(Held::Nothing);
            add(Held::File);
            add(Held::WhiteoutInode);
            for opaque in [false, true] {
                for inside in [
                    Inside::Nothing,
                    Inside::File,
                    Inside::EmptyDir,
                    Inside::Dir,
                    Inside::OpaqueDir,
                    Inside::Whiteout,
                    Inside::FileAndWhiteout,
                    Inside::DirAndWhiteout,
                    Inside::WhiteoutInode,
                    Inside::BothWhiteouts,
                ] {
                    add(Held::Dir { opaque, inside });
                }
            }
        }
        shapes
    }

    /// Puts it into a branch's directory.
    pub fn put(self, into: &mut Dir, name: FileName, branch: usize) {
        if self.whiteout {
            mark(into, disk::whiteout_of(name).expect("a short name"));
        }
        match self.held {
            Held::Nothing => {}
            Held::File => {
                into.insert(name, Node::File(inode(branch, name, 1)));
            }
            Held::WhiteoutInode => {
                into.insert(name, Node::Whiteout);
            }
            Held::Dir { opaque, inside } => {
                let mut dir = Dir::new();
                if opaque {
                    mark(&mut dir, OPAQUE);
                }
                inside.put(&mut dir, name, branch);
                into.insert(name, Node::Dir(dir));
            }
        }
    }
}

impl Inside {
    fn put(self, into: &mut Dir, above: FileName, branch: usize) {
        let mut dir = Dir::new();
        if matches!(self, Self::Dir | Self::OpaqueDir | Self::DirAndWhiteout) {
            dir.insert("y", Node::File(inode(branch, above, 3)));
        }
        if self == Self::OpaqueDir {
            mark(&mut dir, OPAQUE);
        }
        let whiteouts = [Self::Whiteout, Self::FileAndWhiteout, Self::DirAndWhiteout, Self::BothWhiteouts];
        if whiteouts.contains(&self) {
            mark(into, ".wh.x");
        }
        let node = match self {
            Self::Nothing | Self::Whiteout => return,
            Self::File | Self::FileAndWhiteout => Node::File(inode(branch, above, 2)),
            Self::EmptyDir | Self::Dir | Self::OpaqueDir | Self::DirAndWhiteout => Node::Dir(dir),
            Self::WhiteoutInode | Self::BothWhiteouts => Node::Whiteout,
        };
        into.insert("x", node);
    }
}

fn mark(dir: &mut Dir, marker: FileName) {
    dir.insert(marker, Node::File(0));
}

/// Every file of a stack is a file of its own.
fn inode(branch: usize, name: FileName, depth: u32) -> Inode {
    let place = if name.starts_with('a') { 0 } else { 10 };
    u32::try_from(branch).unwrap() * 100 + place + depth
}

/// Some lowers that hold one name, and all that flatten to the same.
#[derive(Clone, Debug)]
pub struct Lowers {
    /// What they hold, topmost first.
    pub shapes: Vec<Shape>,
    /// What they show.
    pub seen: Seen,
    /// How many lists of shapes show that.
    pub stands_for: usize,
}

impl Lowers {
    /// Every list of `count` shapes under `name`, one of each class.
    pub fn all(count: usize, name: FileName) -> Vec<Self> {
        let mut classes = vec![Self { shapes: Vec::new(), seen: Seen::nothing(), stands_for: 1 }];
        let shapes = Shape::all(name);
        for branch in (1..=count).rev() {
            let mut next = BTreeMap::new();
            for below in &classes {
                for shape in &shapes {
                    let mut seen = below.seen.clone();
                    seen.apply(&branch_of(&[(name, *shape)], branch), branch);
                    let class = next.entry(format!("{seen:?}")).or_insert_with(|| Self {
                        shapes: [&[*shape], &below.shapes[..]].concat(),
                        seen,
                        stands_for: 0,
                    });
                    class.stands_for += below.stands_for;
                }
            }
            classes = next.into_values().collect();
        }
        classes
    }

    /// One of each kind, for where the branches that supply an entry do not matter as long as it is
    /// one or several.
    pub fn kinds(count: usize, name: FileName) -> BTreeMap<String, Self> {
        let mut kinds: BTreeMap<String, Self> = BTreeMap::new();
        for lowers in Self::all(count, name) {
            let kind = kinds.entry(kind_of(&lowers.seen, true));
            kind.and_modify(|k| k.stands_for += lowers.stands_for).or_insert(lowers);
        }
        kinds
    }

    /// What these lowers and those of another name show together.
    pub fn with(&self, other: &Self) -> Seen {
        let mut seen = self.seen.clone();
        let others = other.seen.entries().map(|(n, e)| (n, e.clone()));
        seen.entries_mut().extend(others);
        seen
    }
}

/// A branch that holds these names.
pub fn branch_of(names: &[(FileName, Shape)], branch: usize) -> Dir {
    let mut dir = Dir::new();
    for (name, shape) in names {
        shape.put(&mut dir, name, branch);
    }
    dir
}

/// A description of a tree without the numbers of its files; of the branches it says only whether
/// the entries of the root come from one or from several.
fn kind_of(seen: &Seen, is_root: bool) -> String {
    let mut text = String::new();
    for (name, entry) in seen.entries() {
        let several = is_root && entry.from.count_ones() > 1;
        text += match entry.kind {
            Kind::File(_) => "file ",
            Kind::Dir(_) if several => "merged ",
            Kind::Dir(_) => "dir ",
        };
        text += &format!("{name} ({}) ", kind_of(entry, false));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So the stacks of two names, which have two lowers, stand for those of one and three.
    #[test]
    fn one_or_three_lowers_show_no_other_kinds_than_two() {
        let kinds = |count| Lowers::kinds(count, "a").into_keys().collect::<Vec<_>>();
        assert!(kinds(1).iter().all(|kind| kinds(2).contains(kind)));
        assert_eq!(kinds(2), kinds(3));
    }
}
