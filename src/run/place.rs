//! Where are the runs of a user, and is one of them live?
//!
//! In `$XDG_STATE_HOME/plyfs/run` (else `~/.local/state`), which nobody else can look into. A run NAME is a directory there:
//!
//! ```text
//! NAME/about      what it is
//! NAME/lock       held by its daemon
//! NAME/live       the namespaces that it has, while it is live
//! NAME/control    the daemon's socket
//! NAME/upper      what it has changed, unless the user keeps that elsewhere
//! NAME/work       the upper's workdir
//! NAME/inside     this directory of runs, for those inside the run
//! NAME/void       an empty directory, to show instead of what is hidden
//! NAME/mount      where it is mounted, in its own namespace
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::about::About;
use super::error::{Error, Result};
use super::namespace::Spaces;

const LONGEST_NAME: usize = 100;
const TRIES: usize = 10;
const INTERVAL: Duration = Duration::from_millis(2);

/// The directory of a user's runs.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) about: About,
}

/// Whether a run can have that name: it is one of a directory, and a word.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._+:@-".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(fits) && !name.starts_with(['.', '-'])
}

impl Place {
    /// The user's own, if there is a place for it.
    pub(super) fn find() -> Result<Self> {
        let given = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = given("XDG_STATE_HOME").or_else(|| Some(given("HOME")?.join(".local/state")));
        Ok(Self(state.ok_or(Error::Homeless)?.join("plyfs/run")))
    }

    /// The same, made if it is not there, and by its own path.
    pub(super) fn open() -> Result<Self> {
        let Self(path) = Self::find()?;
        let parent = path.parent().unwrap_or(&path);
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(Error::io("make", parent))?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(Error::io("make", &path))?,
        }
        let path = path.canonicalize().map_err(Error::io("find", &path))?;
        let stat = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        if stat.uid() != rustix::process::geteuid().as_raw() || stat.mode() & 0o077 != 0 {
            return Err(Error::NotOurs(path));
        }
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The run of that name.
    pub(super) fn run(&self, name: &str) -> Result<Option<Run>> {
        if !is_name(name) {
            return Ok(None);
        }
        let dir = self.0.join(name);
        let about = match fs::read(dir.join("about")) {
            Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => {
                return Ok(None);
            }
            read => read.map_err(Error::io("read", &dir.join("about")))?,
        };
        let about = About::parse(&about).ok_or_else(|| Error::Unreadable(dir.join("about")))?;
        Ok(Some(Run { name: name.to_owned(), dir, about }))
    }

    /// The same, which must be there.
    pub(super) fn known(&self, name: &str) -> Result<Run> {
        self.run(name)?.ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    /// All runs, oldest first, and what cannot be read of them.
    pub(super) fn runs(&self) -> Result<(Vec<Run>, Vec<Error>)> {
        let (mut runs, mut unreadable) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((runs, unreadable)),
            entries => entries.map_err(Error::io("list", &self.0))?,
        };
        for entry in entries {
            let name = entry.map_err(Error::io("list", &self.0))?.file_name();
            match name.to_str().map(|name| self.run(name)) {
                Some(Ok(Some(run))) => runs.push(run),
                Some(Err(e)) => unreadable.push(e),
                Some(Ok(None)) | None => {}
            }
        }
        let number = |run: &Run| run.name.parse::<u64>().unwrap_or(u64::MAX);
        runs.sort_by_key(|run| (run.about.created, number(run), run.name.clone()));
        Ok((runs, unreadable))
    }

    /// Makes a run, of that name or under the next number.
    pub(super) fn make(&self, name: Option<&str>, about: About) -> Result<Run> {
        let (name, dir) = match name {
            Some(name) => (name.to_owned(), self.take(name)?.ok_or_else(|| Error::Exists(name.to_owned()))?),
            None => self.take_number()?,
        };
        let mut about = about;
        for (path, own) in [(&mut about.upper, "upper"), (&mut about.work, "work")] {
            if path.as_os_str().is_empty() {
                *path = dir.join(own);
                make_dir(path)?;
            }
        }
        for own in ["inside", "mount", "void"] {
            make_dir(&dir.join(own))?;
        }
        write_new(&dir.join("lock"), b"")?;
        // It is a run from here on.
        let new = dir.join("about.new");
        write_new(&new, &about.text())?;
        fs::rename(&new, dir.join("about")).map_err(Error::io("rename", &new))?;
        Ok(Run { name, dir, about })
    }

    fn take(&self, name: &str) -> Result<Option<PathBuf>> {
        let dir = self.0.join(name);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if dir.join("about").exists() {
                    return Ok(None);
                }
                // Somebody was killed while it was made, or removed.
                Err(Error::Half(dir))
            }
            made => made.map(|()| Some(dir.clone())).map_err(Error::io("make", &dir)),
        }
    }

    fn take_number(&self) -> Result<(String, PathBuf)> {
        let mut number: u64 = 1;
        loop {
            let name = number.to_string();
            match self.take(&name) {
                Ok(Some(dir)) => return Ok((name, dir)),
                Ok(None) | Err(Error::Half(_)) => number += 1,
                Err(e) => return Err(e),
            }
        }
    }
}

impl Run {
    /// What of the run is at that name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether its daemon lives.
    pub(super) fn is_live(&self) -> Result<bool> {
        Ok(flock(&self.path("lock"))?.is_none())
    }

    /// The processes that are in it.
    pub(super) fn processes(&self) -> Vec<i32> {
        self.spaces().processes()
    }

    /// Its namespaces, which are its only while it is live.
    pub(super) fn spaces(&self) -> Spaces {
        let live = fs::read_to_string(self.path("live"));
        live.map(|live| Spaces::parse(&live)).unwrap_or_default()
    }

    /// Keeps it from being mounted, for as long as the file is open; None if it is.
    pub(super) fn lock(&self) -> Result<Option<File>> {
        // Who only looks has it for no time.
        for _ in 0..TRIES {
            if let Some(lock) = flock(&self.path("lock"))? {
                return Ok(Some(lock));
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(None)
    }

    /// Keeps it from being applied or dropped by others, for as long as the file is open; None if it is just now.
    pub(super) fn hold(&self) -> Result<Option<File>> {
        flock(&self.path("about"))
    }

    /// The directories whose changes it has: the upper, and the snapshots that it lies on, topmost first.
    pub(super) fn layers(&self) -> Result<Vec<PathBuf>> {
        let upper = std::iter::once(self.about.upper.clone());
        let below =
            crate::mount::snapshots_below(&self.about.upper).map_err(crate::mount::MountError::from)?;
        Ok(upper.chain(below.into_iter().map(|found| found.path)).collect())
    }

    /// Where it is mounted: what its upper lies over.
    pub(super) fn target(&self) -> &Path {
        self.about.lowers.first().map_or(Path::new("/"), PathBuf::as_path)
    }
}

fn flock(path: &Path) -> Result<Option<File>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(Error::io("lock", path)(errno.into())),
    }
}

fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(Error::io("make", path))
}

fn write_new(path: &Path, text: &[u8]) -> Result<()> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text)).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word() {
        for name in ["1", "agent-17", "a.b_c+d:e@f", &"x".repeat(100)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", ".x", "-x", "a b", "a/b", "é", "a\n", &"x".repeat(101)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
