//! What does a tree look like, to the last attribute?

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, lgetxattr, llistxattr, makedev};
use rustix::io::Errno;

use super::name::LONG;
use super::times::{Clock, Instant, When};

/// What stat(2) says, without what no two trees have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    /// 0 for a directory: nobody counts a merged one's links.
    pub(crate) links: u32,
    /// 0 for a directory.
    pub(crate) size: u64,
    pub(crate) device: u64,
    pub(crate) mtime: When,
}

/// An inode for as long as it lives: numbers are used again, with another time of birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode {
    pub(crate) number: u64,
    born: Instant,
}

/// Extended attributes.
pub(crate) type Xattrs = BTreeMap<String, Vec<u8>>;

/// One entry of a tree.
#[derive(Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) shape: Shape,
    content: Vec<u8>,
    target: PathBuf,
    xattrs: Xattrs,
    /// The first name of this inode.
    twin: PathBuf,
}

impl Debug for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { shape, content, target, xattrs, twin } = self;
        let head = &content[..content.len().min(12)];
        write!(
            f,
            "{shape:?} content {head:?}… (sum {})",
            content.iter().map(|b| u64::from(*b)).sum::<u64>()
        )?;
        write!(f, " target {target:?} xattrs {xattrs:?} same as {}", short(twin))
    }
}

/// A tree. The root's path is empty.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    pub(crate) items: BTreeMap<PathBuf, Item>,
    pub(crate) inodes: BTreeMap<PathBuf, Inode>,
    lists_whiteouts: bool,
}

impl Tree {
    /// Reads all of it.
    pub(crate) fn of(root: &Path, clock: &Clock) -> Result<Self, String> {
        let mut tree = Self::default();
        tree.add_all(root, clock)?;
        Ok(tree)
    }

    /// Reads all of a mount of the kernel's overlayfs, which lists whiteouts where it has nothing to merge.
    pub(crate) fn of_overlayfs(root: &Path) -> Result<Self, String> {
        let mut tree = Self { lists_whiteouts: true, ..Self::default() };
        tree.add_all(root, &Clock::default())?;
        Ok(tree)
    }

    fn add_all(&mut self, root: &Path, clock: &Clock) -> Result<(), String> {
        self.add(root, Path::new(""), clock, &mut BTreeMap::new())
            .map_err(|(path, e)| format!("reading {}: {e}", short(&path)))
    }

    fn add(
        &mut self,
        root: &Path,
        path: &Path,
        clock: &Clock,
        first: &mut BTreeMap<Inode, PathBuf>,
    ) -> Result<(), (PathBuf, std::io::Error)> {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
        let failed = |e: std::io::Error| (path.to_owned(), e);
        let (shape, inode) = look(&full, clock).map_err(|e| failed(e.into()))?;
        let is_dir = shape.kind == FileType::Directory;
        let item = Item {
            content: match shape.kind {
                FileType::RegularFile => fs::read(&full).map_err(failed)?,
                _ => Vec::new(),
            },
            target: match shape.kind {
                FileType::Symlink => fs::read_link(&full).map_err(failed)?,
                _ => PathBuf::new(),
            },
            xattrs: xattrs(&full),
            twin: if is_dir {
                path.to_owned()
            } else {
                first.entry(inode).or_insert_with(|| path.to_owned()).clone()
            },
            shape,
        };
        self.items.insert(path.to_owned(), item);
        self.inodes.insert(path.to_owned(), inode);
        if is_dir {
            let mut names = Vec::new();
            for entry in fs::read_dir(&full).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                names.push((entry.file_name(), entry.file_type().map_err(failed)?));
            }
            names.sort_by(|one, other| one.0.cmp(&other.0));
            for (name, listed) in names {
                let inner = path.join(name);
                if self.lists_whiteouts && look(&root.join(&inner), clock) == Err(Errno::NOENT) {
                    continue;
                }
                self.add(root, &inner, clock, first)?;
                let kind = self.items[&inner].shape.kind;
                if kind_of(listed) != kind {
                    let wrong = format!("listed as {listed:?}, is {kind:?}");
                    return Err((inner, std::io::Error::other(wrong)));
                }
            }
        }
        Ok(())
    }

    /// How another tree differs: nothing, or lines to be read.
    pub(crate) fn differences(&self, other: &Self, names: (&str, &str)) -> Vec<String> {
        let mut lines = Vec::new();
        let mut paths: Vec<_> = self.items.keys().chain(other.items.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let (one, two) = (self.items.get(path), other.items.get(path));
            if one != two {
                let shown = |item: Option<&Item>| item.map_or("nothing".into(), |item| format!("{item:?}"));
                let (a, b) = names;
                lines.push(format!("/{}:\n  {a:>6} {}\n  {b:>6} {}", short(path), shown(one), shown(two)));
            }
        }
        lines
    }
}

/// A path with the long name made short.
pub(crate) fn short(path: &Path) -> String {
    path.to_string_lossy().replace(LONG, "LONG")
}

fn kind_of(listed: fs::FileType) -> FileType {
    match () {
        () if listed.is_dir() => FileType::Directory,
        () if listed.is_file() => FileType::RegularFile,
        () if listed.is_symlink() => FileType::Symlink,
        () if listed.is_fifo() => FileType::Fifo,
        () if listed.is_socket() => FileType::Socket,
        () if listed.is_char_device() => FileType::CharacterDevice,
        () if listed.is_block_device() => FileType::BlockDevice,
        () => FileType::Unknown,
    }
}

/// lstat(2).
pub(crate) fn look(path: &Path, clock: &Clock) -> Result<(Shape, Inode), Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(shape(&rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?, clock))
}

pub(crate) fn shape(stat: &Statx, clock: &Clock) -> (Shape, Inode) {
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let of_file = |value: u64| if kind == FileType::Directory { 0 } else { value };
    let shape = Shape {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        owner: (stat.stx_uid, stat.stx_gid),
        links: of_file(stat.stx_nlink.into()) as u32,
        size: of_file(stat.stx_size),
        device: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        mtime: clock.when((stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec.into())),
    };
    let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec.into());
    (shape, Inode { number: stat.stx_ino, born })
}

/// The names of an entry's extended attributes.
pub(crate) fn xattr_names(path: &Path) -> Result<Vec<String>, Errno> {
    let mut list = vec![0; 4096];
    let len = llistxattr(path, &mut *list)?;
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// All extended attributes of an entry.
pub(crate) fn xattrs(path: &Path) -> Xattrs {
    let names = match xattr_names(path) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        names => names.unwrap_or_else(|e| panic!("llistxattr {}: {e}", path.display())),
    };
    names
        .into_iter()
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = lgetxattr(path, &*name, &mut *value)
                .unwrap_or_else(|e| panic!("lgetxattr {} {name}: {e}", path.display()));
            value.truncate(len);
            (name, value)
        })
        .collect()
}

/// A branch to the last byte, markers and times of change too: it must never differ.
pub(crate) fn fingerprint(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).expect("an entry");
        let content = if stat.is_file() { fs::read(&path).expect("a file") } else { Vec::new() };
        let line = format!(
            "{} mode {:o} owner {}:{} links {} mtime {}.{} ctime {}.{} rdev {} xattrs {:?} content {:x}",
            stat.ino(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.nlink(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
            stat.rdev(),
            xattrs(&path),
            hash(&content),
        );
        if stat.is_dir() {
            todo.extend(fs::read_dir(&path).expect("a directory").map(|e| e.expect("an entry").path()));
        }
        all.insert(path, line);
    }
    all
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
