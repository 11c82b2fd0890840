//! What does each branch say of one name?
//!
//! Reads every marker format that union filesystems have left on disks: `.wh.` files (OCI, AUFS, plyfs),
//! overlayfs' device 0:0 and its `overlay.whiteout` and `overlay.opaque` attributes in both namespaces,
//! and fuse-overlayfs' `user.fuseoverlayfs.opaque`.

use std::ffi::{OsStr, OsString};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Union;
use super::node::DirPart;
use super::numbering::Numbering;
use crate::branch::{Dir, Stat, stat_type};
use crate::error::{Error, Result};
use crate::rules::BranchIndex;
use crate::rules::name::{MarkerName, Name};
use crate::rules::resolve::{Entry, EntryStack, Found, Resolution, Resolver};

/// A directory's part in one branch, open.
#[derive(Clone, Debug)]
pub(super) struct OpenPart {
    pub(super) part: DirPart,
    pub(super) dir: Dir,
}

/// What users see under a name.
#[derive(Debug)]
pub(super) enum Seen {
    Absent,
    Leaf {
        branch: BranchIndex,
        stat: Stat,
    },
    Dir {
        /// From the top down, at least one.
        parts: Vec<DirPart>,
        /// The topmost part's.
        stat: Stat,
        /// The topmost lower part's, if there is one: it gives the directory its number.
        lower: Option<Stat>,
        /// The lowers' parts that had to be opened on the way.
        opened: Vec<(BranchIndex, Dir)>,
    },
}

/// What the markers inside a directory say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DirMarkers {
    pub(super) opaque: bool,
    pub(super) xattr_whiteouts: bool,
}

/// One branch's word, with what was learnt on the way.
#[derive(Debug, Default)]
struct Word {
    entry: Entry,
    stat: Option<Stat>,
    opened: Option<Dir>,
    xattr_whiteouts: bool,
    closed: bool,
}

/// How much is asked of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// Whether there is something: no branch below has a say, so markers say nothing.
    Existence,
    /// Also the markers that hide the branches below, of a directory that can be looked into. One that cannot be
    /// shows, with its attributes, as it would on a disk.
    Show,
    /// Also the markers that hide the branches below.
    Markers,
    /// Also a whiteout beside a non-directory, which hides nothing that it does not hide itself.
    Everything,
}

type Words = Vec<(BranchIndex, Word)>;

const OPAQUE_XATTRS: [&str; 3] =
    ["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"];
const WHITEOUT_XATTRS: [&str; 2] = ["trusted.overlay.whiteout", "user.overlay.whiteout"];
const PRIVATE_PREFIXES: [&str; 3] = ["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."];

/// Whether an extended attribute belongs to a union filesystem's own format: never shown, never set,
/// never copied up.
pub(super) fn is_private_xattr(key: &OsStr) -> bool {
    PRIVATE_PREFIXES.iter().any(|p| key.as_encoded_bytes().starts_with(p.as_bytes()))
}

impl Union {
    /// What users see under `name` in the directory of these parts. Asks no branch more than is needed.
    pub(super) fn see(&self, dir: &[OpenPart], name: &Name) -> Result<Seen> {
        let (resolution, words) = self.hear(dir, name, Ask::Show)?;
        Ok(seen(&self.numbering, &resolution, words))
    }

    /// What the branches say of `name`, as a mutation needs to know it, and what users see.
    pub(super) fn survey(&self, dir: &[OpenPart], name: &Name) -> Result<(EntryStack, Seen)> {
        let (uppers, lowers) = dir.split_at(dir.partition_point(|open| open.part.branch.is_upper()));
        let mut words = Vec::new();
        let mut stack = EntryStack::default();
        if let [open] = uppers {
            let word = self.ask(open, name, Ask::Everything)?;
            stack.upper = word.entry;
            words.push((open.part.branch, word));
        }
        let (resolution, lower_words) = self.hear(lowers, name, Ask::Markers)?;
        stack.lowers = resolution;
        words.extend(lower_words);
        let seen = seen(&self.numbering, &stack.visible(), words);
        Ok((stack, seen))
    }

    /// Hears the branches from the top down until none further has a say.
    fn hear(&self, dir: &[OpenPart], name: &Name, ask: Ask) -> Result<(Resolution, Words)> {
        let mut resolver = Resolver::default();
        let mut words = Vec::new();
        for (i, open) in dir.iter().enumerate() {
            // Below the last there is nothing to hide; but empty files there may be whiteouts all the same.
            let is_last = i + 1 == dir.len() && !self.xattr_branches.contains(&open.part.branch);
            let word = self.ask(open, name, if is_last { Ask::Existence } else { ask })?;
            let flow = resolver.hear(open.part.branch, word.entry);
            words.push((open.part.branch, word));
            if flow.is_break() {
                break;
            }
        }
        Ok((resolver.resolution(), words))
    }

    /// One branch's word.
    fn ask(&self, open: &OpenPart, name: &Name, ask: Ask) -> Result<Word> {
        let OpenPart { part, dir } = open;
        let Some(stat) = dir.stat(name.as_os_str())? else {
            let whiteout = ask != Ask::Existence && has_whiteout(dir, name)?;
            return Ok(Word { entry: Entry { found: None, whiteout }, ..Word::default() });
        };
        if stat_type(&stat) != FileType::Directory {
            if self.is_whiteout_inode(*part, dir, name, &stat)? {
                return Ok(Word { entry: Entry { found: None, whiteout: true }, ..Word::default() });
            }
            let whiteout = ask == Ask::Everything && has_whiteout(dir, name)?;
            let entry = Entry { found: Some(Found::Leaf), whiteout };
            return Ok(Word { entry, stat: Some(stat), ..Word::default() });
        }
        let (mut markers, mut opened, mut whiteout) = (DirMarkers::default(), None, false);
        let mut closed = false;
        if ask != Ask::Existence {
            let child = dir.open_dir(name.as_os_str())?;
            match self.dir_markers(&child) {
                Err(e) if ask == Ask::Show && e.is(Errno::ACCESS) => closed = true,
                read => markers = read?,
            }
            opened = Some(child);
            whiteout = has_whiteout(dir, name)?;
        }
        Ok(Word {
            entry: Entry { found: Some(Found::Dir { opaque: markers.opaque || closed }), whiteout },
            stat: Some(stat),
            opened,
            xattr_whiteouts: markers.xattr_whiteouts,
            closed,
        })
    }

    /// What the markers of a directory of a branch say.
    pub(super) fn dir_markers(&self, dir: &Dir) -> Result<DirMarkers> {
        let mut markers = DirMarkers {
            opaque: dir.stat(MarkerName::opaque().as_os_str())?.is_some(),
            xattr_whiteouts: false,
        };
        let object = dir.object();
        for key in object.list_xattrs()? {
            if OPAQUE_XATTRS.iter().any(|opaque| key == *opaque) {
                match object.get_xattr(&key)?.as_deref() {
                    Some(b"y") => markers.opaque = true,
                    Some(b"x") => markers.xattr_whiteouts = true,
                    _ => {}
                }
            }
        }
        Ok(markers)
    }

    /// Whether an inode that is no directory is overlayfs' spelling of a whiteout.
    pub(super) fn is_whiteout_inode(
        &self,
        part: DirPart,
        dir: &Dir,
        name: &Name,
        stat: &Stat,
    ) -> Result<bool> {
        match stat_type(stat) {
            FileType::CharacterDevice => Ok(stat.st_rdev == 0 && self.reads_devices(part.branch)),
            FileType::RegularFile if stat.st_size == 0 && part.xattr_whiteouts => {
                let object = dir.at(name.as_os_str());
                for key in WHITEOUT_XATTRS {
                    match object.get_xattr(&OsString::from(key)) {
                        Ok(Some(_)) => return Ok(true),
                        Ok(None) => {}
                        // The filesystem shows such attributes to root only.
                        Err(e) if e.is(Errno::PERM) => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Whether a device 0:0 is a whiteout there. In our own upper somebody made it through the mount.
    pub(super) fn reads_devices(&self, branch: BranchIndex) -> bool {
        !branch.is_upper() || self.options.overlay_upper
    }
}

/// Puts together what users see from what the branches said.
fn seen(numbering: &Numbering, resolution: &Resolution, mut words: Words) -> Seen {
    match resolution {
        Resolution::Absent => Seen::Absent,
        Resolution::Leaf(branch) => {
            match words.into_iter().find(|(from, _)| from == branch).and_then(|(_, word)| word.stat) {
                Some(stat) => Seen::Leaf { branch: *branch, stat },
                None => Seen::Absent,
            }
        }
        Resolution::Merged(branches) => {
            words.retain(|(branch, _)| branches.contains(branch));
            let lower = words.iter().find(|(b, _)| !b.is_upper()).and_then(|(_, w)| w.stat);
            let Some(stat) = words.first().and_then(|(_, word)| word.stat) else {
                return Seen::Absent;
            };
            let part = |(branch, word): &(BranchIndex, Word)| {
                let filesystem = numbering.real(word.stat.as_ref()?).filesystem;
                let Word { xattr_whiteouts, closed, .. } = *word;
                Some(DirPart { branch: *branch, filesystem, xattr_whiteouts, closed })
            };
            let parts = words.iter().filter_map(part).collect();
            let opened = words
                .into_iter()
                .filter(|(branch, _)| !branch.is_upper())
                .filter_map(|(branch, word)| Some((branch, word.opened?)))
                .collect();
            Seen::Dir { parts, stat, lower, opened }
        }
    }
}

/// The parts of a directory that was seen within the parts of its parent; none if it is not a directory.
pub(super) fn open_children(parent: &[OpenPart], name: &Name, seen: &Seen) -> Result<Vec<OpenPart>> {
    let Seen::Dir { parts, opened, .. } = seen else { return Ok(Vec::new()) };
    let open = |part: &DirPart| {
        if let Some((_, dir)) = opened.iter().find(|(branch, _)| *branch == part.branch) {
            return Ok(OpenPart { part: *part, dir: dir.clone() });
        }
        let above = parent.iter().find(|open| open.part.branch == part.branch);
        let dir = above.ok_or(Error::Invalid)?.dir.open_dir(name.as_os_str())?;
        Ok(OpenPart { part: *part, dir })
    };
    parts.iter().map(open).collect()
}

fn has_whiteout(dir: &Dir, name: &Name) -> Result<bool> {
    match name.whiteout() {
        Some(marker) => Ok(dir.stat(marker.as_os_str())?.is_some()),
        None => Ok(false),
    }
}
