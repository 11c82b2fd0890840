//! How is a change of a file written, so that `patch -p1` and `git apply` can make it again?
//!
//! As git-diff(1) does: "Generating patch text with -p".

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::FileType;
use similar::TextDiff;

use super::Result;
use crate::branch::{Inode, Stat};

/// A file that is larger, in bytes, counts as binary.
const LARGEST: u64 = 64 << 20;
/// So much of a file tells whether it is text, as git has it.
const FIRST: usize = 8000;
const CONTEXT: usize = 3;

/// One side of a change.
#[derive(Debug)]
pub(super) struct Side {
    mode: u32,
    /// None if there is too much of it.
    content: Option<Vec<u8>>,
}

impl Side {
    /// What a patch can say of an inode: a regular file or a symbolic link. None for anything else.
    pub(super) fn of(inode: &Inode, stat: &Stat) -> Result<Option<Self>> {
        Ok(match stat.kind() {
            FileType::RegularFile => {
                let mode = if stat.st_mode & 0o100 == 0 { 0o100_644 } else { 0o100_755 };
                Some(Self { mode, content: read(inode, stat)? })
            }
            FileType::Symlink => {
                Some(Self { mode: 0o120_000, content: Some(inode.read_link()?.into_encoded_bytes()) })
            }
            _ => None,
        })
    }

    fn is_text(&self) -> bool {
        self.content.as_ref().is_some_and(|content| !content[..content.len().min(FIRST)].contains(&0))
    }
}

fn read(inode: &Inode, stat: &Stat) -> Result<Option<Vec<u8>>> {
    if stat.st_size as u64 > LARGEST {
        return Ok(None);
    }
    let mut content = vec![0; usize::try_from(stat.st_size).unwrap_or(0)];
    let length = inode.open_read()?.read_at(0, &mut content)?;
    content.truncate(length);
    Ok(Some(content))
}

/// The change from one side to the other; empty if a patch says nothing of it.
pub(super) fn write(way: &[OsString], old: Option<&Side>, new: Option<&Side>) -> Vec<u8> {
    let mut patch = Vec::new();
    match (old, new) {
        // Another type is another file.
        (Some(one), Some(other)) if one.mode & 0o170_000 != other.mode & 0o170_000 => {
            patch.extend(write(way, old, None));
            patch.extend(write(way, None, new));
        }
        (None, None) => {}
        _ => write_one(&mut patch, way, old, new),
    }
    patch
}

fn write_one(patch: &mut Vec<u8>, way: &[OsString], old: Option<&Side>, new: Option<&Side>) {
    let path: PathBuf = way.iter().collect();
    let name = |prefix: &str| quoted(prefix, path.as_os_str());
    let same_content =
        matches!((old, new), (Some(old), Some(new)) if old.content.is_some() && old.content == new.content);
    let mut head = format!("diff --git {} {}\n", name("a/"), name("b/"));
    // Writing to a String cannot fail.
    let written = match (old, new) {
        (Some(old), None) => writeln!(head, "deleted file mode {:o}", old.mode),
        (None, Some(new)) => writeln!(head, "new file mode {:o}", new.mode),
        (Some(old), Some(new)) if old.mode != new.mode => {
            writeln!(head, "old mode {:o}\nnew mode {:o}", old.mode, new.mode)
        }
        (Some(_), Some(_)) if same_content => return,
        _ => Ok(()),
    };
    written.unwrap_or_default();
    patch.extend(head.into_bytes());
    if same_content {
        return;
    }
    let empty = Vec::new();
    let content = |side: Option<&Side>| side.and_then(|side| side.content.clone());
    let is_text = [old, new].into_iter().flatten().all(Side::is_text);
    let from = if old.is_some() { name("a/") } else { "/dev/null".to_owned() };
    let to = if new.is_some() { name("b/") } else { "/dev/null".to_owned() };
    if !is_text {
        patch.extend(format!("Binary files {from} and {to} differ\n").into_bytes());
        return;
    }
    let (before, after) = (content(old).unwrap_or(empty.clone()), content(new).unwrap_or(empty));
    if before == after {
        return;
    }
    // Behind a name with a blank patch(1) wants a tab.
    let tab = if path.as_os_str().as_bytes().contains(&b' ') { "\t" } else { "" };
    let tab = |name: &str| if name == "/dev/null" { "" } else { tab };
    patch.extend(format!("--- {from}{}\n+++ {to}{}\n", tab(&from), tab(&to)).into_bytes());
    let diff = TextDiff::from_lines(&before[..], &after[..]);
    let mut hunks = diff.unified_diff();
    for hunk in hunks.context_radius(CONTEXT).iter_hunks() {
        patch.extend(format!("{}\n", hunk.header()).into_bytes());
        for change in hunk.iter_changes() {
            patch.extend(change.tag().to_string().into_bytes());
            patch.extend_from_slice(change.value());
            if !change.value().ends_with(b"\n") {
                patch.extend_from_slice(b"\n\\ No newline at end of file\n");
            }
        }
    }
}

/// A name as git writes it: in quotes if there is anything odd about it.
fn quoted(prefix: &str, path: &OsStr) -> String {
    let odd = |byte: &u8| !(0x20..0x7f).contains(byte) || matches!(byte, b'"' | b'\\');
    if !path.as_bytes().iter().any(odd) {
        return format!("{prefix}{}", path.display());
    }
    let mut text = format!("\"{prefix}");
    for &byte in path.as_bytes() {
        // Writing to a String cannot fail.
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            0x20..0x7f => text.push(char::from(byte)),
            byte => write!(text, "\\{byte:03o}").unwrap_or_default(),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(mode: u32, content: &[u8]) -> Side {
        Side { mode, content: Some(content.to_vec()) }
    }

    fn patch(name: &str, old: Option<&Side>, new: Option<&Side>) -> String {
        String::from_utf8(write(&[name.into()], old, new)).unwrap()
    }

    #[test]
    fn it_reads_as_gits() {
        let (one, two) = (side(0o100_644, b"a\nb\nc\n"), side(0o100_755, b"a\nB\nc"));
        assert_eq!(
            patch("f", Some(&one), Some(&two)),
            "diff --git a/f b/f\nold mode 100644\nnew mode 100755\n--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\n+c\n\
             \\ No newline at end of file\n"
        );
        assert_eq!(patch("f", Some(&one), Some(&one)), "");
        let empty = side(0o100_644, b"");
        assert_eq!(patch("new", None, Some(&empty)), "diff --git a/new b/new\nnew file mode 100644\n");
        let binary = side(0o100_644, b"\0");
        assert!(patch("f", Some(&one), Some(&binary)).ends_with("Binary files a/f and b/f differ\n"));
        let link = side(0o120_000, b"f");
        let turned = patch("f", Some(&one), Some(&link));
        assert!(
            turned.contains("deleted file mode 100644") && turned.contains("new file mode 120000"),
            "{turned}"
        );
    }

    #[test]
    fn odd_names_are_quoted() {
        assert_eq!(quoted("a/", OsStr::new("plain name")), "a/plain name");
        assert_eq!(quoted("b/", OsStr::from_bytes(b"\"\\\n\xff\x1b")), "\"b/\\\"\\\\\\n\\377\\033\"");
    }
}
