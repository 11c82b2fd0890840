//! How does content come into the store under the name of its digest?

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::super::digest::{Digest, Hasher, Hashing};
use super::super::error::{Error, Result};
use super::super::place::Output;
use super::super::progress::Progress;
use super::{Store, lock, sync_dir};

/// No manifest, index or configuration is longer: 4 MiB, as registries have it.
pub(in super::super) const LONGEST_JSON: u64 = 4 << 20;

/// How often is looked whether somebody else has ended.
const INTERVAL: Duration = Duration::from_millis(50);

/// Content on its way into the store. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(in super::super) struct NewBlob(Hashing<NamedTempFile>);

impl NewBlob {
    /// What was written so far.
    pub(in super::super) fn hasher(&self) -> &Hasher {
        &self.0.hasher
    }
}

impl Output for NewBlob {
    fn begin_anew(&mut self) -> Result<bool> {
        let path = self.0.inner.path().to_owned();
        let file = self.0.inner.as_file_mut();
        file.set_len(0).and_then(|()| file.rewind()).map_err(Error::io("truncate", &path))?;
        self.0.hasher = Hasher::default();
        Ok(true)
    }
}

impl Write for NewBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Store {
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    /// Whether there is such content.
    pub(in super::super) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Begins new content.
    pub(in super::super) fn new_blob(&self) -> Result<NewBlob> {
        let dir = self.path("tmp");
        let file = NamedTempFile::new_in(&dir).map_err(Error::io("write", &dir))?;
        Ok(NewBlob(Hashing::new(file)))
    }

    /// Gives content its name. It is on disk then.
    pub(in super::super) fn keep_blob(&self, blob: NewBlob) -> Result<Digest> {
        let Hashing { inner: file, hasher } = blob.0;
        let digest = hasher.digest();
        let path = self.blob_path(&digest);
        let failed = Error::io("write", &path);
        if !path.is_file() {
            file.as_file().sync_all().map_err(&failed)?;
            file.persist(&path).map_err(|error| failed(error.error))?;
            sync_dir(&self.path("blobs/sha256"))?;
        }
        Ok(digest)
    }

    /// Takes over a small piece of content.
    pub(in super::super) fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let mut blob = self.new_blob()?;
        blob.write_all(bytes).map_err(Error::io("write", &self.path("tmp")))?;
        self.keep_blob(blob)
    }

    /// Takes over a stream whose digest is known.
    pub(in super::super) fn copy_blob(&self, digest: &Digest, mut from: impl Read) -> Result<()> {
        let mut blob = self.new_blob()?;
        io::copy(&mut from, &mut blob).map_err(Error::io("write", &self.path("tmp")))?;
        self.keep_if(blob, digest)
    }

    /// Gives content its name, if that is the one that it should have.
    pub(in super::super) fn keep_if(&self, blob: NewBlob, digest: &Digest) -> Result<()> {
        let found = blob.hasher().clone().digest();
        if found != *digest {
            return Err(Error::Digest {
                what: "what was read".to_owned(),
                found: found.to_string(),
                expected: digest.to_string(),
            });
        }
        self.keep_blob(blob).map(drop)
    }

    /// Opens content, and tells its length.
    pub(in super::super) fn open_blob(&self, digest: &Digest) -> Result<(File, u64)> {
        let path = self.blob_path(digest);
        let failed = Error::io("open", &path);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Setup(format!(
                    "the store has no archive of {digest}: the image was taken over from containers/storage, which \
                     keeps none; copy it with skopeo or `podman save`, and import that"
                )));
            }
            opened => opened.map_err(&failed)?,
        };
        let size = file.metadata().map_err(&failed)?.len();
        Ok((file, size))
    }

    /// Reads a manifest, an index or a configuration.
    pub(in super::super) fn read_json(&self, digest: &Digest) -> Result<Vec<u8>> {
        let (file, size) = self.open_blob(digest)?;
        if size > LONGEST_JSON {
            return Err(Error::Invalid(format!("{digest} is longer than 4 MiB, which no manifest is")));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST_JSON)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.blob_path(digest)))?;
        Ok(bytes)
    }

    /// A file for content that comes in parts, over several attempts, and its lock: nobody else adds to it meanwhile.
    pub(in super::super) fn partial_blob(
        &self,
        digest: &Digest,
        progress: &Progress,
    ) -> Result<(File, PartialBlob)> {
        let path = self.path("tmp").join(format!("pull-{}", digest.hex()));
        loop {
            match lock(&path, FlockOperation::NonBlockingLockExclusive) {
                // Somebody else pulls the same. He may take long.
                Err(error) if error.is(Errno::WOULDBLOCK) => {
                    progress.check()?;
                    std::thread::sleep(INTERVAL);
                }
                locked => return Ok((locked?, PartialBlob { path })),
            }
        }
    }

    /// Gives content that came in parts, and was verified, its name.
    pub(in super::super) fn keep_partial(
        &self,
        file: &File,
        partial: &PartialBlob,
        digest: &Digest,
    ) -> Result<()> {
        let path = self.blob_path(digest);
        let failed = Error::io("write", &path);
        file.sync_all().map_err(&failed)?;
        match fs::rename(&partial.path, &path) {
            // Somebody else was as fast.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_file() => {}
            renamed => renamed.map_err(&failed)?,
        }
        sync_dir(&self.path("blobs/sha256"))
    }
}

/// Where content that comes in parts is.
#[derive(Debug)]
pub(in super::super) struct PartialBlob {
    path: PathBuf,
}
