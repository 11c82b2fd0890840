//! How are whiteouts and opaque directories spelt in this branch?
//!
//! Every format is read: `.wh.` files (OCI, AUFS, plyfs), overlayfs' device 0:0 and its `overlay.whiteout` and
//! `overlay.opaque` attributes in both namespaces, and fuse-overlayfs' `user.fuseoverlayfs.opaque`.
//!
//! What overlayfs keeps in another place of a lower layer (`metacopy=on`, `redirect_dir=on`) is not followed, and
//! never shown as if it were there. Only directories that overlayfs calls impure can hold such entries, so the
//! others cost nothing.

use std::ffi::{OsStr, OsString};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::branch::{Dir, Inode, Stat};
use crate::error::{Error, Result};
use crate::rules::name::{MarkerName, Name};

const OPAQUE_XATTRS: [&str; 3] =
    ["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"];
const WHITEOUT_XATTRS: [&str; 2] = ["trusted.overlay.whiteout", "user.overlay.whiteout"];
const IMPURE_XATTRS: [&str; 2] = ["trusted.overlay.impure", "user.overlay.impure"];
const REDIRECT_XATTRS: [&str; 2] = ["trusted.overlay.redirect", "user.overlay.redirect"];
const METACOPY_XATTRS: [&str; 2] = ["trusted.overlay.metacopy", "user.overlay.metacopy"];
const PRIVATE_PREFIXES: [&str; 3] = ["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."];

/// Whether an extended attribute belongs to a union filesystem's own format: never shown, never set,
/// never copied up.
#[must_use]
pub fn is_private_xattr(key: &OsStr) -> bool {
    PRIVATE_PREFIXES.iter().any(|p| key.as_encoded_bytes().starts_with(p.as_bytes()))
}

/// Which formats the entries of a directory may be in, beside `.wh.` files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// A character device 0:0 is a whiteout.
    pub devices: bool,
    /// An empty file may be a whiteout by its attribute (`overlay.opaque=x` of the directory).
    pub xattr_whiteouts: bool,
    /// Data of a file, or what merges with a directory, may be elsewhere (`overlay.impure` of the directory).
    pub impure: bool,
}

/// What the markers inside a directory say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirMarkers {
    /// Its namesakes in the branches below do not show.
    pub opaque: bool,
    /// See [`Formats::xattr_whiteouts`].
    pub xattr_whiteouts: bool,
    /// See [`Formats::impure`].
    pub impure: bool,
    /// It stands for another directory of the branches below.
    pub redirected: bool,
}

impl DirMarkers {
    /// Reads them.
    ///
    /// # Errors
    /// Those of statx(2), listxattr(2) and getxattr(2).
    pub fn of(dir: &Dir) -> Result<Self> {
        let opaque = dir.stat(MarkerName::opaque().as_os_str())?.is_some();
        let mut markers = Self { opaque, ..Self::default() };
        let inode = dir.inode();
        let is = |key: &OsStr, names: &[&str]| names.iter().any(|name| key == *name);
        for key in inode.xattrs_on_disk()? {
            if is(&key, &OPAQUE_XATTRS) {
                match inode.xattr_on_disk(&key)?.as_deref() {
                    Some(b"y") => markers.opaque = true,
                    Some(b"x") => markers.xattr_whiteouts = true,
                    _ => {}
                }
            }
            markers.impure |= is(&key, &IMPURE_XATTRS);
            markers.redirected |= is(&key, &REDIRECT_XATTRS);
        }
        // What is opaque merges with nothing, wherever it once came from.
        markers.redirected &= !markers.opaque;
        Ok(markers)
    }

    /// The formats in the directory. `devices` is as in the branch's root.
    #[must_use]
    pub fn formats(&self, devices: bool) -> Formats {
        Formats { devices, xattr_whiteouts: self.xattr_whiteouts, impure: self.impure }
    }
}

/// The attributes by which union filesystems have made a directory opaque.
///
/// # Errors
/// Those of listxattr(2) and getxattr(2).
pub fn opaque_xattrs(dir: &Inode) -> Result<Vec<OsString>> {
    let mut found = Vec::new();
    for key in dir.xattrs_on_disk()? {
        let is_opaque = OPAQUE_XATTRS.iter().any(|name| key == *name);
        if is_opaque && dir.xattr_on_disk(&key)?.as_deref() == Some(b"y") {
            found.push(key);
        }
    }
    Ok(found)
}

/// Whether a branch holds `.wh.NAME`.
pub(super) fn has_whiteout(dir: &Dir, name: &Name) -> Result<bool> {
    match name.whiteout() {
        Some(marker) => Ok(dir.stat(marker.as_os_str())?.is_some()),
        None => Ok(false),
    }
}

/// Whether an inode that is no directory is overlayfs' spelling of a whiteout.
pub(super) fn is_whiteout_inode(formats: Formats, dir: &Dir, name: &Name, stat: &Stat) -> Result<bool> {
    match stat.kind() {
        FileType::CharacterDevice => Ok(formats.devices && stat.st_rdev == 0),
        FileType::RegularFile if stat.st_size == 0 && formats.xattr_whiteouts => {
            has_any(&dir.open_inode(name.as_os_str())?, &WHITEOUT_XATTRS)
        }
        _ => Ok(false),
    }
}

/// An error for a file whose data is in another layer.
pub(super) fn refuse_metacopy(formats: Formats, dir: &Dir, name: &Name, stat: &Stat) -> Result<()> {
    let may_be = formats.impure && stat.kind() == FileType::RegularFile && stat.st_size > 0;
    if may_be && has_any(&dir.open_inode(name.as_os_str())?, &METACOPY_XATTRS)? {
        return Err(refused("metacopy=on", dir, name));
    }
    Ok(())
}

/// An error for a directory that stands for another.
pub(super) fn refuse_redirect(markers: DirMarkers, dir: &Dir, name: &Name) -> Result<()> {
    if markers.redirected { Err(refused("redirect_dir=on", dir, name)) } else { Ok(()) }
}

fn refused(feature: &'static str, dir: &Dir, name: &Name) -> Error {
    Error::OverlayFeature { feature, branch: dir.branch(), name: name.as_os_str().to_owned() }
}

fn has_any(inode: &Inode, keys: &[&str]) -> Result<bool> {
    for key in keys {
        match inode.xattr_on_disk(OsStr::new(key)) {
            Ok(Some(_)) => return Ok(true),
            Ok(None) => {}
            // The filesystem shows such attributes to root only.
            Err(e) if e.is(Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}
