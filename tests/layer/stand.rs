//! Where a test acts: a directory of its own, and the binary run in it with patience.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Long enough for a busy machine, short enough that a hang is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// An ordinary user.
pub(crate) const NOBODY: u32 = 65_534;

/// Who runs plyfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// Whoever runs the tests.
    Tester,
    /// An ordinary user; takes root to become.
    Nobody,
}

/// Whether the tests run with all of root's rights.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"))
}

/// Says something to whoever runs the tests, also when they pass.
pub(crate) fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr takes a line");
}

/// A test, or a part of one, is left out. Never silently.
pub(crate) fn say_not_played(why: &str) {
    let this = thread::current();
    say(&format!("not played: {}: {why}", this.name().unwrap_or("a test")));
}

/// A directory of a test's own, and what is run in it.
pub(crate) struct Stand {
    root: TempDir,
}

impl Stand {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// On another filesystem.
    pub(crate) fn below(dir: &Path) -> Self {
        let root = tempfile::Builder::new().prefix("plyfs-layer-").tempdir_in(dir).expect("a directory");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("our own");
        if is_root() {
            std::os::unix::fs::chown(root.path(), Some(NOBODY), Some(NOBODY)).expect("we are root");
        }
        Self { root }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("our own directory");
        path
    }

    /// A command that runs `plyfs layer` here; words are split at spaces.
    pub(crate) fn command(&self, by: As, words: &str) -> Command {
        let mut command = match by {
            As::Tester => Command::new(plyfs()),
            As::Nobody => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(plyfs());
                command
            }
        };
        command.arg("layer").args(words.split(' ').filter(|word| !word.is_empty()));
        command.current_dir(self.root.path()).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    /// Runs `plyfs layer WORDS`.
    #[track_caller]
    pub(crate) fn layer(&self, words: &str) -> Said {
        self.layer_as(As::Tester, words)
    }

    #[track_caller]
    pub(crate) fn layer_as(&self, by: As, words: &str) -> Said {
        run(self.command(by, words), PATIENCE)
    }

    /// Runs a script by `sh -eu`; it must succeed. `$PLYFS` is the binary.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let output: Output = Command::new("sh")
            .args(["-euc", script])
            .env("PLYFS", plyfs())
            .env_remove("SOURCE_DATE_EPOCH")
            .current_dir(self.root.path())
            .stdin(Stdio::null())
            .output()
            .expect("sh starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{}\n{error}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// So many directories in each other, and a file and a link in the last: deeper than any path can say.
    pub(crate) fn deep(&self, name: &str, depth: u32, each: &str) {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        mkdirat(CWD, self.path(name), Mode::RWXU).expect("our own");
        let mut dir = openat(CWD, self.path(name), flags, Mode::empty()).expect("our own");
        for _ in 0..depth {
            mkdirat(&dir, each, Mode::RWXU).expect("our own");
            dir = openat(&dir, each, flags, Mode::empty()).expect("our own");
        }
        openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("our own");
        symlinkat("target", &dir, "link").expect("our own");
    }

    /// The names here, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| {
            String::from_utf8_lossy(entry.expect("our own").file_name().as_bytes()).into_owned()
        };
        let mut names: Vec<_> = fs::read_dir(self.root.path()).expect("our own").map(name).collect();
        names.sort();
        names
    }
}

/// The binary under test: the one that was built with the tests, or another one.
pub(crate) fn plyfs() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_plyfs").into();
    std::env::var_os("PLYFS_UNDER_TEST").map_or_else(built, PathBuf::from)
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Said {
    /// None if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    /// It was killed, because it did not end.
    pub(crate) hung: bool,
    /// The most memory that it had, as last seen, in KiB.
    pub(crate) peak: u64,
}

impl Said {
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!((self.code, self.hung), (Some(0), false), "{self:#?}");
        self
    }

    /// It ends with this code, and says all of these.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, says: &[&str]) -> Self {
        assert_eq!((self.code, self.hung), (Some(code), false), "{self:#?}");
        for text in says {
            assert!(self.err.contains(text), "does not say `{text}`: {self:#?}");
        }
        self
    }

    /// The value of a line `KEY VALUE` on stdout.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> String {
        let of_line = |line: &str| Some(line.strip_prefix(key)?.trim().to_owned());
        self.out.lines().find_map(of_line).unwrap_or_else(|| panic!("no {key}: {self:#?}"))
    }
}

/// Runs a command to its end, or kills it.
#[track_caller]
pub(crate) fn run(mut command: Command, patience: Duration) -> Said {
    allow_many_files();
    let (out, err) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
    command.stdin(Stdio::null());
    command.stdout(out.try_clone().expect("a file")).stderr(err.try_clone().expect("a file"));
    let child = command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    finish(child, out, err, patience)
}

/// Waits for a child whose stdout and stderr go to these files.
pub(crate) fn finish(mut child: Child, out: File, err: File, patience: Duration) -> Said {
    let deadline = Instant::now() + patience;
    let (mut hung, mut peak, mut pause) = (false, 0, 1);
    let status = loop {
        peak = peak_memory(child.id()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if Instant::now() > deadline && !hung {
            hung = true;
            child.kill().expect("our own child");
        }
        thread::sleep(Duration::from_millis(pause));
        pause = (pause * 2).min(10);
    };
    let text = |mut file: File| {
        use std::io::{Read, Seek};
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("our own file");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Said { code: status.code(), signal: status.signal(), out: text(out), err: text(err), hung, peak }
}

fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Trees of a thousand directories are looked at with a descriptor for each.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).expect("as far as we may");
    });
}
