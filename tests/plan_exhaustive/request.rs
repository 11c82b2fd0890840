//! What does a user ask for, and what should come of it on any filesystem?

use plyfs::rules::plan::{self, At, Content, NewEntry, Plan, Refusal, Replace};
use plyfs::rules::resolve::{Entry, EntryStack, Found, Resolution};
use plyfs::rules::{BranchId, name::Name};

use crate::disk::{self, Dir, FileName, Inode, Node, OPAQUE, Path};
use crate::flatten::{Kind, Seen};

/// The file that `create` makes.
pub const NEW: Inode = 999;

/// A stack of branches. Only the upper ever changes, so the lowers are kept flattened.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack<'a> {
    pub upper: Dir,
    pub lowers: &'a Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create(NewEntry),
    Unlink,
    Rmdir,
    Link,
    Rename(Replace),
    Exchange,
}

/// An operation and its names. One that has one name only calls it the target.
#[derive(Clone, Debug)]
pub struct Request {
    pub operation: Operation,
    pub source: Path,
    pub target: Path,
}

pub const ON_ONE_NAME: [Operation; 4] = [
    Operation::Create(NewEntry::Leaf),
    Operation::Create(NewEntry::Dir),
    Operation::Unlink,
    Operation::Rmdir,
];

pub const ON_TWO_NAMES: [Operation; 4] = [
    Operation::Link,
    Operation::Rename(Replace::Allowed),
    Operation::Rename(Replace::Refused),
    Operation::Exchange,
];

impl Stack<'_> {
    /// What users see.
    pub fn view(&self) -> Seen {
        let mut seen = self.lowers.clone();
        seen.apply(&self.upper, 0);
        seen
    }

    /// What a probe of all branches reports of one name.
    pub fn probe(&self, view: &Seen, path: &[FileName]) -> EntryStack {
        let (dir, name) = disk::split(path);
        let mut stack = EntryStack::default();
        if let Some(upper) = disk::find_dir(&self.upper, dir) {
            stack.upper = Entry {
                found: upper.get(name).and_then(|node| match node {
                    Node::File(_) => Some(Found::Leaf),
                    Node::Dir(inside) => Some(Found::Dir { opaque: inside.contains_key(OPAQUE) }),
                    Node::Whiteout => None,
                }),
                whiteout: disk::whiteout_of(name).is_some_and(|w| upper.contains_key(w)),
                whiteout_inode: upper.get(name) == Some(&Node::Whiteout),
            };
        }
        if let Some(below) = self.below(view, path) {
            let mut branches = (1..8).filter(|b| below.from & (1 << b) != 0);
            stack.lowers = match below.kind {
                Kind::Dir(_) => Resolution::Merged(branches.map(BranchId).collect()),
                Kind::File(_) => Resolution::Leaf(BranchId(branches.next().unwrap())),
            };
        }
        stack
    }

    /// What the lowers would show at `path` if the upper said nothing of that name: nothing if the
    /// directory has no lower part.
    pub fn below(&self, view: &Seen, path: &[FileName]) -> Option<&Seen> {
        let (dir, _) = disk::split(path);
        let dir = view.find(dir).filter(|dir| dir.is_from_lowers());
        dir.and_then(|_| self.lowers.find(path))
    }
}

impl Request {
    /// Whether the kernel would pass it on. It looks up the directories first, and by itself does
    /// nothing where something would replace, or change places with, itself or a link to it.
    pub fn is_possible(&self, view: &Seen) -> bool {
        let has_directory = |path: &[FileName]| {
            let (dir, _) = disk::split(path);
            view.find(dir).is_some_and(Seen::is_dir)
        };
        let moves = matches!(self.operation, Operation::Rename(_) | Operation::Exchange);
        let (source, target) = (view.find(&self.source), view.find(&self.target));
        let is_one_file = source == target && source.is_some_and(|s| !s.is_dir());
        let is_itself = self.source == self.target || is_one_file;
        has_directory(&self.source) && has_directory(&self.target) && !(moves && is_itself)
    }

    /// The plan under test.
    pub fn plan(&self, stack: &Stack<'_>, view: &Seen) -> Result<Plan, Refusal> {
        let at = |path: &[FileName]| {
            let (_, name) = disk::split(path);
            let name = Name::new(name.as_ref()).expect("a legal name");
            (name, stack.probe(view, path))
        };
        let (source, target) = (at(&self.source), at(&self.target));
        let (source, target) = (as_argument(&source), as_argument(&target));
        let content = match view.find(&self.target) {
            Some(target) if target.is_occupied() => Content::Occupied,
            _ => Content::Empty,
        };
        match self.operation {
            Operation::Create(new) => plan::create(target, new),
            Operation::Unlink => plan::unlink(target),
            Operation::Rmdir => plan::rmdir(target, content),
            Operation::Link => plan::link(source, target),
            Operation::Rename(replace) => plan::rename(source, target, content, replace),
            Operation::Exchange => plan::exchange(source, target),
        }
    }

    /// What a plain filesystem that holds `before` makes of it, by rename(2), unlink(2) …
    pub fn outcome(&self, before: &Seen) -> Result<Seen, Refusal> {
        let old = before.find(&self.source);
        let new = before.find(&self.target);
        let changed = |change: &dyn Fn(&mut Seen)| {
            let mut after = before.clone();
            change(&mut after);
            Ok(after)
        };
        let (source, target) = (&self.source, &self.target);
        match self.operation {
            Operation::Create(_) if new.is_some() => Err(Refusal::Exists),
            Operation::Create(NewEntry::Leaf) => changed(&|after| put(after, target, file(NEW))),
            Operation::Create(NewEntry::Dir) => changed(&|after| put(after, target, Seen::nothing())),
            Operation::Unlink => match new {
                None => Err(Refusal::NotFound),
                Some(new) if new.is_dir() => Err(Refusal::IsADirectory),
                Some(_) => changed(&|after| remove(after, target)),
            },
            Operation::Rmdir => match new {
                None => Err(Refusal::NotFound),
                Some(new) if !new.is_dir() => Err(Refusal::NotADirectory),
                Some(new) if new.is_occupied() => Err(Refusal::NotEmpty),
                Some(_) => changed(&|after| remove(after, target)),
            },
            Operation::Link => match (old, new) {
                (None, _) => Err(Refusal::NotFound),
                (Some(old), _) if old.is_dir() => Err(Refusal::IsADirectory),
                (Some(_), Some(_)) => Err(Refusal::Exists),
                (Some(old), None) => changed(&|after| put(after, target, old.clone())),
            },
            Operation::Rename(replace) => {
                let old = old.ok_or(Refusal::NotFound)?;
                match new {
                    Some(_) if replace == Replace::Refused => return Err(Refusal::Exists),
                    Some(new) if old.is_dir() && !new.is_dir() => {
                        return Err(Refusal::NotADirectory);
                    }
                    Some(new) if !old.is_dir() && new.is_dir() => {
                        return Err(Refusal::IsADirectory);
                    }
                    Some(new) if new.is_occupied() => return Err(Refusal::NotEmpty),
                    Some(_) | None => {}
                }
                changed(&|after| {
                    remove(after, source);
                    put(after, target, old.clone());
                })
            }
            Operation::Exchange => match (old, new) {
                (Some(old), Some(new)) => changed(&|after| {
                    put(after, source, new.clone());
                    put(after, target, old.clone());
                }),
                _ => Err(Refusal::NotFound),
            },
        }
    }

    /// Where the directory at `path` stood before the operation; None for one that it makes.
    pub fn origin(&self, path: &[FileName]) -> Option<Path> {
        let moved = |from: &[FileName], to: &[FileName]| {
            let inside = path.strip_prefix(to)?;
            Some([from, inside].concat())
        };
        let (source, target) = (&self.source, &self.target);
        let stays = || Some(path.to_vec());
        match self.operation {
            Operation::Create(_) if path == target => None,
            Operation::Rename(_) => moved(source, target).or_else(stays),
            Operation::Exchange => moved(source, target).or_else(|| moved(target, source)).or_else(stays),
            _ => stays(),
        }
    }
}

fn as_argument((name, stack): &(Name, EntryStack)) -> At<'_> {
    At { name, stack }
}

fn file(inode: Inode) -> Seen {
    let kind = Kind::File(inode);
    Seen { from: 0, kind }
}

fn put(tree: &mut Seen, path: &[FileName], entry: Seen) {
    let (entries, name) = tree.slot(path);
    entries.insert(name, entry);
}

fn remove(tree: &mut Seen, path: &[FileName]) {
    let (entries, name) = tree.slot(path);
    entries.remove(name);
}
