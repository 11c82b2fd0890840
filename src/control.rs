//! How do tools talk to a live mount?
//!
//! By extended attributes of the mount's root. None of them is listed, and none is on a disk: the daemon
//! answers for itself. What each holds is printed and parsed here only. Changes of the stack go by an ioctl(2) of the
//! root, which can say why it refuses.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Read: the branches, one `PATH=rw` or `PATH=ro` a line, topmost first. See [`branch_line`].
pub const BRANCHES: &str = "user.plyfs.branches";

/// Read: which messages the kernel has sent since the mount was made, one `NAME COUNT` a line, most frequent
/// first.
pub const MESSAGES: &str = "user.plyfs.messages";

/// Read: what else the daemon says of itself, one `NAME VALUE` a line. See [`status_line`].
pub const STATUS: &str = "user.plyfs.status";

/// Set, to an empty value and with `XATTR_REPLACE`: everything that was written through the mount is on disk
/// when the call returns. syncfs(2) never reaches a daemon. A daemon that does not know the attribute answers
/// ENODATA, because there is nothing to replace, and writes nothing.
pub const SYNC: &str = "user.plyfs.sync";

/// ioctl(2) of the root: change the stack, all at once or not at all. It takes [`change_lines`] followed by NULs, and
/// answers with [`DONE`] or [`REFUSED`] and a text, followed by NULs. Another daemon answers ENOTTY.
pub const CHANGE_STACK: u32 = 0xc000_0000 | (CHANGE_ROOM as u32) << 16 | (b'P' as u32) << 8 | 1;

/// How many bytes [`CHANGE_STACK`] takes and gives.
pub const CHANGE_ROOM: usize = 0x3fff;

/// What was asked for has been done. The text says what is left to say, if anything.
pub const DONE: u8 = b'+';
/// Nothing has been done. The text says why.
pub const REFUSED: u8 = b'-';

/// Where a lower is to be in the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Above all other lowers.
    Top,
    /// Below all other lowers.
    Bottom,
    /// As [`BRANCHES`] counts them, the topmost being 0.
    Index(usize),
}

/// A change of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// One more lower.
    Add {
        /// Where it is to be.
        at: Position,
        /// The device number and inode number of the directory that is meant.
        identity: (u64, u64),
        /// Its absolute path.
        dir: PathBuf,
    },
    /// One lower less.
    Remove {
        /// Refuse it if something in it is open.
        strict: bool,
        /// As [`BRANCHES`] has it.
        dir: PathBuf,
    },
    /// A lower at another place.
    Move {
        /// Where it is to be.
        to: Position,
        /// As [`BRANCHES`] has it.
        dir: PathBuf,
    },
    /// The upper becomes a snapshot. Only by itself. Without a name it gets a number.
    Snapshot(Option<String>),
    /// The upper is what it was when that snapshot was made. Only by itself.
    Rewind(String),
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Top => f.write_str("top"),
            Self::Bottom => f.write_str("bottom"),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

impl std::str::FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "top" => Ok(Self::Top),
            "bottom" => Ok(Self::Bottom),
            index => index.parse().map(Self::Index),
        }
    }
}

/// One line a change; paths are escaped as in [`branch_line`].
#[must_use]
pub fn change_lines(changes: &[Change]) -> Vec<u8> {
    let line = |change: &Change| {
        let none = PathBuf::from("-");
        let (words, dir) = match change {
            Change::Snapshot(None) => ("snapshot numbered -".to_owned(), &none),
            Change::Snapshot(Some(name)) => ("snapshot named -".to_owned(), &PathBuf::from(name)),
            Change::Rewind(name) => ("rewind to -".to_owned(), &PathBuf::from(name)),
            Change::Add { at, identity: (device, inode), dir } => (format!("add {at} {device}:{inode}"), dir),
            Change::Remove { strict: false, dir } => ("remove any -".to_owned(), dir),
            Change::Remove { strict: true, dir } => ("remove unused -".to_owned(), dir),
            Change::Move { to, dir } => (format!("move {to} -"), dir),
        };
        [words.as_bytes(), b" ", &escaped(dir.as_os_str().as_bytes()), b"\n"].concat()
    };
    changes.iter().flat_map(line).collect()
}

/// The changes that such lines ask for; None if a line asks for none that is known here.
#[must_use]
pub fn parse_changes(lines: &[u8]) -> Option<Vec<Change>> {
    let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(parse_change).collect()
}

fn parse_change(line: &[u8]) -> Option<Change> {
    let mut words = line.splitn(4, |&byte| byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (kind, first, second) = (word()?, word()?, word()?);
    let dir: PathBuf = unescaped(words.next()?).into();
    let name = || dir.to_string_lossy().into_owned();
    Some(match kind {
        "add" => {
            let (device, inode) = second.split_once(':')?;
            let identity = (device.parse().ok()?, inode.parse().ok()?);
            Change::Add { at: first.parse().ok()?, identity, dir }
        }
        "remove" => Change::Remove { strict: first == "unused", dir },
        "snapshot" => Change::Snapshot((first == "named").then(name)),
        "rewind" => Change::Rewind(name()),
        "move" => Change::Move { to: first.parse().ok()?, dir },
        _ => return None,
    })
}

/// What may be done to a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is the upper.
    Writable,
    /// It is a lower.
    ReadOnly,
}

/// One line of [`BRANCHES`]. A newline in the path is written `\012` and a backslash `\134`, as in /proc/mounts:
/// one branch is one line whatever its name.
#[must_use]
pub fn branch_line(path: &Path, access: Access) -> Vec<u8> {
    let mut line = escaped(path.as_os_str().as_bytes());
    line.extend(match access {
        Access::Writable => b"=rw\n",
        Access::ReadOnly => b"=ro\n",
    });
    line
}

/// One line of [`STATUS`], escaped as in [`branch_line`].
#[must_use]
pub fn status_line(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    [name.as_bytes(), b" ", &escaped(value.as_ref()), b"\n"].concat()
}

/// What [`STATUS`] says, by name.
#[must_use]
pub fn parse_status(status: &[u8]) -> BTreeMap<String, OsString> {
    let lines = status.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
            let value = line.get(end + 1..).unwrap_or_default();
            (String::from_utf8_lossy(&line[..end]).into_owned(), unescaped(value))
        })
        .collect()
}

/// Text for a line: a newline is written `\012` and a backslash `\134`, as in /proc/mounts.
#[must_use]
pub fn escaped(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'\n' => escaped.extend(b"\\012"),
            b'\\' => escaped.extend(b"\\134"),
            byte => escaped.push(byte),
        }
    }
    escaped
}

/// The branches that [`BRANCHES`] tells of. A line that is none is left out.
#[must_use]
pub fn parse_branches(list: &[u8]) -> Vec<(PathBuf, Access)> {
    list.split(|&byte| byte == b'\n').filter_map(parse_branch).collect()
}

fn parse_branch(line: &[u8]) -> Option<(PathBuf, Access)> {
    let (path, access) = match line.strip_suffix(b"=rw") {
        Some(path) => (path, Access::Writable),
        None => (line.strip_suffix(b"=ro")?, Access::ReadOnly),
    };
    Some((unescaped(path).into(), access))
}

/// What [`escaped`] was made of.
#[must_use]
pub fn unescaped(escaped: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match tail {
            [b'0', b'1', b'2', tail @ ..] if byte == b'\\' => (b'\n', tail),
            [b'1', b'3', b'4', tail @ ..] if byte == b'\\' => (b'\\', tail),
            tail => (byte, tail),
        };
        plain.push(byte);
        rest = tail;
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_are_printed_can_be_parsed() {
        let changes = [
            Change::Add { at: Position::Index(2), identity: (2049, u64::MAX), dir: "/a b\nc".into() },
            Change::Add {
                at: Position::Top,
                identity: (1, 2),
                dir: OsString::from_vec(b"/\xff".to_vec()).into(),
            },
            Change::Remove { strict: true, dir: "/x".into() },
            Change::Remove { strict: false, dir: "/x".into() },
            Change::Move { to: Position::Bottom, dir: "/ ".into() },
            Change::Snapshot(None),
            Change::Snapshot(Some("before".into())),
            Change::Snapshot(Some("a b\nc".into())),
            Change::Rewind("before".into()),
        ];
        assert_eq!(parse_changes(&change_lines(&changes)).as_deref(), Some(&changes[..]));
        for wrong in ["add", "add 1 2 /a", "add x 1:2 /a", "sudo 1 1:2 /a", "move 1 -"] {
            assert_eq!(parse_changes(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_printed_can_be_parsed() {
        let branches = [
            (PathBuf::from("/u"), Access::Writable),
            (PathBuf::from("/a b=rw"), Access::ReadOnly),
            (PathBuf::from("/new\nline\\012\\"), Access::ReadOnly),
            (OsString::from_vec(b"/\xff".to_vec()).into(), Access::ReadOnly),
        ];
        let list: Vec<u8> = branches.iter().flat_map(|(path, access)| branch_line(path, *access)).collect();
        assert_eq!(list.iter().filter(|&&byte| byte == b'\n').count(), branches.len());
        assert_eq!(parse_branches(&list), branches);
        let status =
            [status_line("a", "1"), status_line("b", "two\nlines \\"), status_line("c", "")].concat();
        assert_eq!(status.iter().filter(|&&byte| byte == b'\n').count(), 3);
        let parsed = parse_status(&status);
        assert_eq!(
            (&*parsed["a"], &*parsed["b"], &*parsed["c"]),
            ("1".as_ref(), "two\nlines \\".as_ref(), "".as_ref())
        );
        assert_eq!(parse_branches(b""), []);
        assert_eq!(parse_branches(b"no branch\n"), []);
    }
}
