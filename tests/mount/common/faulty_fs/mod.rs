//! A filesystem that lacks what others have, and fails, stalls or changes its mind where it is told to: a small FUSE
//! filesystem that passes everything else on to a directory.
//!
//! It plays the uppers and lowers that a machine with ext4 and tmpfs does not have: vfat, NFS, other people's
//! FUSE filesystems. Like most of those it has no `O_TMPFILE`.
//!
//! `missing` says what it lacks for good, `fault` what goes wrong from a moment on, `backing` finds inodes in the
//! directory, and `serve` answers the kernel.

mod backing;
mod fault;
mod missing;
mod serve;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::{pattern, temp_dir};
use backing::Backing;
use fault::{Calls, Fault, Faults};
pub(crate) use missing::MissingFeature;

/// Whoever does not ask for what stalls is served all the same: a thread stalls for each reader, and for each of the
/// kernel's reads ahead, of which there are up to 12 at once.
const THREADS: usize = 48;

/// A mounted filesystem. Declare it before the union that uses it.
pub(crate) struct FaultyFs {
    faults: Arc<Faults>,
    numbers: Arc<backing::Numbers>,
    /// Unmounts when it is dropped, so it comes before the directories.
    _session: BackgroundSession,
    root: TempDir,
    backing: TempDir,
}

impl FaultyFs {
    /// How many files [`Self::with_files`] has in `d`.
    pub(crate) const FILES: usize = 60;

    /// An empty filesystem that lacks nothing that a FUSE filesystem has.
    pub(crate) fn new() -> Self {
        Self::without(&[])
    }

    /// An empty filesystem that lacks some of it.
    pub(crate) fn without(missing: &[MissingFeature]) -> Self {
        let (root, backing) = (temp_dir(), temp_dir());
        let faults = Arc::<Faults>::default();
        let numbers = Arc::<backing::Numbers>::default();
        let served = Backing::of(backing.path(), missing, faults.clone(), numbers.clone());
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(served, root.path(), &config).unwrap();
        Self { faults, numbers, _session: session, root, backing }
    }

    /// With a file `f`, and a directory `d` with more files like it, named by their numbers.
    pub(crate) fn with_files() -> Self {
        let faulty = Self::new();
        let dir = faulty.backing.path().join("d");
        fs::create_dir(&dir).unwrap();
        let files = (0..Self::FILES).map(|n| dir.join(n.to_string()));
        for file in files.chain([faulty.backing.path().join("f")]) {
            fs::write(file, Self::content()).unwrap();
        }
        faulty
    }

    /// A file on it, in directories that are made.
    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let place = self.backing.path().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// A new directory on it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        fs::create_dir(self.backing.path().join(name)).unwrap();
        self.path().join(name)
    }

    /// What every file of [`Self::with_files`] holds.
    pub(crate) fn content() -> Vec<u8> {
        pattern(11, 600_000)
    }

    /// From now on the second half of every listing and of every file is unreadable.
    pub(crate) fn fail_second_halves(&self) {
        self.faults.set(Fault::SecondHalf);
    }

    /// From now on nothing in the directory can be reached.
    pub(crate) fn fail_inside(&self, dir: &str, with: rustix::io::Errno) {
        self.faults.set(Fault::Inside(self.number(dir), with.raw_os_error()));
    }

    /// The change after so many others fails. Only this one: who undoes what came before it can.
    pub(crate) fn fail_change(&self, after: usize, with: rustix::io::Errno) {
        self.faults.set(Fault::Fails { calls: Calls::Changes, after, errno: with.raw_os_error() });
    }

    /// The same, but only removals of names count.
    pub(crate) fn fail_unlink(&self, after: usize, with: rustix::io::Errno) {
        self.faults.set(Fault::Fails { calls: Calls::Unlinks, after, errno: with.raw_os_error() });
    }

    /// From now on whoever reads in the second half of a file waits, and everybody who asks after that.
    pub(crate) fn stall(&self) {
        self.faults.set(Fault::Stalling { calls: Calls::SecondHalves, after: 0 });
    }

    /// From now on whoever reads one of these files waits, once so many of them were read.
    pub(crate) fn stall_reads_of(&self, files: &[impl AsRef<str>], after: usize) {
        let files = files.iter().map(|file| self.number(file.as_ref())).collect();
        self.faults.set(Fault::Stalling { calls: Calls::ReadsOf(files), after });
    }

    /// From now on whoever waits for data or names to be on disk waits for us, after so many who have not.
    pub(crate) fn stall_syncs(&self, after: usize) {
        self.faults.set(Fault::Stalling { calls: Calls::Syncs, after });
    }

    /// Returns when somebody waits.
    pub(crate) fn until_stalled(&self) {
        assert!(self.stalls_unless(|| false), "nobody asks");
    }

    /// Returns when somebody waits, or when that can happen no more; says whether somebody does.
    pub(crate) fn stalls_unless(&self, over: impl Fn() -> bool) -> bool {
        self.faults.until_stalled(over)
    }

    /// Whether whoever waited still waits.
    pub(crate) fn is_stalled(&self) -> bool {
        self.faults.is_stalled()
    }

    /// From now on nothing goes wrong, and who waited goes on.
    pub(crate) fn recover(&self) {
        self.faults.set(Fault::None);
    }

    /// From now on every inode that is looked up shows another number than before: the kernel had forgotten them.
    /// The old numbers still lead to them.
    pub(crate) fn renumber(&self) {
        self.numbers.forget_all();
    }

    fn number(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.backing.path().join(path)).unwrap().ino()
    }
}

impl Drop for FaultyFs {
    /// Nobody must wait for what is about to go. Whoever holds something of it for a moment longer (a child between fork
    /// and exec) must not keep it mounted, as he would if only the session unmounted it: that gives up on EBUSY.
    fn drop(&mut self) {
        self.recover();
        // An ordinary user's is left to the session, which has fusermount3 do it.
        unmount(self.root.path(), UnmountFlags::DETACH).unwrap_or_default();
    }
}
