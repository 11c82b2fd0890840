//! A folder in which a script plays with plyfs as users do: in the background, by its own words.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::daemon::detach;
use super::{sh, temp_dir};

/// The folder. What a script leaves mounted in it is a failure, and is unmounted.
pub(crate) struct Playground {
    dir: TempDir,
}

impl Playground {
    pub(crate) fn new() -> Self {
        Self { dir: temp_dir() }
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Runs a script in the folder; see [`sh`].
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        sh(self.dir.path(), script)
    }

    fn mounts(&self) -> Vec<PathBuf> {
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|place| place.starts_with(self.dir.path()))
            .collect()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let left = self.mounts();
        for place in left.iter().rev() {
            detach(place);
        }
        assert!(left.is_empty() || std::thread::panicking(), "left mounted: {left:?}");
    }
}
