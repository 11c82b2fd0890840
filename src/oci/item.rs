//! What is an entry of a layer, whether it comes from an archive or from a disk?
//!
//! A [`Source`](super::tree) of items is read once, in an order in which a directory comes before what is in it, and
//! a [`Sink`] takes them one by one. Packing, unpacking and squashing are three pairs of the two.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::error::{Error, Result};

/// `PATH_MAX` counts one call's path; ours is taken apart, so that this is about memory alone.
const LONGEST_PATH: usize = 64 * 1024;
/// So many directories may lead to an entry.
const DEEPEST: usize = 1000;
const NAME_MAX: usize = 255;

/// The way to an entry from the layer's root: names with `/` between them, none of them empty, `.` or `..`. The root
/// has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath(Vec<u8>);

/// Why some bytes are no [`TreePath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum BadPath {
    #[error("climbs out of the layer by `..`")]
    Climbs,
    #[error("has a name of more than 255 bytes in it")]
    LongName,
    #[error("is longer than 64 KiB, or lies beneath more than 1,000 directories")]
    Deep,
    #[error("holds a NUL byte")]
    Nul,
}

impl TreePath {
    /// Reads an archive's spelling: `./a//b/` is `a/b`, and a `/` in front counts for nothing.
    ///
    /// # Errors
    /// What makes it unfit, see [`BadPath`].
    pub fn parse(text: &[u8]) -> Result<Self, BadPath> {
        let mut path = Vec::with_capacity(text.len());
        let mut depth = 0;
        for name in text.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(BadPath::Climbs),
                _ if name.len() > NAME_MAX => return Err(BadPath::LongName),
                _ if name.contains(&0) => return Err(BadPath::Nul),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            depth += 1;
        }
        if depth > DEEPEST || path.len() > LONGEST_PATH {
            return Err(BadPath::Deep);
        }
        Ok(Self(path))
    }

    /// Whether it would be no path if it were read: what is packed is to be unpacked again.
    #[must_use]
    pub fn is_too_far(&self) -> bool {
        self.0.len() > LONGEST_PATH || self.names().count() > DEEPEST
    }

    /// One name further. The name is a directory entry's.
    #[must_use]
    pub fn join(&self, name: &OsStr) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        Self(path)
    }

    /// The directory that it is in, and its name there; None for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        if self.is_root() {
            return None;
        }
        let at = self.0.iter().rposition(|byte| *byte == b'/');
        let (dir, name) = at.map_or((&[][..], &self.0[..]), |at| (&self.0[..at], &self.0[at + 1..]));
        Some((Self(dir.to_vec()), OsStr::from_bytes(name)))
    }

    /// Whether it is the layer's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names on the way.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(OsStr::from_bytes)
    }

    /// As it is written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<OsStr> for TreePath {
    /// For messages: the root is `/`.
    fn as_ref(&self) -> &OsStr {
        if self.is_root() { OsStr::new("/") } else { OsStr::from_bytes(&self.0) }
    }
}

/// A point in time, as disks keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds since then, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What an entry has besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The permission bits, with set-user-ID, set-group-ID and the sticky bit.
    pub mode: u32,
    /// The owner, as it shows in the image.
    pub uid: u32,
    /// The group, as it shows in the image.
    pub gid: u32,
    /// The time of modification.
    pub mtime: Time,
    /// Extended attributes, ACLs and capabilities among them, sorted by name.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory; it merges with its namesakes below unless it is followed by [`Node::Opaque`].
    Dir,
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
    },
    /// A symbolic link to this.
    Symlink(OsString),
    /// A device node.
    Device {
        /// Whether it is a block device; else it is a character device.
        block: bool,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// One more name of an entry that came earlier.
    HardLink(TreePath),
    /// The name is deleted in the layers below.
    Whiteout,
    /// The directory of this path shows nothing of its namesakes below.
    Opaque,
}

/// An entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it is; for a whiteout, the name that it hides.
    pub path: TreePath,
    /// What it is.
    pub node: Node,
    /// What else there is to it. For a hard link, that of the file, which has it already.
    pub meta: Meta,
}

/// A part of a file's content.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

/// A file's content, to be had once, from the beginning to the end.
pub trait Content {
    /// Hands it out piece by piece; together they have the length that the item says.
    ///
    /// # Errors
    /// Those of reading, and those of `take`.
    fn pour(&mut self, take: &mut dyn FnMut(Piece<'_>) -> Result<()>) -> Result<()>;
}

/// The content of what has none.
#[derive(Debug)]
pub struct Nothing;

impl Content for Nothing {
    fn pour(&mut self, _: &mut dyn FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
        Ok(())
    }
}

/// Where items go.
pub trait Sink {
    /// Takes one.
    ///
    /// # Errors
    /// What is wrong with it, by its name, or with where it goes.
    fn put(&mut self, item: &Item, content: &mut dyn Content) -> Result<()>;
}

impl Item {
    /// An error that names the entry.
    #[must_use]
    pub fn failed(&self, error: Error) -> Error {
        error.of_entry(self.path.as_ref())
    }
}

/// Reads a name of raw bytes.
#[must_use]
pub fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_archives_spell_it() {
        for (text, path) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"./a//b/", b"a/b"),
            (b"/etc/passwd", b"etc/passwd"),
            (b"", b""),
            (b"./", b""),
            (b"a/./b", b"a/b"),
            (b"..a/b..", b"..a/b.."),
            (b"\xff\n", b"\xff\n"),
        ] {
            assert_eq!(TreePath::parse(text).map(|path| path.0), Ok(path.to_vec()));
        }
    }

    #[test]
    fn a_path_that_leads_astray_is_told() {
        let long = [b'n'; 256];
        let deep = b"a/".repeat(1001);
        for (text, why) in [
            (&b"../a"[..], BadPath::Climbs),
            (b"a/../../b", BadPath::Climbs),
            (b"a/..", BadPath::Climbs),
            (b"a\0b", BadPath::Nul),
            (&long, BadPath::LongName),
            (&deep, BadPath::Deep),
        ] {
            assert_eq!(TreePath::parse(text), Err(why));
        }
    }

    #[test]
    fn a_path_comes_apart_as_it_was_put_together() {
        let path = TreePath::default().join(OsStr::new("a")).join(OsStr::new("b"));
        let (dir, name) = path.split().expect("not the root");
        assert_eq!((dir.as_bytes(), name), (&b"a"[..], OsStr::new("b")));
        let (root, name) = dir.split().expect("not the root");
        assert_eq!((root.is_root(), name, root.split()), (true, OsStr::new("a"), None));
        assert_eq!(path.names().collect::<Vec<_>>(), ["a", "b"]);
    }
}
