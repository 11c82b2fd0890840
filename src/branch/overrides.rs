//! Whose are the files of a branch in which all are the mounter's?
//!
//! With `xattr_permissions`, what users see as owner, group, permission bits and type of an inode is in a record of
//! it. On the disk it is a regular file, a directory or a symbolic link of the mounter, which nobody else can open: so
//! that takes no privilege, and no disk that keeps owners.
//!
//! The record is the extended attribute `override_stat`. What can have none, a symbolic link or anything on a disk
//! without user attributes, has its record in the workdir, as the target of the symbolic link `plyfs/owners/ID`.
//! Attributes that a user may not set, ACLs among them, are kept under another name.
//!
//! Sources: fuse-overlayfs(1), `xattr_permissions`; containers/storage, `force_mask`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, XattrFlags, major, makedev, minor};
use rustix::io::Errno;

use super::handle::LastingId;
use super::read::{Dir, Inode};
use super::stat::Stat;
use super::write::{UpperDir, UpperInode};
use crate::error::{Error, Result};
use crate::rules::override_stat::{
    MADE_WITH_MODE, OVERRIDE_STATS, OverrideStat, OverrideXattr, PRIVILEGED_OVERRIDE_STAT, SYMLINK_OWNERS,
    kept_name, kept_under, symlink_owners,
};
use crate::rules::{acl, kill_priv};

/// Whose records are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believed {
    /// Everybody's.
    All,
    /// Those of files that are the mounter's, and that nobody else may write: whoever may write a file may write its
    /// record.
    Own,
}

/// How the records of a branch are read, and written if it is the upper.
#[derive(Debug)]
pub struct Overrides {
    key: &'static str,
    believed: Believed,
    /// None if the disk has no such attributes.
    on_disk: bool,
    beside: Option<Beside>,
}

/// Where what can have no attribute has its record.
#[derive(Debug)]
struct Beside {
    dir: Dir,
    /// None if the mount may change nothing.
    written: Option<UpperDir>,
    next: AtomicU64,
}

/// What a new file is on the disk.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
/// What a new directory is on the disk.
const PRIVATE_DIR: Mode = Mode::RWXU;
const CAPABILITY: &str = "security.capability";

impl Overrides {
    /// For a branch with this root. A branch's root says which of the attributes it has.
    ///
    /// # Errors
    /// Those of getxattr(2).
    pub fn new(xattr: OverrideXattr, believed: Believed, root: &Dir) -> Result<Self> {
        let mut key = match xattr {
            OverrideXattr::Privileged => PRIVILEGED_OVERRIDE_STAT,
            OverrideXattr::User => OVERRIDE_STATS[0],
        };
        if xattr == OverrideXattr::User {
            let inode = root.inode();
            for known in OVERRIDE_STATS {
                if readable(inode.get_xattr(OsStr::new(known)))?.is_some() {
                    key = known;
                    break;
                }
            }
        }
        Ok(Self { key, believed, on_disk: true, beside: None })
    }

    /// The same for an upper, whose workdir has room for the records of what can have no attribute. `sample` is a file
    /// there that nobody needs.
    ///
    /// # Errors
    /// [`Error::UnfitUpper`] where no record can be kept.
    pub fn of_upper(self, sample: &UpperInode, owners: UpperDir) -> Result<Self> {
        let said = OverrideStat::of((0, 0), 0o100_644, (0, 0)).value();
        let on_disk = match sample.set_xattr(OsStr::new(self.key), said.as_bytes(), XattrFlags::empty()) {
            Err(e) if e.is(Errno::OPNOTSUPP) && self.key != PRIVILEGED_OVERRIDE_STAT => false,
            Err(e) if e.is(Errno::PERM) || e.is(Errno::OPNOTSUPP) => {
                return Err(Error::UnfitUpper(
                    "takes no attribute security.*, which xattr_permissions=1 needs",
                ));
            }
            set => set.map(|()| true)?,
        };
        let is_known = sample.lasting_id(&sample.stat()?)?.is_some();
        if !on_disk && !is_known {
            return Err(Error::UnfitUpper(
                "keeps neither user attributes nor numbers of inodes over a remount, and xattr_permissions needs one",
            ));
        }
        let dir = (*owners).clone();
        let beside = is_known.then(|| Beside { dir, written: Some(owners), next: AtomicU64::new(0) });
        Ok(Self { on_disk, beside, ..self })
    }

    /// The same for an upper of a mount that may change nothing.
    ///
    /// # Errors
    /// Those of getxattr(2).
    pub fn of_read_upper(self, root: &Dir, owners: Option<Dir>) -> Result<Self> {
        let on_disk = root.has_xattrs(OsStr::new(self.key))?;
        let beside = owners.map(|dir| Beside { dir, written: None, next: AtomicU64::new(0) });
        Ok(Self { on_disk, beside, ..self })
    }

    /// What users see of the entry `name` of a directory, which has these attributes on the disk.
    pub(super) fn shown_at(&self, dir: &Dir, name: &OsStr, stat: Stat) -> Result<Stat> {
        if self.is_in_attribute(stat.kind()) {
            let said = readable(dir.xattr_of_entry(name, OsStr::new(self.key)))?;
            return Ok(self.believed(said.as_deref(), stat));
        }
        if stat.kind() == FileType::Symlink
            && let Some(owner) = self.symlink_owner(dir, name)?
        {
            return Ok(apply(owner, stat));
        }
        match &self.beside {
            // As if it had gone meanwhile.
            Some(_) => match dir.open_inode_on_disk(name) {
                Err(e) if e.is(Errno::NOENT) => Ok(stat),
                inode => self.shown(&inode?, stat),
            },
            None => Ok(stat),
        }
    }

    /// What users see of an inode that has these attributes on the disk.
    pub(super) fn shown(&self, inode: &Inode, stat: Stat) -> Result<Stat> {
        if self.is_in_attribute(stat.kind()) {
            let said = readable(inode.xattr_on_disk(OsStr::new(self.key)))?;
            return Ok(self.believed(said.as_deref(), stat));
        }
        Ok(self.record_beside(inode, &stat)?.map_or(stat, |said| apply(said, stat)))
    }

    /// What the workdir, which is the mounter's alone, says of an inode.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn record_beside(&self, inode: &Inode, stat: &Stat) -> Result<Option<OverrideStat>> {
        let Some(beside) = &self.beside else { return Ok(None) };
        inode.lasting_id(stat)?.map_or(Ok(None), |id| beside.read(&id))
    }

    /// What a directory's attribute says of the owner of a symbolic link in it, as a layer has that was unpacked.
    pub(super) fn symlink_owner(&self, dir: &Dir, name: &OsStr) -> Result<Option<OverrideStat>> {
        if !self.on_disk || self.beside.is_some() {
            return Ok(None);
        }
        if !self.believes(&dir.stat_on_disk()?) {
            return Ok(None);
        }
        let said = readable(dir.inode().xattr_on_disk(OsStr::new(SYMLINK_OWNERS)))?.unwrap_or_default();
        let owners: HashMap<OsString, (u32, u32)> = symlink_owners(&said).collect();
        Ok(owners.get(name).map(|owner| OverrideStat::of(*owner, 0o120_777, (0, 0))))
    }

    fn is_in_attribute(&self, kind: FileType) -> bool {
        self.on_disk && matches!(kind, FileType::RegularFile | FileType::Directory)
    }

    /// Whether the attribute of a file with these attributes on the disk is believed.
    fn believes(&self, stat: &Stat) -> bool {
        let is_own = || stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
        self.believed == Believed::All || self.key == PRIVILEGED_OVERRIDE_STAT || is_own()
    }

    fn believed(&self, value: Option<&[u8]>, stat: Stat) -> Stat {
        match value.and_then(OverrideStat::parse) {
            Some(said) if self.believes(&stat) => apply(said, stat),
            _ => stat,
        }
    }

    /// Writes an inode's record, and sees to it that its owner on the disk can use it.
    fn write(&self, inode: &UpperInode, said: OverrideStat) -> Result<()> {
        let stat = inode.stat_on_disk()?;
        let needed = if stat.kind() == FileType::Directory { PRIVATE_DIR } else { PRIVATE_FILE };
        let mode = Mode::from_raw_mode(stat.st_mode);
        if stat.kind() != FileType::Symlink && !mode.contains(needed) {
            inode.chmod_on_disk(mode | needed)?;
        }
        if self.is_in_attribute(stat.kind()) {
            return inode.set_xattr_on_disk(
                OsStr::new(self.key),
                said.value().as_bytes(),
                XattrFlags::empty(),
            );
        }
        let disk_says_it =
            stat.kind() == FileType::Symlink && (said.uid, said.gid) == (stat.st_uid, stat.st_gid);
        match (&self.beside, inode.lasting_id(&stat)?) {
            (Some(beside), Some(id)) if disk_says_it => beside.remove(&id),
            (Some(beside), Some(id)) => beside.write(&id, said),
            _ if disk_says_it => Ok(()),
            _ => Err(Error::NotPermitted),
        }
    }

    /// Gives a new inode its record.
    pub(super) fn begin(&self, inode: &UpperInode, said: OverrideStat) -> Result<()> {
        match self.write(inode, said) {
            // A symbolic link where no record of it can be kept: it is shown as the mounter's.
            Err(Error::NotPermitted) => Ok(()),
            written => written,
        }
    }

    fn change(&self, inode: &UpperInode, change: impl FnOnce(&mut OverrideStat)) -> Result<()> {
        let stat = inode.stat()?;
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let mut said = OverrideStat::of((stat.st_uid, stat.st_gid), stat.st_mode, device);
        change(&mut said);
        self.write(inode, said)?;
        // From now on it is the record that counts, whatever the mode on the disk was when the layer was unpacked.
        match inode.remove_xattr_on_disk(OsStr::new(MADE_WITH_MODE)) {
            Err(e) if [Errno::NODATA, Errno::OPNOTSUPP, Errno::PERM].iter().any(|n| e.is(*n)) => Ok(()),
            removed => removed,
        }
    }

    pub(super) fn chmod(&self, inode: &UpperInode, mode: Mode) -> Result<()> {
        let kept = kept_key(OsStr::new(acl::ACCESS));
        if let Some(acl) = readable(inode.xattr_on_disk(&kept))?
            && let Some(acl) = acl::after_chmod(&acl, mode.as_raw_mode())
        {
            inode.set_xattr_on_disk(&kept, &acl, XattrFlags::empty())?;
        }
        self.change(inode, |said| said.mode = mode.as_raw_mode() & 0o7777)
    }

    pub(super) fn chown(&self, inode: &UpperInode, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let kind = inode.stat_on_disk()?.kind();
        self.change(inode, |said| {
            said.uid = uid.unwrap_or(said.uid);
            said.gid = gid.unwrap_or(said.gid);
            if kind != FileType::Directory {
                said.mode = kill_priv::mode_after_chown(said.mode);
            }
        })?;
        if kind == FileType::RegularFile { self.drop_capability(inode) } else { Ok(()) }
    }

    /// What the disk does by itself to a file's capabilities when the file is written.
    pub(super) fn drop_capability(&self, inode: &UpperInode) -> Result<()> {
        match inode.remove_xattr_on_disk(&kept_key(OsStr::new(CAPABILITY))) {
            Err(e) if e.is(Errno::NODATA) || e.is(Errno::OPNOTSUPP) => Ok(()),
            removed => removed,
        }
    }

    /// The name on the disk of an attribute that users set, read or remove.
    ///
    /// # Errors
    /// EPERM for one that is the records' own.
    pub(super) fn key_on_disk<'a>(&self, key: &'a OsStr) -> Result<Cow<'a, OsStr>> {
        if is_records_own(key) {
            return Err(Error::NotPermitted);
        }
        Ok(kept_under(key).map_or(Cow::Borrowed(key), Cow::Owned))
    }

    /// The names that users see of those on the disk.
    pub(super) fn shown_keys(&self, mut keys: Vec<OsString>) -> Vec<OsString> {
        keys.retain_mut(|key| match kept_name(key) {
            Some(shown) => {
                *key = shown;
                true
            }
            // What only root could set has no say where the records have: a user's own filesystem has none of it.
            None => !is_records_own(key) && kept_under(key).is_none(),
        });
        keys
    }

    /// Sets an attribute under the name that it has on the disk. An access ACL has a say in the mode.
    pub(super) fn set_xattr(
        &self,
        inode: &UpperInode,
        key: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let on_disk = self.key_on_disk(key)?;
        if key == acl::ACCESS {
            let invalid = Error::Invalid;
            let (mode, says_more) = acl::mode_of(value, inode.stat()?.st_mode).ok_or(invalid)?;
            let mode_only = |said: &mut OverrideStat| said.mode = mode & 0o7777;
            if !says_more {
                match inode.remove_xattr_on_disk(&on_disk) {
                    Err(e) if e.is(Errno::NODATA) => {}
                    removed => removed?,
                }
                return self.change(inode, mode_only);
            }
            inode.set_xattr_on_disk(&on_disk, value, flags)?;
            return self.change(inode, mode_only);
        }
        inode.set_xattr_on_disk(&on_disk, value, flags)
    }

    /// The record of what `caller` makes in a directory, and the ACLs that it inherits.
    pub(super) fn of_new(
        &self,
        parent: &UpperDir,
        (uid, gid): (u32, u32),
        umask: u32,
        st_mode: u32,
        device: u64,
    ) -> Result<New> {
        const SGID: u32 = 0o2000;
        let dir = parent.stat_self()?;
        let kind = FileType::from_raw_mode(st_mode);
        let inherits_group = dir.st_mode & SGID != 0;
        let gid = if inherits_group { dir.st_gid } else { gid };
        let mut mode = st_mode;
        if inherits_group && kind == FileType::Directory {
            mode |= SGID;
        }
        let mut xattrs = Vec::new();
        let default = match kind {
            FileType::Symlink => None,
            _ => readable(parent.inode().get_xattr(OsStr::new(acl::DEFAULT)))?,
        };
        match default.and_then(|default| Some((acl::inherited(&default, mode)?, default))) {
            Some(((inherited, access), default)) => {
                mode = inherited;
                xattrs.extend(access.map(|access| (kept_key(OsStr::new(acl::ACCESS)), access)));
                if kind == FileType::Directory {
                    xattrs.push((kept_key(OsStr::new(acl::DEFAULT)), default));
                }
            }
            None => mode &= !umask,
        }
        let said = OverrideStat::of((uid, gid), mode, (major(device), minor(device)));
        Ok(New { said, xattrs })
    }

    /// Nobody needs the record of an inode any more that has lost its last name.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn forget(&self, id: &LastingId) -> Result<()> {
        self.beside.as_ref().map_or(Ok(()), |beside| beside.remove(id))
    }

    /// Waits until the records in the workdir are on disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync(&self) -> Result<()> {
        match self.beside.as_ref().and_then(|beside| beside.written.as_ref()) {
            Some(dir) => dir.sync(),
            None => Ok(()),
        }
    }

    /// Whether an inode of that type has its record in the workdir.
    #[must_use]
    pub fn is_beside(&self, kind: FileType) -> bool {
        self.beside.is_some() && !self.is_in_attribute(kind)
    }
}

/// What a new inode gets.
#[derive(Debug)]
pub(super) struct New {
    pub(super) said: OverrideStat,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Beside {
    fn read(&self, id: &LastingId) -> Result<Option<OverrideStat>> {
        match self.dir.open_inode(OsStr::new(id.as_str())) {
            Err(e) if e.is(Errno::NOENT) => Ok(None),
            inode => Ok(OverrideStat::parse(inode?.read_link()?.as_encoded_bytes())),
        }
    }

    fn remove(&self, id: &LastingId) -> Result<()> {
        match &self.written {
            Some(dir) => dir.remove_marker(OsStr::new(id.as_str())),
            None => Ok(()),
        }
    }

    fn write(&self, id: &LastingId, said: OverrideStat) -> Result<()> {
        let dir = self.written.as_ref().ok_or(Error::ReadOnly)?;
        let new: OsString = format!("new-{}", self.next.fetch_add(1, Ordering::Relaxed)).into();
        dir.remove_marker(&new)?;
        dir.make_symlink(&new, OsStr::new(&said.value()))?;
        dir.rename(&new, dir, OsStr::new(id.as_str()))
    }
}

/// What users see of an inode with this record.
pub(super) fn apply(said: OverrideStat, stat: Stat) -> Stat {
    let (st_mode, device) = said.shown_mode(stat.st_mode);
    let st_rdev = device.map_or(stat.st_rdev, |(major, minor)| makedev(major, minor));
    Stat { st_mode, st_uid: said.uid, st_gid: said.gid, st_rdev, ..stat }
}

/// Records that only the owner of a file may read say nothing to others.
fn readable(read: Result<Option<Vec<u8>>>) -> Result<Option<Vec<u8>>> {
    match read {
        Err(e) if e.is(Errno::ACCESS) || e.is(Errno::PERM) => Ok(None),
        read => read,
    }
}

fn kept_key(key: &OsStr) -> OsString {
    kept_under(key).unwrap_or_else(|| key.to_owned())
}

fn is_records_own(key: &OsStr) -> bool {
    let own = OVERRIDE_STATS.iter().chain(&[MADE_WITH_MODE, SYMLINK_OWNERS, PRIVILEGED_OVERRIDE_STAT]);
    own.into_iter().any(|own| key == *own) || kept_name(key).is_some()
}
