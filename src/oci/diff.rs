//! What makes one layer another than a second one?

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;

use super::digest::Hasher;
use super::error::Result;
use super::item::{Content, Item, Node, Piece, Sink, TreePath};
use super::layer::say;
use super::owners::Owners;
use super::place::open_layers;
use super::progress::Progress;
use super::tree::{Root, Ties, Tree};
use crate::branch::Dir;
use crate::cli::{DiffArgs, OwnersArgs};
use crate::exit::Exit;
use crate::shown::shown;

/// How an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// It is only in the second.
    Added,
    /// It is in both, and not the same.
    Changed,
    /// It is only in the first.
    Deleted,
}

/// One line of a list of differences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    /// How it differs.
    pub(super) change: Change,
    /// Its path from the root, as people read it.
    pub(super) path: String,
}

impl Line {
    pub(super) fn new(change: Change, path: &TreePath) -> Self {
        let path = if path.is_root() { "/".to_owned() } else { format!("/{}", shown(path)) };
        Self { change, path }
    }

    /// As docker shows it: `A /path`.
    pub(super) fn text(&self) -> String {
        let letter = match self.change {
            Change::Added => 'A',
            Change::Changed => 'C',
            Change::Deleted => 'D',
        };
        format!("{letter} {}\n", self.path)
    }
}

pub(super) fn run(args: &DiffArgs) -> Result<ExitCode> {
    let owners = Owners::new(&OwnersArgs::default())?;
    let progress = Progress::begin("comparing")?;
    let mut layers = open_layers(&[&args.a, &args.b])?;
    let b = layers.pop();
    let read = |layer: Option<Dir>| {
        let tree = Tree {
            layers: layer.into_iter().collect(),
            owners: &owners,
            ties: Ties::default(),
            root: Root::Shown,
        };
        let mut entries = Entries::default();
        tree.read(&mut entries, &progress)?;
        Ok::<_, super::Error>(entries.0)
    };
    let lines = compare(read(layers.pop())?, read(b)?);
    drop(progress);
    say(args.json, &lines, || lines.iter().map(Line::text).collect())?;
    Ok(if lines.is_empty() { Exit::Success } else { Exit::Failure }.into())
}

/// What there is to every entry, in few bytes. A directory and its opaque marker have one path.
#[derive(Debug, Default)]
struct Entries(BTreeMap<(TreePath, bool), [u8; 64]>);

impl Sink for Entries {
    fn put(&mut self, item: &Item, content: &mut dyn Content) -> Result<()> {
        let mut hasher = Hasher::default();
        let is_marker = matches!(item.node, Node::Whiteout | Node::Opaque);
        let mut take = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        match &item.node {
            Node::Dir => take(b"dir"),
            Node::File { size } => take(&size.to_le_bytes()),
            Node::Symlink(target) => {
                take(b"symlink");
                take(target.as_encoded_bytes());
            }
            Node::Device { block, major, minor } => {
                take(if *block { b"block" } else { b"char" });
                take(&major.to_le_bytes());
                take(&minor.to_le_bytes());
            }
            Node::Fifo => take(b"fifo"),
            Node::HardLink(first) => {
                take(b"link");
                take(first.as_bytes());
            }
            Node::Whiteout => take(b"whiteout"),
            Node::Opaque => take(b"opaque"),
        }
        if !is_marker && !matches!(item.node, Node::HardLink(_)) {
            let meta = &item.meta;
            for number in [meta.mode, meta.uid, meta.gid, meta.mtime.nanoseconds] {
                take(&number.to_le_bytes());
            }
            take(&meta.mtime.seconds.to_le_bytes());
            for (key, value) in &meta.xattrs {
                take(key.as_encoded_bytes());
                take(value);
            }
        }
        content.pour(&mut |piece| {
            match piece {
                Piece::Data(data) => hasher.update(data),
                Piece::Zeros(mut length) => {
                    while length > 0 {
                        let some = length.min(4096);
                        hasher.update(&[0; 4096][..some as usize]);
                        length -= some;
                    }
                }
            }
            Ok(())
        })?;
        let mut name = [0; 64];
        name.copy_from_slice(hasher.digest().hex().as_bytes());
        self.0.insert((item.path.clone(), matches!(item.node, Node::Opaque)), name);
        Ok(())
    }
}

fn compare(a: BTreeMap<(TreePath, bool), [u8; 64]>, b: BTreeMap<(TreePath, bool), [u8; 64]>) -> Vec<Line> {
    let mut changes: BTreeMap<&TreePath, Change> = BTreeMap::new();
    let mut note = |path, is_opaque, change| {
        // A directory that hides its namesakes or no longer does is another one.
        let change = if is_opaque { Change::Changed } else { change };
        changes.entry(path).or_insert(change);
    };
    for (key @ (path, is_opaque), entry) in &a {
        match b.get(key) {
            None => note(path, *is_opaque, Change::Deleted),
            Some(other) if other != entry => note(path, *is_opaque, Change::Changed),
            Some(_) => {}
        }
    }
    for key @ (path, is_opaque) in b.keys() {
        if !a.contains_key(key) {
            note(path, *is_opaque, Change::Added);
        }
    }
    changes.into_iter().map(|(path, change)| Line::new(change, path)).collect()
}
