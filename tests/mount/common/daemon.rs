//! One run of the binary under test, in the foreground, from mount to exit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::plyfs;

/// Long enough for a busy machine, short enough that a hang is a failure and not a night.
const PATIENCE: Duration = Duration::from_secs(20);
/// A request that never returns blocks its test for good: the daemon is killed after this.
const LONGEST_TEST: Duration = Duration::from_secs(180);

/// A running plyfs.
pub(crate) struct Daemon {
    child: Child,
    mount_point: PathBuf,
    log: PathBuf,
    /// Dropped when the daemon ends; until then a thread waits for it, or kills.
    _watched: mpsc::Sender<()>,
}

impl Daemon {
    /// Mounts and waits until it is there. `setup` is run by a shell before, in the same process.
    #[track_caller]
    pub(crate) fn start(setup: &str, options: &str, mount_point: &Path, log: &Path) -> Self {
        let child = Command::new("sh")
            // If the tests are killed, their daemons end too.
            .args(["-c", &format!("{setup}\nexec setpriv --pdeathsig TERM \"$0\" \"$@\"")])
            .arg(plyfs())
            .args(["-f", "-o", options])
            .arg(mount_point)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(log).unwrap())
            .spawn()
            .expect("sh starts");
        let mut daemon = Self {
            _watched: kill_after(LONGEST_TEST, &child),
            child,
            mount_point: mount_point.into(),
            log: log.into(),
        };
        let deadline = Instant::now() + PATIENCE;
        while mounted_type(mount_point).is_none() {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("plyfs -o {options}: {status}\n{}", daemon.log());
            }
            assert!(Instant::now() < deadline, "not mounted in time: {options}\n{}", daemon.log());
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(mounted_type(mount_point).as_deref(), Some("fuse.plyfs"));
        daemon
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said on stderr.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A signal, and a clean end: exit code 0, nothing mounted.
    #[track_caller]
    pub(crate) fn end_by(mut self, signal: Signal) {
        self.signal(signal);
        let status = self.wait();
        assert!(status.success(), "plyfs ended with {status}\n{}", self.log());
        assert_eq!(mounted_type(&self.mount_point), None, "still mounted after the end");
    }

    /// kill -9: the mount is dead, whatever was staged lies about.
    pub(crate) fn crash(mut self) {
        self.signal(Signal::KILL);
        self.wait();
        detach(&self.mount_point);
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).expect("the daemon is alive");
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "plyfs does not end\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    /// After a failure only: a daemon that was stopped is gone already.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("our own child");
            self.child.wait().expect("our own child");
            eprintln!("plyfs said:\n{}", self.log());
        }
        if mounted_type(&self.mount_point).is_some() {
            detach(&self.mount_point);
        }
    }
}

/// Takes a mount away whose daemon is dead: by ourselves, or as fusermount3 does for those who
/// may not.
pub(super) fn detach(mount_point: &Path) {
    if unmount(mount_point, UnmountFlags::DETACH).is_err() {
        let helper = Command::new("fusermount3").args(["-u", "-z"]).arg(mount_point).status();
        assert!(helper.is_ok_and(|status| status.success()), "{mount_point:?} stays mounted");
    }
}

fn kill_after(time: Duration, child: &Child) -> mpsc::Sender<()> {
    let pid = Pid::from_child(child);
    let (watched, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            super::say(&format!("a test hangs: killing plyfs, pid {}", pid.as_raw_nonzero()));
            kill_process(pid, Signal::KILL).expect("the daemon is alive");
        }
    });
    watched
}

/// The type of the topmost filesystem that is mounted on exactly this directory.
pub(crate) fn mounted_type(mount_point: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(mount_point.to_str().unwrap()))?;
    let (_, filesystem) = line.split_once(" - ")?;
    Some(filesystem.split(' ').next()?.to_owned())
}
