//! What does a request need besides the union?
//!
//! Ids as the disk has them, who asks, and the attributes that say something of the mount itself. The same on
//! whichever thread the request is answered.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use parking_lot::RwLockReadGuard;
use rustix::fs::XattrFlags;

use super::caller_groups::Asker;
use super::convert::node;
use super::kernel::Kernel;
use super::opcodes::Opcodes;
use super::view::View;
use crate::branch::Caller;
use crate::control::{BRANCHES, DONE, MESSAGES, REFUSED, STATUS, SYNC, status_line};
use crate::error::{Error, Result};
use crate::rules::acl;
use crate::rules::ids::OVERFLOW_ID;
use crate::rules::kill_priv::KillPriv;
use crate::union::{Attr, Changes, LiveUnion, Looked, NewNode, NodeId, Union, Written};

// Attributes of the root that are about the mount. They are not listed, and for the mounter only: they name places
// on the host.

/// Whoever changes the stack when asked.
pub trait Control: Debug + Send + Sync {
    /// Does all of what [`control::change_lines`](crate::control::change_lines) says, and may have something to add; or
    /// does nothing, and says why.
    ///
    /// # Errors
    /// The reason, for the user.
    fn change_stack(&self, changes: &[u8]) -> std::result::Result<String, String>;

    /// The kernel's side of the session.
    fn kernel(&self) -> &Kernel;

    /// A directory was listed, or a symbolic link read, and the kernel is not to remember what.
    fn has_shown(&self, id: NodeId);
}

/// A union, and who may ask for what.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) control: Arc<dyn Control>,
    union: Arc<LiveUnion>,
    pub(super) view: View,
    pub(super) opcodes: Opcodes,
    pub(super) notifier: Arc<OnceLock<Notifier>>,
    /// The user who mounted.
    mounter: u32,
}

impl Service {
    pub(super) fn new(union: Arc<LiveUnion>, view: View, control: Arc<dyn Control>) -> Self {
        let mounter = rustix::process::getuid().as_raw();
        Self { control, union, view, opcodes: Opcodes::default(), notifier: Arc::default(), mounter }
    }

    /// For one request: nobody changes its stack meanwhile. Not to be asked for twice by one.
    pub(super) fn union(&self) -> RwLockReadGuard<'_, Union> {
        self.union.get()
    }

    fn uid_on_disk(&self, uid: u32) -> Result<u32> {
        self.view.ids.uid.disk(uid).ok_or(Error::UnmappedId(uid))
    }

    fn gid_on_disk(&self, gid: u32) -> Result<u32> {
        self.view.ids.gid.disk(gid).ok_or(Error::UnmappedId(gid))
    }

    /// Whom to make something as. Whoever no range of a map covers is shown as nobody, and makes what is nobody's, as
    /// in a user namespace: podman makes files as an id that the container does not have, and then gives them away.
    fn caller(&self, asker: Asker, umask: u32) -> Caller {
        let uid = self.view.ids.uid.disk(asker.uid).unwrap_or(OVERFLOW_ID);
        let gid = self.view.ids.gid.disk(asker.gid).unwrap_or(OVERFLOW_ID);
        Caller { uid, gid, umask }
    }

    /// Lets the kernel forget what it knows of an inode that is not what it was: it asks again, and so finds out what
    /// has its name by now. Done before the answer, so that whoever gets ESTALE can try again at once.
    pub(super) fn fresh<T>(&self, result: Result<T>) -> Result<T> {
        if let (Err(Error::Stale(id)), Some(notifier)) = (&result, self.notifier.get())
            // A negative offset: the attributes, and no data.
            && let Err(e) = notifier.inval_inode(INodeNo(*id), -1, 0)
        {
            log::debug!("the kernel does not know node {id} any more: {e}");
        }
        result
    }

    /// Makes a new entry.
    pub(super) fn make(
        &self,
        asker: Asker,
        umask: u32,
        parent: INodeNo,
        name: &OsStr,
        new: NewNode<'_>,
    ) -> Result<Looked> {
        self.union().make(node(parent), name, new, self.caller(asker, umask))
    }

    /// Changes attributes, of which the owners are still as users see them.
    pub(super) fn setattr(&self, asker: Asker, ino: INodeNo, changes: Changes) -> Result<Attr> {
        // Where all owners are shown as one, there is nothing to change.
        let uid = changes.uid.filter(|_| !self.view.ids.uid.is_squashed()).map(|uid| self.uid_on_disk(uid));
        let gid = changes.gid.filter(|_| !self.view.ids.gid.is_squashed()).map(|gid| self.gid_on_disk(gid));
        let changes = Changes { uid: uid.transpose()?, gid: gid.transpose()?, ..changes };
        self.killing(asker, asker.kills(), |kill| self.union().setattr(node(ino), &changes, kill))
    }

    /// Changes a file's data. The kernel, or we for it, say whether this caller's changes take suid and sgid away.
    pub(super) fn change_data(
        &self,
        asker: Asker,
        kills: bool,
        ino: INodeNo,
        change: impl FnOnce(KillPriv<'_>) -> Result<Written>,
    ) -> Result<usize> {
        let Written { bytes, mode_changed } = self.killing(asker, kills, change)?;
        if mode_changed
            && let Some(notifier) = self.notifier.get()
            // A negative offset: the attributes, and no data.
            && let Err(e) = notifier.inval_inode(ino, -1, 0)
        {
            log::warn!("the kernel may show suid or sgid on node {} for a while: {e}", ino.0);
        }
        Ok(bytes)
    }

    fn killing<T>(&self, asker: Asker, kills: bool, change: impl FnOnce(KillPriv<'_>) -> T) -> T {
        let is_in_group = |gid| asker.is_in_group(self.view.ids.gid.shown(gid));
        change(if kills { KillPriv::Strip(&is_in_group) } else { KillPriv::Keep })
    }

    /// Whether setting the attribute is a wish to us, and one that takes long.
    pub(super) fn is_sync(ino: INodeNo, key: &OsStr) -> bool {
        ino == INodeNo::ROOT && key == SYNC
    }

    /// Sets an extended attribute.
    pub(super) fn setxattr(
        &self,
        asker: Asker,
        ino: INodeNo,
        key: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        if Self::is_sync(ino, key) {
            return if self.is_mounter(asker) { self.union().sync_all() } else { Err(Error::NotPermitted) };
        }
        let flags = XattrFlags::from_bits_truncate(flags as u32);
        let value = if self.has_mapped_acl(key) {
            acl::on_disk(value, &self.view.ids).map_err(|acl::Unmapped(id)| Error::UnmappedId(id))?
        } else {
            Cow::Borrowed(value)
        };
        self.killing(asker, asker.kills(), |kill| self.union().setxattr(node(ino), key, &value, flags, kill))
    }

    /// The value of an extended attribute.
    pub(super) fn getxattr(&self, asker: Asker, ino: INodeNo, key: &OsStr) -> Result<Vec<u8>> {
        if ino == INodeNo::ROOT && [BRANCHES, MESSAGES, STATUS, SYNC].iter().any(|own| key == *own) {
            return match key {
                _ if !self.is_mounter(asker) => Err(Error::NoAttribute),
                key if key == MESSAGES => Ok(self.opcodes.text().into_bytes()),
                key if key == STATUS => Ok(self.status()),
                key if key == BRANCHES => self.union().getxattr(NodeId::ROOT, key),
                _ => Err(Error::NoAttribute),
            };
        }
        let value = self.union().getxattr(node(ino), key)?;
        Ok(if self.has_mapped_acl(key) { acl::shown(&value, &self.view.ids).into_owned() } else { value })
    }

    /// A directory was listed.
    pub(super) fn has_listed(&self, dir: NodeId) {
        if self.view.tells_changes && !self.union().remembers_listing(dir) {
            self.control.has_shown(dir);
        }
    }

    /// A symbolic link was read.
    pub(super) fn has_read_link(&self, id: NodeId) {
        if self.view.tells_changes && !self.union().remembers_target(id) {
            self.control.has_shown(id);
        }
    }

    /// Changes the stack. [`DONE`] or [`REFUSED`], and what there is to say.
    pub(super) fn change_stack(&self, asker: Asker, ino: INodeNo, changes: &[u8]) -> Result<(u8, String)> {
        if ino != INodeNo::ROOT {
            return Err(Error::Invalid);
        }
        if !self.is_mounter(asker) {
            return Err(Error::NotPermitted);
        }
        let length = changes.iter().position(|&byte| byte == 0).unwrap_or(changes.len());
        Ok(match self.control.change_stack(&changes[..length]) {
            Ok(note) => (DONE, note),
            Err(reason) => (REFUSED, reason),
        })
    }

    fn status(&self) -> Vec<u8> {
        let figures = self.union().figures();
        let counts = [
            ("inodes", figures.nodes as u64),
            ("copied_up", figures.copied_up),
            ("copied_up_bytes", figures.copied_bytes),
            ("listings_bytes", figures.listings as u64),
        ];
        let watches = figures.watches.map(|count| ("watches", count as u64));
        let lines = counts.into_iter().chain(watches);
        let lines: Vec<_> = lines.map(|(name, count)| status_line(name, count.to_string())).collect();
        [self.view.status.clone(), lines.concat()].concat()
    }

    fn has_mapped_acl(&self, key: &OsStr) -> bool {
        !self.view.ids.is_identity() && acl::is_acl(key)
    }

    /// In the daemon's user namespace: whoever runs in a namespace of his own, under the same number, is somebody who was
    /// locked in.
    fn is_mounter(&self, asker: Asker) -> bool {
        (asker.uid == 0 || asker.uid == self.mounter) && asker.is_at_home()
    }
}
