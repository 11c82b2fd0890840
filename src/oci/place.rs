//! Where is a layer read from, and where does a new one go, whole or not at all?

use std::ffi::{OsStr, OsString};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::error::{Error, Result};
use crate::branch::{Atime, Dir, Inodes, UpperDir};
use crate::rules::BranchId;
use crate::shown::shown;

/// Of a target's name so much is in the name of what is to become it.
const LONGEST_PREFIX: usize = 200;

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::MFILE | Errno::NFILE => Error::io("open", path)(errno),
        _ => Error::Setup(format!("{}: {errno}: name a directory that you may read", shown(path))),
    })
}

/// Opens directories as layers, the topmost first.
///
/// # Errors
/// [`Error::Setup`] for what is no directory.
pub(super) fn open_layers<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Dir>> {
    open_layers_below(paths, 0)
}

/// The same beneath so many others. By its number a branch knows whether it is the upper, whose inodes are called
/// otherwise than those of lowers.
///
/// # Errors
/// [`Error::Setup`] for what is no directory.
pub(super) fn open_layers_below<P: AsRef<Path>>(paths: &[P], above: usize) -> Result<Vec<Dir>> {
    let mut layers = Vec::with_capacity(paths.len());
    for (at, path) in paths.iter().enumerate() {
        let branch = BranchId(u16::try_from(above + at).unwrap_or(u16::MAX - 1));
        layers.push(Dir::root(open_dir(path.as_ref())?, branch, Atime::Kept, Inodes::MayChange));
    }
    Ok(layers)
}

/// Opens a workdir, for reading.
///
/// # Errors
/// [`Error::Setup`] for what is no directory.
pub(super) fn open_workdir(path: &Path) -> Result<Dir> {
    Ok(Dir::root(open_dir(path)?, BranchId::WORK, Atime::Kept, Inodes::MayChange))
}

/// Opens a directory to make entries in it.
///
/// # Errors
/// [`Error::Setup`] for what is no directory.
pub(super) fn open_upper(path: &Path) -> Result<UpperDir> {
    Ok(UpperDir::root(open_dir(path)?, Atime::Kept, Inodes::MayChange))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A directory that appears under its name when it is whole. Dropped before, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct NewDir {
    parent: UpperDir,
    staged: OsString,
    target: PathBuf,
    is_kept: bool,
}

impl NewDir {
    /// Prepares to make `target`, which is not there, or is an empty directory.
    ///
    /// # Errors
    /// [`Error::Setup`] if it cannot be made.
    pub(super) fn at(target: &Path) -> Result<Self> {
        let unfit = |why: &str| Error::Setup(format!("{} {why}", shown(target)));
        match std::fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(unfit("is not empty: name a directory that is, or that does not exist")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(unfit("is there, and is no directory"));
            }
            Err(error) => return Err(Error::io("read", target)(error)),
        }
        let resolved = target.canonicalize().unwrap_or_else(|_| target.to_owned());
        let Some(name) = resolved.file_name() else {
            return Err(unfit("has no name: name a directory to make"));
        };
        let mut prefix = OsString::from(".");
        // With what makes it nobody else's it must not be longer than a name can be.
        let name = name.as_encoded_bytes();
        prefix.push(OsStr::from_bytes(&name[..name.len().min(LONGEST_PREFIX)]));
        prefix.push(".plyfs-unpack.");
        // Its name is nobody else's; nobody else may look in.
        let made = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent_of(&resolved))
            .map_err(|error| Error::Setup(format!("{} cannot be made: {error}", shown(target))))?
            .keep();
        let staged = made.file_name().unwrap_or_default().to_owned();
        let parent = open_upper(parent_of(&made))?;
        let new = Self { parent, staged, target: resolved.clone(), is_kept: false };
        // A default ACL of the parent's is nothing to the layer.
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            match new.open()?.upper_inode().remove_xattr(name.as_ref()) {
                Err(e) if e.is(Errno::NODATA) || e.is(Errno::OPNOTSUPP) => {}
                removed => removed?,
            }
        }
        Ok(new)
    }

    /// The directory, to make entries in it.
    ///
    /// # Errors
    /// Those of openat(2).
    pub(super) fn open(&self) -> Result<UpperDir> {
        Ok(self.parent.open_upper_dir(&self.staged)?)
    }

    /// Where it is for now.
    pub(super) fn path(&self) -> PathBuf {
        parent_of(&self.target).join(&self.staged)
    }

    /// Gives it its name. With `sync`, all of it is on disk before.
    ///
    /// # Errors
    /// Those of syncfs(2) and renameat(2).
    pub(super) fn keep(mut self, sync: bool) -> Result<()> {
        let name = self.target.file_name().unwrap_or_default().to_owned();
        if sync {
            self.open()?.sync_filesystem()?;
        }
        self.parent.rename(&self.staged, &self.parent, &name)?;
        self.is_kept = true;
        if sync {
            self.parent.sync()?;
        }
        Ok(())
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = self.parent.remove_tree(&self.staged)
        {
            log::warn!("{} is left behind: {error}", shown(&self.staged));
        }
    }
}

/// What is written, and perhaps once more from the beginning.
pub(super) trait Output: Write {
    /// Drops what was written so far; false if that cannot be.
    ///
    /// # Errors
    /// Those of ftruncate(2) and lseek(2).
    fn begin_anew(&mut self) -> Result<bool>;
}

impl Output for NewFile {
    fn begin_anew(&mut self) -> Result<bool> {
        let Self::Named(file, path) = self else { return Ok(false) };
        let file = file.as_file_mut();
        file.set_len(0).and_then(|()| file.rewind()).map_err(Error::io("truncate", path))?;
        Ok(true)
    }
}

/// A file that appears under its name when it is whole; or stdout.
#[derive(Debug)]
pub(super) enum NewFile {
    Named(NamedTempFile, PathBuf),
    Stdout(io::Stdout),
}

impl NewFile {
    /// Prepares to write `target`; `-` is stdout.
    ///
    /// # Errors
    /// [`Error::Setup`] if it cannot be written.
    pub(super) fn at(target: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if target == Path::new("-") {
            return Ok(Self::Stdout(io::stdout()));
        }
        let failed = |error: io::Error| {
            Error::Setup(format!(
                "{} cannot be written: {error}: name a file in a directory that you may write",
                shown(target)
            ))
        };
        if target.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        if target.metadata().is_ok_and(|there| !there.is_file()) {
            // A device or a pipe would be replaced by a file.
            return Err(Error::Setup(format!(
                "{} is there, and is no file: name a file, or write to stdout with `-o -`",
                shown(target)
            )));
        }
        let file = tempfile::Builder::new()
            .prefix(".plyfs-layer-")
            // As everybody's files, less the umask.
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(parent_of(target))
            .map_err(failed)?;
        Ok(Self::Named(file, target.to_owned()))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub(super) fn keep(self) -> Result<()> {
        match self {
            Self::Named(file, path) => {
                file.persist(&path).map(drop).map_err(|error| Error::io("write", &path)(error.error))
            }
            Self::Stdout(mut out) => out.flush().map_err(Error::io("write", Path::new("stdout"))),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Named(file, _) => file.write(bytes),
            Self::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Named(file, _) => file.flush(),
            Self::Stdout(out) => out.flush(),
        }
    }
}
