//! A union for one test: its branches, its mount, its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use super::branch::Branch;
use super::daemon::Daemon;
use super::ending;
use super::snapshot::Snapshot;

/// Plyfs' own directory in a workdir.
pub(super) const KEPT: &str = "plyfs";

/// A folder that is open to every user and goes when it is dropped.
pub(crate) fn temp_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("plyfs-test-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A mounted union. When it goes out of scope it is unmounted, and `ending` looks at what it left.
pub(crate) struct Union {
    pub(super) lowers: Vec<PathBuf>,
    /// The upper and the workdir.
    pub(super) writable: Option<(PathBuf, PathBuf)>,
    pub(super) mount_point: PathBuf,
    /// The lowers as they were before the first mount.
    pub(super) lowers_before: Vec<Snapshot>,
    /// The upper as it was before the first mount.
    pub(super) upper_before: Option<Snapshot>,
    /// The workdir as it was before the first mount.
    pub(super) work_before: Option<Snapshot>,
    /// Whether inodes of the lowers show other numbers after a while, as they do on some filesystems.
    pub(super) numbers_change: bool,
    setup: String,
    options: String,
    log: PathBuf,
    /// None between an unmount and the next mount.
    daemon: Option<Daemon>,
    _dir: TempDir,
}

/// What a union shall be made of.
pub(crate) struct Builder {
    dir: TempDir,
    lowers: Vec<PathBuf>,
    writable: Option<(PathBuf, PathBuf)>,
    setup: String,
    options: Vec<String>,
    numbers_change: bool,
}

impl Builder {
    /// One more lower, beneath those that are there.
    pub(crate) fn lower(mut self, fill: impl FnOnce(Branch) -> Branch) -> Self {
        let lower = self.dir.path().join(format!("lower{}", self.lowers.len()));
        fs::create_dir(&lower).unwrap();
        fill(Branch::at(&lower));
        self.lowers.push(lower);
        self
    }

    /// One more lower, at a place of the test's own.
    pub(crate) fn lower_at(mut self, lower: PathBuf) -> Self {
        self.lowers.push(lower);
        self
    }

    /// Fills the upper.
    pub(crate) fn upper(self, fill: impl FnOnce(Branch) -> Branch) -> Self {
        let (upper, _) = self.writable.as_ref().expect("an upper");
        fill(Branch::at(upper));
        self
    }

    /// Fills the workdir with what is not the union's.
    pub(crate) fn work(self, fill: impl FnOnce(Branch) -> Branch) -> Self {
        let (_, work) = self.writable.as_ref().expect("a workdir");
        fill(Branch::at(work));
        self
    }

    /// The lowers' inodes show other numbers after a while, as they do on some filesystems.
    pub(crate) fn numbers_change(mut self) -> Self {
        self.numbers_change = true;
        self
    }

    /// Upper and workdir in this directory, instead of the test's own.
    pub(crate) fn writable_in(mut self, dir: &Path) -> Self {
        self.writable = Some(make_writable(dir));
        self
    }

    /// No upper.
    pub(crate) fn read_only(mut self) -> Self {
        self.writable = None;
        self
    }

    /// A mount option.
    pub(crate) fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// A shell command to be run in the daemon's process before it starts: umask, ulimit.
    pub(crate) fn setup(mut self, command: &str) -> Self {
        command.clone_into(&mut self.setup);
        self
    }

    /// Mounts it.
    #[track_caller]
    pub(crate) fn mount(self) -> Union {
        let mount_point = self.dir.path().join("mnt");
        fs::create_dir(&mount_point).unwrap();
        let lowers: Vec<_> = self.lowers.iter().map(|lower| lower.to_str().unwrap()).collect();
        let mut options = vec![format!("lowerdir={}", lowers.join(":"))];
        if let Some((upper, work)) = &self.writable {
            options.push(format!("upperdir={},workdir={}", upper.display(), work.display()));
        }
        options.extend(self.options);
        let mut union = Union {
            lowers_before: self.lowers.iter().map(|lower| Snapshot::of(lower)).collect(),
            upper_before: self.writable.as_ref().map(|(upper, _)| Snapshot::of(upper)),
            work_before: self.writable.as_ref().map(|(_, work)| Snapshot::of(work)),
            numbers_change: self.numbers_change,
            lowers: self.lowers,
            writable: self.writable,
            mount_point,
            setup: self.setup,
            options: options.join(","),
            log: self.dir.path().join("log"),
            daemon: None,
            _dir: self.dir,
        };
        union.mount();
        union
    }
}

impl Union {
    /// An empty upper, no lower yet.
    pub(crate) fn builder() -> Builder {
        let dir = temp_dir();
        let writable = Some(make_writable(dir.path()));
        Builder {
            dir,
            lowers: Vec::new(),
            writable,
            setup: String::new(),
            options: Vec::new(),
            numbers_change: false,
        }
    }

    /// A union of an empty upper over one lower.
    #[track_caller]
    pub(crate) fn over(fill: impl FnOnce(Branch) -> Branch) -> Self {
        Self::builder().lower(fill).mount()
    }

    /// The path through the mount.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mount_point.join(path)
    }

    /// The mount point.
    pub(crate) fn root(&self) -> &Path {
        &self.mount_point
    }

    /// The path in the upper, on disk.
    pub(crate) fn upper(&self, path: impl AsRef<Path>) -> PathBuf {
        self.writable.as_ref().expect("an upper").0.join(path)
    }

    /// A lower's root on disk, the topmost being 0. Reading in it sets access times, which is noticed.
    pub(crate) fn lower_path(&self, lower: usize) -> PathBuf {
        self.lowers[lower].clone()
    }

    /// The path in the workdir.
    pub(crate) fn work(&self, path: impl AsRef<Path>) -> PathBuf {
        self.writable.as_ref().expect("a workdir").1.join(path)
    }

    /// The path in the directory that is plyfs' own, in the workdir.
    pub(crate) fn kept(&self, path: impl AsRef<Path>) -> PathBuf {
        self.work(KEPT).join(path)
    }

    /// A new mount of branches that the test has changed behind the union's back: they are to stay as they are now.
    #[track_caller]
    pub(crate) fn remount_as_changed(&mut self) {
        self.unmount();
        self.mount_as_changed();
    }

    /// The same of a union that is not mounted.
    #[track_caller]
    pub(crate) fn mount_as_changed(&mut self) {
        self.lowers_before = self.lowers.iter().map(|lower| Snapshot::of(lower)).collect();
        self.upper_before = self.writable.as_ref().map(|(upper, _)| Snapshot::of(upper));
        self.work_before = self.writable.as_ref().map(|(_, work)| Snapshot::of(work));
        self.mount();
    }

    /// Everything in the upper, markers too, as `find` would list it, sorted.
    #[track_caller]
    pub(crate) fn in_upper(&self) -> Vec<String> {
        let upper = Snapshot::of(&self.upper(""));
        upper.paths().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    /// The process id of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon().pid()
    }

    /// Unmounts and mounts again.
    #[track_caller]
    pub(crate) fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// kill -9, and a new mount.
    #[track_caller]
    pub(crate) fn crash_and_remount(&mut self) {
        self.daemon.take().expect("mounted").crash();
        self.mount();
    }

    /// kill -9, and nothing more: for whoever has to end what the daemon waits for.
    pub(crate) fn kill(&self) {
        self.daemon().signal(Signal::KILL);
    }

    /// Ends the daemon by a signal, and cleanly; the test must mount again.
    #[track_caller]
    pub(crate) fn end_by(&mut self, signal: Signal) {
        self.daemon.take().expect("mounted").end_by(signal);
    }

    /// Ends the daemon cleanly; the test must mount again.
    #[track_caller]
    pub(crate) fn unmount(&mut self) {
        self.end_by(Signal::TERM);
    }

    /// Mounts what was unmounted with one more option.
    #[track_caller]
    pub(crate) fn mount_with(&mut self, option: &str) {
        let options = format!("{},{option}", self.options);
        self.daemon = Some(Daemon::start(&self.setup, &options, &self.mount_point, &self.log));
    }

    /// Empties upper and workdir, as they were at first.
    #[track_caller]
    pub(crate) fn start_over(&mut self) {
        self.unmount();
        for dir in self.writable.iter().flat_map(|(upper, work)| [upper, work]) {
            fs::remove_dir_all(dir).unwrap();
            fs::create_dir(dir).unwrap();
        }
        self.mount();
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("mounted")
    }

    #[track_caller]
    pub(crate) fn mount(&mut self) {
        let daemon = Daemon::start(&self.setup, &self.options, &self.mount_point, &self.log);
        self.daemon = Some(daemon);
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        // After a failure the daemon's own Drop cleans up; more failures would only hide it.
        if !std::thread::panicking() {
            ending::check(self);
        }
    }
}

fn make_writable(dir: &Path) -> (PathBuf, PathBuf) {
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    (upper, work)
}
