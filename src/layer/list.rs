//! What does one branch list?

use rustix::fs::FileType;

use super::markers::{Formats, is_whiteout_inode};
use crate::branch::{Dir, Stat};
use crate::error::Result;
use crate::rules::merge::Listed;
use crate::rules::name::{Name, Spelling};

/// What a branch's listing says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its type; `Unknown` if neither the listing nor the entry itself would say.
    pub kind: FileType,
    /// Its inode number.
    pub ino: u64,
}

/// Lists a directory whose entries are in these formats, markers as well.
///
/// # Errors
/// Those of reading the directory: an error in the middle is never taken for its end. An entry that cannot be looked
/// at is no reason to hide the others: it is listed, without a type.
pub fn list(dir: &Dir, formats: Formats) -> Result<Vec<(Spelling, Listed<Known>)>> {
    let mut listing = Vec::new();
    // Names whose type does not tell whether they are whiteouts.
    let mut unclear = Vec::new();
    dir.each(|name, kind, ino| {
        let tells = match kind {
            FileType::Unknown => false,
            FileType::CharacterDevice => !formats.devices,
            FileType::RegularFile => !formats.xattr_whiteouts,
            _ => true,
        };
        match Spelling::of(name) {
            Spelling::Entry(name) if !tells => unclear.push((name, ino)),
            spelling => listing.push((spelling, listed(Known { kind, ino }))),
        }
    })?;
    for (name, ino) in unclear {
        let says = match look(dir, formats, &name) {
            // Gone since it was listed: as if it had not been.
            Ok(None) => continue,
            Ok(Some((_, true))) => Listed::Whiteout,
            Ok(Some((stat, false))) => listed(Known { kind: stat.kind(), ino }),
            Err(e) => {
                log::debug!("listed without a type: {e}");
                listed(Known { kind: FileType::Unknown, ino })
            }
        };
        listing.push((Spelling::Entry(name), says));
    }
    Ok(listing)
}

/// An entry's attributes, and whether it is a whiteout.
fn look(dir: &Dir, formats: Formats, name: &Name) -> Result<Option<(Stat, bool)>> {
    let Some(stat) = dir.stat(name.as_os_str())? else { return Ok(None) };
    let is_whiteout = is_whiteout_inode(formats, dir, name, &stat)?;
    Ok(Some((stat, is_whiteout)))
}

fn listed(known: Known) -> Listed<Known> {
    if known.kind == FileType::Directory { Listed::Dir(known) } else { Listed::Leaf(known) }
}
