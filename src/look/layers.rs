//! What do the branches hold, as they lie on the disk?

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::{Error, Result};
use crate::branch::{Atime, Believed, Dir, Inodes, Overrides, Policy, Reader, Stat};
use crate::control::{self, Access};
use crate::layer::{Ask, DirMarkers, Formats, ask};
use crate::mount;
use crate::rules::BranchId;
use crate::rules::name::Name;
use crate::rules::override_stat::OverrideXattr;
use crate::rules::resolve::{Resolution, Resolver};

/// A branch that is looked at.
#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
    pub(crate) root: Dir,
    /// The formats of the entries in its root.
    pub(crate) formats: Formats,
    /// Whether its root hides the branches below.
    pub(crate) is_opaque: bool,
}

/// What it takes to read branches as a mount does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Records say whose the files are.
    pub(crate) overrides: Option<OverrideXattr>,
    /// A 0:0 device in the upper is a whiteout.
    pub(crate) overlay_upper: bool,
    /// Records say nothing of the lowers' files, and what may not be read of these is empty: as a run has it.
    pub(crate) plain_lowers: bool,
}

impl Manner {
    /// As a live mount does it. An older plyfs does not say.
    pub(crate) fn of_mount(mountpoint: &Path) -> Self {
        let status = mount::ask_status(mountpoint).inspect_err(|error| log::debug!("{error}"));
        let status = control::parse_status(&status.unwrap_or_default());
        let options = status.get("options").map(|options| options.to_string_lossy().into_owned());
        let has = |word| options.as_deref().unwrap_or_default().split(',').any(|option| option == word);
        Self {
            overrides: match () {
                () if has("xattr_permissions=1") => Some(OverrideXattr::Privileged),
                () if has("xattr_permissions=2") => Some(OverrideXattr::User),
                () => None,
            },
            overlay_upper: has("upper_from_overlayfs"),
            plain_lowers: has("plain_lowers"),
        }
    }
}

/// Opens the branches of a live mount, the topmost first.
pub(crate) fn of_mount(mountpoint: &Path) -> Result<Vec<Branch>> {
    let list = mount::branches(mountpoint)?;
    let manner = Manner::of_mount(mountpoint);
    open(&control::parse_branches(&list), manner)
}

/// Opens branches, the topmost first.
pub(crate) fn open(branches: &[(PathBuf, Access)], manner: Manner) -> Result<Vec<Branch>> {
    let has_upper = branches.first().is_some_and(|(_, access)| *access == Access::Writable);
    let mut opened = Vec::with_capacity(branches.len());
    for (at, (path, access)) in branches.iter().enumerate() {
        let id = u16::try_from(at + usize::from(!has_upper)).unwrap_or(u16::MAX - 1);
        let fd: OwnedFd =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| Error::io(path)(errno.into()))?;
        let root = Dir::root(fd, BranchId(id), Atime::Kept, Inodes::MayChange);
        let is_plain = manner.plain_lowers && *access == Access::ReadOnly;
        let policy = match manner.overrides {
            _ if is_plain => Some(Arc::new(Policy { reader: Some(Reader::this()), ..Policy::default() })),
            Some(xattr) => {
                let overrides = Some(Arc::new(Overrides::new(xattr, Believed::All, &root)?));
                Some(Arc::new(Policy { overrides, ..Policy::default() }))
            }
            None => None,
        };
        let root = root.under(policy);
        let markers = DirMarkers::of(&root)?;
        let devices = *access == Access::ReadOnly || manner.overlay_upper;
        let (formats, is_opaque) = (markers.formats(devices), markers.opaque);
        opened.push(Branch { path: path.clone(), access: *access, root, formats, is_opaque });
    }
    Ok(opened)
}

/// One branch's part of a directory, by the branch's place in the stack.
pub(crate) type Part = (usize, Formats);

/// The roots of the branches from `first` on, as far as they show.
pub(crate) fn roots(branches: &[Branch], first: usize) -> Vec<Part> {
    let mut roots = Vec::new();
    for (at, branch) in branches.iter().enumerate().skip(first) {
        roots.push((at, branch.formats));
        if branch.is_opaque {
            break;
        }
    }
    roots
}

/// The parts of a directory of the branches from `first` on, open; none if there is no such directory.
pub(crate) fn parts(branches: &[Branch], first: usize, way: &[OsString]) -> Result<Vec<(Part, Dir)>> {
    let roots = roots(branches, first).into_iter();
    let mut parts: Vec<_> = roots.map(|part| (part, branches[part.0].root.clone())).collect();
    for name in way {
        let Shows::Dir(children, _) = shows(&parts, name)? else { return Ok(Vec::new()) };
        let mut next = Vec::with_capacity(children.len());
        for child in children {
            if let Some((_, open)) = parts.iter().find(|((at, _), _)| *at == child.0) {
                next.push((child, open.open_dir(name)?));
            }
        }
        parts = next;
    }
    Ok(parts)
}

/// What a few branches show under a name.
#[derive(Debug)]
pub(crate) enum Shows {
    Nothing,
    /// Anything but a directory: whose, and what it is.
    Leaf(usize, Box<Stat>),
    /// A directory of these parts; its attributes.
    Dir(Vec<Part>, Box<Stat>),
}

/// Opens a branch's directory.
pub(crate) fn dir_at(branch: &Branch, way: &[OsString]) -> Result<Dir> {
    Ok(way.iter().try_fold(branch.root.clone(), |dir, name| dir.open_dir(name))?)
}

/// What the parts of a directory, open, show under a name.
pub(crate) fn shows(parts: &[(Part, Dir)], name: &OsStr) -> Result<Shows> {
    let Ok(name) = Name::new(name) else { return Ok(Shows::Nothing) };
    let mut resolver = Resolver::default();
    let mut words = Vec::new();
    for ((branch, formats), dir) in parts {
        let word = ask(dir, *formats, &name, Ask::Markers)?;
        let flow = resolver.hear(dir.branch(), word.entry);
        words.push((*branch, dir.branch(), word));
        if flow == ControlFlow::Break(()) {
            break;
        }
    }
    Ok(match resolver.resolution() {
        Resolution::Absent => Shows::Nothing,
        Resolution::Leaf(id) => {
            let word = words.into_iter().find(|(_, from, _)| *from == id);
            match word.and_then(|(branch, _, word)| Some((branch, word.stat?))) {
                Some((branch, stat)) => Shows::Leaf(branch, Box::new(stat)),
                None => Shows::Nothing,
            }
        }
        Resolution::Merged(ids) => {
            words.retain(|(_, from, _)| ids.contains(from));
            let Some(stat) = words.first().and_then(|(_, _, word)| word.stat) else {
                return Ok(Shows::Nothing);
            };
            let parts = words.into_iter().map(|(branch, _, word)| (branch, word.formats)).collect();
            Shows::Dir(parts, Box::new(stat))
        }
    })
}
