//! How are a layer's bytes compressed and named, on all CPUs, and the same whatever their number?
//!
//! The archive is cut into blocks. One thread names the archive (`diffID`); gzip's blocks are compressed by one
//! thread per CPU, each as a member of its own (RFC 1952, 2.2), zstd's by its library; who writes them names what it
//! writes (`digest`).

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use flate2::{Compression as Level, GzBuilder};

use super::super::digest::{Digest, Hasher, Hashing};
use super::super::error::{Error, Result};
use crate::cli::Compression;

/// What is compressed at once. Part of the format: other blocks are other bytes.
const BLOCK: usize = 1 << 20;
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// The largest window that is accepted: 128 MiB of memory, zstd's own bound.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The media type of a layer that is compressed so.
#[must_use]
pub fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// By an archive's first bytes.
fn compression_of(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or one that is passed over (RFC 8878, 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Reads an archive, whichever way it is compressed.
///
/// # Errors
/// Those of reading its first bytes.
pub fn decoder<'a>(mut source: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let failed = |error| Error::Io { what: "read", path: "the archive".into(), error };
    let mut magic = Vec::new();
    source.by_ref().take(4).read_to_end(&mut magic).map_err(failed)?;
    let other = match &magic[..] {
        [0xfd, b'7', b'z', b'X', ..] => Some("xz"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
        _ => None,
    };
    if let Some(other) = other {
        return Err(Error::Invalid(format!(
            "the archive is compressed with {other}: gzip and zstd are known; uncompress it first"
        )));
    }
    let compression = compression_of(&magic);
    let source = BufReader::with_capacity(256 * 1024, io::Cursor::new(magic).chain(source));
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
            Box::new(decoder)
        }
    })
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The name of the archive as it is.
    pub diff_id: Digest,
    /// Its length in bytes.
    pub diff_size: u64,
    /// The name of the archive as it was written, compressed.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

type Block = Arc<Vec<u8>>;

/// Takes an archive's bytes, and writes them compressed.
pub struct Encoder<W: Write> {
    block: Vec<u8>,
    /// None where the archive is written as it is: then it has one name.
    hash: Option<(SyncSender<Block>, JoinHandle<Hasher>)>,
    out: Output<W>,
}

enum Output<W: Write> {
    Plain(Hashing<W>),
    Gzip { members: Members, out: Hashing<W> },
    Zstd(zstd::stream::write::Encoder<'static, Hashing<W>>),
}

impl<W: Write> Encoder<W> {
    /// Everything goes to `out`.
    ///
    /// # Errors
    /// Those of starting threads, and of the library.
    pub fn new(compression: Compression, out: W) -> io::Result<Self> {
        let hash = match compression {
            Compression::None => None,
            Compression::Gzip | Compression::Zstd => Some(hash_beside()?),
        };
        let out = Hashing::new(out);
        let out = match compression {
            Compression::None => Output::Plain(out),
            Compression::Gzip => Output::Gzip { members: Members::new()?, out },
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                encoder.multithread(cpus() as u32)?;
                Output::Zstd(encoder)
            }
        };
        Ok(Self { block: Vec::with_capacity(BLOCK), hash, out })
    }

    fn end_block(&mut self) -> io::Result<()> {
        let block = Arc::new(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        if let Some((hash, _)) = &self.hash {
            hash.send(Arc::clone(&block)).map_err(|_| io::Error::other("a thread has ended"))?;
        }
        match &mut self.out {
            Output::Plain(out) => out.write_all(&block),
            Output::Zstd(encoder) => encoder.write_all(&block),
            Output::Gzip { members, out } => members.put(block, out),
        }
    }

    /// Writes what is left, and says what it was.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<(Written, W)> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let out = match self.out {
            Output::Plain(out) => out,
            Output::Zstd(encoder) => encoder.finish()?,
            Output::Gzip { members, mut out } => {
                members.finish(&mut out)?;
                out
            }
        };
        let (digest, size) = (out.hasher.clone().digest(), out.hasher.size());
        let (diff_id, diff_size) = match self.hash.take() {
            None => (digest.clone(), size),
            Some((sender, hash)) => {
                drop(sender);
                let archive = hash.join().map_err(|_| io::Error::other("a thread has panicked"))?;
                (archive.clone().digest(), archive.size())
            }
        };
        let written = Written { diff_id, diff_size, digest, size };
        Ok((written, out.inner))
    }
}

/// A thread that names what it is sent.
fn hash_beside() -> io::Result<(SyncSender<Block>, JoinHandle<Hasher>)> {
    let (sender, blocks) = sync_channel::<Block>(4);
    let hash = thread::Builder::new().name("diffid".to_owned()).spawn(move || {
        let mut hasher = Hasher::default();
        blocks.iter().for_each(|block| hasher.update(&block));
        hasher
    })?;
    Ok((sender, hash))
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..some]);
        if self.block.len() == BLOCK {
            self.end_block()?;
        }
        Ok(some)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A block to compress, and where its member goes.
type Job = (Block, SyncSender<io::Result<Vec<u8>>>);

/// gzip members, compressed side by side and written in order.
struct Members {
    workers: Vec<SyncSender<Job>>,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    next: usize,
}

impl Members {
    fn new() -> io::Result<Self> {
        let worker = |_| {
            let (sender, jobs) = sync_channel::<Job>(2);
            thread::Builder::new().name("gzip".to_owned()).spawn(move || {
                for (block, reply) in jobs {
                    // Nobody waits any more after an error elsewhere.
                    reply.send(member(&block)).unwrap_or_default();
                }
            })?;
            Ok(sender)
        };
        let workers = (0..cpus()).map(worker).collect::<io::Result<_>>()?;
        Ok(Self { workers, pending: VecDeque::new(), next: 0 })
    }

    fn put(&mut self, block: Block, out: &mut impl Write) -> io::Result<()> {
        if self.pending.len() == 2 * self.workers.len() {
            self.write_one(out)?;
        }
        let (sender, receiver) = sync_channel(1);
        let worker = &self.workers[self.next % self.workers.len()];
        self.next += 1;
        worker.send((block, sender)).map_err(|_| io::Error::other("a thread has ended"))?;
        self.pending.push_back(receiver);
        Ok(())
    }

    fn write_one(&mut self, out: &mut impl Write) -> io::Result<()> {
        let Some(first) = self.pending.pop_front() else { return Ok(()) };
        let member = first.recv().map_err(|_| io::Error::other("a thread has ended"))??;
        out.write_all(&member)
    }

    fn finish(mut self, out: &mut impl Write) -> io::Result<()> {
        while !self.pending.is_empty() {
            self.write_one(out)?;
        }
        Ok(())
    }
}

fn member(block: &[u8]) -> io::Result<Vec<u8>> {
    // No time and no name, and the system unknown: the same bytes everywhere.
    let out = Vec::with_capacity(block.len() / 2);
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(out, Level::new(GZIP_LEVEL));
    encoder.write_all(block)?;
    encoder.finish()
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back() {
        let data: Vec<u8> = (0..3 * BLOCK as u32 + 17).map(|n| (n / 7) as u8).collect();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut encoder = Encoder::new(compression, Vec::new()).expect("threads");
            encoder.write_all(&data).expect("memory");
            let (written, bytes) = encoder.finish().expect("memory");
            assert_eq!((written.diff_size, written.diff_id), (data.len() as u64, Digest::of(&data)));
            assert_eq!((written.size, written.digest), (bytes.len() as u64, Digest::of(&bytes)));
            let mut back = Vec::new();
            decoder(&bytes[..]).expect("memory").read_to_end(&mut back).expect("whole");
            assert!(back == data, "changed on the way");
        }
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut encoder = Encoder::new(compression, Vec::new()).expect("threads");
            encoder.write_all(&vec![7; 2 * BLOCK + 5]).expect("memory");
            let (_, bytes) = encoder.finish().expect("memory");
            let mut back = Vec::new();
            let cut = &bytes[..bytes.len() - 1];
            decoder(cut).expect("memory").read_to_end(&mut back).expect_err("cut short");
        }
    }
}
