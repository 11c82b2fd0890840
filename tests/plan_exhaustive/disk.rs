//! What does one branch hold on disk, and what do system calls do to it?
//!
//! A branch is a tree of files and directories. Markers are ordinary empty files in it, spelt out,
//! or inodes of a kind of their own, as overlayfs makes them. The calls know nothing of either: what
//! POSIX forbids fails here too.

use std::collections::BTreeMap;

/// A name on disk, markers included.
pub type FileName = &'static str;
/// The names from the root of a branch, or of the mount, to an entry.
pub type Path = Vec<FileName>;
/// A directory on disk.
pub type Dir = BTreeMap<FileName, Node>;

/// The number of a file. It stays through copy-up, which is the inode table's work and none of the
/// plan's; and no two files have the same content, so it stands for the content as well.
pub type Inode = u32;

/// Marker files all look alike.
const MARKER: Node = Node::File(0);
/// The marker that makes the directory which holds it opaque.
pub const OPAQUE: FileName = ".wh..wh..opq";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(Inode),
    Dir(Dir),
    /// An inode that is a whiteout for its own name: a device 0:0, or an empty file with an attribute
    /// that says so.
    Whiteout,
}

/// The name of the whiteout for `name`; none fits names of more than 251 bytes.
pub fn whiteout_of(name: FileName) -> Option<FileName> {
    match name {
        "a" => Some(".wh.a"),
        "b" => Some(".wh.b"),
        "x" => Some(".wh.x"),
        "y" => Some(".wh.y"),
        "z" => Some(".wh.z"),
        long => (long.len() <= 251).then(|| &*format!(".wh.{long}").leak()),
    }
}

/// The name that something on disk hides, if it is a whiteout of either kind.
pub fn hidden_by(on_disk: FileName, node: &Node) -> Option<FileName> {
    match node {
        Node::Whiteout => Some(on_disk),
        _ => on_disk.strip_prefix(".wh.").filter(|_| on_disk != OPAQUE),
    }
}

pub fn is_marker(on_disk: FileName, node: &Node) -> bool {
    *node == Node::Whiteout || on_disk.starts_with(".wh.")
}

/// `dir/name`.
pub fn join(dir: &[FileName], name: FileName) -> Path {
    [dir, &[name]].concat()
}

/// An entry's directory and its name there.
pub fn split(path: &[FileName]) -> (&[FileName], FileName) {
    let (name, dir) = path.split_last().expect("the root is no entry");
    (dir, name)
}

pub fn find<'a>(root: &'a Dir, path: &[FileName]) -> Option<&'a Node> {
    let (dir, name) = split(path);
    find_dir(root, dir)?.get(name)
}

pub fn find_dir<'a>(root: &'a Dir, path: &[FileName]) -> Option<&'a Dir> {
    path.iter().try_fold(root, |dir, name| match dir.get(name) {
        Some(Node::Dir(dir)) => Some(dir),
        _ => None,
    })
}

/// One system call that changes the upper: a crash falls before it or after it.
#[derive(Clone, Debug)]
pub enum Change {
    Make(Path, Node),
    Unlink(Path),
    RemoveDir(Path),
    Link(Path, Path),
    Rename(Path, Path),
    Exchange(Path, Path),
}

impl Change {
    pub fn make_marker(path: Path) -> Self {
        Self::Make(path, MARKER)
    }

    /// Makes the change, or says why the kernel would not.
    pub fn apply(&self, root: &mut Dir) -> Result<(), String> {
        match self {
            Self::Make(path, node) => put_new(root, path, node.clone()),
            Self::Unlink(path) => match take(root, path)? {
                Node::File(_) | Node::Whiteout => Ok(()),
                Node::Dir(_) => Err(format!("unlink of the directory {path:?}")),
            },
            Self::RemoveDir(path) => match take(root, path)? {
                Node::Dir(dir) if dir.is_empty() => Ok(()),
                held => Err(format!("rmdir of {path:?}, which is {held:?}")),
            },
            Self::Link(from, to) => match find(root, from) {
                Some(&Node::File(inode)) => put_new(root, to, Node::File(inode)),
                held => Err(format!("link of {from:?}, which is {held:?}")),
            },
            Self::Rename(from, to) => rename(root, from, to),
            Self::Exchange(from, to) => {
                let (old, new) = (take(root, from)?, take(root, to)?);
                put_new(root, from, new)?;
                put_new(root, to, old)
            }
        }
    }
}

/// rename(2), replacing what may be replaced.
fn rename(root: &mut Dir, from: &[FileName], to: &[FileName]) -> Result<(), String> {
    match (find(root, from), find(root, to)) {
        // "If oldpath and newpath are hard links to the same file, rename() does nothing."
        (Some(Node::File(old)), Some(Node::File(new))) if old == new => return Ok(()),
        (_, None) => {}
        (Some(Node::File(_)), Some(Node::File(_) | Node::Whiteout)) => {}
        (Some(Node::Dir(_)), Some(Node::Dir(old))) if old.is_empty() => {}
        (_, Some(held)) => return Err(format!("rename over {to:?}, which is {held:?}")),
    }
    let moved = take(root, from)?;
    let (dir, name) = split(to);
    parent(root, dir)?.insert(name, moved);
    Ok(())
}

fn parent<'a>(root: &'a mut Dir, path: &[FileName]) -> Result<&'a mut Dir, String> {
    path.iter().try_fold(root, |dir, name| match dir.get_mut(name) {
        Some(Node::Dir(dir)) => Ok(dir),
        _ => Err(format!("no directory {path:?} in the upper")),
    })
}

fn put_new(root: &mut Dir, path: &[FileName], node: Node) -> Result<(), String> {
    let (dir, name) = split(path);
    match parent(root, dir)?.insert(name, node) {
        None => Ok(()),
        Some(_) => Err(format!("{path:?} is there already")),
    }
}

fn take(root: &mut Dir, path: &[FileName]) -> Result<Node, String> {
    let (dir, name) = split(path);
    let held = parent(root, dir)?.remove(name);
    held.ok_or_else(|| format!("no {path:?} in the upper"))
}
