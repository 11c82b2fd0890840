//! How does a layer become a directory, whatever its archive says?
//!
//! Everything is made by a descriptor of its directory and one name, symbolic links are never followed, and nothing
//! but what was made here is ever opened: there is no way out of the directory. An entry that comes twice replaces
//! the first. A directory gets its owner, mode and times when its subtree is left, so that no entry in it can be in
//! the way of that; memory grows with the depth of the tree, and not with the archive.

use std::ffi::{OsStr, OsString};

use rustix::fs::{FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, makedev};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::item::{Content, Item, Meta, Node, Piece, Sink, Time, TreePath};
use super::owners::Owners;
use super::progress::Progress;
use crate::branch::{UpperDir, UpperInode, WriteFile};
use crate::cli::OwnersIn;
use crate::rules::name::{MarkerName, Name, Spelling};
use crate::rules::override_stat::{
    Kind, MADE_WITH_MODE, OVERRIDE_STAT, OverrideStat, SYMLINK_OWNERS, kept_under,
};
use crate::shown::shown;

/// Of so many directories on the way the descriptors are kept.
const KEPT_OPEN: usize = 16;
/// Zeros of this length, where a file begins or where a hole ended, are left out of the file.
const HOLE: usize = 4096;
/// More than any attribute holds: what is beyond is not even kept in memory.
const LONGEST_SYMLINKS: usize = 128 * 1024;
const NEW_DIR: Mode = Mode::RWXU;
const NEW_FILE: Mode = Mode::from_raw_mode(0o600);
const MARKER_MODE: u32 = 0o644;
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// What happens to a device that may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is an error.
    Fails,
    /// It is left out, with a word in the log: its archive is kept.
    LeftOut,
}

/// Makes the entries of a layer in an empty directory.
#[derive(Debug)]
pub struct Unpacker<'a> {
    way: Vec<Level>,
    owners: &'a Owners,
    denied: Denied,
    progress: &'a Progress,
    /// Whether something else had the last name.
    replaced: bool,
    /// How much is in the files, in bytes.
    pub size: u64,
}

/// A directory on the way from the root to where the last entry was made.
#[derive(Debug)]
struct Level {
    name: OsString,
    dir: Option<UpperDir>,
    left_with: LeftWith,
    /// `UID:GID:NAME` of symbolic links, see [`SYMLINK_OWNERS`].
    symlinks: Vec<u8>,
}

/// What a directory gets when it is left.
#[derive(Debug)]
enum LeftWith {
    /// What its entry says.
    Entry(Box<Meta>),
    /// What it had when it was entered once more.
    Before { mode: u32, times: Timestamps, default_acl: Option<Vec<u8>> },
}

impl<'a> Unpacker<'a> {
    /// Takes over an empty directory.
    #[must_use]
    pub fn new(root: UpperDir, owners: &'a Owners, denied: Denied, progress: &'a Progress) -> Self {
        let meta = Meta { mode: 0o755, ..Meta::default() };
        let left_with = LeftWith::Entry(Box::new(meta));
        let root = Level { name: OsString::new(), dir: Some(root), left_with, symlinks: Vec::new() };
        Self { way: vec![root], owners, denied, progress, replaced: false, size: 0 }
    }

    /// Gives the directories on the way what they are to have: the layer is whole.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn finish(mut self) -> Result<u64> {
        while !self.way.is_empty() {
            self.leave()?;
        }
        Ok(self.size)
    }

    fn path(&self, depth: usize) -> TreePath {
        self.way[1..depth].iter().fold(TreePath::default(), |path, level| path.join(&level.name))
    }

    fn root(&self) -> Result<UpperDir> {
        let root = self.way.first().and_then(|root| root.dir.clone());
        Ok(root.ok_or(crate::error::Error::Bug("a way without a root"))?)
    }

    /// The last directory on the way; its descriptor may have been given up. Then those before it are soon wanted, too.
    fn here(&mut self) -> Result<UpperDir> {
        let depth = self.way.len();
        let known = (0..depth).rev().find_map(|at| Some((at, self.way[at].dir.clone()?)));
        let Some((known, mut dir)) = known else { return self.root() };
        for at in known + 1..depth {
            dir = dir.open_upper_dir(&self.way[at].name)?;
            if at + KEPT_OPEN >= depth {
                self.way[at].dir = Some(dir.clone());
            }
        }
        Ok(dir)
    }

    fn push(&mut self, name: &OsStr, dir: UpperDir, left_with: LeftWith) {
        self.way.push(Level { name: name.to_owned(), dir: Some(dir), left_with, symlinks: Vec::new() });
        if self.way.len() > KEPT_OPEN + 1 {
            // The root's is always kept.
            let far = self.way.len() - KEPT_OPEN;
            self.way[far].dir = None;
        }
    }

    fn leave(&mut self) -> Result<()> {
        let dir = self.here()?;
        let Some(level) = self.way.pop() else { return Ok(()) };
        let depth = self.way.len();
        let inode = dir.upper_inode();
        let set = || -> Result<()> {
            if !level.symlinks.is_empty() {
                let mut owners = inode.get_xattr(OsStr::new(SYMLINK_OWNERS))?.unwrap_or_default();
                owners.extend_from_slice(&level.symlinks);
                match inode.set_xattr(OsStr::new(SYMLINK_OWNERS), &owners, XattrFlags::empty()) {
                    // ext4 has 4 KiB for all attributes of a file. The links are worth more than their owners.
                    Err(e) if [Errno::NOSPC, Errno::TOOBIG, Errno::RANGE].iter().any(|n| e.is(*n)) => {
                        log::warn!(
                            "`{}`: the owners of the symbolic links in it are left out: there are too many for an \
                             attribute",
                            shown(&self.path(depth).join(&level.name))
                        );
                    }
                    set => set?,
                }
            }
            match &level.left_with {
                LeftWith::Entry(meta) => self.set_meta(&inode, meta, Kind::Dir),
                LeftWith::Before { mode, times, default_acl } => {
                    if let Some(acl) = default_acl {
                        set_xattr(&inode, OsStr::new(DEFAULT_ACL), acl)?;
                    }
                    inode.chmod(Mode::from_raw_mode(*mode))?;
                    Ok(inode.set_times(times)?)
                }
            }
        };
        // The path is long to make, and this is done for every directory.
        set().map_err(|error| error.of_entry(self.path(depth).join(&level.name).as_ref()))
    }

    /// Goes to a directory; what is missing of the way is made, as old as the entry that it is for.
    fn enter(&mut self, path: &TreePath, mtime: Time) -> Result<UpperDir> {
        let names: Vec<&OsStr> = path.names().collect();
        let shared =
            self.way[1..].iter().zip(&names).take_while(|(level, name)| level.name == **name).count();
        while self.way.len() > shared + 1 {
            self.leave()?;
        }
        for name in &names[shared..] {
            let here = self.here()?;
            match here.stat(name)? {
                None => {
                    here.make_dir(name, NEW_DIR)?;
                    let meta = Meta { mode: 0o755, mtime, ..Meta::default() };
                    let dir = here.open_upper_dir(name)?;
                    self.push(name, dir, LeftWith::Entry(Box::new(meta)));
                }
                Some(stat) if stat.kind() == FileType::Directory => {
                    let (dir, before) = enter_again(&here, name)?;
                    self.push(name, dir, before);
                }
                Some(_) => {
                    let way = self.path(self.way.len()).join(name);
                    return Err(Error::Invalid(format!(
                        "lies beneath `{}`, which is no directory in this layer",
                        shown(&way)
                    )));
                }
            }
        }
        self.here()
    }

    fn put_dir(&mut self, path: &TreePath, meta: &Meta) -> Result<()> {
        let meta = Box::new(meta.clone());
        let Some((parent, name)) = path.split() else {
            self.enter(path, meta.mtime)?;
            self.way[0].left_with = LeftWith::Entry(meta);
            return Ok(());
        };
        let here = self.enter(&parent, meta.mtime)?;
        let is_there = match here.stat(name)? {
            None => false,
            Some(stat) if stat.kind() == FileType::Directory => true,
            Some(_) => {
                here.unlink(name)?;
                false
            }
        };
        let dir = if is_there {
            let (dir, _) = enter_again(&here, name)?;
            // What the earlier entry said counts no more.
            for key in dir.inode().list_xattrs()? {
                // It speaks of what is in the directory.
                if key == SYMLINK_OWNERS {
                    continue;
                }
                dir.upper_inode().remove_xattr(&key)?;
            }
            dir
        } else {
            here.make_dir(name, NEW_DIR)?;
            here.open_upper_dir(name)?
        };
        self.push(name, dir, LeftWith::Entry(meta));
        Ok(())
    }

    /// Where a non-directory is made: its name is free.
    fn make_room(&mut self, path: &TreePath, mtime: Time) -> Result<(UpperDir, OsString)> {
        let Some((parent, name)) = path.split() else {
            return Err(Error::Invalid("stands for the layer itself, and is no directory".to_owned()));
        };
        let here = self.enter(&parent, mtime)?;
        self.replaced = here.stat(name)?.is_some();
        if self.replaced {
            here.remove_tree(name)?;
        }
        Ok((here, name.to_owned()))
    }

    fn put_file(&mut self, item: &Item, size: u64, content: &mut dyn Content) -> Result<()> {
        let (here, name) = self.make_room(&item.path, item.meta.mtime)?;
        let file = here.create(&name, NEW_FILE)?;
        let progress = self.progress;
        let mut end = 0;
        content.pour(&mut |piece| {
            let length = match piece {
                Piece::Data(data) => {
                    write_without_zeros(&file, end, data)?;
                    data.len() as u64
                }
                Piece::Zeros(length) => length,
            };
            end += length;
            progress.advance(length)
        })?;
        if end != size {
            return Err(Error::Invalid("its content is not as long as it says".to_owned()));
        }
        // Zeros at the end were left out.
        file.truncate(size)?;
        self.size = self.size.saturating_add(size);
        self.set_meta(&file.upper_inode(), &item.meta, Kind::File)
    }

    /// A file that stands for what only root may make.
    fn put_stand_in(&mut self, item: &Item, kind: Kind) -> Result<()> {
        let (here, name) = self.make_room(&item.path, item.meta.mtime)?;
        let file = here.create(&name, NEW_FILE)?;
        self.set_meta(&file.upper_inode(), &item.meta, kind)
    }

    fn put_node(&mut self, item: &Item, kind: Kind) -> Result<()> {
        if self.owners.place == OwnersIn::Override {
            return self.put_stand_in(item, kind);
        }
        let (here, name) = self.make_room(&item.path, item.meta.mtime)?;
        let (file_type, device) = match kind {
            Kind::BlockDevice { major, minor } => (FileType::BlockDevice, makedev(major, minor)),
            Kind::CharDevice { major, minor } => (FileType::CharacterDevice, makedev(major, minor)),
            _ => (FileType::Fifo, 0),
        };
        match here.make_node(&name, file_type, NEW_FILE, device) {
            Err(e) if e.is(Errno::PERM) && self.denied == Denied::LeftOut => {
                log::warn!("`{}` is left out: only root may make a device", shown(&item.path));
                return Ok(());
            }
            Err(e) if e.is(Errno::PERM) => {
                return Err(Error::Invalid(
                    "is a device, which only root may make: unpack as root, or with --owners override, which keeps a \
                     file in its place"
                        .to_owned(),
                ));
            }
            made => made?,
        }
        self.set_meta(&here.open_upper_inode(&name)?, &item.meta, kind)
    }

    fn put_symlink(&mut self, item: &Item, target: &OsStr) -> Result<()> {
        let (here, name) = self.make_room(&item.path, item.meta.mtime)?;
        here.make_symlink(&name, target)?;
        if self.owners.place == OwnersIn::Override
            && (self.replaced || (item.meta.uid, item.meta.gid) != (0, 0))
            && let Some(level) = self.way.last_mut()
            && level.symlinks.len() < LONGEST_SYMLINKS
        {
            level.symlinks.extend_from_slice(format!("{}:{}:", item.meta.uid, item.meta.gid).as_bytes());
            level.symlinks.extend_from_slice(name.as_encoded_bytes());
            level.symlinks.push(0);
        }
        self.set_meta(&here.open_upper_inode(&name)?, &item.meta, Kind::Symlink)
    }

    fn put_hard_link(&mut self, item: &Item, first: &TreePath) -> Result<()> {
        let missing = || {
            Error::Invalid(format!("is a hard link to `{}`, which is no file of this layer", shown(first)))
        };
        let (dir, name) = first.split().ok_or_else(missing)?;
        if !matches!(Spelling::of(name), Spelling::Entry(_)) {
            return Err(missing());
        }
        let root = self.root()?;
        let opened = dir.names().try_fold(root, |dir, name| dir.open_upper_dir(name));
        let found = opened.and_then(|dir| dir.open_upper_inode(name));
        let target = match found {
            Err(e) if [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|errno| e.is(*errno)) => {
                return Err(missing());
            }
            found => found?,
        };
        if target.stat()?.kind() == FileType::Directory {
            return Err(missing());
        }
        let (here, name) = self.make_room(&item.path, item.meta.mtime)?;
        // What had the name may have been on the way to the first.
        if target.stat()?.st_nlink == 0 {
            return Err(missing());
        }
        Ok(here.link(&target, &name)?)
    }

    fn put_marker(&mut self, path: &TreePath, meta: &Meta) -> Result<()> {
        let (here, name) = self.make_room(path, meta.mtime)?;
        let file = here.create(&name, NEW_FILE)?;
        let inode = file.upper_inode();
        inode.chmod(Mode::from_raw_mode(MARKER_MODE))?;
        Ok(inode.set_times(&times(meta.mtime))?)
    }

    /// Gives an inode its owner, mode, attributes and times.
    fn set_meta(&self, inode: &UpperInode, meta: &Meta, kind: Kind) -> Result<()> {
        match self.owners.place {
            OwnersIn::Disk => {
                let (uid, gid) = self.owners.on_disk(meta.uid, meta.gid)?;
                inode.chown(Some(uid), Some(gid))?;
                if kind != Kind::Symlink {
                    inode.chmod(Mode::from_raw_mode(meta.mode))?;
                }
                // After the owner: chown(2) takes capabilities away.
                for (key, value) in &meta.xattrs {
                    set_xattr(inode, key, &self.owners.xattr_on_disk(key, value)?)?;
                }
            }
            OwnersIn::Override if kind == Kind::Symlink => {
                if let Some((key, _)) = meta.xattrs.first() {
                    log::warn!(
                        "the attribute `{}` of a symbolic link is left out: it takes root",
                        shown(key)
                    );
                }
            }
            OwnersIn::Override => {
                let said = OverrideStat { uid: meta.uid, gid: meta.gid, mode: meta.mode, kind: Some(kind) };
                set_xattr(inode, OsStr::new(OVERRIDE_STAT), said.value().as_bytes())?;
                for (key, value) in &meta.xattrs {
                    let kept = kept_under(key);
                    set_xattr(inode, kept.as_deref().unwrap_or(key), value)?;
                }
                let mode = accessible(meta.mode, kind);
                set_xattr(inode, OsStr::new(MADE_WITH_MODE), format!("{:04o}", mode.bits()).as_bytes())?;
                inode.chmod(mode)?;
            }
            OwnersIn::Ours if kind == Kind::Symlink => {}
            OwnersIn::Ours => {
                for (key, value) in &meta.xattrs {
                    if kept_under(key).is_none() {
                        set_xattr(inode, key, value)?;
                    }
                }
                inode.chmod(accessible(meta.mode, kind))?;
            }
        }
        Ok(inode.set_times(&times(meta.mtime))?)
    }
}

impl Sink for Unpacker<'_> {
    fn put(&mut self, item: &Item, content: &mut dyn Content) -> Result<()> {
        self.progress.check()?;
        let put = match &item.node {
            Node::Dir => self.put_dir(&item.path, &item.meta),
            Node::File { size } => self.put_file(item, *size, content),
            Node::Symlink(target) => self.put_symlink(item, target),
            Node::Device { block: false, major: 0, minor: 0 } => Err(Error::Invalid(
                "is a device 0:0, which union filesystems take for a deletion: a layer says that by `.wh.` files"
                    .to_owned(),
            )),
            Node::Device { block: true, major, minor } => {
                self.put_node(item, Kind::BlockDevice { major: *major, minor: *minor })
            }
            Node::Device { block: false, major, minor } => {
                self.put_node(item, Kind::CharDevice { major: *major, minor: *minor })
            }
            Node::Fifo => self.put_node(item, Kind::Fifo),
            Node::HardLink(first) => self.put_hard_link(item, first),
            Node::Opaque => {
                self.put_marker(&item.path.join(MarkerName::opaque().as_os_str()), &item.meta)
            }
            Node::Whiteout => match item.path.split().map(|(dir, name)| (dir, Name::new(name))) {
                Some((dir, Ok(name))) => match name.whiteout() {
                    Some(marker) => self.put_marker(&dir.join(marker.as_os_str()), &item.meta),
                    None => Err(Error::Invalid("is deleted, and its name is too long for a marker".to_owned())),
                },
                _ => Err(Error::Invalid("is a deletion of what cannot be there".to_owned())),
            },
        };
        put.map_err(|error| item.failed(error))
    }
}

/// Opens a directory that was left, so that something can be made in it.
fn enter_again(here: &UpperDir, name: &OsStr) -> Result<(UpperDir, LeftWith)> {
    let dir = here.open_upper_dir(name)?;
    let inode = dir.upper_inode();
    let stat = inode.stat()?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    // What is made in it must not inherit anything.
    let default_acl = inode.get_xattr(OsStr::new(DEFAULT_ACL))?;
    if default_acl.is_some() {
        inode.remove_xattr(OsStr::new(DEFAULT_ACL))?;
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o700 != 0o700 {
        inode.chmod(Mode::from_raw_mode(mode | 0o700))?;
    }
    let dir = here.open_upper_dir(name)?;
    Ok((dir, LeftWith::Before { mode, times, default_acl }))
}

/// The mode of a file that stays ours to read and write.
fn accessible(mode: u32, kind: Kind) -> Mode {
    let ours = if kind == Kind::Dir { 0o700 } else { 0o600 };
    Mode::from_raw_mode(mode & 0o777 | ours)
}

fn set_xattr(inode: &UpperInode, key: &OsStr, value: &[u8]) -> Result<()> {
    match inode.set_xattr(key, value, XattrFlags::empty()) {
        // A label of the machine where the layer was made.
        Err(e) if key == "security.selinux" => {
            log::debug!("a label is left out: {e}");
            Ok(())
        }
        Err(e) if e.is(Errno::PERM) => Err(Error::Invalid(format!(
            "has the attribute `{}`, which only root may set: unpack as root, or with --owners override",
            shown(key)
        ))),
        Err(e) if e.is(Errno::OPNOTSUPP) => Err(Error::Invalid(format!(
            "has the attribute `{}`, and the filesystem has no such attributes: take a directory on another, or \
             --owners ours if owners need not be kept",
            shown(key)
        ))),
        set => Ok(set?),
    }
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

/// Writes what is not zero; the file is new, so the rest is a hole.
fn write_without_zeros(file: &WriteFile, offset: u64, data: &[u8]) -> Result<()> {
    // Cut where the file's blocks are, whatever pieces it comes in.
    let first = (HOLE as u64 - offset % HOLE as u64) as usize;
    let (head, rest) = data.split_at(first.min(data.len()));
    let is_data = |block: &[u8]| block.iter().any(|byte| *byte != 0);
    let mut run = 0..0;
    let mut at = 0;
    for block in std::iter::once(head).chain(rest.chunks(HOLE)) {
        let end = at + block.len();
        if is_data(block) {
            run.end = end;
        } else {
            file.write_all_at(offset + run.start as u64, &data[run.clone()])?;
            run = end..end;
        }
        at = end;
    }
    Ok(file.write_all_at(offset + run.start as u64, &data[run])?)
}
