//! How does a layer lie unpacked in the store?

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::super::archive::Ending;
use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::layer::unpack_archive;
use super::super::place::NewDir;
use super::super::progress::Progress;
use super::super::unpack::{Denied, Unpacker};
use super::{Store, lock};

/// Base 32 in capital letters and digits: 26 of them are 130 bits.
const SHORT: usize = 26;

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Layer {
    /// Its archive, as it is kept and sent.
    pub(in super::super) blob: Digest,
    /// Its archive, uncompressed.
    pub(in super::super) diff_id: Digest,
}

/// The names of layers with all below them, the lowest first.
///
/// Source: OCI image-spec, `config.md`, "Layer ChainID".
#[must_use]
pub(in super::super) fn chain_ids<'a>(diff_ids: impl IntoIterator<Item = &'a Digest>) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// A name for `l/`: from the digits of a layer's own.
pub(super) fn short_name(hex: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits: String =
        hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| format!("{digit:04b}")).collect();
    let letter = |bits: &[u8]| {
        let number = bits.iter().fold(0, |number, bit| number * 2 + usize::from(*bit == b'1'));
        char::from(LETTERS[number % 32])
    };
    bits.as_bytes().chunks(5).take(SHORT).map(letter).collect()
}

impl Store {
    /// The folder of a layer.
    #[must_use]
    pub(in super::super) fn layer_dir(&self, id: &str) -> PathBuf {
        self.path("layers").join(id)
    }

    /// Unpacks what is not unpacked yet of an image's layers, the lowest first. Each is on disk then, and is what its
    /// diffID says.
    pub(in super::super) fn unpack_layers(&self, layers: &[Layer], progress: &Progress) -> Result<()> {
        let chain = chain_ids(layers.iter().map(|layer| &layer.diff_id));
        for (at, (layer, id)) in layers.iter().zip(&chain).enumerate() {
            if !self.layer_dir(id.hex()).join("diff").is_dir() {
                // podman may have removed what a link leads to.
                self.discard_layer(id.hex())?;
                progress.say(&format!("unpacking layer {} of {}", at + 1, layers.len()));
                self.unpack_layer(layer, &chain[..=at], progress)?;
            }
            self.link(id.hex())?;
        }
        Ok(())
    }

    fn unpack_layer(&self, layer: &Layer, chain: &[Digest], progress: &Progress) -> Result<()> {
        let Some((id, below)) = chain.split_last() else { return Ok(()) };
        let dir = match NewDir::at(&self.layer_dir(id.hex())) {
            // Somebody else was as fast.
            Err(Error::Setup(_)) if self.layer_dir(id.hex()).join("link").is_file() => return Ok(()),
            dir => dir?,
        };
        let staged = dir.open()?;
        staged.make_dir("diff".as_ref(), rustix::fs::Mode::RWXU)?;
        let (file, _) = self.open_blob(&layer.blob)?;
        let unpacker =
            Unpacker::new(staged.open_upper_dir("diff".as_ref())?, &self.owners, Denied::LeftOut, progress);
        let of_layer = |error| match error {
            Error::Interrupted => error,
            error => Error::Layer { layer: layer.blob.to_string(), error: Box::new(error) },
        };
        let (written, size) = unpack_archive(file, Ending::Verified, unpacker).map_err(of_layer)?;
        if written.diff_id != layer.diff_id {
            return Err(Error::Digest {
                what: format!("the uncompressed layer {}", layer.blob),
                found: written.diff_id.to_string(),
                expected: layer.diff_id.to_string(),
            });
        }
        let path = dir.path();
        let lower = below.iter().rev().map(Digest::hex);
        self.write_layer_files(&path, id.hex(), lower)?;
        write(&path.join("size"), &size.to_string())?;
        match dir.keep(true) {
            Err(error) if error.is(Errno::NOTEMPTY) || error.is(Errno::EXIST) => Ok(()),
            kept => kept,
        }
    }

    /// Lays a layer out that is unpacked elsewhere: its `diff` is a symbolic link. `chain` ends with the layer.
    pub(in super::super) fn link_layer(&self, chain: &[Digest], diff: &Path, size: u64) -> Result<()> {
        let Some((id, below)) = chain.split_last() else { return Ok(()) };
        if !self.layer_dir(id.hex()).is_dir() {
            let dir = NewDir::at(&self.layer_dir(id.hex()))?;
            let path = dir.path();
            symlink(diff, path.join("diff")).map_err(Error::io("make", &path))?;
            self.write_layer_files(&path, id.hex(), below.iter().rev().map(Digest::hex))?;
            write(&path.join("size"), &size.to_string())?;
            match dir.keep(true) {
                Err(error) if error.is(Errno::NOTEMPTY) || error.is(Errno::EXIST) => {}
                kept => kept?,
            }
        }
        self.link(id.hex())
    }

    /// Writes what overlay2 writes beside `diff`. `below` are the layers below, topmost first.
    pub(super) fn write_layer_files<'a>(
        &self,
        dir: &Path,
        id: &str,
        below: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        write(&dir.join("link"), &short_name_of(id))?;
        let lower: Vec<String> = below.map(|id| format!("l/{}", short_name_of(id))).collect();
        if !lower.is_empty() {
            write(&dir.join("lower"), &lower.join(":"))?;
            let work = dir.join("work");
            fs::create_dir(&work).map_err(Error::io("make", &work))?;
        }
        Ok(())
    }

    /// Sees to it that `l/SHORT` leads to a layer: a crash may have come in between.
    pub(super) fn link(&self, id: &str) -> Result<()> {
        let path = self.path("layers/l").join(short_name_of(id));
        match symlink(Path::new("..").join(id).join("diff"), &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(Error::io("make", &path)),
        }
    }

    /// How much is in the files of a layer, in bytes; None for one that is not unpacked.
    #[must_use]
    pub(in super::super) fn layer_size(&self, id: &Digest) -> Option<u64> {
        fs::read_to_string(self.layer_dir(id.hex()).join("size")).ok()?.parse().ok()
    }

    /// Whether a mount shows a layer.
    pub(super) fn is_shown(&self, id: &str) -> Result<bool> {
        let link = self.layer_dir(id).join("link");
        if !link.exists() {
            return Ok(false);
        }
        match lock(&link, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.is(Errno::WOULDBLOCK) => Ok(true),
            locked => locked.map(|_| false),
        }
    }
}

/// Of a layer that is a mount's own, `ID` or `ID-init`, the name must differ, too.
pub(super) fn short_name_of(id: &str) -> String {
    match id.strip_suffix("-init") {
        Some(own) => short_name(Digest::of(format!("{own}-init").as_bytes()).hex()),
        None => short_name(id),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_as_long_as_overlay2_has_it() {
        let digest = Digest::of(b"a layer");
        let short = short_name(digest.hex());
        assert_eq!(short.len(), 26);
        assert!(short.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()), "{short}");
        assert_ne!(short_name_of("ab"), short_name_of("ab-init"));
    }

    #[test]
    fn a_chain_is_named_as_the_specification_has_it() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids([&a, &b]);
        assert_eq!(chain, [a.clone(), Digest::of(format!("{a} {b}").as_bytes())]);
    }
}
