//! What is in a layer that lies on the disk, or in several that count as one?
//!
//! Directories are read from the top down and merged as a mount merges them, but what they delete or hide stays in the
//! result: it is a layer, too, for what is below all of them. Every marker format is read; what is shown are items.
//!
//! In each directory markers come first, then what is no directory, then directories, each by its bytes: the same
//! order from every disk. One directory of each layer is open at a time, and some on the way to it.

mod names;
mod ties;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

use rustix::fs::{FileType, SeekFrom, major, minor};
use rustix::io::Errno;

use super::digest::Hasher;
use super::error::{Error, Result};
use super::item::{Content, Item, Meta, Node, Nothing, Piece, Sink, Time, TreePath};
use super::owners::Owners;
use super::progress::Progress;
use crate::branch::{Dir, Inode, ReadFile, Stat};
use crate::cli::OwnersIn;
use crate::layer::{DirMarkers, Formats, is_private_xattr};
use crate::rules::name::Name;
use crate::rules::override_stat::{
    Kind, MADE_WITH_MODE, OVERRIDE_STATS, OverrideStat, SYMLINK_OWNERS, kept_name, symlink_owners,
};
pub(super) use names::{Part, Shows, roots, shows};
use names::{Said, Verdict};
pub use ties::{Ties, find_workdir};

const BUFFER: usize = 256 * 1024;
/// So much of a hole goes by at once.
const HOLE: u64 = 16 << 20;
/// Of so many directories on the way to one the descriptors are kept.
const KEPT_OPEN: usize = 8;
/// So deep no tree is read.
const DEEPEST: usize = 1000;

/// Layers that count as one, the topmost first.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Their roots.
    pub layers: Vec<Dir>,
    /// Whose the files are.
    pub owners: &'a Owners,
    /// What the workdir of the first one ties to its files.
    pub ties: Ties,
    /// Whether the layer's root has an entry.
    pub root: Root,
}

/// What becomes of the root directory's own owner, mode and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// They are an entry.
    Shown,
    /// They are nobody's business: the directory was made by whoever keeps the layer.
    LeftOut,
}

/// A directory that is to be read.
struct Pending {
    path: TreePath,
    /// The layers that it is in, from the top down, by their position, and the formats of its entries.
    parts: Vec<(usize, Formats)>,
    is_opaque: bool,
}

impl Tree<'_> {
    /// Shows everything, and gives it a name: it changes with whatever changes in the layers.
    ///
    /// # Errors
    /// Those of reading, with the entry that they are about; those of `sink`.
    pub fn read(&self, sink: &mut dyn Sink, progress: &Progress) -> Result<Seen> {
        self.walk(Some(sink), progress)
    }

    /// Looks at everything without reading it: whether it is as it was when it was read.
    ///
    /// # Errors
    /// Those of reading directories and of statx(2).
    pub fn look(&self, progress: &Progress) -> Result<Seen> {
        self.walk(None, progress)
    }

    fn walk(&self, sink: Option<&mut dyn Sink>, progress: &Progress) -> Result<Seen> {
        let mut reading = Reading {
            tree: self,
            sink,
            progress,
            ways: self.layers.iter().map(|root| Way { root: root.clone(), open: Vec::new() }).collect(),
            first_names: HashMap::new(),
            buffer: vec![0; BUFFER],
            seen: Hasher::default(),
            entries: 0,
        };
        let roots = names::roots(&self.layers)?;
        let is_opaque = match roots.last() {
            Some((_, _, root)) => DirMarkers::of(root)?.opaque,
            None => false,
        };
        let parts = roots.into_iter().map(|(layer, formats, _)| (layer, formats)).collect();
        let mut pending = vec![Pending { path: TreePath::default(), parts, is_opaque }];
        while let Some(next) = pending.pop() {
            let path = next.path.clone();
            let mut found = reading.visit(next).map_err(|error| error.of_entry(path.as_ref()))?;
            found.reverse();
            pending.append(&mut found);
        }
        Ok(Seen { hasher: reading.seen, entries: reading.entries })
    }
}

/// What was shown.
#[derive(Debug)]
pub struct Seen {
    hasher: Hasher,
    /// How many entries there were.
    pub entries: u64,
}

impl Seen {
    /// Whether the same was shown.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.hasher.clone().digest() == other.hasher.clone().digest()
    }
}

struct Reading<'t, 's, 'p> {
    tree: &'t Tree<'t>,
    /// None if all that matters is whether something has changed.
    sink: Option<&'s mut dyn Sink>,
    progress: &'p Progress,
    ways: Vec<Way>,
    /// Of files with several, by device and inode number.
    first_names: HashMap<(u64, u64), FirstName>,
    buffer: Vec<u8>,
    seen: Hasher,
    entries: u64,
}

/// A file's first name, and the owner that its directory says of it if it is a symbolic link.
type FirstName = (TreePath, Option<Owner>);
/// An owner and a group.
type Owner = (u32, u32);

/// The directories on the way to the one that is read, in one layer.
struct Way {
    root: Dir,
    open: Vec<(OsString, Dir)>,
}

impl Way {
    fn to(&mut self, path: &TreePath) -> Result<Dir> {
        let names: Vec<&OsStr> = path.names().collect();
        let shared = self.open.iter().zip(&names).take_while(|((open, _), name)| open == *name).count();
        self.open.truncate(shared);
        let mut dir = self.open.last().map_or(&self.root, |(_, dir)| dir).clone();
        for name in &names[shared..] {
            dir = dir.open_dir(name)?;
            if self.open.len() < KEPT_OPEN {
                self.open.push(((*name).to_owned(), dir.clone()));
            }
        }
        Ok(dir)
    }
}

impl Reading<'_, '_, '_> {
    /// Shows a directory and what is in it; answers the directories in it.
    fn visit(&mut self, dir: Pending) -> Result<Vec<Pending>> {
        let Pending { path, parts, is_opaque } = dir;
        if path.names().count() > DEEPEST {
            return Err(Error::Invalid("lies beneath more than 1,000 directories".to_owned()));
        }
        let mut open = Vec::with_capacity(parts.len());
        for (layer, formats) in parts {
            open.push((layer, formats, self.ways[layer].to(&path)?));
        }
        let ties = self.tree.ties.in_dir(&path);
        // Only in a layer below, and shown for what is tied to a name in it.
        let own = match open.first() {
            Some((_, _, dir)) => dir.clone(),
            None => ties.own.clone().ok_or(crate::error::Error::Bug("a directory of no layer"))?,
        };
        let inode = own.inode();
        let stat = inode.stat()?;
        if !path.is_root() || self.tree.root == Root::Shown {
            let meta = if self.sink.is_some() { self.meta(&inode, &stat)?.0 } else { Meta::default() };
            self.show(&path, Node::Dir, meta, &stat, &mut Nothing)?;
        }
        let marker_meta = |stat: &Stat| Meta { mtime: mtime(stat), ..Meta::default() };
        if is_opaque {
            self.show(&path, Node::Opaque, marker_meta(&stat), &stat, &mut Nothing)?;
        }
        // Each layer's directory speaks of its own links.
        let mut link_owners: Vec<HashMap<OsString, Owner>> = Vec::new();
        if self.tree.owners.place == OwnersIn::Override {
            for (_, _, dir) in &open {
                link_owners.push(symlink_owners_in(&dir.inode())?);
            }
        }
        let verdicts: BTreeMap<Name, Verdict> = names::merge(&open, &path)?;
        let tied = |name: &Name| ties.files.iter().any(|(tied, _)| *tied == name.as_os_str());
        for (name, verdict) in &verdicts {
            if matches!(verdict.said, Said::Whiteout) && !tied(name) {
                let path = path.join(name.as_os_str());
                self.show(&path, Node::Whiteout, marker_meta(&stat), &stat, &mut Nothing)?;
            }
        }
        let mut leaves: BTreeMap<&OsStr, (Leaf<'_>, Option<Owner>)> = BTreeMap::new();
        for (name, verdict) in &verdicts {
            if let Said::Leaf(part, stat) = &verdict.said {
                let owner = link_owners.get(*part).and_then(|owners| owners.get(name.as_os_str()));
                leaves.insert(name.as_os_str(), (Leaf::Here(&open[*part].2, stat), owner.copied()));
            }
        }
        for (name, copy) in &ties.files {
            leaves.entry(name).or_insert((Leaf::Tied(copy), None));
        }
        for (name, (leaf, owner)) in leaves {
            let path = path.join(name);
            self.leaf(&path, name, leaf, owner).map_err(|error| error.of_entry(path.as_ref()))?;
        }
        let mut dirs: BTreeMap<OsString, Pending> = BTreeMap::new();
        for (name, verdict) in verdicts {
            if let Said::Dir(parts) = verdict.said {
                let path = path.join(name.as_os_str());
                let name = name.as_os_str().to_owned();
                dirs.insert(name, Pending { path, parts, is_opaque: verdict.is_opaque });
            }
        }
        for name in ties.dirs {
            let path = path.join(&name);
            dirs.entry(name).or_insert(Pending { path, parts: Vec::new(), is_opaque: false });
        }
        Ok(dirs.into_values().collect())
    }

    fn leaf(
        &mut self,
        path: &TreePath,
        name: &OsStr,
        leaf: Leaf<'_>,
        symlink_owner: Option<Owner>,
    ) -> Result<()> {
        if self.sink.is_none() {
            let stat = match leaf {
                Leaf::Here(_, stat) => *stat,
                Leaf::Tied(copy) => copy.stat()?,
            };
            return self.show(path, Node::Fifo, Meta::default(), &stat, &mut Nothing);
        }
        let (inode, stat, is_tied) = match leaf {
            Leaf::Here(dir, stat) if stat.kind() == FileType::RegularFile => {
                let file = dir.open_file(name)?;
                (Opened::File(file), *stat, false)
            }
            Leaf::Here(dir, stat) => (Opened::Other(dir.open_inode(name)?), *stat, false),
            Leaf::Tied(copy) => (Opened::File(copy.open_read()?), copy.stat()?, true),
        };
        let now = inode.inode().stat()?;
        if !is_tied && (now.st_ino, now.st_dev, now.kind()) != (stat.st_ino, stat.st_dev, stat.kind()) {
            return Err(Error::Changed("was replaced"));
        }
        let stat = now;
        if stat.st_nlink > 1 || is_tied {
            let id = (stat.st_dev, stat.st_ino);
            if let Some((first, first_owner)) = self.first_names.get(&id) {
                let node = Node::HardLink(first.clone());
                // Docker gives the file what each of its names says.
                let first_owner = *first_owner;
                let mut meta = self.meta(inode.inode(), &stat)?.0;
                (meta.uid, meta.gid) = first_owner.unwrap_or((meta.uid, meta.gid));
                return self.show(path, node, meta, &stat, &mut Nothing);
            }
            let is_symlink = stat.kind() == FileType::Symlink;
            self.first_names.insert(id, (path.clone(), symlink_owner.filter(|_| is_symlink)));
        }
        let (mut meta, said) = self.meta(inode.inode(), &stat)?;
        if stat.kind() == FileType::Symlink && self.tree.owners.place == OwnersIn::Override {
            (meta.uid, meta.gid) = symlink_owner.unwrap_or((meta.uid, meta.gid));
        }
        let node = match (stat.kind(), said) {
            (FileType::RegularFile, Some(Kind::CharDevice { major, minor })) => {
                Node::Device { block: false, major, minor }
            }
            (FileType::RegularFile, Some(Kind::BlockDevice { major, minor })) => {
                Node::Device { block: true, major, minor }
            }
            (FileType::RegularFile, Some(Kind::Fifo)) => Node::Fifo,
            (FileType::RegularFile, Some(Kind::Socket)) | (FileType::Socket, _) => {
                log::warn!("`{}` is left out: an archive holds no sockets", crate::shown::shown(path));
                return Ok(());
            }
            (FileType::RegularFile, _) => Node::File { size: stat.st_size as u64 },
            (FileType::Symlink, _) => Node::Symlink(inode.inode().read_link()?),
            (FileType::Fifo, _) => Node::Fifo,
            (kind, _) => Node::Device {
                block: kind == FileType::BlockDevice,
                major: major(stat.st_rdev),
                minor: minor(stat.st_rdev),
            },
        };
        let size = if let Node::File { size } = node { size } else { 0 };
        let mut buffer = std::mem::take(&mut self.buffer);
        let file = if let Opened::File(file) = &inode { Some(file) } else { None };
        let mut content = FileContent {
            file,
            size,
            has_holes: (stat.st_blocks as u64) < size / 512,
            buffer: &mut buffer,
            progress: self.progress,
        };
        let shown = self.show(path, node, meta, &stat, &mut content);
        self.buffer = buffer;
        shown
    }

    fn show(
        &mut self,
        path: &TreePath,
        node: Node,
        meta: Meta,
        stat: &Stat,
        content: &mut dyn Content,
    ) -> Result<()> {
        self.progress.check()?;
        if path.is_too_far() {
            return Err(Error::Invalid(super::item::BadPath::Deep.to_string()));
        }
        self.entries += 1;
        let numbers = [
            stat.st_dev,
            stat.st_ino,
            stat.st_ctime as u64,
            stat.st_ctime_nsec,
            stat.st_size as u64,
            u64::from(matches!(node, Node::Whiteout | Node::Opaque)),
        ];
        self.seen.update(path.as_bytes());
        self.seen.update(&[0]);
        numbers.iter().for_each(|number| self.seen.update(&number.to_le_bytes()));
        match &mut self.sink {
            Some(sink) => sink.put(&Item { path: path.clone(), node, meta }, content),
            None => Ok(()),
        }
    }

    /// What an inode has besides its content, and the type that its attribute says.
    fn meta(&self, inode: &Inode, stat: &Stat) -> Result<(Meta, Option<Kind>)> {
        let owners = self.tree.owners;
        let mut said = None;
        let mut made_with = None;
        let mut xattrs = Vec::new();
        for key in inode.list_xattrs()? {
            let is_said = OVERRIDE_STATS.iter().any(|name| key == *name);
            let kept = kept_name(&key);
            let believed = owners.place == OwnersIn::Override;
            if is_private_xattr(&key) || key == SYMLINK_OWNERS || (kept.is_some() && !believed) {
                continue;
            }
            let Some(value) = inode.get_xattr(&key)? else { continue };
            if key == MADE_WITH_MODE {
                made_with =
                    std::str::from_utf8(&value).ok().and_then(|mode| u32::from_str_radix(mode, 8).ok());
                continue;
            }
            if is_said {
                if believed {
                    said = said.or(OverrideStat::parse(&value));
                }
                continue;
            }
            // Also what is kept for root may be what union filesystems would take for their own.
            let key = kept.unwrap_or(key);
            if is_private_xattr(&key) || xattrs.iter().any(|(earlier, _)| *earlier == key) {
                continue;
            }
            let value = owners.xattr_in_image(&key, value);
            xattrs.push((key, value));
        }
        xattrs.sort();
        if let (None, OwnersIn::Override, Some(records)) = (said, owners.place, &self.tree.ties.records) {
            said = records.record_beside(inode, stat)?;
        }
        let (uid, gid) = owners.in_image(stat.st_uid, stat.st_gid);
        let mode = stat.st_mode & 0o7777;
        let meta = match said {
            Some(said) => {
                let was_changed = made_with.is_some_and(|made_with| made_with != mode);
                let mode = if was_changed { mode } else { said.mode };
                Meta { mode, uid: said.uid, gid: said.gid, mtime: mtime(stat), xattrs }
            }
            None => Meta { mode, uid, gid, mtime: mtime(stat), xattrs },
        };
        Ok((meta, said.and_then(|said| said.kind)))
    }
}

/// What is no directory.
enum Leaf<'a> {
    /// An entry of this directory.
    Here(&'a Dir, &'a Stat),
    /// A copy in the workdir, whose name is in a layer below.
    Tied(&'a Inode),
}

enum Opened {
    File(ReadFile),
    Other(Inode),
}

impl Opened {
    fn inode(&self) -> &Inode {
        match self {
            Self::File(file) => file.inode(),
            Self::Other(inode) => inode,
        }
    }
}

fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

/// See [`SYMLINK_OWNERS`]. Of a link that was made anew the last counts.
fn symlink_owners_in(dir: &Inode) -> Result<HashMap<OsString, (u32, u32)>> {
    let value = dir.get_xattr(OsStr::new(SYMLINK_OWNERS))?.unwrap_or_default();
    Ok(symlink_owners(&value).collect())
}

struct FileContent<'a> {
    file: Option<&'a ReadFile>,
    size: u64,
    has_holes: bool,
    buffer: &'a mut [u8],
    progress: &'a Progress,
}

impl FileContent<'_> {
    /// Where the next data begins and ends, at or after a position.
    fn next_data(&self, file: &ReadFile, from: u64) -> Result<(u64, u64)> {
        if !self.has_holes {
            return Ok((from, self.size));
        }
        let begin = match file.seek(SeekFrom::Data(from)) {
            Err(e) if e.is(Errno::NXIO) => return Ok((self.size, self.size)),
            found => found?.min(self.size),
        };
        let end = match file.seek(SeekFrom::Hole(begin)) {
            Err(e) if e.is(Errno::NXIO) => self.size,
            found => found?.min(self.size),
        };
        Ok((begin, end))
    }
}

impl Content for FileContent<'_> {
    fn pour(&mut self, take: &mut dyn FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let mut position = 0;
        while position < self.size {
            let (begin, end) = self.next_data(file, position)?;
            // A hole may be long, and whoever takes it may have to write it.
            while position < begin {
                let some = (begin - position).min(HOLE);
                take(Piece::Zeros(some))?;
                position += some;
                self.progress.advance(some)?;
            }
            while position < end {
                let wanted = (end - position).min(self.buffer.len() as u64) as usize;
                let read = file.read_at(position, &mut self.buffer[..wanted])?;
                if read == 0 {
                    return Err(Error::Changed("became shorter"));
                }
                take(Piece::Data(&self.buffer[..read]))?;
                position += read as u64;
                self.progress.advance(read as u64)?;
            }
        }
        Ok(())
    }
}
