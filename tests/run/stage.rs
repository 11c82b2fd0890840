//! A home, and somebody who lives in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A user who is nobody's in particular.
const SOMEBODY: u32 = 54_321;

/// Who plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Whoever has started the tests.
    Me,
    /// An ordinary user, if that is root.
    Somebody,
}

/// Everybody who can play here.
pub(crate) fn everybody() -> Vec<Who> {
    if is_root() { vec![Who::Somebody, Who::Me] } else { vec![Who::Me] }
}

/// An ordinary user.
pub(crate) fn an_ordinary_user() -> Who {
    if is_root() { Who::Somebody } else { Who::Me }
}

/// Whether that is root of the system, and not of a user namespace.
pub(crate) fn is_root() -> bool {
    let has_all = std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"));
    rustix::process::geteuid().is_root() && has_all
}

/// Whether nobody who plays is held to permissions: the root of a user namespace.
pub(crate) fn is_root_of_a_namespace() -> bool {
    rustix::process::geteuid().is_root() && !is_root()
}

/// A test is left out. Never silently.
pub(crate) fn say_not_played(why: &str) {
    use std::io::Write;
    let this = std::thread::current();
    // The harness does not capture what is written to the descriptor itself.
    let line = format!("not played: {}: {why}\n", this.name().unwrap_or("a test"));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Puts the program under test where everybody may run it.
fn put_program(folder: &Path) {
    fs::create_dir(folder).expect("a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("chmod");
    let built = || env!("CARGO_BIN_EXE_plyfs").into();
    let built: PathBuf = std::env::var_os("PLYFS_UNDER_TEST").map_or_else(built, PathBuf::from);
    let program = folder.join("plyfs");
    // On another filesystem it has to be copied.
    if fs::hard_link(&built, &program).is_err() {
        fs::copy(&built, &program).expect("a copy of the program");
    }
}

/// A home.
pub(crate) struct Stage {
    dir: TempDir,
    who: Who,
}

impl Stage {
    pub(crate) fn new(who: Who) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        put_program(&dir.path().join("bin"));
        let home = dir.path().join("home");
        let state = home.join(".local/state");
        fs::create_dir_all(&state).expect("a home");
        if who == Who::Somebody {
            for dir in state.ancestors().take(3) {
                chown(dir, Some(SOMEBODY), Some(SOMEBODY)).expect("chown");
            }
        }
        Self { dir, who }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A shell in the home.
    pub(crate) fn shell(&self, script: &str) -> Command {
        self.shell_behind(&[], script)
    }

    /// The same behind other programs, which are started as root if root plays.
    pub(crate) fn shell_behind(&self, before: &[&str], script: &str) -> Command {
        let id = SOMEBODY.to_string();
        let mut words = before.to_vec();
        if self.who == Who::Somebody {
            words.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        // A run that does not end is a failure, and no reason to wait.
        // `live NAME` waits until a run has begun.
        let script = format!(
            "live() {{ until plyfs runs | grep -q \"^$1 *live:[1-9]\"; do sleep 0.02; done; }}\n{script}"
        );
        words.extend(["timeout", "60", "sh", "-euc", &script]);
        let folder = self.dir.path().join("bin");
        let folder = folder.display();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.home())
            .stdin(Stdio::null())
            .env("PATH", format!("{folder}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("HOME", self.home())
            .env("SHELL", "/bin/sh");
        for name in ["XDG_STATE_HOME", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "PLYFS_RUN"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn output(&self, script: &str) -> Output {
        self.shell(script).output().expect("sh")
    }

    /// Runs a script, which must succeed, and returns what it prints.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        succeeded(script, &self.output(script))
    }

    /// Runs a script, which must end with that code; returns what it says on both.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, script: &str) -> String {
        let output = self.output(script);
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(code), "{script}\n{said}");
        said
    }

    /// All that is in the home but for the runs, down to owners, modes, times and attributes.
    #[track_caller]
    pub(crate) fn all(&self) -> String {
        self.sh("find . -path ./.local -prune -o -printf '%p %y %#m %U:%G %s %T@ %n %l\\n' | sort
             find . -path ./.local -prune -o -type f -print0 | sort -z | xargs -0r sha256sum
             find . -path ./.local -prune -o -print0 | sort -z | xargs -0r getfattr -dhm - --absolute-names")
    }
}

#[track_caller]
pub(crate) fn succeeded(script: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "{script}\n{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Ends what a failed test has left in its runs.
impl Drop for Stage {
    fn drop(&mut self) {
        let output = self.output(
            "for live in .local/state/plyfs/run/*/live; do
                 [ -e $live ] || continue
                 if flock -n ${live%/live}/lock true; then continue; fi
                 user=$(cut -d' ' -f1 $live)
                 for process in /proc/[0-9]*; do
                     if [ \"$(readlink $process/ns/user 2>/dev/null)\" = \"$user\" ]; then kill -9 ${process#/proc/}; fi
                 done
             done
             chmod -R u+rwx . 2>/dev/null || true",
        );
        if !output.status.success() && !std::thread::panicking() {
            panic!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
