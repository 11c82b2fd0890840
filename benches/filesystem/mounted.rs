//! How does a candidate get onto the tree, and off it again, with nothing left?

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::sleep;
use std::time::{Duration, Instant};

use plyfs::units;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::Result;
use crate::candidate::{Candidate, Layers, MOUNTPOINT, Syncing, UPPER, WORK};
use crate::corpus::walk;

/// Far longer than any mount takes to appear, or any daemon to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// After which a mount that is still at work is given up.
const LIFETIME: Duration = Duration::from_secs(300);
/// Worth its room on the disk.
const BIG_FILE: u64 = units::MIB;
/// Between two looks.
const MOMENT: Duration = Duration::from_millis(2);

/// A live mount with a fresh upper in a folder of its own. Dropped, it is unmounted, and its big files are emptied.
///
/// The folder stays until everything has been measured: for a minute and more ext4 passes over the inode numbers
/// that were just given up, one by one, and who makes files next would pay for it.
#[derive(Debug)]
pub(crate) struct Mounted {
    candidate: Candidate,
    layers: Layers,
    daemon: Option<Child>,
    /// Kills the daemon when its time is over, unless this is dropped before.
    alarm: Option<Sender<()>>,
    is_mounted: bool,
    dir: PathBuf,
}

impl Mounted {
    /// Mounts `candidate` over `lowers`, topmost first, in a new folder `within`.
    pub(crate) fn new(
        candidate: &Candidate,
        lowers: &[PathBuf],
        syncing: Syncing,
        within: &Path,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("m").tempdir_in(within)?.keep();
        for name in [UPPER, WORK, MOUNTPOINT] {
            fs::create_dir(dir.join(name))?;
        }
        for (at, lower) in lowers.iter().enumerate() {
            symlink(lower, dir.join(at.to_string()))?;
        }
        let lowers = (0..lowers.len()).map(|at| at.to_string()).collect();
        let layers = Layers { lowers, syncing };
        let mut mounted =
            Self { candidate: candidate.clone(), layers, daemon: None, alarm: None, is_mounted: false, dir };
        mounted.start()?;
        Ok(mounted)
    }

    /// Unmounts, and mounts again over the same upper.
    pub(crate) fn again(&mut self) -> Result<()> {
        self.end();
        self.start()
    }

    fn start(&mut self) -> Result<()> {
        let complaints = self.dir.join("complaints");
        let mut command = self.candidate.mount_command(&self.layers);
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command
            .stderr(File::create(&complaints)?)
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let failed = |what: &str| {
            let said = fs::read_to_string(&complaints).unwrap_or_default();
            format!("{what}: {}", said.trim().lines().last().unwrap_or("it said nothing"))
        };
        if !self.candidate.has_daemon() {
            self.is_mounted = child.wait()?.success();
            return if self.is_mounted { Ok(()) } else { Err(failed("mount failed").into()) };
        }
        // From here on it must be ended, whatever happens.
        let daemon = self.daemon.insert(child);
        self.alarm = Some(alarm(Pid::from_child(daemon)));
        self.is_mounted = true;
        let deadline = Instant::now() + PATIENCE;
        let (outside, root) = (fs::metadata(&self.dir)?.dev(), self.dir.join(MOUNTPOINT));
        while fs::metadata(&root).is_ok_and(|root| root.dev() == outside) {
            if !matches!(daemon.try_wait(), Ok(None)) {
                self.is_mounted = false;
                return Err(failed("it ended before it was mounted").into());
            }
            if Instant::now() > deadline {
                return Err(failed("no mount appeared").into());
            }
            sleep(MOMENT);
        }
        Ok(())
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(MOUNTPOINT)
    }

    /// The process that serves it.
    pub(crate) fn daemon(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Takes the mount away and waits for its daemon. What cannot be ended in peace is ended otherwise.
    fn end(&mut self) {
        self.alarm = None;
        let deadline = Instant::now() + PATIENCE;
        while self.is_mounted {
            let flags = if Instant::now() > deadline { UnmountFlags::DETACH } else { UnmountFlags::empty() };
            match rustix::mount::unmount(self.path(), flags) {
                Err(Errno::BUSY) if flags.is_empty() => sleep(MOMENT),
                Ok(()) | Err(Errno::INVAL) => self.is_mounted = false,
                Err(errno) => {
                    eprintln!("bench: {} stays mounted: {errno}", self.path().display());
                    self.is_mounted = false;
                }
            }
        }
        let Some(mut daemon) = self.daemon.take() else { return };
        while matches!(daemon.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!("bench: a daemon did not end with its mount, and is killed");
                if let Err(error) = daemon.kill().and_then(|()| daemon.wait()) {
                    eprintln!("bench: it cannot be killed: {error}");
                }
                return;
            }
            sleep(MOMENT);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.end();
        let empty_big_files = walk(&self.dir.join(UPPER), &mut |path, kind| {
            if kind.is_file() && fs::metadata(path)?.len() >= BIG_FILE {
                File::create(path)?;
            }
            Ok(())
        });
        if let Err(error) = empty_big_files {
            eprintln!("bench: an upper keeps its data: {error}");
        }
    }
}

/// A system call on a mount whose daemon hangs never returns: only the daemon's death ends it.
fn alarm(daemon: Pid) -> Sender<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        if receiver.recv_timeout(LIFETIME) == Err(RecvTimeoutError::Timeout)
            && let Err(errno) = rustix::process::kill_process(daemon, Signal::KILL)
        {
            eprintln!("bench: a daemon that hangs cannot be killed: {errno}");
        }
    });
    sender
}
