//! How is it written down what a thing was before it was changed? docs/WORKDIR.md, `bases`, has the format.
//!
//! The union writes these lines, and so does `apply`, which reads them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;

use crate::branch::Stat;
use crate::control::{escaped, unescaped};

/// What the union has noted, in the directory of bases.
pub const LOG: &str = "log";
/// Up to this size, in bytes, the data of a file is kept.
pub const LARGEST: u64 = 256 * 1024;

/// Seconds and nanoseconds since 1970.
pub type Time = (i64, u64);

/// What a path was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The letter of its type.
    pub kind: char,
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// In bytes.
    pub size: u64,
    /// When its data was changed last.
    pub mtime: Time,
    /// When anything of it was.
    pub ctime: Time,
    /// Its number. The device's is written, too, but is another one after a restart of the system.
    pub ino: u64,
    /// The file beside the log that holds its data, or the target of a symbolic link.
    pub kept: Option<String>,
}

impl Base {
    /// What an inode is by now.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        Self {
            kind: letter(stat.kind()),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            ino: stat.st_ino,
            kept: None,
        }
    }

    /// Type, owner and mode.
    #[must_use]
    pub fn same_metadata(&self, other: &Self) -> bool {
        let of = |base: &Self| (base.kind, base.mode, base.uid, base.gid);
        of(self) == of(other)
    }

    /// The line for a path from the root, on the device of that number.
    #[must_use]
    pub fn line(&self, device: u64, path: &Path) -> Vec<u8> {
        let Self { kind, mode, uid, gid, size, ino, .. } = self;
        let (time, mtime, ctime) = (time_text(now()), time_text(self.mtime), time_text(self.ctime));
        let kept = self.kept.as_deref().unwrap_or("-");
        let words =
            format!("base {time} {kind} {mode:o} {uid} {gid} {size} {mtime} {ctime} {device} {ino} {kept} ");
        [words.as_bytes(), &path_text(path), b"\n"].concat()
    }

    /// What such a line says, after its first two words.
    #[must_use]
    pub fn parse(words: &[u8]) -> Option<(PathBuf, Self)> {
        let mut words = words.splitn(11, |&byte| byte == b' ');
        let mut word = || Some(std::str::from_utf8(words.next()?).ok()?.to_owned());
        let base = Self {
            kind: word()?.chars().next()?,
            mode: u32::from_str_radix(&word()?, 8).ok()?,
            uid: word()?.parse().ok()?,
            gid: word()?.parse().ok()?,
            size: word()?.parse().ok()?,
            mtime: parse_time(&word()?)?,
            ctime: parse_time(&word()?)?,
            ino: word().and_then(|_device| word())?.parse().ok()?,
            kept: word().map(|kept| (kept != "-").then_some(kept))?,
        };
        Some((parse_path(words.next()?), base))
    }
}

fn letter(kind: FileType) -> char {
    match kind {
        FileType::RegularFile => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Unknown => '?',
    }
}

/// A path from the root as it is written.
#[must_use]
pub fn path_text(path: &Path) -> Vec<u8> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    escaped(path.as_os_str().as_bytes())
}

/// What [`path_text`] was made of.
#[must_use]
pub fn parse_path(text: &[u8]) -> PathBuf {
    let path = PathBuf::from(unescaped(text));
    if path == Path::new(".") { PathBuf::new() } else { path }
}

/// A time as it is written.
#[must_use]
pub fn time_text((seconds, nanoseconds): Time) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

/// What [`time_text`] was made of.
#[must_use]
pub fn parse_time(text: &str) -> Option<Time> {
    let (seconds, nanoseconds) = text.split_once('.')?;
    Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
}

/// The time.
#[must_use]
pub fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs() as i64, now.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let base = Base {
            kind: 'l',
            mode: 0o4755,
            uid: 1,
            gid: 2,
            size: 3,
            mtime: (4, 5),
            ctime: (-6, 7),
            ino: 99,
            kept: Some("17".into()),
        };
        for (path, base) in [("d/e f\ng", base.clone()), ("", Base { kept: None, ..base })] {
            let line = base.line(65024, Path::new(path));
            let words = line.strip_suffix(b"\n").and_then(|line| line.splitn(3, |&byte| byte == b' ').nth(2));
            assert_eq!(Base::parse(words.unwrap()), Some((path.into(), base)));
        }
        assert_eq!(Base::parse(b"f 644 0 0"), None);
        assert_eq!(time_text((1, 5)), "1.000000005");
    }
}
