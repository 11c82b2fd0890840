//! What was a thing before the run changed it?
//!
//! The daemon notes it in `log` (see docs/WORKDIR.md), and what has been made for real is noted in `applied` as it is from
//! then on. Both are read by the time that is in each line.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;

use super::error::{Error, Result};
use crate::branch::{Inode, Stat};
use crate::control::{escaped, unescaped};

const LOG: &str = "log";
const APPLIED: &str = "applied";
/// Up to this size, in bytes, the data of a file is kept.
const LARGEST: u64 = 256 * 1024;

/// What a path was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) kind: char,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Seconds and nanoseconds since 1970, as all times here.
    pub(super) mtime: (i64, u64),
    pub(super) ctime: (i64, u64),
    pub(super) ino: u64,
    /// The file that holds its data.
    pub(super) kept: Option<String>,
}

/// An inode of a layer as it was when it was made for real: its number and the time of its last change. None for what was
/// deleted.
type Taken = Option<(u64, (i64, u64))>;

/// What paths were, those that are not there having been absent.
#[derive(Debug, Default)]
pub(super) struct Bases {
    dir: PathBuf,
    known: HashMap<PathBuf, Base>,
    /// What paths have become by being made for real; None for what was removed. A rewind takes nothing of it back.
    applied: HashMap<PathBuf, Option<Base>>,
    /// What of the run has been made for real.
    taken: HashMap<PathBuf, Taken>,
}

/// What a line says, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Base(PathBuf, Base),
    Gone(PathBuf),
    Taken(PathBuf, Taken),
    Snapshot(String),
    Rewind(String),
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

impl Base {
    /// What an inode is by now.
    pub(super) fn of(stat: &Stat) -> Self {
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
    pub(super) fn same_metadata(&self, other: &Self) -> bool {
        let of = |base: &Self| (base.kind, base.mode, base.uid, base.gid);
        of(self) == of(other)
    }
}

fn parse_time(word: &str) -> Option<(i64, u64)> {
    let (seconds, nanoseconds) = word.split_once('.')?;
    Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
}

fn path_of(escaped: &[u8]) -> PathBuf {
    let path = PathBuf::from(unescaped(escaped));
    if path == Path::new(".") { PathBuf::new() } else { path }
}

fn parse(line: &[u8]) -> Option<((i64, u64), Line)> {
    let mut words = line.splitn(13, |&byte| byte == b' ');
    let text = |word: Option<&[u8]>| Some(std::str::from_utf8(word?).ok()?.to_owned());
    let kind = text(words.next())?;
    let time = parse_time(&text(words.next())?)?;
    if kind == "taken" {
        let mut words = line.splitn(5, |&byte| byte == b' ').skip(2);
        let (ino, ctime) = (text(words.next())?, text(words.next())?);
        let taken = if ino == "-" { None } else { Some((ino.parse().ok()?, parse_time(&ctime)?)) };
        return Some((time, Line::Taken(path_of(words.next()?), taken)));
    }
    if kind != "base" {
        let rest = line.splitn(3, |&byte| byte == b' ').nth(2)?;
        let name = || String::from_utf8_lossy(rest).into_owned();
        return Some((
            time,
            match &*kind {
                "gone" => Line::Gone(path_of(rest)),
                "snapshot" => Line::Snapshot(name()),
                "rewind" => Line::Rewind(name()),
                _ => return None,
            },
        ));
    }
    let mut word = || text(words.next());
    let base = Base {
        kind: word()?.chars().next()?,
        mode: u32::from_str_radix(&word()?, 8).ok()?,
        uid: word()?.parse().ok()?,
        gid: word()?.parse().ok()?,
        size: word()?.parse().ok()?,
        mtime: parse_time(&word()?)?,
        ctime: parse_time(&word()?)?,
        // The device's number is another one after a restart of the system.
        ino: word().and_then(|_| word())?.parse().ok()?,
        kept: word().map(|kept| (kept != "-").then_some(kept))?,
    };
    Some((time, Line::Base(path_of(words.next()?), base)))
}

fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    text[..end].split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// A line, when it was written, and whether that was when something had been made for real.
type Dated = ((i64, u64), bool, Line);

/// What is known after all lines.
fn replay(mut lines: Vec<Dated>) -> Bases {
    lines.sort_by_key(|(time, ..)| *time);
    let Bases { mut known, mut applied, mut taken, .. } = Bases::default();
    let mut saved: HashMap<String, HashMap<PathBuf, Base>> = HashMap::new();
    for (_, is_applied, line) in lines {
        match line {
            Line::Base(path, base) => {
                if is_applied {
                    applied.insert(path.clone(), Some(base.clone()));
                }
                known.insert(path, base);
            }
            Line::Gone(path) => {
                known.remove(&path);
                applied.insert(path, None);
            }
            Line::Taken(path, inode) => drop(taken.insert(path, inode)),
            Line::Snapshot(name) => drop(saved.insert(name, known.clone())),
            Line::Rewind(name) => known = saved.get(&name).cloned().unwrap_or_default(),
        }
    }
    Bases { dir: PathBuf::new(), known, applied, taken }
}

impl Bases {
    /// Those of a workdir.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut lines = Vec::new();
        for name in [LOG, APPLIED] {
            let path = dir.join(name);
            let text = match fs::read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(Error::io("read", &path))?,
            };
            let of_applied = name == APPLIED;
            let dated = |line| parse(line).map(|(time, line)| (time, of_applied, line));
            lines.extend(whole_lines(&text).filter_map(dated));
        }
        Ok(Self { dir: dir.to_owned(), ..replay(lines) })
    }

    /// What was at the end of a way.
    pub(super) fn find(&self, way: &[OsString]) -> Option<&Base> {
        self.known.get(&way.iter().collect::<PathBuf>())
    }

    /// What a path has become by being made for real, if it has.
    pub(super) fn applied(&self, way: &[OsString]) -> Option<Option<&Base>> {
        self.applied.get(&way.iter().collect::<PathBuf>()).map(Option::as_ref)
    }

    /// Whether what the run has at the end of a way, as it is in its layer, has been made for real.
    pub(super) fn is_taken(&self, way: &[OsString], run: Option<&Stat>) -> bool {
        self.taken.get(&way.iter().collect::<PathBuf>()) == Some(&taken(run))
    }

    /// The data that a file had, or the target of a symbolic link, if it was kept.
    pub(super) fn kept(&self, base: &Base) -> Option<Vec<u8>> {
        fs::read(self.dir.join(base.kept.as_ref()?)).ok()
    }

    /// Begins to note what has been made for real.
    pub(super) fn noting(&self) -> Result<Notes> {
        let path = self.dir.join(APPLIED);
        let file = File::options().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        let mut notes = Notes { dir: self.dir.clone(), path, file };
        // Ends a line that was cut short.
        notes.add(b"\n")?;
        Ok(notes)
    }
}

/// What has been made for real.
#[derive(Debug)]
pub(super) struct Notes {
    dir: PathBuf,
    path: PathBuf,
    file: File,
}

impl Notes {
    fn add(&mut self, line: &[u8]) -> Result<()> {
        self.file.write_all(line).map_err(Error::io("write", &self.path))
    }

    /// What the run has at the end of a way has been made for real, whatever has become of it there.
    pub(super) fn taken(&mut self, way: &[OsString], run: Option<&Stat>) -> Result<()> {
        let (ino, ctime) = match taken(run) {
            Some((ino, (seconds, nanoseconds))) => (ino.to_string(), format!("{seconds}.{nanoseconds:09}")),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let path = escaped(way.iter().collect::<PathBuf>().as_os_str().as_bytes());
        self.add(&[format!("taken {} {ino} {ctime} ", now()).as_bytes(), &path, b"\n"].concat())
    }

    /// There is nothing at the end of a way any more.
    pub(super) fn gone(&mut self, way: &[OsString]) -> Result<()> {
        let path = escaped(way.iter().collect::<PathBuf>().as_os_str().as_bytes());
        self.add(&[b"gone ", now().as_bytes(), b" ", &path, b"\n"].concat())
    }

    /// That is at the end of a way from now on.
    pub(super) fn made(&mut self, way: &[OsString], stat: &Stat, inode: Option<&Inode>) -> Result<()> {
        let base = Base::of(stat);
        let kept = inode.map(|inode| self.keep(stat, inode)).transpose()?.flatten();
        let time = |(seconds, nanoseconds): (i64, u64)| format!("{seconds}.{nanoseconds:09}");
        let mut line = String::new();
        // Writing to a String cannot fail.
        write!(
            line,
            "base {} {} {:o} {} {} {} {} {} {} {} {} ",
            now(),
            base.kind,
            base.mode,
            base.uid,
            base.gid,
            base.size,
            time(base.mtime),
            time(base.ctime),
            stat.st_dev,
            base.ino,
            kept.as_deref().unwrap_or("-"),
        )
        .unwrap_or_default();
        let path = way.iter().collect::<PathBuf>();
        let path = if way.is_empty() { Path::new(".") } else { &path };
        self.add(&[line.as_bytes(), &escaped(path.as_os_str().as_bytes()), b"\n"].concat())
    }

    fn keep(&self, stat: &Stat, inode: &Inode) -> Result<Option<String>> {
        let content = match stat.kind() {
            FileType::RegularFile if stat.st_size as u64 <= LARGEST => super::content::read(inode, stat)?,
            FileType::Symlink => inode.read_link()?.into_encoded_bytes(),
            _ => return Ok(None),
        };
        let name = format!("applied-{}-{}", std::process::id(), now());
        let path = self.dir.join(&name);
        fs::write(&path, content).map_err(Error::io("write", &path))?;
        Ok(Some(name))
    }
}

fn taken(run: Option<&Stat>) -> Taken {
    run.map(|stat| (stat.st_ino, (stat.st_ctime, stat.st_ctime_nsec)))
}

fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str) -> Vec<(String, u64)> {
        let dated = |line| parse(line).map(|(time, line)| (time, false, line));
        let lines = whole_lines(text.as_bytes()).filter_map(dated).collect();
        let mut known: Vec<_> = replay(lines)
            .known
            .into_iter()
            .map(|(path, base)| (path.to_string_lossy().into_owned(), base.size))
            .collect();
        known.sort();
        known
    }

    fn base(time: u64, size: u64, path: &str) -> String {
        format!("base {time}.000000000 f 644 0 0 {size} 1.5 2.000000007 65024 12 - {path}\n")
    }

    #[test]
    fn the_last_word_counts_whoever_says_it() {
        let text =
            [base(2, 20, "a"), base(1, 10, "a"), "gone 3.0 b\n".into(), base(2, 5, "b"), base(3, 1, ".")];
        assert_eq!(known(&text.concat()), [(String::new(), 1), ("a".into(), 20)]);
        let cut = base(2, 1, "a b\\012c") + &base(3, 2, "d");
        assert_eq!(known(&cut[..cut.len() - 1]), [("a b\nc".into(), 1)]);
        assert_eq!(known("base 1.0 f\nnonsense\n\n"), []);
    }

    #[test]
    fn a_rewind_goes_back_to_what_was_known() {
        let text = [
            base(1, 1, "a"),
            "snapshot 2.0 s\n".into(),
            base(3, 9, "a"),
            base(3, 3, "b"),
            "rewind 4.0 s\n".into(),
            base(5, 5, "c"),
        ];
        assert_eq!(known(&text.concat()), [("a".into(), 1), ("c".into(), 5)]);
        assert_eq!(known("rewind 1.0 s\n"), []);
    }

    #[test]
    fn a_line_says_all_of_it() {
        let line = b"base 7.000000009 l 4755 1 2 3 4.000000005 6.000000007 65024 99 17 d/e f";
        let base = Base {
            kind: 'l',
            mode: 0o4755,
            uid: 1,
            gid: 2,
            size: 3,
            mtime: (4, 5),
            ctime: (6, 7),
            ino: 99,
            kept: Some("17".into()),
        };
        assert_eq!(parse(line), Some(((7, 9), Line::Base("d/e f".into(), base))));
    }
}
