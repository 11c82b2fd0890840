//! A mount of the real binary, for as long as it is in scope.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};

const PLYFS: &str = env!("CARGO_BIN_EXE_plyfs");

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

    /// Unmounts: returns when the daemon has let go of the upper. Fails if anything is open there.
    pub(crate) fn end(mut self) {
        if let Some(at) = self.at.take() {
            run(Command::new(PLYFS).arg("umount").arg(at));
        }
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
