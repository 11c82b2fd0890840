//! What is in a layer that should not be there, and can it be mended without changing what shows?

use std::ffi::OsStr;
use std::process::ExitCode;

use rustix::fs::{FileType, FlockOperation, Mode};
use rustix::io::Errno;
use serde::Serialize;

use super::error::{Error, Result};
use super::item::TreePath;
use super::layer::say;
use super::place::{open_layers, open_upper};
use super::progress::Progress;
use super::tree::{Part, Shows, roots, shows};
use crate::branch::UpperDir;
use crate::cli::CheckArgs;
use crate::exit::Exit;
use crate::layer::{Ask, DirMarkers, Formats, ask, opaque_xattrs};
use crate::rules::name::{MarkerName, Name, Spelling};
use crate::shown::shown;

const MARKER: Mode = Mode::from_raw_mode(0o644);
/// So deep no tree is read.
const DEEPEST: usize = 1000;

/// What is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// Where, from the root, as people read it.
    path: String,
    /// What is wrong.
    what: String,
    /// Whether it was mended.
    repaired: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let root = open_upper(&args.dir)?;
    let below = roots(&open_layers(&args.lowers)?)?;
    if args.repair {
        // As a mount locks its upper.
        match rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::InUse(format!(
                    "{} is in use by a mount: unmount it first",
                    shown(&args.dir)
                )));
            }
            locked => locked.map_err(Error::io("lock", &args.dir))?,
        }
    }
    let progress = Progress::begin("checking")?;
    let has_below = !args.lowers.is_empty();
    let mut check = Check { root, has_below, repair: args.repair, findings: Vec::new() };
    let mut pending = vec![(TreePath::default(), below)];
    while let Some((path, below)) = pending.pop() {
        progress.check()?;
        match check.visit(&path, &below) {
            Ok(mut dirs) => pending.append(&mut dirs),
            Err(Error::Disk(error)) => check.find(&path, format!("cannot be read: {error}"), false),
            Err(error) => return Err(error.of_entry(path.as_ref())),
        }
    }
    drop(progress);
    let mut findings = check.findings;
    findings.sort_by(|one, other| one.path.cmp(&other.path));
    let is_clean = findings.iter().all(|finding| finding.repaired);
    say(args.json, &findings, || {
        let line = |finding: &Finding| {
            let mended = if finding.repaired { " (repaired)" } else { "" };
            format!("{}: {}{mended}\n", finding.path, finding.what)
        };
        findings.iter().map(line).collect()
    })?;
    Ok(if is_clean { Exit::Success } else { Exit::Failure }.into())
}

struct Check {
    root: UpperDir,
    has_below: bool,
    repair: bool,
    findings: Vec<Finding>,
}

type Below = (TreePath, Vec<Part>);

impl Check {
    fn find(&mut self, path: &TreePath, what: String, repaired: bool) {
        let path = if path.is_root() { "/".to_owned() } else { format!("/{}", shown(path)) };
        self.findings.push(Finding { path, what, repaired });
    }

    /// Notes something, and mends it with `--repair`.
    fn mend(
        &mut self,
        path: &TreePath,
        what: &str,
        mend: impl FnOnce() -> crate::error::Result<()>,
    ) -> Result<()> {
        if self.repair {
            mend()?;
        }
        self.find(path, what.to_owned(), self.repair);
        Ok(())
    }

    /// Looks at a directory and what is in it; answers the directories in it.
    fn visit(&mut self, path: &TreePath, below: &[Part]) -> Result<Vec<Below>> {
        let names: Vec<&OsStr> = path.names().collect();
        if names.len() > DEEPEST {
            self.find(
                path,
                "lies beneath more than 1,000 directories, and is not looked at".to_owned(),
                false,
            );
            return Ok(Vec::new());
        }
        let dir = names.iter().try_fold(self.root.clone(), |dir, name| dir.open_upper_dir(name))?;
        let markers = DirMarkers::of(&dir)?;
        if markers.redirected {
            let what = "stands for another directory (overlayfs' redirect_dir=on): copy the layer through a mounted \
                        overlay";
            self.find(path, what.to_owned(), false);
        }
        self.check_opaque(path, &dir, below)?;
        let mut dirs = Vec::new();
        for entry in dir.list()? {
            match Spelling::of(&entry.name) {
                Spelling::Opaque => {}
                Spelling::Reserved => {
                    let what = "is a leftover of a union filesystem";
                    self.mend(&path.join(&entry.name), what, || dir.remove_tree(&entry.name))?;
                }
                Spelling::Whiteout(name) => self.check_whiteout(path, &dir, &name, &entry.name, below)?,
                Spelling::Entry(name) => {
                    // Markers beside an entry may be mended away from under it.
                    if self.check_entry(path, &dir, &name, markers.formats(true), below)? {
                        let next = match shows(below, name.as_os_str())? {
                            Shows::Dir(parts) => parts,
                            _ => Vec::new(),
                        };
                        dirs.push((path.join(name.as_os_str()), next));
                    }
                }
            }
        }
        Ok(dirs)
    }

    fn check_opaque(&mut self, path: &TreePath, dir: &UpperDir, below: &[Part]) -> Result<()> {
        let marker = MarkerName::opaque();
        let by_marker = dir.stat(marker.as_os_str())?.is_some();
        let attributes = opaque_xattrs(&dir.inode())?;
        if !attributes.is_empty() {
            let inode = dir.upper_inode();
            self.mend(path, "is opaque by an attribute, and not by .wh..wh..opq as in OCI layers", || {
                if !by_marker {
                    dir.keeping_times(|| make_marker(dir, marker.as_os_str()))?;
                }
                attributes.iter().try_for_each(|key| inode.remove_xattr(key))
            })?;
        } else if by_marker && self.has_below && below.is_empty() && !path.is_root() {
            self.mend(path, "is opaque, and there is no such directory below", || {
                dir.keeping_times(|| dir.remove_marker(marker.as_os_str()))
            })?;
        }
        Ok(())
    }

    fn check_whiteout(
        &mut self,
        path: &TreePath,
        dir: &UpperDir,
        name: &Name,
        marker: &OsStr,
        below: &[Part],
    ) -> Result<()> {
        let at = path.join(marker);
        let stat = dir.stat(marker)?;
        if stat.is_some_and(|stat| stat.kind() == FileType::Directory) {
            self.find(&at, "is a directory with a marker's name".to_owned(), false);
            return Ok(());
        }
        if stat.is_some_and(|stat| stat.st_size > 0) {
            self.find(&at, "is a marker with something in it".to_owned(), false);
        }
        let beside = dir.stat(name.as_os_str())?;
        match beside.map(|stat| stat.kind()) {
            Some(FileType::Directory) => {
                self.mend(&at, "is a marker beside a directory, which is to be opaque", || {
                    let inner = dir.open_upper_dir(name.as_os_str())?;
                    let opaque = MarkerName::opaque();
                    if inner.stat(opaque.as_os_str())?.is_none() {
                        inner.keeping_times(|| make_marker(&inner, opaque.as_os_str()))?;
                    }
                    dir.keeping_times(|| dir.remove_marker(marker))
                })
            }
            Some(_) => self.mend(&at, "is a marker beside what it would hide", || {
                dir.keeping_times(|| dir.remove_marker(marker))
            }),
            None if self.has_below && matches!(shows(below, name.as_os_str())?, Shows::Nothing) => {
                self.mend(&at, "is a marker for what is not there in the layers below", || {
                    dir.keeping_times(|| dir.remove_marker(marker))
                })
            }
            None => Ok(()),
        }
    }

    /// Says whether it is a directory.
    fn check_entry(
        &mut self,
        path: &TreePath,
        dir: &UpperDir,
        name: &Name,
        formats: Formats,
        below: &[Part],
    ) -> Result<bool> {
        let at = path.join(name.as_os_str());
        let word = match ask(dir, formats, name, Ask::Markers) {
            Ok(word) => word,
            Err(error) => {
                self.find(&at, format!("cannot be read: {error}"), false);
                return Ok(false);
            }
        };
        if word.entry.whiteout_inode {
            let Some(marker) = name.whiteout() else {
                self.find(&at, "is deleted, and its name is too long for a marker".to_owned(), false);
                return Ok(false);
            };
            let is_needed = !self.has_below || !matches!(shows(below, name.as_os_str())?, Shows::Nothing);
            self.mend(
                &at,
                "is a deletion as overlayfs spells it, and not a .wh. file as in OCI layers",
                || {
                    dir.keeping_times(|| {
                        if is_needed && dir.stat(marker.as_os_str())?.is_none() {
                            make_marker(dir, marker.as_os_str())?;
                        }
                        dir.unlink(name.as_os_str())
                    })
                },
            )?;
            return Ok(false);
        }
        let Some(stat) = word.stat else { return Ok(false) };
        if stat.kind() == FileType::RegularFile
            && let Err(error) = dir.open_file(name.as_os_str())
        {
            self.find(&at, format!("cannot be read: {error}"), false);
        }
        if stat.kind() == FileType::Socket {
            self.find(&at, "is a socket, which no archive holds".to_owned(), false);
        }
        Ok(stat.kind() == FileType::Directory)
    }
}

fn make_marker(dir: &UpperDir, name: &OsStr) -> crate::error::Result<()> {
    let file = dir.create(name, MARKER)?;
    let owner = dir.stat_self()?;
    match file.upper_inode().chown(Some(owner.st_uid), Some(owner.st_gid)) {
        // It is a name and nothing else; whose it is matters to nobody.
        Err(e) if e.is(Errno::PERM) => Ok(()),
        owned => owned,
    }
}
