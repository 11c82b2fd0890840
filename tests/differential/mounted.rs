//! A mount of the real binary, for as long as it is in scope.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};

const PLYFS: &str = env!("CARGO_BIN_EXE_plyfs");

/// How often a mount that is in use is tried to be unmounted.
const TRIES: usize = 50;

/// A mounted union.
pub(crate) struct Mounted {
    at: Option<PathBuf>,
}

impl Mounted {
    /// Mounts, in the background: returns when the mount answers.
    pub(crate) fn new(options: &str, at: &Path) -> Self {
        run(Command::new(PLYFS).args(["-o", options]).arg(at));
        Self { at: Some(at.to_owned()) }
    }

    /// Unmounts: returns when the daemon has let go of the upper. Fails if anything stays open there.
    pub(crate) fn end(mut self) {
        if let Some(at) = &self.at {
            let mut umount = Command::new(PLYFS);
            umount.arg("umount").arg(at);
            // Whoever looks at all of the machine's mounts is in ours for a moment.
            let busy = |umount: &mut Command| !umount.output().expect("plyfs starts").status.success();
            if (0..TRIES).all(|_| busy(&mut umount)) {
                run(&mut umount);
            }
        }
        self.at = None;
    }
}

impl Drop for Mounted {
    /// After a failure only.
    fn drop(&mut self) {
        if let Some(at) = &self.at {
            unmount(at, UnmountFlags::DETACH).expect("our own mount");
        }
    }
}

/// Runs a command of plyfs on a mount.
pub(crate) fn command(words: &[&str], mnt: &Path, more: &[String]) -> Result<(), String> {
    let output = Command::new(PLYFS).args(words).arg(mnt).args(more).output().expect("plyfs starts");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{words:?} {more:?}: {said}")) }
}

fn run(command: &mut Command) {
    let output = command.output().expect("plyfs starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

/// `lowerdir=…`, and an upper if there is one.
pub(crate) fn options(lowers: &[PathBuf], writable: Option<(&Path, &Path)>) -> String {
    let lowers: Vec<_> = lowers.iter().map(|lower| lower.to_str().expect("our own path")).collect();
    let mut options = format!("allow_other,lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = writable {
        options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
    }
    options
}
