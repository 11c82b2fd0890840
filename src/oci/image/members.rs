//! What is in an archive or a directory that holds images, whoever made it?
//!
//! An archive is read once, from the beginning to the end, as a pipe is: what is small and looks like JSON is kept in
//! memory, what is a layer goes into the store's `tmp`, compressed on the way if it is not yet.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};

use super::super::archive::{Encoder, Ending, Written, read};
use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::item::{Content, Item, Node, Piece, Sink, TreePath};
use super::super::progress::Progress;
use super::super::store::{NewBlob, Store};
use crate::branch::{Dir, ReadFile};
use crate::cli::Compression;
use crate::shown::shown;

/// What is longer is no manifest.
const LONGEST_JSON: u64 = 4 << 20;
/// What all of them together may take of memory.
const MOST_JSON: u64 = 64 << 20;
/// So many symbolic links may lead to a member.
const MOST_LINKS: usize = 8;
/// What a part of an archive is taken for that is in this folder: content named by its digest.
const BLOBS: &[u8] = b"blobs/";

/// Files by their names, to be had once each.
pub(super) trait Members {
    /// A small file; None if there is none of that name.
    fn json(&mut self, path: &str) -> Result<Option<Vec<u8>>>;

    /// Takes content of that name and digest over into the store.
    fn blob(&mut self, store: &Store, path: &str, digest: &Digest) -> Result<()>;

    /// Takes a layer over into the store; answers its blob, and its diffID if it was compressed here.
    fn layer(&mut self, store: &Store, path: &str) -> Result<(Digest, Option<Digest>)>;
}

fn missing(path: &str) -> Error {
    Error::Invalid(format!("the image names `{}`, and there is no such file in it", shown(path)))
}

fn parse(path: &str) -> Result<TreePath> {
    TreePath::parse(path.as_bytes())
        .map_err(|bad| Error::Invalid(format!("the image names a file `{}`, which {bad}", shown(path))))
}

/// Compresses a layer into the store's `tmp`.
fn compress(store: &Store, pour: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<(NewBlob, Written)> {
    let failed = |error: io::Error| Error::Io { what: "write", path: "a layer".into(), error };
    let mut encoder = Encoder::new(Compression::Gzip, store.new_blob()?).map_err(failed)?;
    pour(&mut encoder)?;
    let (written, blob) = encoder.finish().map_err(failed)?;
    Ok((blob, written))
}

fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

/// A file of an archive.
enum Member {
    Json(Vec<u8>),
    Blob(NewBlob),
    Layer(NewBlob, Written),
    Link(TreePath),
    /// It is in the store by now: an image may name a layer twice, an empty one mostly.
    Kept(Digest, Option<Digest>),
}

/// The files of an archive.
pub(super) struct Archive(HashMap<TreePath, Member>);

impl Archive {
    /// Reads all of it.
    pub(super) fn read(store: &Store, source: impl Read, progress: &Progress) -> Result<Self> {
        let mut filling = Filling { store, progress, members: HashMap::new(), in_memory: 0 };
        read(source, Ending::Verified, &mut filling)?;
        Ok(Self(filling.members))
    }

    fn find(&self, path: &str) -> Result<Option<TreePath>> {
        let mut path = parse(path)?;
        for _ in 0..MOST_LINKS {
            match self.0.get(&path) {
                Some(Member::Link(target)) => path = target.clone(),
                Some(_) => return Ok(Some(path)),
                None => return Ok(None),
            }
        }
        Err(Error::Invalid(format!("`{}` is a circle of links", shown(&path))))
    }
}

struct Filling<'a> {
    store: &'a Store,
    progress: &'a Progress,
    members: HashMap<TreePath, Member>,
    in_memory: u64,
}

impl Sink for Filling<'_> {
    fn put(&mut self, item: &Item, content: &mut dyn Content) -> Result<()> {
        self.progress.check()?;
        let member = match &item.node {
            Node::File { size } => self.file(item, *size, content)?,
            // As older archives name a layer that they hold already.
            Node::Symlink(target) => {
                let dir = item.path.split().map(|(dir, _)| dir).unwrap_or_default();
                let Some(target) = resolve(&dir, target) else { return Ok(()) };
                Member::Link(target)
            }
            Node::HardLink(target) => Member::Link(target.clone()),
            _ => return Ok(()),
        };
        self.members.insert(item.path.clone(), member);
        Ok(())
    }
}

/// Where a relative link leads, within the archive.
fn resolve(dir: &TreePath, target: &OsStr) -> Option<TreePath> {
    let mut path = dir.clone();
    for name in target.as_encoded_bytes().split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => path = path.split()?.0,
            name => path = path.join(&super::super::item::os_string(name)),
        }
    }
    Some(path)
}

impl Filling<'_> {
    fn file(&mut self, item: &Item, size: u64, content: &mut dyn Content) -> Result<Member> {
        let is_blob = item.path.as_bytes().starts_with(BLOBS);
        let failed =
            |error: io::Error| Error::Io { what: "write", path: "a part of the archive".into(), error };
        let progress = self.progress;
        if size <= LONGEST_JSON && self.in_memory + size <= MOST_JSON {
            let mut bytes = Vec::new();
            pour(content, &mut bytes, progress)?;
            if is_blob || matches!(bytes.first(), Some(b'{' | b'[')) {
                self.in_memory += size;
                return Ok(Member::Json(bytes));
            }
            if is_compressed(&bytes) {
                let mut blob = self.store.new_blob()?;
                blob.write_all(&bytes).map_err(failed)?;
                return Ok(Member::Blob(blob));
            }
            let (blob, written) = compress(self.store, |out| out.write_all(&bytes).map_err(failed))?;
            return Ok(Member::Layer(blob, written));
        }
        if is_blob {
            let mut blob = self.store.new_blob()?;
            pour(content, &mut blob, progress)?;
            return Ok(Member::Blob(blob));
        }
        let mut classified = Classified { store: self.store, state: None };
        pour(content, &mut classified, progress)?;
        classified.finish()
    }
}

fn pour(content: &mut dyn Content, out: &mut dyn Write, progress: &Progress) -> Result<()> {
    let failed = |error: io::Error| Error::Io { what: "write", path: "a part of the archive".into(), error };
    content.pour(&mut |piece| match piece {
        Piece::Data(bytes) => {
            out.write_all(bytes).map_err(failed)?;
            progress.advance(bytes.len() as u64)
        }
        Piece::Zeros(length) => {
            io::copy(&mut io::repeat(0).take(length), out).map_err(failed)?;
            progress.advance(length)
        }
    })
}

/// Compresses what is not compressed, by its first bytes.
struct Classified<'a> {
    store: &'a Store,
    state: Option<Classifier>,
}

enum Classifier {
    AsIs(NewBlob),
    Compressing(Box<Encoder<NewBlob>>),
}

impl Classified<'_> {
    fn finish(self) -> Result<Member> {
        match self.state {
            Some(Classifier::Compressing(encoder)) => {
                let failed = |error| Error::Io { what: "write", path: "a layer".into(), error };
                let (written, blob) = encoder.finish().map_err(failed)?;
                Ok(Member::Layer(blob, written))
            }
            Some(Classifier::AsIs(blob)) => Ok(Member::Blob(blob)),
            None => Ok(Member::Blob(self.store.new_blob()?)),
        }
    }
}

impl Write for Classified<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.state.is_none() {
            let blob = self.store.new_blob().map_err(io::Error::other)?;
            self.state = Some(if is_compressed(bytes) {
                Classifier::AsIs(blob)
            } else {
                Classifier::Compressing(Box::new(Encoder::new(Compression::Gzip, blob)?))
            });
        }
        match &mut self.state {
            Some(Classifier::AsIs(blob)) => blob.write(bytes),
            Some(Classifier::Compressing(encoder)) => encoder.write(bytes),
            None => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Members for Archive {
    fn json(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.find(path)? else { return Ok(None) };
        match self.0.get(&path) {
            Some(Member::Json(bytes)) => Ok(Some(bytes.clone())),
            _ => Err(Error::Invalid(format!("`{}` is no JSON, or longer than 4 MiB", shown(&path)))),
        }
    }

    fn blob(&mut self, store: &Store, path: &str, digest: &Digest) -> Result<()> {
        let found = self.find(path)?.ok_or_else(|| missing(path))?;
        match self.0.remove(&found) {
            Some(Member::Json(bytes)) => store.copy_blob(digest, &*bytes),
            Some(Member::Blob(blob)) => store.keep_if(blob, digest),
            _ => Err(missing(path)),
        }
    }

    fn layer(&mut self, store: &Store, path: &str) -> Result<(Digest, Option<Digest>)> {
        let found = self.find(path)?.ok_or_else(|| missing(path))?;
        let kept = match self.0.remove(&found) {
            Some(Member::Layer(blob, written)) => (store.keep_blob(blob)?, Some(written.diff_id)),
            Some(Member::Blob(blob)) => (store.keep_blob(blob)?, None),
            Some(Member::Json(bytes)) if !is_compressed(&bytes) => {
                let failed = |error| Error::Io { what: "write", path: "a layer".into(), error };
                let (blob, written) = compress(store, |out| out.write_all(&bytes).map_err(failed))?;
                (store.keep_blob(blob)?, Some(written.diff_id))
            }
            Some(Member::Json(bytes)) => (store.put_blob(&bytes)?, None),
            Some(Member::Kept(digest, diff_id)) => (digest, diff_id),
            _ => return Err(missing(path)),
        };
        self.0.insert(found, Member::Kept(kept.0.clone(), kept.1.clone()));
        Ok(kept)
    }
}

/// The files of a directory. No link is followed.
pub(super) struct Directory {
    pub(super) root: Dir,
}

impl Directory {
    fn open(&self, path: &str) -> Result<Option<(ReadFile, u64)>> {
        let Some((dir, name)) = parse(path)?.split().map(|(dir, name)| (dir, name.to_owned())) else {
            return Ok(None);
        };
        let opened = dir.names().try_fold(self.root.clone(), |dir, name| dir.open_dir(name));
        match opened.and_then(|dir| dir.open_file(&name)) {
            Err(e) if e.is(rustix::io::Errno::NOENT) => Ok(None),
            file => {
                let file = file?;
                let size = file.inode().stat()?.st_size as u64;
                Ok(Some((file, size)))
            }
        }
    }
}

impl Members for Directory {
    fn json(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.open(path)? else { return Ok(None) };
        if size > LONGEST_JSON {
            return Err(Error::Invalid(format!(
                "`{}` is longer than 4 MiB, which no manifest is",
                shown(path)
            )));
        }
        let mut bytes = Vec::new();
        Reader { file, position: 0 }
            .take(LONGEST_JSON)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::Io { what: "read", path: path.into(), error })?;
        Ok(Some(bytes))
    }

    fn blob(&mut self, store: &Store, path: &str, digest: &Digest) -> Result<()> {
        let (file, _) = self.open(path)?.ok_or_else(|| missing(path))?;
        store.copy_blob(digest, Reader { file, position: 0 })
    }

    fn layer(&mut self, store: &Store, path: &str) -> Result<(Digest, Option<Digest>)> {
        let (file, _) = self.open(path)?.ok_or_else(|| missing(path))?;
        let mut head = [0; 4];
        let read = file.read_at(0, &mut head)?;
        let mut reader = Reader { file, position: 0 };
        let failed = |error| Error::Io { what: "read", path: path.into(), error };
        if is_compressed(&head[..read]) {
            let mut blob = store.new_blob()?;
            io::copy(&mut reader, &mut blob).map_err(failed)?;
            return Ok((store.keep_blob(blob)?, None));
        }
        let (blob, written) =
            compress(store, |mut out| io::copy(&mut reader, &mut out).map(drop).map_err(failed))?;
        Ok((store.keep_blob(blob)?, Some(written.diff_id)))
    }
}

/// Reads a file from its beginning to its end.
struct Reader {
    file: ReadFile,
    position: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self
            .file
            .read_at(self.position, buffer)
            .map_err(|error| io::Error::from_raw_os_error(error.errno().raw_os_error()))?;
        self.position += read as u64;
        Ok(read)
    }
}
