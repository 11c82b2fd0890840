//! How are lines kept in a file that a crash may cut short?
//!
//! They are appended, and a line without an end does not count. Whoever writes waits for nobody but other writers.

use std::ffi::OsStr;

use parking_lot::Mutex;
use rustix::fs::Mode;

use crate::branch::{Dir, UpperDir, WorkDir, WriteFile};
use crate::error::{Error, Place, Result};
use crate::rules::BranchId;

const NAME: &str = "index";
const NEW: &str = "index.new";
/// So many lines that no longer hold are not worth writing the others anew.
const SMALL: usize = 256;

/// An append-only file of lines.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<State>);

/// The file of another directory, open.
#[derive(Debug)]
pub(super) struct Open {
    file: WriteFile,
    end: u64,
    lines: usize,
}

#[derive(Debug, Default)]
struct State {
    file: Option<WriteFile>,
    /// Where the next line goes.
    end: u64,
    lines: usize,
}

impl Log {
    /// Shows every whole line.
    pub(super) fn replay(&self, home: &Dir, take: &mut dyn FnMut(&str)) -> Result<()> {
        let text = read(home, NAME)?.unwrap_or_default();
        let mut lines = 0;
        whole_lines(&text).for_each(|line| {
            lines += 1;
            take(line);
        });
        self.0.lock().lines = lines;
        Ok(())
    }

    /// The file of that name in a directory, in which there is one.
    pub(super) fn open_in(&self, dir: &UpperDir) -> Result<Open> {
        let file = dir.open_upper_inode(OsStr::new(NAME))?.open_write()?;
        let end = file.inode().stat()?.st_size as u64;
        Ok(Open { file, end, lines: self.0.lock().lines })
    }

    /// Goes on in another file.
    pub(super) fn follow(&self, open: Open) {
        *self.0.lock() = State { file: Some(open.file), end: open.end, lines: open.lines };
    }

    /// Makes the file ahead, so that a line on a full disk takes no inode.
    pub(super) fn prepare(&self, work: &WorkDir) -> Result<()> {
        self.0.lock().open(work).map(drop)
    }

    /// Adds a line, which has its end.
    pub(super) fn append(&self, work: &WorkDir, line: &str) -> Result<()> {
        let state = &mut *self.0.lock();
        let file = state.open(work)?;
        // Should only a part of it get there, the next line is written over it.
        file.write_all_at(state.end, line.as_bytes())?;
        state.end += line.len() as u64;
        state.lines += 1;
        Ok(())
    }

    /// Copies what follows `from` to the file of that name in another directory. Says where it ends.
    pub(super) fn copy(&self, work: &WorkDir, to: &UpperDir, from: u64) -> Result<u64> {
        let state = &mut *self.0.lock();
        let file = state.open(work)?;
        let mut bytes = vec![0; usize::try_from(state.end.saturating_sub(from)).unwrap_or(0)];
        let file = file.upper_inode().open_read()?;
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(from + length as u64, &mut bytes[length..])? {
                0 => break,
                more => length += more,
            }
        }
        add(to, from, &bytes[..length])?;
        Ok(from + length as u64)
    }

    /// Waits until all lines so far are on disk.
    pub(super) fn sync(&self, work: &WorkDir) -> Result<()> {
        let file = self.0.lock().file.clone();
        match file {
            Some(file) => {
                file.sync_data()?;
                work.root()?.sync()
            }
            None => Ok(()),
        }
    }

    /// Writes the file anew if many of its lines do not hold any more. `lines` are those that do.
    pub(super) fn compact(&self, work: &WorkDir, lines: &[String]) -> Result<()> {
        let state = &mut *self.0.lock();
        if state.lines <= lines.len() * 2 + SMALL {
            return Ok(());
        }
        let home = work.root()?;
        home.remove_marker(OsStr::new(NEW))?;
        let file = home.create(OsStr::new(NEW), Mode::RUSR | Mode::WUSR)?;
        file.write_all_at(0, lines.concat().as_bytes())?;
        file.sync_data()?;
        home.rename(OsStr::new(NEW), &home, OsStr::new(NAME))?;
        state.file = None;
        state.lines = lines.len();
        Ok(())
    }

    /// Lets go of the file, and removes it if it says nothing any more. Nothing is made: whoever has unmounted may be
    /// removing the directory by now.
    pub(super) fn close(&self, work: &WorkDir, says_something: bool) -> Result<()> {
        self.0.lock().file = None;
        if says_something { Ok(()) } else { work.root()?.remove_marker(OsStr::new(NAME)) }
    }
}

impl State {
    fn open(&mut self, work: &WorkDir) -> Result<WriteFile> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let (file, end) = open(work)?;
        self.end = end;
        self.file = Some(file.clone());
        Ok(file)
    }
}

fn open(work: &WorkDir) -> Result<(WriteFile, u64)> {
    let home = work.root()?;
    let name = OsStr::new(NAME);
    if home.stat(name)?.is_none() {
        return Ok((home.create(name, Mode::RUSR | Mode::WUSR)?, 0));
    }
    let file = home.open_upper_inode(name)?.open_write()?;
    let end = file.inode().stat()?.st_size as u64;
    let text = read(&home, NAME)?.unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1) as u64;
    if whole < end {
        // Half a line may read as another one once it has an end.
        file.truncate(whole)?;
    }
    Ok((file, whole))
}

/// Writes a part of the file of that name in a directory, and waits until it is on disk.
pub(super) fn add(dir: &UpperDir, at: u64, bytes: &[u8]) -> Result<()> {
    let name = OsStr::new(NAME);
    let file = match dir.stat(name)? {
        None => dir.create(name, Mode::RUSR | Mode::WUSR)?,
        Some(_) => dir.open_upper_inode(name)?.open_write()?,
    };
    if bytes.is_empty() {
        return Ok(());
    }
    file.write_all_at(at, bytes)?;
    file.sync_data()
}

/// A small file of ours, None if there is none.
pub(super) fn read(home: &Dir, name: &str) -> Result<Option<String>> {
    let name = OsStr::new(name);
    let Some(stat) = home.stat(name)? else { return Ok(None) };
    let failed = |errno| Error::Sys { call: "pread", errno, place: Place::entry(BranchId::WORK, name) };
    if stat.kind() != rustix::fs::FileType::RegularFile {
        return Err(failed(rustix::io::Errno::INVAL));
    }
    let file = home.open_inode(name)?.open_read()?;
    let mut bytes = vec![0; usize::try_from(stat.st_size).unwrap_or(0)];
    let length = file.read_at(0, &mut bytes)?;
    bytes.truncate(length);
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines()
}
