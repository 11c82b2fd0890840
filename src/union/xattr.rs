//! getxattr, listxattr, setxattr, removexattr: what else is attached to a node?
//!
//! The union's own formats keep attributes of their own (`trusted.overlay.*` and its like). They mean
//! something to whoever reads a layer, so nobody sees, sets or removes them through the mount.

use std::ffi::{OsStr, OsString};

use rustix::fs::XattrFlags;

use super::Union;
use super::copy_up::Data;
use super::node::NodeId;
use super::probe::is_private_xattr;
use crate::branch::{Caller, FileCapabilities, act_as, set_file_capabilities};
use crate::control::BRANCHES;
use crate::error::{Error, Result};

const ACCESS_ACL: &str = "system.posix_acl_access";

impl Union {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// ENODATA if there is none.
    pub fn getxattr(&self, id: NodeId, key: &OsStr) -> Result<Vec<u8>> {
        if id == NodeId::ROOT && key == BRANCHES {
            return Ok(self.labels.clone());
        }
        let node = self.table.get(id)?;
        if is_private_xattr(key) {
            return Err(Error::NoAttribute);
        }
        self.with_object(&node, |object| object.get_xattr(key))?.ok_or(Error::NoAttribute)
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// Those of the branch.
    pub fn listxattr(&self, id: NodeId) -> Result<Vec<OsString>> {
        let node = self.table.get(id)?;
        let mut keys = self.with_object(&node, |object| object.list_xattrs())?;
        keys.retain(|key| !is_private_xattr(key));
        Ok(keys)
    }

    /// Sets an extended attribute.
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
        caller: Caller,
    ) -> Result<()> {
        self.writable()?;
        let node = self.table.get(id)?;
        if is_private_xattr(key) {
            return Err(Error::NotPermitted);
        }
        if !flags.is_empty() && !node.is_in_upper() {
            let there = self.with_object(&node, |object| object.get_xattr(key))?.is_some();
            if there && flags.contains(XattrFlags::CREATE) {
                return Err(Error::AttributeExists);
            }
            if !there && flags.contains(XattrFlags::REPLACE) {
                return Err(Error::NoAttribute);
            }
        }
        if key == ACCESS_ACL && caller.uid != 0 {
            // The disk takes sgid away from the file of a group that its owner is not in.
            return self.change(&node, Data::Whole, &|object| {
                set_file_capabilities(FileCapabilities::Strip)?;
                act_as(caller, || object.set_xattr(key, value, flags))
            });
        }
        self.change(&node, Data::Whole, &|object| object.set_xattr(key, value, flags))
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// EPERM for one that is the union's own; ENODATA if there is none, before anything is copied up; those
    /// of the upper.
    pub fn removexattr(&self, id: NodeId, key: &OsStr) -> Result<()> {
        self.writable()?;
        let node = self.table.get(id)?;
        if is_private_xattr(key) {
            return Err(Error::NotPermitted);
        }
        if !node.is_in_upper() && self.with_object(&node, |object| object.get_xattr(key))?.is_none() {
            return Err(Error::NoAttribute);
        }
        self.change(&node, Data::Whole, &|object| object.remove_xattr(key))
    }
}
