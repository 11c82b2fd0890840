//! What may a name be, and what does a name on disk mean?
//!
//! The only place that spells `.wh.`. A [`Name`] is one that users can see: by construction it is
//! never a marker, so nothing that takes a `Name` can plant one.
//!
//! Source of the format: OCI image-spec, `layer.md`, "Whiteouts"; `.wh..wh.` names: aufs(5).

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use super::short_bytes::ShortBytes;

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS keeps its own files under this prefix (`plnk`, `orph`, `aufs`); `OPAQUE` is one of them.
const RESERVED: &[u8] = b".wh..wh.";
/// `NAME_MAX` of Linux: no single name is longer, on any filesystem.
const NAME_MAX: usize = 255;

/// The name of an entry as users see it: 1–255 bytes, neither `.` nor `..`, no `/`, no NUL, and
/// no `.wh.` in front.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(ShortBytes);

/// The name of a marker in the upper: a whiteout or the opaque marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerName(Box<[u8]>);

/// Why some bytes are no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// It begins with `.wh.`: no such name exists through the mount, and none can be made.
    Reserved,
    /// It is longer than 255 bytes.
    TooLong,
    /// It is empty, `.` or `..`, or holds `/` or NUL.
    Malformed,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "begins with `.wh.`",
            Self::TooLong => "is longer than 255 bytes",
            Self::Malformed => "is empty, `.` or `..`, or holds `/` or NUL",
        })
    }
}

/// What a name found in a branch's directory stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// An entry of that name.
    Entry(Name),
    /// `.wh.NAME`: the name is deleted in all branches below.
    Whiteout(Name),
    /// `.wh..wh..opq`: the directory hides its namesakes in all branches below.
    Opaque,
    /// Starts with `.wh.` and means nothing to us: never shown, hides nothing.
    Reserved,
}

impl Name {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// What makes them unfit, see [`BadName`].
    pub fn new(bytes: &OsStr) -> Result<Self, BadName> {
        let bytes = bytes.as_bytes();
        if bytes.len() > NAME_MAX {
            return Err(BadName::TooLong);
        }
        if bytes.starts_with(PREFIX) {
            return Err(BadName::Reserved);
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(BadName::Malformed);
        }
        Ok(Self(bytes.into()))
    }

    /// The name's whiteout, or None where it would be longer than a filesystem allows
    /// (names of 252–255 bytes).
    #[must_use]
    pub fn whiteout(&self) -> Option<MarkerName> {
        let whiteout = [PREFIX, &self.0].concat();
        (whiteout.len() <= NAME_MAX).then(|| MarkerName(whiteout.into()))
    }

    /// The name as the system calls take it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl MarkerName {
    /// The marker that makes the directory which holds it opaque.
    #[must_use]
    pub fn opaque() -> Self {
        Self(OPAQUE.into())
    }

    /// The name as the system calls take it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl Spelling {
    /// Reads a name found on disk. `.` and `..` are no entries: they come out as reserved.
    #[must_use]
    pub fn of(on_disk: &OsStr) -> Self {
        let bytes = on_disk.as_bytes();
        if bytes == OPAQUE {
            return Self::Opaque;
        }
        if bytes.starts_with(RESERVED) {
            return Self::Reserved;
        }
        let (hidden, spell): (_, fn(Name) -> Self) = match bytes.strip_prefix(PREFIX) {
            Some(hidden) => (hidden, Self::Whiteout),
            None => (bytes, Self::Entry),
        };
        Name::new(OsStr::from_bytes(hidden)).map_or(Self::Reserved, spell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(OsStr::new(text)).expect("a legal name")
    }

    #[test]
    fn a_name_on_disk_means_one_thing() {
        for (on_disk, meaning) in [
            ("a", Spelling::Entry(name("a"))),
            (".a", Spelling::Entry(name(".a"))),
            (".wh", Spelling::Entry(name(".wh"))),
            ("..wh.a", Spelling::Entry(name("..wh.a"))),
            (".wh.a", Spelling::Whiteout(name("a"))),
            (".wh..a", Spelling::Whiteout(name(".a"))),
            (".wh....", Spelling::Whiteout(name("..."))),
            (".wh.", Spelling::Reserved),
            (".wh..", Spelling::Reserved),
            (".wh...", Spelling::Reserved),
            (".wh..wh..opq", Spelling::Opaque),
            (".wh..wh..opq2", Spelling::Reserved),
            (".wh..wh.plnk", Spelling::Reserved),
            (".wh..wh.aufs", Spelling::Reserved),
            (".wh..wh.", Spelling::Reserved),
            (".wh..wh", Spelling::Whiteout(name(".wh"))),
            (".", Spelling::Reserved),
            ("..", Spelling::Reserved),
        ] {
            assert_eq!(Spelling::of(OsStr::new(on_disk)), meaning, "{on_disk}");
        }
    }

    #[test]
    fn unfit_names_are_told_apart() {
        for (bytes, why) in [
            ("", BadName::Malformed),
            (".", BadName::Malformed),
            ("..", BadName::Malformed),
            ("a/b", BadName::Malformed),
            ("a\0b", BadName::Malformed),
            (".wh.a", BadName::Reserved),
            (".wh.", BadName::Reserved),
            (&"x".repeat(256), BadName::TooLong),
        ] {
            assert_eq!(Name::new(OsStr::new(bytes)), Err(why), "{bytes:?}");
        }
        assert!(Name::new(OsStr::from_bytes(b"\xff\xfe\n")).is_ok());
    }

    #[test]
    fn a_whiteout_reads_back_as_its_name() {
        for length in 1..=255 {
            let plain = name(&"n".repeat(length));
            match plain.whiteout() {
                Some(marker) => {
                    assert!(length <= 251);
                    assert_eq!(Spelling::of(marker.as_os_str()), Spelling::Whiteout(plain));
                }
                None => assert!(length > 251),
            }
        }
        assert_eq!(Spelling::of(MarkerName::opaque().as_os_str()), Spelling::Opaque);
    }
}
