//! Where do the tests play, and how are commands run?

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

pub(crate) const PLYFS: &str = env!("CARGO_BIN_EXE_plyfs");
/// Far longer than anything here takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where a test plays: a directory of its own with the lowers l1 and l2, the upper u, the
/// workdir w and the mountpoint m. Dropped, nothing is mounted beneath it any more.
pub(crate) struct Stage {
    pub(crate) dir: TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
        self
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mode = fs::metadata("/dev/fuse").expect("these tests need /dev/fuse").mode();
        assert_eq!(mode & 0o666, 0o666, "these tests need `chmod 0666 /dev/fuse`");
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::Builder::new().prefix("plyfs-cli-").tempdir().expect("a directory");
        // What a root mount should have; otherwise it warns.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
        for name in ["l1", "l2", "u", "w", "m"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        for name in ["l1/one", "l2/two", "u/three"] {
            fs::write(dir.path().join(name), name).expect("write");
        }
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("the stage").join(name)
    }

    /// A command that starts on the stage, with relative paths.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    /// plyfs with the words of `line`, in which `@` stands for the stage's own path.
    pub(crate) fn plyfs(&self, line: &str) -> Said {
        say(self.command(PLYFS).args(self.words(line)))
    }

    pub(crate) fn words(&self, line: &str) -> Vec<String> {
        let own = self.path("").to_str().expect("UTF-8").trim_end_matches('/').to_owned();
        line.split_whitespace().map(|word| word.replace('@', &own)).collect()
    }

    /// A shell script, `$PLYFS` is the program.
    pub(crate) fn shell(&self, script: &str) -> Said {
        say(self.command("sh").args(["-euc", script]).env("PLYFS", PLYFS))
    }

    /// The same in a mount namespace of its own.
    pub(crate) fn shell_in_namespace(&self, script: &str) -> Said {
        let mut command = self.command("unshare");
        say(command.args(["-m", "sh", "-euc", script]).env("PLYFS", PLYFS))
    }

    /// A daemon in the foreground, ready when this returns.
    pub(crate) fn foreground(&self, line: &str) -> Daemon {
        let child = self
            .command(PLYFS)
            .args(self.words(line))
            .args(["-f", "m"])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("plyfs starts");
        let daemon = Daemon { child: Some(child) };
        until("the mount appears", || self.mounts().len() == 1);
        assert!(self.names_in("m").is_some(), "the mount answers");
        daemon
    }

    /// What a directory lists. By a process of its own: a descriptor of ours would be in every
    /// child that another test just forks, and keep the mount busy.
    pub(crate) fn names_in(&self, name: &str) -> Option<Vec<String>> {
        let said = say(self.command("ls").arg("-A").arg(self.path(name)));
        let names = said.out.lines().map(str::to_owned).collect();
        (said.code == Some(0)).then_some(names)
    }

    /// The lines of the mount table beneath the stage.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let own = format!("{}/", self.path("").display().to_string().trim_end_matches('/'));
        let table = fs::read_to_string("/proc/self/mounts").expect("the mount table");
        let lines =
            table.lines().filter(|line| line.split(' ').nth(1).is_some_and(|at| at.starts_with(&own)));
        lines.map(str::to_owned).collect()
    }

    /// The daemon in the background, by this stage's name on its command line.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        self.daemons().into_iter().next()
    }

    pub(crate) fn daemons(&self) -> Vec<Pid> {
        let own = self.path("").display().to_string();
        let own = own.trim_end_matches('/').as_bytes();
        let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
        let pids = processes.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let words = fs::read(process.path().join("cmdline")).ok()?;
            words.windows(own.len()).any(|part| part == own).then_some(pid)
        });
        pids.filter_map(Pid::from_raw).collect()
    }

    /// Every file and directory with what a change would change, but for the mounts.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, (u32, u64, i64)> {
        fn walk(dir: &Path, all: &mut BTreeMap<PathBuf, (u32, u64, i64)>) {
            for entry in fs::read_dir(dir).expect("readable") {
                let path = entry.expect("an entry").path();
                let stat = fs::symlink_metadata(&path).expect("stat");
                all.insert(path.clone(), (stat.mode(), stat.size(), stat.ctime_nsec()));
                if stat.is_dir() {
                    walk(&path, all);
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(self.dir.path(), &mut all);
        all
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for line in self.mounts().iter().rev() {
            let at = line.split(' ').nth(1).unwrap_or_default().replace("\\040", " ");
            if let Err(errno) = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH) {
                eprintln!("{at} is left mounted: {errno}");
            }
        }
    }
}

/// A daemon in the foreground; dropped, it is killed and waited for.
pub(crate) struct Daemon {
    pub(crate) child: Option<Child>,
}

impl Daemon {
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running daemon");
        let pid = Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("a daemon");
        child.try_wait().expect("wait").is_none()
    }

    pub(crate) fn ends(mut self) -> ExitStatus {
        until("the daemon ends", || !self.is_running());
        let mut child = self.child.take().expect("a daemon");
        child.wait().expect("wait")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a command to its end, and until nobody holds its stdout and stderr any more.
pub(crate) fn say(command: &mut Command) -> Said {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = Pid::from_child(&child);
    let read = |mut pipe: Box<dyn Read + Send>| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).expect("a readable pipe");
            sender.send(String::from_utf8_lossy(&text).into_owned()).ok();
        });
        receiver
    };
    let out = read(Box::new(child.stdout.take().expect("stdout")));
    let err = read(Box::new(child.stderr.take().expect("stderr")));
    let finished = out.recv_timeout(DEADLINE).and_then(|out| Ok((out, err.recv_timeout(DEADLINE)?)));
    let Ok((out, err)) = finished else {
        rustix::process::kill_process_group(pid, Signal::KILL).ok();
        panic!("{command:?} does not end, or somebody keeps its output open");
    };
    Said { code: child.wait().expect("wait").code(), out, err }
}

/// The stage belongs to nobody, and so does a copy of the program: ours may lie in a directory
/// that is not everybody's.
pub(crate) fn as_nobody(script: &str) -> (Stage, Said) {
    let stage = Stage::new();
    // By a process of its own: our descriptor, inherited by a fork, would make the text busy.
    say(stage.command("cp").args([PLYFS, "plyfs"])).succeeds();
    for name in ["", "l1", "l2", "u", "w", "m", "u/three"] {
        std::os::unix::fs::chown(stage.path(name), Some(65534), Some(65534)).expect("chown");
    }
    let mut command = stage.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-euc", script]);
    let said = say(command.env("PLYFS", stage.path("plyfs")));
    (stage, said)
}
