//! What was a thing before the run changed it?
//!
//! The daemon notes it in `log` (see docs/WORKDIR.md), and what has been made for real is noted in `applied` as it is from
//! then on. Both are read by the time that is in each line.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::error::{Error, Result};
pub(super) use crate::bases::Base;
use crate::bases::{LARGEST, LOG, Time, now, parse_path, parse_time, path_text, time_text};
use crate::branch::{Inode, Stat};

const APPLIED: &str = "applied";

/// An inode of a layer as it was when it was made for real: its number and the time of its last change. None for what was
/// deleted.
type Taken = Option<(u64, Time)>;

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

fn parse(line: &[u8]) -> Option<(Time, Line)> {
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let text = |word: &[u8]| std::str::from_utf8(word).map(ToOwned::to_owned).ok();
    let (kind, time, rest) = (words.next()?, parse_time(&text(words.next()?)?)?, words.next()?);
    let name = || String::from_utf8_lossy(rest).into_owned();
    let line = match kind {
        b"base" => Base::parse(rest).map(|(path, base)| Line::Base(path, base))?,
        b"gone" => Line::Gone(parse_path(rest)),
        b"snapshot" => Line::Snapshot(name()),
        b"rewind" => Line::Rewind(name()),
        b"taken" => {
            let mut words = rest.splitn(3, |&byte| byte == b' ');
            let (ino, ctime) = (text(words.next()?)?, text(words.next()?)?);
            let taken = if ino == "-" { None } else { Some((ino.parse().ok()?, parse_time(&ctime)?)) };
            Line::Taken(parse_path(words.next()?), taken)
        }
        _ => return None,
    };
    Some((time, line))
}

fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    text[..end].split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// A line, when it was written, and whether that was when something had been made for real.
type Dated = (Time, bool, Line);

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
        let inode = match taken(run) {
            Some((ino, ctime)) => format!("{ino} {}", time_text(ctime)),
            None => "- -".to_owned(),
        };
        self.add_about(&format!("taken {} {inode} ", time_text(now())), way)
    }

    /// There is nothing at the end of a way any more.
    pub(super) fn gone(&mut self, way: &[OsString]) -> Result<()> {
        self.add_about(&format!("gone {} ", time_text(now())), way)
    }

    fn add_about(&mut self, words: &str, way: &[OsString]) -> Result<()> {
        self.add(&[words.as_bytes(), &path_text(&way.iter().collect::<PathBuf>()), b"\n"].concat())
    }

    /// That is at the end of a way from now on.
    pub(super) fn made(&mut self, way: &[OsString], stat: &Stat, inode: &Inode) -> Result<()> {
        let base = Base { kept: self.keep(stat, inode)?, ..Base::of(stat) };
        self.add(&base.line(stat.st_dev, &way.iter().collect::<PathBuf>()))
    }

    fn keep(&self, stat: &Stat, inode: &Inode) -> Result<Option<String>> {
        let content = match stat.kind() {
            FileType::RegularFile if stat.st_size as u64 <= LARGEST => super::content::read(inode, stat)?,
            FileType::Symlink => inode.read_link()?.into_encoded_bytes(),
            _ => return Ok(None),
        };
        let name = format!("applied-{}-{}", std::process::id(), time_text(now()));
        let path = self.dir.join(&name);
        fs::write(&path, content).map_err(Error::io("write", &path))?;
        Ok(Some(name))
    }
}

fn taken(run: Option<&Stat>) -> Taken {
    run.map(|stat| (stat.st_ino, (stat.st_ctime, stat.st_ctime_nsec)))
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
}
