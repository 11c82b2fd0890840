//! `plyfs layer`: what can be done with layers as they lie on the disk?

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::archive::{ArchiveWriter, Encoder, Ending, Written, decoder, read};
use super::check;
use super::diff;
use super::digest::{Digest, Hashing};
use super::error::{Error, Result};
use super::owners::Owners;
use super::place::{NewDir, NewFile, Output, open_layers, open_layers_below, open_workdir};
use super::progress::Progress;
use super::tree::{Root, Seen, Ties, Tree, find_workdir};
use super::unpack::{Denied, Unpacker};
use crate::cli::{Compression, LayerCommand, PackArgs, SquashArgs, UnpackArgs};
use crate::exit::Exit;

/// How often a directory is packed that changes meanwhile.
const ATTEMPTS: u32 = 3;

/// Runs a command on layers.
///
/// # Errors
/// Every way in which it can fail, see [`Error`].
pub fn run(command: &LayerCommand) -> Result<ExitCode> {
    match command {
        LayerCommand::Pack(args) => pack(args)?,
        LayerCommand::Unpack(args) => unpack(args)?,
        LayerCommand::Squash(args) => squash(args)?,
        LayerCommand::Diff(args) => return diff::run(args),
        LayerCommand::Check(args) => return check::run(args),
    }
    Ok(Exit::Success.into())
}

/// What `pack` and `unpack` say of an archive.
#[derive(Debug, Serialize)]
struct Report<'a> {
    digest: &'a str,
    #[serde(rename = "diffID")]
    diff_id: &'a str,
    /// In bytes, of the archive as it is, compressed.
    size: u64,
    /// In bytes, uncompressed.
    diff_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
}

fn pack(args: &PackArgs) -> Result<()> {
    let owners = Owners::new(&args.owners)?;
    let compression = args.compression.unwrap_or_else(|| compression_of(&args.output));
    refuse_within(&args.output, &args.dirs)?;
    let mut out = NewFile::at(&args.output)?;
    let layers = open_layers(&args.dirs)?;
    let below = open_layers_below(&args.lowers, layers.len())?;
    let work = match &args.work {
        Some(work) => Some(work.clone()),
        None => args.dirs.first().and_then(|upper| find_workdir(upper)),
    };
    let ties = match (work, layers.split_first()) {
        (Some(work), Some((upper, rest))) => {
            let below: Vec<_> = rest.iter().chain(&below).cloned().collect();
            Ties::of(upper, &open_workdir(&work)?, &below)?
        }
        _ => Ties::default(),
    };
    let tree = Tree { layers, owners: &owners, ties, root: Root::Shown };
    let progress = Progress::begin("packing")?;
    let (written, seen) = pack_unchanged(&tree, compression, &mut out, &progress)?;
    drop(progress);
    let to_stdout = matches!(out, NewFile::Stdout(_));
    out.keep()?;
    let report = Report {
        digest: written.digest.as_str(),
        diff_id: written.diff_id.as_str(),
        size: written.size,
        diff_size: written.diff_size,
        entries: Some(seen.entries),
    };
    if to_stdout {
        // The archive has gone there.
        eprint!(
            "{}",
            if args.json {
                crate::say::as_json(&report).map_err(Error::io("write", Path::new("stderr")))?
            } else {
                report.text()
            }
        );
        return Ok(());
    }
    say(args.json, &report, || report.text())
}

/// What is written into a directory that is packed changes it.
fn refuse_within(output: &Path, dirs: &[std::path::PathBuf]) -> Result<()> {
    if output == Path::new("-") {
        return Ok(());
    }
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(parent) = parent.canonicalize() else { return Ok(()) };
    for dir in dirs {
        if dir.canonicalize().is_ok_and(|dir| parent.starts_with(dir)) {
            return Err(Error::Usage(format!(
                "{} is in {}, which is packed: write it to another place",
                crate::shown::shown(output),
                crate::shown::shown(dir)
            )));
        }
    }
    Ok(())
}

impl Report<'_> {
    fn text(&self) -> String {
        let mut text =
            format!("digest  {}\ndiffID  {}\nsize    {} bytes", self.digest, self.diff_id, self.size);
        if self.size != self.diff_size {
            text.push_str(&format!(", {} uncompressed", self.diff_size));
        }
        if let Some(entries) = self.entries {
            text.push_str(&format!("\nentries {entries}"));
        }
        text.push('\n');
        text
    }
}

/// Packs a tree as it is at one moment: what changed meanwhile is packed anew.
///
/// # Errors
/// [`Error::InUse`] if it will not stay as it is.
pub(super) fn pack_unchanged(
    tree: &Tree<'_>,
    compression: Compression,
    out: &mut impl Output,
    progress: &Progress,
) -> Result<(Written, Seen)> {
    for _ in 0..ATTEMPTS {
        match pack_once(tree, compression, &mut *out, progress) {
            Ok((written, seen)) => {
                if tree.look(progress)?.is_same(&seen) {
                    return Ok((written, seen));
                }
            }
            Err(Error::Entry { error, entry }) if matches!(*error, Error::Changed(_)) => {
                log::debug!("`{}`: {error}", crate::shown::shown(&entry));
            }
            // Something may have gone away under our eyes.
            Err(Error::Entry { error, entry }) if !matches!(*error, Error::Io { .. }) => {
                log::debug!("`{}`: {error}", crate::shown::shown(&entry));
                // If it is there still, and is as it was, it is an error of its own.
                let (first, second) = (tree.look(progress), tree.look(progress));
                let is_lasting = match (first, second) {
                    (Ok(first), Ok(second)) => first.is_same(&second),
                    (Err(first), Err(second)) => first.to_string() == second.to_string(),
                    _ => false,
                };
                if is_lasting {
                    return Err(Error::Entry { error, entry });
                }
            }
            Err(error) => return Err(error),
        }
        if !out.begin_anew()? {
            break;
        }
    }
    Err(Error::InUse(
        "the directory changes while it is packed: stop who writes to it, or unmount, and try again"
            .to_owned(),
    ))
}

fn pack_once(
    tree: &Tree<'_>,
    compression: Compression,
    out: impl Write,
    progress: &Progress,
) -> Result<(Written, Seen)> {
    let failed = Error::io("write", Path::new("the archive"));
    let encoder = Encoder::new(compression, out).map_err(&failed)?;
    let mut writer = ArchiveWriter::new(encoder, source_date_epoch()?);
    let seen = tree.read(&mut writer, progress)?;
    let (written, mut out) = writer.finish()?.finish().map_err(&failed)?;
    out.flush().map_err(&failed)?;
    Ok((written, seen))
}

/// The latest time that a reproducible archive may have.
///
/// Source: <https://reproducible-builds.org/specs/source-date-epoch/>.
pub(super) fn source_date_epoch() -> Result<Option<i64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|_| {
            Error::Usage(format!(
                "SOURCE_DATE_EPOCH={}: write a number of seconds since 1970",
                crate::shown::shown(&text)
            ))
        }),
    }
}

/// As a file's name says.
fn compression_of(path: &Path) -> Compression {
    let name = path.as_os_str().as_encoded_bytes();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end.as_bytes()));
    if ends(&[".gz", ".tgz"]) {
        Compression::Gzip
    } else if ends(&[".zst", ".zstd"]) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

fn unpack(args: &UnpackArgs) -> Result<()> {
    let owners = Owners::new(&args.owners)?;
    let expected = args
        .digest
        .as_deref()
        .map(Digest::parse)
        .transpose()
        .map_err(|error| Error::Usage(format!("--digest: {error}")))?;
    let source = if args.archive == Path::new("-") {
        let failed = Error::io("read", Path::new("stdin"));
        File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?)
    } else {
        let failed = |error| Error::Setup(format!("{}: {error}", crate::shown::shown(&args.archive)));
        File::open(&args.archive).map_err(failed)?
    };
    let dir = NewDir::at(&args.dir)?;
    let progress = Progress::begin("unpacking")?;
    let unpacker = Unpacker::new(dir.open()?, &owners, Denied::Fails, &progress);
    let ending = if expected.is_some() { Ending::Verified } else { Ending::Required };
    let (written, _) = unpack_archive(Watched { file: source, progress: &progress }, ending, unpacker)?;
    if let Some(expected) = expected
        && expected != written.digest
        && expected != written.diff_id
    {
        return Err(Error::Digest {
            what: "the archive".to_owned(),
            found: written.digest.to_string(),
            expected: expected.to_string(),
        });
    }
    dir.keep(false)?;
    drop(progress);
    let report = Report {
        digest: written.digest.as_str(),
        diff_id: written.diff_id.as_str(),
        size: written.size,
        diff_size: written.diff_size,
        entries: None,
    };
    say(args.json, &report, || report.text())
}

/// A file or a pipe; reading it, and waiting for who writes to it, ends when a signal has come.
struct Watched<'a> {
    file: File,
    progress: &'a Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The signal may come just before the wait.
        let a_moment = Timespec { tv_sec: 1, tv_nsec: 0 };
        loop {
            self.progress.check().map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&a_moment)) {
                Ok(0) | Err(Errno::INTR) => {}
                // Whatever is wrong with it, reading says it better.
                Ok(_) | Err(_) => return self.file.read(buffer),
            }
        }
    }
}

/// Unpacks an archive, and names it; also how much is in its files, in bytes.
///
/// # Errors
/// What is wrong with the archive, or with where it goes.
pub(super) fn unpack_archive(
    source: impl Read,
    ending: Ending,
    mut unpacker: Unpacker<'_>,
) -> Result<(Written, u64)> {
    let mut source = Hashing::new(source);
    let (archive, size) = {
        let mut archive = Hashing::new(decoder(&mut source)?);
        read(&mut archive, ending, &mut unpacker)?;
        (archive.hasher, unpacker.finish()?)
    };
    // What a decoder has not asked for is a part of the file, too.
    io::copy(&mut source, &mut io::sink()).map_err(Error::io("read", Path::new("the archive")))?;
    let written = Written {
        diff_size: archive.size(),
        diff_id: archive.digest(),
        size: source.hasher.size(),
        digest: source.hasher.digest(),
    };
    Ok((written, size))
}

#[derive(Debug, Serialize)]
struct Squashed {
    entries: u64,
    /// Of all files, in bytes.
    size: u64,
}

fn squash(args: &SquashArgs) -> Result<()> {
    let owners = Owners::new(&args.owners)?;
    let layers = open_layers(&args.dirs)?;
    let dir = NewDir::at(&args.output)?;
    let tree = Tree { layers, owners: &owners, ties: Ties::default(), root: Root::Shown };
    let progress = Progress::begin("squashing")?;
    let mut unpacker = Unpacker::new(dir.open()?, &owners, Denied::Fails, &progress);
    let seen = tree.read(&mut unpacker, &progress)?;
    let size = unpacker.finish()?;
    let entries = seen.entries;
    if !tree.look(&progress)?.is_same(&seen) {
        return Err(Error::InUse(
            "a layer changes while it is read: stop who writes to it, or unmount, and try again".to_owned(),
        ));
    }
    dir.keep(false)?;
    drop(progress);
    say(args.json, &Squashed { entries, size }, || format!("{entries} entries, {size} bytes in files\n"))
}

/// Prints a result, for people or for programs.
///
/// # Errors
/// Those of writing to stdout.
pub(super) fn say(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    crate::say::say(json, value, text).map_err(Error::io("write", Path::new("stdout")))
}
