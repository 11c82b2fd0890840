//! Where is it measured? In a folder of its own, with one lower and two unions over it; dropped, all of it is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use tempfile::TempDir;

use super::error::BenchError;
use super::interrupt::Interrupt;
use super::noise::Noise;
use crate::mount;
use crate::units::KIB;

/// A temporary folder on the filesystem to measure.
#[derive(Debug)]
pub(super) struct Place(TempDir);

/// Files to write to, and the unions through which to do it.
#[derive(Debug)]
pub(super) struct Playground {
    /// Unmounted before the folder is removed: fields are dropped in their order.
    pub(super) unions: [Union; 2],
    lower: PathBuf,
    _dir: TempDir,
}

/// A mounted union.
#[derive(Debug)]
pub(super) struct Union {
    mountpoint: PathBuf,
}

/// Which of the two unions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncing {
    /// A copy is on disk before it is shown.
    Synced,
    /// `-o volatile`.
    Volatile,
}

impl Syncing {
    pub(super) const BOTH: [Self; 2] = [Self::Synced, Self::Volatile];
}

fn step(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BenchError {
    let path = path.to_owned();
    move |error| BenchError::Step { what, path, error }
}

impl Place {
    /// In `dir`.
    pub(super) fn within(dir: &Path) -> Result<Self, BenchError> {
        let unwritable = |error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => BenchError::NoDir(dir.to_owned()),
            Some(Errno::NOTDIR) => BenchError::NotADir(dir.to_owned()),
            _ => BenchError::Unwritable { dir: dir.to_owned(), error },
        };
        // The folder's name would hide which part of the path is wrong.
        if !fs::metadata(dir).map_err(unwritable)?.is_dir() {
            return Err(BenchError::NotADir(dir.to_owned()));
        }
        let dir = dir.canonicalize().map_err(unwritable)?;
        tempfile::Builder::new().prefix("plyfs-bench-").tempdir_in(dir).map(Self).map_err(unwritable)
    }

    /// Whether two files can share blocks here: then a copy-up copies nothing.
    pub(super) fn reflink(&self) -> Result<bool, BenchError> {
        let (original, copy) = (self.0.path().join("original"), self.0.path().join("copy"));
        fs::write(&original, [b'x'; 4 * KIB as usize]).map_err(step("write", &original))?;
        let source = File::open(&original).map_err(step("open", &original))?;
        let target = File::create(&copy).map_err(step("create", &copy))?;
        Ok(rustix::fs::ioctl_ficlone(target, source).is_ok())
    }

    /// Bytes that this user may still write here.
    pub(super) fn room(&self) -> Result<u64, BenchError> {
        let stat = rustix::fs::statvfs(self.0.path())
            .map_err(|errno| step("look for room in", self.0.path())(errno.into()))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

impl Playground {
    /// `files` lower files of `size` bytes, called 0, 1 and so on, on disk, and both unions mounted over them.
    pub(super) fn new(
        place: &Place,
        files: usize,
        size: u64,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let dir = TempDir::new_in(&place.0).map_err(step("make a folder in", place.0.path()))?;
        let lower = dir.path().join("lower");
        fs::create_dir(&lower).map_err(step("make", &lower))?;
        for file in 0..files {
            write_noise(&lower.join(file.to_string()), size, interrupt)?;
        }
        let [synced, volatile] = Syncing::BOTH;
        let unions = [Union::mount(dir.path(), synced)?, Union::mount(dir.path(), volatile)?];
        Ok(Self { unions, lower, _dir: dir })
    }

    /// The file as one of the unions shows it.
    pub(super) fn file(&self, syncing: Syncing, file: usize) -> PathBuf {
        self.unions[usize::from(syncing == Syncing::Volatile)].mountpoint.join(file.to_string())
    }

    /// Everything that was written before is on disk from now on.
    pub(super) fn settle(&self) -> Result<(), BenchError> {
        let dir = File::open(&self.lower).map_err(step("open", &self.lower))?;
        rustix::fs::syncfs(dir).map_err(|errno| step("sync", &self.lower)(errno.into()))
    }

    /// Unmounts, waits for the daemons, and removes everything.
    pub(super) fn end(mut self) -> Result<(), BenchError> {
        self.unions.iter_mut().try_for_each(Union::unmount)?;
        let lower = self.lower.clone();
        let Self { unions, _dir: dir, .. } = self;
        drop(unions);
        dir.close().map_err(step("remove the folder of", &lower))
    }
}

impl Union {
    /// By the ordinary command line, so as whoever runs it may.
    fn mount(dir: &Path, syncing: Syncing) -> Result<Self, BenchError> {
        let (name, volatile) = match syncing {
            Syncing::Synced => ("synced", ""),
            Syncing::Volatile => ("volatile", ",volatile"),
        };
        let own = dir.join(name);
        let mountpoint = own.join("mnt");
        for path in [&own, &own.join("upper"), &own.join("work"), &mountpoint] {
            fs::create_dir(path).map_err(step("make", path))?;
        }
        // Relative, so that nothing in the path needs an escape.
        let child = Command::new("/proc/self/exe")
            .arg0("plyfs")
            .arg("-o")
            .arg(format!("lowerdir=../lower,upperdir=upper,workdir=work{volatile}"))
            .arg("mnt")
            .current_dir(&own)
            .stdin(Stdio::null())
            .output()
            .map_err(step("start plyfs in", &own))?;
        if child.status.success() {
            return Ok(Self { mountpoint });
        }
        let message = String::from_utf8_lossy(&child.stderr).trim().to_owned();
        let code = child.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Err(BenchError::NoMount { message, code })
    }

    fn unmount(&mut self) -> Result<(), BenchError> {
        let mountpoint = std::mem::take(&mut self.mountpoint);
        if mountpoint.as_os_str().is_empty() {
            return Ok(());
        }
        mount::umount(&mountpoint, false).or_else(|error| {
            // Somebody looks in, an indexer maybe: it goes with its last user.
            log::debug!("{error}");
            Ok(mount::umount(&mountpoint, true)?)
        })
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("plyfs: {error}");
        }
    }
}

fn write_noise(path: &Path, size: u64, interrupt: &Interrupt) -> Result<(), BenchError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).open(path).map_err(step("create", path))?;
    let (mut noise, mut left) = (Noise::default(), size);
    while left > 0 {
        interrupt.check()?;
        let block = noise.next(left);
        file.write_all(block).map_err(step("write", path))?;
        left -= block.len() as u64;
    }
    Ok(())
}
