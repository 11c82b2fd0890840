//! Where are images kept, so that several processes can work on them at once, and a crash leaves them whole?
//!
//! In one directory that is an OCI image layout (`oci-layout`, `index.json`, `blobs/`) which other tools can read as
//! it is, and beside that holds every layer unpacked, in folders that read like those of docker's overlay2:
//!
//! ```text
//! layers/ID/diff      what the layer holds
//! layers/ID/link      a short name, SHORT
//! layers/ID/lower     l/SHORT of each layer below, topmost first; not in the lowest
//! layers/ID/work      not in the lowest
//! layers/l/SHORT      a symbolic link to ../ID/diff
//! mounts/ID.json      what was mounted to be written: layers/ID and layers/ID-init are its own
//! tmp/                what is not ready yet
//! ```
//!
//! Content is named by its digest, a layer by the digests of itself and all below (`chainID` of the OCI
//! image-spec). Everything is made under another name, brought to the disk, and then given its own in one step; an
//! image is in `index.json` once all that it needs is there. What a crash leaves is in nobody's way and removed by
//! `gc`.
//!
//! Locks (flock(2), gone with the process that holds them): `lock` is shared by all who add or use something, and
//! exclusive for `gc`; `index.lock` is held while `index.json` or `mounts/` is changed; `layers/ID/link` is shared by a
//! mount that shows the layer.

mod blobs;
mod gc;
mod index;
mod layers;
mod mounts;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::{Error, Result};
use super::owners::Owners;
use crate::cli::{OwnersArgs, OwnersIn};
use crate::shown::shown;
pub(super) use blobs::NewBlob;
pub(super) use gc::Removed;
pub(super) use index::{Image, Name, REF_NAME, diff_ids, digest_of, parse_manifest};
use layers::{Layer, chain_ids};
pub(super) use mounts::MountRecord;

const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// What is done while the store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Things are looked at, added or used.
    Adds,
    /// What nobody needs is removed.
    Removes,
}

/// A store of images, open.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    /// Whose the files of unpacked layers are.
    pub(super) owners: Owners,
    _lock: File,
}

impl Store {
    /// Opens the store that the user named, or his own; makes it if it is not there.
    ///
    /// # Errors
    /// [`Error::Setup`] for what is no store, or not this user's.
    pub(super) fn open(given: Option<&Path>, work: Work) -> Result<Self> {
        let root = match given {
            Some(given) => given.to_owned(),
            None => default_store()?,
        };
        let failed = Error::io("make", &root);
        let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            made => made.map(|()| true),
        };
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(&failed)?;
        }
        let is_new = make(&root).map_err(&failed)?;
        let root = root.canonicalize().map_err(&failed)?;
        check_owner(&root)?;
        let version = root.join("oci-layout");
        if !is_new && !version.exists() && !is_empty(&root)? {
            return Err(Error::Setup(format!(
                "{} is no store of images: name another with --store, or an empty directory",
                shown(&root)
            )));
        }
        for dir in ["blobs", "blobs/sha256", "layers", "layers/l", "mounts", "tmp"] {
            make(&root.join(dir)).map_err(&failed)?;
        }
        let lock = lock(
            &root.join("lock"),
            match work {
                Work::Adds => FlockOperation::LockShared,
                Work::Removes => FlockOperation::LockExclusive,
            },
        )?;
        let owners = owners_of(&root)?;
        let store = Self { root, owners, _lock: lock };
        if !version.exists() {
            store.publish(&version, VERSION.as_bytes())?;
        }
        Ok(store)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a small file in one step.
    fn publish(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        use std::io::Write;
        let failed = Error::io("write", path);
        let mut file = tempfile::NamedTempFile::new_in(self.path("tmp")).map_err(&failed)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(&failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        sync_dir(path.parent().unwrap_or(&self.root))
    }

    /// Nobody else changes `index.json` or `mounts/` for as long as the result lives.
    fn lock_index(&self) -> Result<File> {
        lock(&self.path("index.lock"), FlockOperation::LockExclusive)
    }
}

/// Waits until everything that was renamed into a directory is on disk.
fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))
}

fn lock(path: &Path, how: FlockOperation) -> Result<File> {
    let failed = Error::io("lock", path);
    let file =
        File::options().create(true).truncate(false).write(true).read(true).open(path).map_err(&failed)?;
    loop {
        match rustix::fs::flock(&file, how) {
            Err(Errno::INTR) => {}
            locked => return locked.map(|()| file).map_err(|errno| Error::io("lock", path)(errno)),
        }
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    Ok(entries.next().is_none())
}

/// Everything in a store may become a program that its user runs.
fn check_owner(root: &Path) -> Result<()> {
    let stat = fs::symlink_metadata(root).map_err(Error::io("read", root))?;
    let ours = rustix::process::geteuid().as_raw();
    if !stat.is_dir() || stat.uid() != ours || stat.mode() & 0o022 != 0 {
        return Err(Error::Setup(format!(
            "{} must be a directory that belongs to you and that nobody else may write: name another with --store",
            shown(root)
        )));
    }
    Ok(())
}

fn default_store() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map(|data| data.join("plyfs"))
        .ok_or_else(|| {
            Error::Setup(
                "neither XDG_DATA_HOME nor HOME is set: say with --store where images are kept".to_owned(),
            )
        })
}

/// A store keeps owners in one way: whoever made it has decided.
fn owners_of(root: &Path) -> Result<Owners> {
    let path = root.join("owners");
    let possible = Owners::new(&OwnersArgs::default())?;
    let word = |place| if place == OwnersIn::Disk { "disk\n" } else { "override\n" };
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::write(&path, word(possible.place)).map_err(Error::io("write", &path))?;
            Ok(possible)
        }
        Err(error) => Err(Error::io("read", &path)(error)),
        Ok(kept) if kept == word(OwnersIn::Disk) && possible.place != OwnersIn::Disk => {
            Err(Error::Setup(format!(
                "{} was made with root's rights, if only in a user namespace, and its files belong to many: use it with \
                 them (podman unshare, unshare --map-auto), or name another with --store",
                shown(root)
            )))
        }
        Ok(kept) if kept == word(OwnersIn::Override) => {
            Owners::new(&OwnersArgs { owners: Some(OwnersIn::Override), ..OwnersArgs::default() })
        }
        Ok(_) => Ok(possible),
    }
}
