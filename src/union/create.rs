//! create, mknod, mkdir, symlink, link: how does a new name come about?

use std::ffi::OsStr;

use rustix::fs::{FileType, Mode};

use super::Union;
use super::copy_up::Data;
use super::locked::{EntryRef, LockedNames};
use super::lookup::Looked;
use super::node::NodeId;
use crate::branch::{Caller, UpperDir, WriteFile, act_as};
use crate::error::{Error, Result};
use crate::rules::plan::{self, NewEntry};

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub enum NewNode<'a> {
    /// A directory with these permission bits.
    Dir(u32),
    /// A symbolic link to that target.
    Symlink(&'a OsStr),
    /// A file of any other type: type and permission bits, and the device number if it is one.
    Other {
        /// As in `st_mode`.
        mode: u32,
        /// As in `st_rdev`.
        device: u64,
    },
}

impl NewNode<'_> {
    fn is_device_zero(self) -> bool {
        match self {
            Self::Other { mode, device: 0 } => FileType::from_raw_mode(mode) == FileType::CharacterDevice,
            _ => false,
        }
    }

    fn entry(self) -> NewEntry {
        match self {
            Self::Dir(_) => NewEntry::Dir,
            _ => NewEntry::Leaf,
        }
    }
}

impl Union {
    /// Makes a new entry as the caller would have made it on the disk.
    ///
    /// # Errors
    /// EEXIST; EINVAL for a name that begins with `.wh.`; EPERM for a device 0:0 where that is a whiteout; those of
    /// the upper.
    pub fn make(&self, parent: NodeId, name: &OsStr, new: NewNode<'_>, caller: Caller) -> Result<Looked> {
        if new.is_device_zero() && self.stack.devices_in_upper() {
            // It would be a whiteout, as the kernel's overlayfs has it.
            return Err(Error::NotPermitted);
        }
        self.with_descriptors(|| {
            let target = self.entry_ref(parent, name)?;
            let mut file = None;
            let mut create = |dir: &UpperDir, name: &OsStr| {
                if dir.overrides().is_some() {
                    file = self.make_recorded(dir, name, new, caller)?;
                    return Ok(());
                }
                // The kernel has taken sgid away where this caller may not set it.
                act_as(caller, || match new {
                    NewNode::Dir(mode) => dir.make_dir(name, Mode::from_raw_mode(mode & 0o7777)),
                    NewNode::Symlink(target) => dir.make_symlink(name, target),
                    NewNode::Other { mode, device } => {
                        let bits = Mode::from_raw_mode(mode & 0o7777);
                        match FileType::from_raw_mode(mode) {
                            FileType::RegularFile => dir.create(name, bits).map(|fd| file = Some(fd)),
                            kind => dir.make_node(name, kind, bits, device),
                        }
                    }
                })
            };
            let decide = |locked: &LockedNames| Ok(plan::create(locked.target.at(), new.entry())?);
            let (locked, plan) = self.plan(None, &target, decide)?;
            self.execute(&locked, &plan, Some(&mut create), None)?;
            // It is made: whatever comes of the look at it, that is not done again.
            let looked = self.with_descriptors(|| self.look_at_new(&locked.target));
            Ok(looked.map(|(node, looked)| {
                if let Some(file) = file {
                    // It may be of a mode that would not let us open it for writing again.
                    self.files.replace(node.id, Some(file));
                }
                looked
            }))
        })?
    }

    /// Makes an entry where records say whose the files are: in the workdir, since it takes more than one step.
    fn make_recorded(
        &self,
        dir: &UpperDir,
        name: &OsStr,
        new: NewNode<'_>,
        caller: Caller,
    ) -> Result<Option<WriteFile>> {
        let work = self.writable()?.work;
        let stage = work.stage()?;
        let mut file = None;
        let (staged, st_mode, device) = match new {
            NewNode::Dir(mode) => {
                let (staged, _) = work.make_dir(&stage, work.fresh_name())?;
                (staged, FileType::Directory.as_raw_mode() | mode & 0o7777, 0)
            }
            NewNode::Symlink(target) => {
                let staged = work.make_symlink(&stage, work.fresh_name(), target)?;
                (staged, FileType::Symlink.as_raw_mode() | 0o777, 0)
            }
            NewNode::Other { mode, device } => {
                let (staged, made) = work.file(Mode::RUSR | Mode::WUSR)?;
                file = (FileType::from_raw_mode(mode) == FileType::RegularFile).then_some(made);
                (staged, mode, device)
            }
        };
        staged.inode().record_as_new(dir, caller, st_mode, device)?;
        staged.commit(dir, name)?;
        Ok(file)
    }

    /// Gives a file one more name. It is the inode that is meant which gets it, whatever its name leads to by now.
    ///
    /// # Errors
    /// EEXIST; EINVAL for a name that begins with `.wh.`; those of the upper, which refuses a file that has lost its
    /// last name.
    pub fn link(&self, id: NodeId, parent: NodeId, name: &OsStr) -> Result<Looked> {
        self.with_descriptors(|| {
            let node = self.node(id)?;
            let target = self.entry_ref(parent, name)?;
            let inode = || self.upper_inode(&node)?.ok_or(Error::Stale(id.0));
            let locked = match node.entry() {
                Some((dir, name)) => {
                    let source = EntryRef { dir, name, meant: Some(id) };
                    let decide =
                        |locked: &LockedNames| Ok(plan::link(locked.source()?.at(), locked.target.at())?);
                    let (locked, plan) = self.plan(Some(&source), &target, decide)?;
                    self.execute(&locked, &plan, None, Some(&inode()?))?;
                    locked
                }
                // It has lost the name that we knew it by.
                None => {
                    self.bring_up(&node, Data::Whole)?;
                    let inode = inode()?;
                    let mut create = |dir: &UpperDir, name: &OsStr| dir.link(&inode, name);
                    let decide = |locked: &LockedNames| Ok(plan::create(locked.target.at(), NewEntry::Leaf)?);
                    let (locked, plan) = self.plan(None, &target, decide)?;
                    self.execute(&locked, &plan, Some(&mut create), None)?;
                    locked
                }
            };
            Ok(self.with_descriptors(|| self.look_at_new(&locked.target)).map(|(_, looked)| looked))
        })?
    }
}
