//! By which name is content known? By the SHA-256 of its bytes.
//!
//! Source: OCI image-spec, `descriptor.md`, "Digests".

use std::fmt;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};

const ALGORITHM: &str = "sha256:";

/// `sha256:` and 64 digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Box<str>);

impl Digest {
    /// Reads one.
    ///
    /// # Errors
    /// Says how a digest is written.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.strip_prefix(ALGORITHM).unwrap_or_default();
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 64 && digits.bytes().all(is_digit) {
            Ok(Self(text.into()))
        } else {
            Err(Error::Invalid(format!(
                "`{}` is not a digest that plyfs knows: sha256: and 64 digits from 0 to f",
                crate::shown::shown(text)
            )))
        }
    }

    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.digest()
    }

    /// The 64 digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0[ALGORITHM.len()..]
    }

    /// The first twelve digits, as people write it.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Takes bytes in, and names them.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    state: Sha256,
    size: u64,
}

impl Hasher {
    /// Takes some.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// How many there were.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Their name.
    #[must_use]
    pub fn digest(self) -> Digest {
        let mut text = String::with_capacity(ALGORITHM.len() + 64);
        text.push_str(ALGORITHM);
        for byte in self.state.finalize() {
            text.push_str(&format!("{byte:02x}"));
        }
        Digest(text.into())
    }
}

/// Names what is written through it.
#[derive(Debug)]
pub struct Hashing<W> {
    /// Where it goes.
    pub inner: W,
    /// What went by.
    pub hasher: Hasher,
}

impl<W> Hashing<W> {
    /// Everything through here goes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default() }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: io::Read> io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_named_as_everybody_names_them() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        let read = Digest::parse(empty).expect("a digest");
        assert_eq!((read.short(), read.hex().len()), ("e3b0c44298fc", 64));
    }

    #[test]
    fn what_is_no_digest_cannot_be_a_file_name() {
        for text in
            ["", "sha256:", "sha256:../../etc/passwd", "md5:e3b0", &format!("sha256:{}", "A".repeat(64))]
        {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }
}
