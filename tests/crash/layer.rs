//! What is in a branch, and is it still the same?

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// One entry of a branch. Its directory is listed before it.
#[derive(Clone, Debug)]
pub struct Item {
    pub path: &'static str,
    thing: Thing,
    mode: Option<u32>,
    owner: Option<u32>,
    xattr: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
enum Thing {
    File(&'static str),
    /// Data in two places of a hole.
    Sparse,
    Dir,
    Symlink(&'static str),
    Fifo,
    /// One more name of that file of the branch.
    Link(&'static str),
    /// `.wh.NAME`.
    Whiteout,
    /// The opaque marker in that directory.
    Opaque,
    /// A character device 0:0: overlayfs' whiteout.
    Device,
}

impl Item {
    fn new(path: &'static str, thing: Thing) -> Self {
        Self { path, thing, mode: None, owner: None, xattr: None }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode: Some(mode), ..self }
    }

    pub fn owner(self, owner: u32) -> Self {
        Self { owner: Some(owner), ..self }
    }

    pub fn xattr(self, key: &'static str, value: &'static str) -> Self {
        Self { xattr: Some((key, value)), ..self }
    }

    fn on_disk(&self, root: &Path) -> PathBuf {
        let at = root.join(self.path);
        match self.thing {
            Thing::Whiteout => {
                let name = at.file_name().expect("a whiteout has a name").to_str().expect("a plain name");
                at.with_file_name(format!(".wh.{name}"))
            }
            Thing::Opaque => at.join(".wh..wh..opq"),
            _ => at,
        }
    }

    fn put(&self, root: &Path) {
        let at = self.on_disk(root);
        match self.thing {
            Thing::File(content) => fs::write(&at, content).expect("a file"),
            Thing::Sparse => {
                let file = File::create(&at).expect("a file");
                file.write_all_at(b"begin", 0).expect("data");
                file.write_all_at(b"middle", 96 << 10).expect("data");
                file.set_len(128 << 10).expect("a hole at the end");
            }
            Thing::Dir => fs::DirBuilder::new().mode(0o755).create(&at).expect("a directory"),
            Thing::Symlink(target) => symlink(target, &at).expect("a symbolic link"),
            Thing::Fifo => make_node(&at, FileType::Fifo),
            Thing::Link(to) => {
                rustix::fs::linkat(CWD, root.join(to), CWD, &at, AtFlags::empty()).expect("a link");
            }
            Thing::Whiteout | Thing::Opaque => fs::write(&at, "").expect("a marker"),
            Thing::Device => make_node(&at, FileType::CharacterDevice),
        }
        if let Some((key, value)) = self.xattr {
            rustix::fs::setxattr(&at, key, value.as_bytes(), XattrFlags::empty()).expect("an attribute");
        }
        // Only root gives files away.
        if let Some(owner) = self.owner.filter(|_| rustix::process::geteuid().is_root()) {
            std::os::unix::fs::lchown(&at, Some(owner), Some(owner)).expect("an owner");
        }
        if let Some(mode) = self.mode {
            rustix::fs::chmod(&at, Mode::from_raw_mode(mode)).expect("a mode");
        }
    }
}

fn make_node(at: &Path, kind: FileType) {
    rustix::fs::mknodat(CWD, at, kind, Mode::from_raw_mode(0o644), 0).expect("a node");
}

pub fn file(path: &'static str, content: &'static str) -> Item {
    Item::new(path, Thing::File(content))
}

pub fn sparse(path: &'static str) -> Item {
    Item::new(path, Thing::Sparse)
}

pub fn dir(path: &'static str) -> Item {
    Item::new(path, Thing::Dir)
}

pub fn link_to(path: &'static str, target: &'static str) -> Item {
    Item::new(path, Thing::Symlink(target))
}

pub fn fifo(path: &'static str) -> Item {
    Item::new(path, Thing::Fifo)
}

pub fn name_of(path: &'static str, other: &'static str) -> Item {
    Item::new(path, Thing::Link(other))
}

pub fn whiteout(path: &'static str) -> Item {
    Item::new(path, Thing::Whiteout)
}

pub fn opaque(path: &'static str) -> Item {
    Item::new(path, Thing::Opaque)
}

pub fn device(path: &'static str) -> Item {
    Item::new(path, Thing::Device)
}

/// Makes a branch, with times of its own for every entry, in a year long past.
pub fn put(root: &Path, items: &[Item], branch: usize) {
    fs::DirBuilder::new().mode(0o755).create(root).expect("a branch");
    items.iter().for_each(|item| item.put(root));
    let all = items.iter().map(|item| item.on_disk(root)).chain([root.to_owned()]);
    for (nth, at) in all.enumerate() {
        let time = Timespec { tv_sec: 1_000_000_000 + (branch * 1000 + nth) as i64, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &at, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
    }
}

/// All inodes of a tree by their paths, and when they last changed: the kernel moves that time with every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, [i64; 5]>);

impl Snapshot {
    pub fn of(root: &Path) -> Self {
        let mut all = BTreeMap::new();
        each(root, &mut |path, meta| {
            let known = [meta.ino() as i64, meta.nlink() as i64, meta.size() as i64];
            let [ino, links, size] = known;
            all.insert(path.to_owned(), [ino, links, size, meta.ctime(), meta.ctime_nsec()]);
        });
        Self(all)
    }
}

/// Shows every entry of a tree, and its root, without following anything.
pub fn each(root: &Path, show: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let meta = fs::symlink_metadata(root).expect("an entry that was listed");
    show(root, &meta);
    if meta.is_dir() {
        for entry in fs::read_dir(root).expect("a directory can be read") {
            each(&entry.expect("an entry").path(), show);
        }
    }
}

/// The names of an inode's extended attributes.
pub fn xattrs(at: &Path) -> Vec<String> {
    let path = CString::new(at.as_os_str().as_bytes()).expect("a plain path");
    let mut buffer = [0_u8; 4096];
    let length = rustix::fs::llistxattr(&*path, &mut buffer[..]).unwrap_or(0);
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}
