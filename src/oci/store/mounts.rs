//! What was mounted to be written, and where is what was changed?
//!
//! As docker has it for a container: `layers/ID-init` holds what its runtime mounts over, and `layers/ID` takes the
//! changes. `mounts/ID.json` says of which image they are.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::item::TreePath;
use super::super::place::{NewDir, open_layers};
use super::super::tree::{Shows, roots, shows};
use super::{Image, Store, lock};
use crate::branch::UpperDir;
use crate::shown::shown;

/// As many digits of an ID as nobody types by mistake.
const SHORTEST_ID: usize = 4;
/// As many digits as docker's IDs have.
const ID_BYTES: usize = 32;

/// What is put into an init layer, unless the image has it. Source: moby, `daemon/initlayer/setup_unix.go`; but not
/// `.dockerenv`, by which programs know docker.
const INIT: [(&str, Init); 9] = [
    ("dev/pts", Init::Dir),
    ("dev/shm", Init::Dir),
    ("proc", Init::Dir),
    ("sys", Init::Dir),
    ("dev/console", Init::File),
    ("etc/hostname", Init::File),
    ("etc/hosts", Init::File),
    ("etc/resolv.conf", Init::File),
    ("etc/mtab", Init::Link("/proc/mounts")),
];

#[derive(Clone, Copy)]
enum Init {
    Dir,
    File,
    Link(&'static str),
}

/// What `mounts/ID.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct MountRecord {
    /// The mount's name: 64 digits.
    #[serde(rename = "Id")]
    pub(in super::super) id: String,
    /// The manifest of the image that it is of.
    #[serde(rename = "Manifest")]
    pub(in super::super) manifest: String,
    /// The manifest's media type.
    #[serde(rename = "MediaType")]
    pub(in super::super) media_type: String,
    /// What the image was called then.
    #[serde(rename = "Image")]
    pub(in super::super) image: String,
    /// Where it was mounted last.
    #[serde(rename = "Mountpoint")]
    pub(in super::super) mountpoint: PathBuf,
    /// When it was made, as RFC 3339 has it.
    #[serde(rename = "Created")]
    pub(in super::super) created: String,
}

impl MountRecord {
    /// The name of the init layer.
    pub(in super::super) fn init(&self) -> String {
        format!("{}-init", self.id)
    }

    /// The first digits.
    pub(in super::super) fn short(&self) -> &str {
        &self.id[..12]
    }
}

impl Store {
    /// Every mount's record, the oldest first.
    pub(in super::super) fn mounts(&self) -> Result<Vec<MountRecord>> {
        let dir = self.path("mounts");
        let mut mounts: Vec<MountRecord> = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            let bytes = match fs::read(&path) {
                // Removed since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                read => read.map_err(Error::io("read", &path))?,
            };
            let record: MountRecord = serde_json::from_slice(&bytes)
                .map_err(|error| Error::Setup(format!("{} cannot be read: {error}", shown(&path))))?;
            let is_id = record.id.len() == 2 * ID_BYTES && record.id.bytes().all(|b| b.is_ascii_hexdigit());
            if !is_id || path.file_stem() != Some(record.id.as_ref()) {
                return Err(Error::Setup(format!("{} is no record of a mount: remove it", shown(&path))));
            }
            mounts.push(record);
        }
        mounts.sort_by(|one, other| (&one.created, &one.id).cmp(&(&other.created, &other.id)));
        Ok(mounts)
    }

    /// The mount that somebody means by its ID, or the beginning of one.
    pub(in super::super) fn find_mount(&self, text: &str) -> Result<Option<MountRecord>> {
        let mut meant = self.mounts()?;
        meant.retain(|mount| text.len() >= SHORTEST_ID && mount.id.starts_with(text));
        match meant.len() {
            0 | 1 => Ok(meant.pop()),
            _ => Err(Error::Usage(format!(
                "`{}` is the beginning of several IDs: write more of it",
                shown(text)
            ))),
        }
    }

    /// The mount whose changes go to this directory.
    pub(in super::super) fn mount_of_upper(&self, upper: &Path) -> Result<Option<MountRecord>> {
        Ok(self.mounts()?.into_iter().find(|mount| self.layer_dir(&mount.id).join("diff") == upper))
    }

    /// The mount that was mounted there last.
    pub(in super::super) fn mount_last_at(&self, mountpoint: &Path) -> Result<Option<MountRecord>> {
        Ok(self.mounts()?.into_iter().rev().find(|mount| mount.mountpoint == mountpoint))
    }

    /// Whether it is mounted.
    pub(in super::super) fn is_mounted(&self, mount: &MountRecord) -> Result<bool> {
        self.is_shown(&mount.init())
    }

    /// Makes the layers of a new mount.
    pub(in super::super) fn new_mount(
        &self,
        image: &Image,
        mountpoint: &Path,
        created: String,
    ) -> Result<MountRecord> {
        let mut random = [0; ID_BYTES];
        getrandom(&mut random)?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let record = MountRecord {
            id,
            manifest: image.manifest.to_string(),
            media_type: image.media_type.clone(),
            image: image.title(),
            mountpoint: mountpoint.to_owned(),
            created,
        };
        let chain = image.chain();
        let below: Vec<&str> = chain.iter().rev().map(Digest::hex).collect();
        let init = record.init();
        self.new_layer(&init, &below, |diff| self.fill_init(diff, &chain))?;
        let with_init: Vec<&str> = std::iter::once(&*init).chain(below).collect();
        self.new_layer(&record.id, &with_init, |diff| self.root_as_in(diff, &chain))?;
        self.save_mount(&record)?;
        Ok(record)
    }

    /// Writes a mount's record.
    pub(in super::super) fn save_mount(&self, record: &MountRecord) -> Result<()> {
        let _lock = self.lock_index()?;
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::Invalid(format!("a mount's record cannot be written: {error}")))?;
        self.publish(&self.path("mounts").join(format!("{}.json", record.id)), &bytes)
    }

    fn new_layer(&self, id: &str, below: &[&str], fill: impl FnOnce(&UpperDir) -> Result<()>) -> Result<()> {
        let dir = NewDir::at(&self.layer_dir(id))?;
        let staged = dir.open()?;
        staged.make_dir("diff".as_ref(), rustix::fs::Mode::RWXU)?;
        fill(&staged.open_upper_dir("diff".as_ref())?)?;
        self.write_layer_files(&dir.path(), id, below.iter().copied())?;
        dir.keep(true)?;
        self.link(id)
    }

    /// The root directory of the image shows as the upper's.
    fn root_as_in(&self, diff: &UpperDir, chain: &[Digest]) -> Result<()> {
        if let Some(top) = chain.last() {
            let top = open_layers(&[self.layer_dir(top.hex()).join("diff")])?;
            if let Some(top) = top.first() {
                let inode = top.inode();
                let not_ours = |key: &std::ffi::OsStr| !crate::layer::is_private_xattr(key);
                let ownership = crate::branch::Ownership::AsOriginal;
                diff.upper_inode().copy_metadata(&inode, &inode.stat()?, ownership, not_ours)?;
            }
        }
        Ok(())
    }

    fn fill_init(&self, diff: &UpperDir, chain: &[Digest]) -> Result<()> {
        let dirs: Vec<PathBuf> = chain.iter().rev().map(|id| self.layer_dir(id.hex()).join("diff")).collect();
        let image = roots(&open_layers(&dirs)?)?;
        let mode = |bits| rustix::fs::Mode::from_raw_mode(bits);
        for (path, what) in INIT {
            let path = TreePath::parse(path.as_bytes()).map_err(|bad| Error::Invalid(bad.to_string()))?;
            let mut parts = image.clone();
            let mut here = diff.clone();
            let names: Vec<_> = path.names().collect();
            for (at, name) in names.iter().enumerate() {
                let is_last = at + 1 == names.len();
                match shows(&parts, name)? {
                    // The image has it, or has something else in its place.
                    Shows::Leaf(_) => break,
                    Shows::Dir(_) if is_last => break,
                    Shows::Dir(next) => parts = next,
                    Shows::Nothing => parts = Vec::new(),
                }
                match what {
                    Init::File if is_last => {
                        here.create(name, mode(0o644))?.upper_inode().chmod(mode(0o644))?;
                    }
                    Init::Link(target) if is_last => here.make_symlink(name, target.as_ref())?,
                    _ => {
                        match here.make_dir(name, mode(0o755)) {
                            Err(e) if e.is(Errno::EXIST) => {}
                            made => made?,
                        }
                        here = here.open_upper_dir(name)?;
                        here.upper_inode().chmod(mode(0o755))?;
                    }
                }
            }
        }
        Ok(diff.upper_inode().chmod(mode(0o755))?)
    }

    /// The chain of layers of a mount, from the topmost down: the init layer and those of the image.
    pub(in super::super) fn lowers_of(&self, record: &MountRecord, image: &Image) -> Vec<PathBuf> {
        let chain = image.chain();
        let ids = chain.iter().rev().map(Digest::hex);
        std::iter::once(&*record.init()).chain(ids).map(|id| self.layer_dir(id).join("diff")).collect()
    }

    /// Removes what was changed in a mount.
    ///
    /// # Errors
    /// [`Error::InUse`] while it is mounted.
    pub(in super::super) fn remove_mount(&self, record: &MountRecord) -> Result<()> {
        self.refuse_if_mounted(record)?;
        let _lock = self.lock_index()?;
        let path = self.path("mounts").join(format!("{}.json", record.id));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path)(error));
            }
            _ => {}
        }
        drop(_lock);
        self.discard_layer(&record.id)?;
        self.discard_layer(&record.init())
    }

    fn refuse_if_mounted(&self, record: &MountRecord) -> Result<()> {
        let diff = self.layer_dir(&record.id).join("diff");
        // As a mount locks its upper.
        let locked = match open_layers(&[&diff]) {
            Ok(dirs) => {
                dirs.first().map(|dir| rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive))
            }
            Err(_) => return Ok(()),
        };
        let is_shown = self.is_shown(&record.init())?;
        if is_shown || locked == Some(Err(Errno::WOULDBLOCK)) {
            return Err(Error::InUse(format!(
                "{} is mounted at {}: unmount it first",
                record.short(),
                shown(&record.mountpoint)
            )));
        }
        Ok(())
    }

    /// Keeps a layer from being removed for as long as the result lives.
    pub(in super::super) fn hold_layer(&self, id: &str) -> Result<fs::File> {
        lock(&self.layer_dir(id).join("link"), FlockOperation::LockShared)
    }
}

fn getrandom(buffer: &mut [u8]) -> Result<()> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    fs::File::open(path).and_then(|mut source| source.read_exact(buffer)).map_err(Error::io("read", path))
}
