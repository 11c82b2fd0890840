//! Runs programs on a mount: shells, the tools people use, plyfs itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary under test: the one that was built with the tests, or another one.
pub(crate) fn plyfs() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_plyfs").into();
    std::env::var_os("PLYFS_UNDER_TEST").map_or_else(built, PathBuf::from)
}

/// Runs `script` by `sh -eu` in `dir` and returns its stdout. `plyfs` is on its PATH.
#[track_caller]
pub(crate) fn sh(dir: impl AsRef<Path>, script: &str) -> String {
    succeed(script, &mut shell(dir.as_ref(), &[], script))
}

/// The same as an ordinary user, without root's capabilities.
#[track_caller]
pub(crate) fn sh_as(uid: u32, dir: impl AsRef<Path>, script: &str) -> String {
    let id = uid.to_string();
    let drop = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
    succeed(script, &mut shell(dir.as_ref(), &drop, script))
}

/// The script must fail; returns what it wrote to stderr.
#[track_caller]
pub(crate) fn sh_refused(dir: impl AsRef<Path>, script: &str) -> String {
    let output = run(&mut shell(dir.as_ref(), &[], script));
    assert!(!output.status.success(), "should fail: {script}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs one program and returns its stdout.
#[track_caller]
pub(crate) fn program(dir: impl AsRef<Path>, words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(dir);
    succeed(&words.join(" "), &mut command)
}

fn shell(dir: &Path, prefix: &[&str], script: &str) -> Command {
    let mut words = prefix.to_vec();
    words.extend(["sh", "-euc", script]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(dir).env("PATH", path_with_plyfs());
    command
}

fn path_with_plyfs() -> String {
    let plyfs = plyfs();
    let folder = plyfs.parent().unwrap().display();
    // /usr/sbin: where an ordinary user's PATH lacks the tools of root.
    format!("{folder}:{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap())
}

#[track_caller]
fn succeed(what: &str, command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{what}\n{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e} (scripts/check installs what the tests need)"))
}
