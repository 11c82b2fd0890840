//! Can a file be written when all is measured? Known before, and until then whatever is there stays as it is.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::BenchError;
use crate::shown::shown;

/// A file that appears in one step, whole.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    file: NamedTempFile,
}

impl Output {
    pub(super) fn open(path: &Path) -> Result<Self, BenchError> {
        let failed = |error| BenchError::NoOutput { file: path.to_owned(), error };
        if path.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // As everybody's files, less the umask.
        let file = tempfile::Builder::new()
            .prefix(".plyfs-bench-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Puts the file in its place, and says so.
    pub(super) fn write(mut self, text: &str) -> Result<String, BenchError> {
        let failed = |error| BenchError::NoOutput { file: self.path.clone(), error };
        self.file.write_all(text.as_bytes()).map_err(failed)?;
        self.file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(format!("written: {}", shown(&self.path)))
    }
}
