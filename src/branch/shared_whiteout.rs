//! How does an empty file come into the upper at the least cost?
//!
//! As one more name of an empty file that is kept in the workdir: a link changes a directory, a new file
//! also takes an inode. AUFS and overlayfs make their whiteouts in the same way.
//!
//! A marker belongs to the owner of the directory that it is in. One that belonged to root in somebody else's
//! directory would be a file of root's for that somebody to move to wherever they like.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use parking_lot::Mutex;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::write::UpperDir;
use crate::error::Result;

/// The empty files of mode 0644 that can have any number of names, one for each owner.
#[derive(Debug, Default)]
pub(super) struct SharedWhiteouts {
    /// The owners whose files have as many names as the filesystem allows of one: vfat and its kind have no hard
    /// links.
    without_links: Mutex<HashSet<Owner>>,
}

/// What the names of the shared files begin with.
const TEMPLATE: &str = "whiteout-";

/// User and group.
type Owner = (u32, u32);

impl SharedWhiteouts {
    /// Makes the file of our own ahead, so that a deletion on a full disk takes no inode.
    pub(super) fn prepare(&self, stage: &UpperDir, fresh: &OsStr) -> Result<()> {
        let ours = (geteuid().as_raw(), getegid().as_raw());
        make_template(stage, fresh, ours)
    }

    /// Markers that are made from now on share nothing with those so far.
    pub(super) fn begin_anew(&self, stage: &UpperDir, fresh: &OsStr) -> Result<()> {
        for entry in stage.list()? {
            if entry.name.as_encoded_bytes().starts_with(TEMPLATE.as_bytes()) {
                stage.remove_marker(&entry.name)?;
            }
        }
        self.prepare(stage, fresh)
    }

    /// Makes an empty file in a directory of the upper. It is no error if there is an entry of that name already.
    /// `stage` is where the shared file itself is kept, `fresh` a name there that was never used.
    pub(super) fn make(
        &self,
        stage: &UpperDir,
        fresh: impl FnOnce() -> OsString,
        owner: Owner,
        dir: &UpperDir,
        name: &OsStr,
    ) -> Result<()> {
        if !self.without_links.lock().contains(&owner) {
            let template = template_name(owner);
            let link = || dir.link_entry(stage, &template, name);
            let linked = match link() {
                // The first one, or the last one that the filesystem allows of this file.
                Err(e) if e.is(Errno::NOENT) || e.is(Errno::MLINK) => {
                    make_template(stage, &fresh(), owner)?;
                    link()
                }
                linked => linked,
            };
            match linked {
                Err(e) if e.is(Errno::EXIST) => return Ok(()),
                Err(e) if e.is(Errno::PERM) || e.is(Errno::OPNOTSUPP) => {
                    self.without_links.lock().insert(owner);
                }
                linked => return linked,
            }
        }
        // In one step, since a marker hides something from the moment that it is there. Only then it can be given to
        // the directory's owner.
        match make_empty(dir, name, owner) {
            Err(e) if e.is(Errno::EXIST) => Ok(()),
            made => made,
        }
    }
}

fn template_name((uid, gid): Owner) -> OsString {
    format!("{TEMPLATE}{uid}-{gid}").into()
}

fn make_template(stage: &UpperDir, fresh: &OsStr, owner: Owner) -> Result<()> {
    make_empty(stage, fresh, owner)?;
    stage.rename(fresh, stage, &template_name(owner)).inspect_err(|_| {
        if let Err(e) = stage.remove_marker(fresh) {
            log::warn!("an empty file stays in the workdir for now: {e}");
        }
    })
}

/// An ordinary user cannot give files away, and a disk may have no owners: then the marker is ours, as everything is.
fn make_empty(dir: &UpperDir, name: &OsStr, (uid, gid): Owner) -> Result<()> {
    let file = dir.create(name, Mode::from_raw_mode(0o644))?;
    if (uid, gid) == (geteuid().as_raw(), getegid().as_raw()) {
        return Ok(());
    }
    // By the descriptor: the name may be another file's by now.
    if let Err(e) = file.upper_inode().chown(Some(uid), Some(gid)) {
        log::debug!("a marker does not belong to its directory's owner: {e}");
    }
    Ok(())
}
