//! How do tools talk to a live mount?
//!
//! By extended attributes of the mount's root. None of them is listed, and none is on a disk: the daemon
//! answers for itself. What each holds is printed and parsed here only.

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

fn escaped(text: &[u8]) -> Vec<u8> {
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

fn unescaped(escaped: &[u8]) -> OsString {
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
