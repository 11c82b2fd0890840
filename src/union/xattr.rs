//! getxattr, listxattr, setxattr, removexattr: what else is attached to a node?
//!
//! The union's own formats keep attributes of their own (`trusted.overlay.*` and its like). They mean
//! something to whoever reads a layer, so nobody sees, sets or removes them through the mount.

use std::ffi::{OsStr, OsString};

use rustix::fs::{FileType, XattrFlags};

use super::Union;
use super::copy_up::Data;
use super::io::leave;
use super::node::NodeId;
use crate::control::BRANCHES;
use crate::error::{Error, Result};
use crate::layer::is_private_xattr;
use crate::rules::kill_priv::KillPriv;

const ACCESS_ACL: &str = "system.posix_acl_access";

impl Union {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// ENODATA if there is none.
    pub fn getxattr(&self, id: NodeId, key: &OsStr) -> Result<Vec<u8>> {
        if id == NodeId::ROOT && key == BRANCHES {
            return Ok(self.labels());
        }
        let node = self.node(id)?;
        if is_private_xattr(key) {
            return Err(Error::NoAttribute);
        }
        self.with_descriptors(|| self.inode(&node)?.get_xattr(key))?.ok_or(Error::NoAttribute)
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// Those of the branch.
    pub fn listxattr(&self, id: NodeId) -> Result<Vec<OsString>> {
        let node = self.node(id)?;
        let mut keys = self.with_descriptors(|| self.inode(&node)?.list_xattrs())?;
        keys.retain(|key| !is_private_xattr(key));
        Ok(keys)
    }

    /// Sets an extended attribute. `kill` says what becomes of sgid where it is the access ACL.
    ///
    /// # Errors
    /// EPERM for one that is the union's own; EEXIST and ENODATA as the flags demand, before anything is
    /// copied up; those of the upper.
    pub fn setxattr(
        &self,
        id: NodeId,
        key: &OsStr,
        value: &[u8],
        flags: XattrFlags,
        kill: KillPriv<'_>,
    ) -> Result<()> {
        self.writable()?;
        let node = self.node(id)?;
        if is_private_xattr(key) {
            return Err(Error::NotPermitted);
        }
        if !flags.is_empty() && !node.is_in_upper() {
            let there = self.inode(&node)?.get_xattr(key)?.is_some();
            if there && flags.contains(XattrFlags::CREATE) {
                return Err(Error::AttributeExists);
            }
            if !there && flags.contains(XattrFlags::REPLACE) {
                return Err(Error::NoAttribute);
            }
        }
        self.with_descriptors(|| {
            self.change(&node, Data::Whole, &|inode| {
                inode.set_xattr(key, value, flags)?;
                if key == ACCESS_ACL && node.kind != FileType::Symlink {
                    // Last: what the file is worth to its group, the ACL says by now.
                    leave(inode, |mode, gid| kill.mode_after_acl(mode, gid))?;
                }
                Ok(())
            })
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// EPERM for one that is the union's own; ENODATA if there is none, before anything is copied up; those
    /// of the upper.
    pub fn removexattr(&self, id: NodeId, key: &OsStr) -> Result<()> {
        self.writable()?;
        let node = self.node(id)?;
        if is_private_xattr(key) {
            return Err(Error::NotPermitted);
        }
        if !node.is_in_upper() && self.inode(&node)?.get_xattr(key)?.is_none() {
            return Err(Error::NoAttribute);
        }
        self.with_descriptors(|| self.change(&node, Data::Whole, &|inode| inode.remove_xattr(key)))
    }
}
