//! create, mknod, mkdir, symlink, link: how does a new name come about?

use std::cell::Cell;
use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::{FileType, Mode};

use super::Union;
use super::caches::OpenFile;
use super::copy_up::Data;
use super::lookup::Looked;
use super::mutate::{Acts, Spot};
use super::node::{Node, NodeId, Place};
use crate::branch::{Caller, UpperDir, act_as};
use crate::error::Result;
use crate::rules::plan::{self, NewEntry, Refusal};

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

impl Union {
    /// Makes a new entry as the caller would have made it on the disk.
    ///
    /// # Errors
    /// EEXIST; EINVAL for a name that begins with `.wh.`; those of the upper.
    pub fn make(&self, parent: NodeId, name: &OsStr, new: NewNode<'_>, caller: Caller) -> Result<Looked> {
        let spot = self.spot(parent, name)?;
        let entry = match new {
            NewNode::Dir(_) => NewEntry::Dir,
            _ => NewEntry::Leaf,
        };
        let file = Cell::new(None);
        let create = |dir: &UpperDir, name: &OsStr| {
            // The kernel has taken sgid away where this caller may not set it.
            act_as(caller, || match new {
                NewNode::Dir(mode) => dir.make_dir(name, Mode::from_raw_mode(mode & 0o7777)),
                NewNode::Symlink(target) => dir.make_symlink(name, target),
                NewNode::Other { mode, device } => {
                    let bits = Mode::from_raw_mode(mode & 0o7777);
                    match FileType::from_raw_mode(mode) {
                        FileType::RegularFile => dir.create(name, bits).map(|fd| file.set(Some(fd))),
                        kind => dir.make_node(name, kind, bits, device),
                    }
                }
            })
        };
        let stage = self.perform(
            None,
            &spot,
            |stage| Ok(plan::create(stage.target.at(), entry)?),
            &Acts { create: &create, ..Acts::NONE },
        )?;
        let (node, looked) = self.look_at_new(&stage.target)?;
        if let Some(fd) = file.take() {
            // It may be of a mode that would not let us open it for writing again.
            self.files.replace(node.id, Some(OpenFile::for_writing(Arc::new(fd))));
        }
        Ok(looked)
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// EEXIST; EINVAL for a name that begins with `.wh.`; those of the upper.
    pub fn link(&self, id: NodeId, parent: NodeId, name: &OsStr) -> Result<Looked> {
        let node = self.table.get(id)?;
        let target = self.spot(parent, name)?;
        let place = node.state().place.clone();
        let Place::Entry(dir, old) = place else { return self.link_by_inode(&node, &target) };
        let source = Spot { dir, name: old };
        let stage = self.perform(
            Some(&source),
            &target,
            |stage| {
                let source = stage.source.as_ref().ok_or(Refusal::NotFound)?;
                Ok(plan::link(source.at(), stage.target.at())?)
            },
            &Acts::NONE,
        )?;
        Ok(self.look_at_new(&stage.target)?.1)
    }

    /// Gives a file one more name that has lost the one that we knew it by. The disk refuses if that was its
    /// last.
    fn link_by_inode(&self, node: &Arc<Node>, target: &Spot) -> Result<Looked> {
        self.bring_up(node, Data::Whole)?;
        let object = self.with_upper_object(node, |object| Ok(object.clone()))?.ok_or(Refusal::NotFound)?;
        let create = |dir: &UpperDir, name: &OsStr| dir.link(&object, name);
        let stage = self.perform(
            None,
            target,
            |stage| Ok(plan::create(stage.target.at(), NewEntry::Leaf)?),
            &Acts { create: &create, ..Acts::NONE },
        )?;
        Ok(self.look_at_new(&stage.target)?.1)
    }
}
