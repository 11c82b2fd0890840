//! Whose are the files of a layer: on the disk, and in the image?
//!
//! Root, also of a user namespace, gives files away. Somebody else cannot: for him an extended attribute says whose
//! they are in the image ([`override_stat`](crate::rules::override_stat)), and the files are his own.

use std::borrow::Cow;
use std::ffi::OsStr;

use rustix::thread::{CapabilitySet, capabilities};

use super::error::{Error, Result};
use crate::cli::{OwnersArgs, OwnersIn};
use crate::rules::acl;
use crate::rules::ids::{IdMap, IdMaps};

/// How ids on the disk and ids in the image correspond.
#[derive(Clone, Debug)]
pub struct Owners {
    /// Where they are.
    pub place: OwnersIn,
    /// The image's ids are those shown, the disk's are those on disk.
    pub ids: IdMaps,
    own: (u32, u32),
}

impl Owners {
    /// As the user says; else as he can.
    ///
    /// # Errors
    /// What is wrong with a map of ids.
    pub fn new(args: &OwnersArgs) -> Result<Self> {
        let map = |option: &str, text: Option<&str>| match text {
            None => Ok(IdMap::default()),
            Some(text) => IdMap::parse(text).map_err(|bad| Error::Usage(format!("{option}: {bad}"))),
        };
        let ids = IdMaps {
            uid: map("--uidmapping", args.uidmapping.as_deref())?,
            gid: map("--gidmapping", args.gidmapping.as_deref())?,
        };
        let place =
            args.owners.unwrap_or_else(|| if may_give_away() { OwnersIn::Disk } else { OwnersIn::Override });
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Self { place, ids, own })
    }

    /// Who owns a file on the disk that belongs to these in the image.
    ///
    /// # Errors
    /// No range of the map covers one.
    pub fn on_disk(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        let unmapped = |id, option| {
            Error::Invalid(format!("belongs to the id {id}, for which {option} has nobody on the disk"))
        };
        Ok((
            self.ids.uid.disk(uid).ok_or_else(|| unmapped(uid, "--uidmapping"))?,
            self.ids.gid.disk(gid).ok_or_else(|| unmapped(gid, "--gidmapping"))?,
        ))
    }

    /// Who owns a file in the image that belongs to these on the disk, and of which no attribute speaks.
    #[must_use]
    pub fn in_image(&self, uid: u32, gid: u32) -> (u32, u32) {
        if self.place == OwnersIn::Disk || !self.ids.is_identity() {
            return (self.ids.uid.shown(uid), self.ids.gid.shown(gid));
        }
        let root = |id, own| if id == own { 0 } else { id };
        (root(uid, self.own.0), root(gid, self.own.1))
    }

    /// An extended attribute as it goes to the disk.
    ///
    /// # Errors
    /// An ACL names an id that no range of the map covers.
    pub fn xattr_on_disk<'a>(&self, key: &OsStr, value: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        if !acl::is_acl(key) || self.ids.is_identity() {
            return Ok(Cow::Borrowed(value));
        }
        acl::on_disk(value, &self.ids).map_err(|acl::Unmapped(id)| {
            Error::Invalid(format!("its ACL names the id {id}, for which no map has anybody on the disk"))
        })
    }

    /// An extended attribute as it is in the image.
    #[must_use]
    pub fn xattr_in_image(&self, key: &OsStr, value: Vec<u8>) -> Vec<u8> {
        if acl::is_acl(key) && !self.ids.is_identity() {
            acl::shown(&value, &self.ids).into_owned()
        } else {
            value
        }
    }
}

/// Whether chown(2) and mode bits of others' files are ours to set.
pub(super) fn may_give_away() -> bool {
    let wanted = CapabilitySet::CHOWN | CapabilitySet::FOWNER | CapabilitySet::DAC_OVERRIDE;
    capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}
