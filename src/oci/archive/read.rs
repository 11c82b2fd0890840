//! What is in a tar archive that anybody may have made?
//!
//! Read from a stream, once, in memory that does not depend on the archive: an entry's headers may take 1 MiB, its
//! content goes by. Every name, number and link is checked before a [`Sink`] sees it; what cannot be is an error that
//! names the entry, and never a guess.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use tar_core::parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, HEADER_SIZE, PaxExtensions, SparseEntry};

use super::super::error::{Error, Result};
use super::super::item::{Content, Item, Meta, Node, Piece, Sink, Time, TreePath, os_string};
use crate::layer::is_private_xattr;
use crate::rules::name::{MarkerName, Spelling};
use crate::rules::override_stat::{MADE_WITH_MODE, OVERRIDE_STATS, SYMLINK_OWNERS, kept_name};
use crate::shown::shown;

const BUFFER: usize = 256 * 1024;
/// The headers of one entry: as much as tar-core allows, and their own blocks.
const LONGEST_HEADERS: usize = 2 * 1024 * 1024;
/// No value of an extended attribute is longer on Linux, and no name.
const LONGEST_XATTR: usize = 64 * 1024;
const LONGEST_XATTR_NAME: usize = 255;
/// No file is longer.
const LONGEST_FILE: u64 = i64::MAX as u64;
/// No device of Linux has larger numbers: of others mknod(2) drops the upper bits.
const LARGEST_MAJOR: u32 = (1 << 12) - 1;
const LARGEST_MINOR: u32 = (1 << 20) - 1;
/// What chown(2) takes for "leave it".
const NO_ID: u64 = u32::MAX as u64;

/// Whether an archive without the blocks of zeros at its end is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It may have been cut short between two entries.
    Required,
    /// Its digest says that it is whole.
    Verified,
}

/// Shows every entry of an archive.
///
/// # Errors
/// What is wrong with the archive or with an entry; those of `sink`.
pub fn read(source: impl Read, ending: Ending, sink: &mut dyn Sink) -> Result<()> {
    let limits = Limits { max_pending_entries: 8, max_sparse_entries: 40_000, ..Limits::default() };
    let mut parser = Parser::new(limits);
    // What a record says is read once more below, where the entry has a name to be blamed by.
    parser.set_ignore_pax_errors(true);
    parser.set_allow_empty_path(true);
    let mut stream = Stream { source, buffer: Vec::new(), start: 0, position: 0 };
    let mut last = None;
    loop {
        let wrong = |what: String, at| Error::Archive { what, at, after: last.clone() };
        let position = stream.position;
        let (consumed, event) = match parser.parse(stream.ready()).map_err(|e| wrong(why(&e), position))? {
            ParseEvent::NeedData { min_bytes } => {
                // Always more than there was: the parser may ask again for what it has.
                let wanted = min_bytes.max(stream.ready().len() + 1);
                if wanted > LONGEST_HEADERS {
                    return Err(wrong("has an entry with more than 2 MiB of headers".to_owned(), position));
                }
                if stream.fill(wanted)? {
                    continue;
                }
                // The end of the stream.
                let rest = stream.ready();
                if ending == Ending::Verified && rest.iter().all(|byte| *byte == 0) {
                    return Ok(());
                }
                let what = if rest.is_empty() { "ends without its end marker" } else { "is cut short" };
                return Err(wrong(format!("{what}: it is not whole"), position + rest.len() as u64));
            }
            ParseEvent::End { .. } => return stream.drain(),
            ParseEvent::GlobalExtensions { consumed, .. } => {
                // Comments, as `git archive` writes them. What they say of all entries nobody heeds.
                stream.advance(consumed);
                continue;
            }
            ParseEvent::Entry { consumed, entry } => (consumed, Parsed::of(&entry, None)),
            ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                (consumed, Parsed::of(&entry, Some((sparse_map, real_size))))
            }
        };
        stream.advance(consumed);
        let Parsed { item, stored, map } = event?;
        let padding = stored.next_multiple_of(HEADER_SIZE as u64) - stored;
        last = Some(os_string(item.as_ref().map_or(b"", |item| item.path.as_bytes())));
        let mut content = Stored { stream: &mut stream, left: stored, map };
        if let Some(item) = &item {
            sink.put(item, &mut content).map_err(|error| match error {
                Error::Archive { what, at, after: None } => Error::Archive { what, at, after: last.clone() },
                error => item.failed(error),
            })?;
        }
        // What the sink has not asked for.
        let left = content.left;
        if stream.skip(left + padding)? {
            continue;
        }
        let at = stream.position;
        return Err(Error::Archive { what: "is cut short: it is not whole".to_owned(), at, after: last });
    }
}

/// In our own words: tar-core's have Rust in them.
fn why(error: &ParseError) -> String {
    match error {
        ParseError::Header(_) => "has a header that is none",
        ParseError::MetadataTooLarge { .. } => "has an entry with more than 1 MiB of headers",
        ParseError::TooManyPendingEntries { .. } => "has too many headers for one entry",
        ParseError::TooManySparseEntries { .. } => "has a file with more than 40,000 holes",
        ParseError::DuplicateGnuLongName
        | ParseError::DuplicateGnuLongLink
        | ParseError::DuplicatePaxHeader
        | ParseError::OrphanedMetadata => "has headers that belong to no entry",
        ParseError::InvalidPaxSparseMap(_) | ParseError::SparseNotGnu => {
            "has a file whose holes cannot be told"
        }
        ParseError::Pax(_) | ParseError::InvalidUtf8(_) | ParseError::InvalidPaxValue { .. } => {
            "has a pax record that cannot be read"
        }
        _ => "has an entry that cannot be read",
    }
    .to_owned()
}

/// The archive, as far as it is in memory.
struct Stream<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    position: u64,
}

impl<R: Read> Stream<R> {
    fn ready(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        self.position += bytes as u64;
    }

    /// Has at least so many bytes ready, if there are as many.
    fn fill(&mut self, wanted: usize) -> Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let mut filled = self.buffer.len();
        // What is asked for in small steps is read in large ones: each time all of it is parsed anew.
        self.buffer.resize(wanted.max(BUFFER).max(2 * filled), 0);
        let read = loop {
            if filled >= wanted {
                break Ok(true);
            }
            match self.source.read(&mut self.buffer[filled..]) {
                Ok(0) => break Ok(false),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break Err(failed(error)),
            }
        };
        self.buffer.truncate(filled);
        read
    }

    /// Passes over so many bytes; false if there are fewer.
    fn skip(&mut self, mut bytes: u64) -> Result<bool> {
        while bytes > 0 {
            if self.ready().is_empty() && !self.fill(1)? {
                return Ok(false);
            }
            let some = bytes.min(self.ready().len() as u64);
            self.advance(some as usize);
            bytes -= some;
        }
        Ok(true)
    }

    /// Reads what is behind the end: a compressed stream says there whether it is whole.
    fn drain(&mut self) -> Result<()> {
        while self.skip(BUFFER as u64)? {}
        Ok(())
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::Io { what: "read", path: "the archive".into(), error }
}

/// A file's content in the archive.
struct Stored<'a, R> {
    stream: &'a mut Stream<R>,
    left: u64,
    map: Vec<SparseEntry>,
}

impl<R: Read> Content for Stored<'_, R> {
    fn pour(&mut self, take: &mut dyn FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
        let mut position = 0;
        for part in std::mem::take(&mut self.map) {
            if part.offset > position {
                take(Piece::Zeros(part.offset - position))?;
            }
            position = part.offset + part.length;
            let mut length = part.length;
            while length > 0 {
                if self.stream.ready().is_empty() && !self.stream.fill(1)? {
                    return Err(Error::Archive {
                        what: "is cut short: it is not whole".to_owned(),
                        at: self.stream.position,
                        after: None,
                    });
                }
                let some = length.min(self.stream.ready().len() as u64);
                take(Piece::Data(&self.stream.ready()[..some as usize]))?;
                self.stream.advance(some as usize);
                self.left -= some;
                length -= some;
            }
        }
        Ok(())
    }
}

/// An entry that was understood.
struct Parsed {
    /// None for what is no part of a layer.
    item: Option<Item>,
    /// How many bytes of the archive are its content.
    stored: u64,
    /// Where they are in the file; ends with an empty part at the file's end.
    map: Vec<SparseEntry>,
}

impl Parsed {
    fn of(entry: &ParsedEntry<'_>, sparse: Option<(Vec<SparseEntry>, u64)>) -> Result<Self> {
        let name = &*entry.path;
        let invalid = |what: String| Error::Invalid(what).of_entry(OsStr::from_bytes(name));
        let path = TreePath::parse(name).map_err(|bad| invalid(format!("its name {bad}")))?;
        let records = Records::of(entry).map_err(&invalid)?;
        let kind = entry.entry_type;
        let has_content = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse);
        // Readers do not agree on whether a directory's size is followed by as much: so none may be meant.
        if kind == EntryType::Directory && entry.size > 0 {
            return Err(invalid(format!("is a directory with {} bytes of content", entry.size)));
        }
        let stored = if has_content { entry.size } else { 0 };
        let longest = sparse.as_ref().map_or(0, |(_, size)| *size).max(stored);
        if longest > LONGEST_FILE {
            return Err(invalid(format!("has a size of {longest} bytes, which no file can have")));
        }
        let spelling = path.split().map(|(dir, name)| (dir, Spelling::of(name)));
        let node = match kind {
            EntryType::Directory => Node::Dir,
            // As archives before POSIX spell a directory.
            EntryType::Regular if name.ends_with(b"/") => Node::Dir,
            _ if has_content => Node::File { size: sparse.as_ref().map_or(entry.size, |(_, size)| *size) },
            EntryType::Symlink => {
                let target = entry.link_target.as_deref().filter(|target| !target.contains(&0));
                Node::Symlink(os_string(
                    target.ok_or_else(|| invalid("is a symbolic link to nowhere".to_owned()))?,
                ))
            }
            EntryType::Link => {
                let target = entry.link_target.as_deref().unwrap_or_default();
                let target = TreePath::parse(target)
                    .map_err(|bad| invalid(format!("is a hard link to a name that {bad}")))?;
                if target.is_root() || target == path {
                    return Err(invalid("is a hard link to itself, or to a directory".to_owned()));
                }
                Node::HardLink(target)
            }
            EntryType::Char | EntryType::Block => Node::Device {
                block: kind == EntryType::Block,
                major: entry.dev_major.unwrap_or_default(),
                minor: entry.dev_minor.unwrap_or_default(),
            },
            EntryType::Fifo => Node::Fifo,
            other => {
                let letter = shown(&os_string(&[other.to_byte()])).to_string();
                return Err(invalid(format!("has the type `{letter}`, which no layer has")));
            }
        };
        if let Node::Device { major, minor, .. } = node
            && (major > LARGEST_MAJOR || minor > LARGEST_MINOR)
        {
            return Err(invalid(format!("is a device {major}:{minor}, and Linux has no such numbers")));
        }
        if path.is_root() && node != Node::Dir {
            return Err(invalid("stands for the layer itself, and is no directory".to_owned()));
        }
        if let Some(reserved) =
            path.split().and_then(|(dir, _)| dir.names().find(|name| is_marker(name)).map(OsStr::to_owned))
        {
            return Err(invalid(format!("lies beneath `{}`, which is a marker's name", shown(&reserved))));
        }
        let (path, node) = match spelling {
            None | Some((_, Spelling::Entry(_))) => (path, node),
            // AUFS' own files, which older images still have.
            Some((_, Spelling::Reserved)) => {
                log::debug!("`{}` is left out: it is a union filesystem's own", shown(&path));
                return Ok(Self { item: None, stored, map: Vec::new() });
            }
            Some(_) if node == Node::Dir => {
                return Err(invalid("is a directory with a marker's name".to_owned()));
            }
            Some((dir, Spelling::Whiteout(hidden))) => (dir.join(hidden.as_os_str()), Node::Whiteout),
            Some((dir, Spelling::Opaque)) => (dir, Node::Opaque),
        };
        let map = match (&node, sparse) {
            (Node::File { size }, Some((map, _))) => checked(map, *size, stored).map_err(&invalid)?,
            (Node::File { size }, None) => vec![SparseEntry { offset: 0, length: *size }],
            _ => Vec::new(),
        };
        let id = |id: u64| {
            u32::try_from(id).ok().filter(|_| id != NO_ID).ok_or_else(|| {
                invalid(format!("belongs to the id {id}, and there are none beyond 4294967294"))
            })
        };
        let meta = Meta {
            mode: entry.mode & 0o7777,
            uid: id(records.uid.unwrap_or(entry.uid))?,
            gid: id(records.gid.unwrap_or(entry.gid))?,
            mtime: records.mtime.unwrap_or_else(|| Time { seconds: header_time(entry), nanoseconds: 0 }),
            xattrs: xattrs(entry).map_err(&invalid)?,
        };
        Ok(Self { item: Some(Item { path, node, meta }), stored, map })
    }
}

/// Whether a name on the way to an entry is one that users cannot see.
fn is_marker(name: &OsStr) -> bool {
    name == MarkerName::opaque().as_os_str() || !matches!(Spelling::of(name), Spelling::Entry(_))
}

/// A map of data in order, within the file, with as much data as there is.
fn checked(mut map: Vec<SparseEntry>, size: u64, stored: u64) -> Result<Vec<SparseEntry>, String> {
    let wrong = || "its map of holes does not fit its size".to_owned();
    let (mut end, mut sum) = (0, 0u64);
    for part in &map {
        if part.offset < end {
            return Err(wrong());
        }
        end = part.offset.checked_add(part.length).filter(|end| *end <= size).ok_or_else(wrong)?;
        sum = sum.checked_add(part.length).ok_or_else(wrong)?;
    }
    if sum != stored {
        return Err(wrong());
    }
    map.push(SparseEntry { offset: size, length: 0 });
    Ok(map)
}

/// What pax records say that tar-core reads leniently, or not at all.
#[derive(Default)]
struct Records {
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
}

impl Records {
    fn of(entry: &ParsedEntry<'_>) -> Result<Self, String> {
        let mut records = Self::default();
        if !are_whole(entry.pax.unwrap_or_default()) {
            return Err("has a pax record that cannot be read".to_owned());
        }
        for record in PaxExtensions::new(entry.pax.unwrap_or_default()) {
            let unreadable = || "has a pax record that cannot be read".to_owned();
            let record = record.map_err(|_| unreadable())?;
            let Ok(key) = record.key() else { return Err(unreadable()) };
            let text = || record.value().map_err(|_| format!("its pax record `{key}` is no number"));
            let number =
                || text()?.parse::<u64>().map_err(|_| format!("its pax record `{key}` is no number"));
            match key {
                "uid" => records.uid = Some(number()?),
                "gid" => records.gid = Some(number()?),
                "size" => drop(number()?),
                "SCHILY.acl.access" | "SCHILY.acl.default" => log::warn!(
                    "`{}`: an ACL is left out: plyfs reads those in SCHILY.xattr.system.posix_acl_access, which `tar \
                     --xattrs --xattrs-include='*'` writes",
                    shown(&os_string(&entry.path))
                ),
                "mtime" => {
                    let time = parse_time(text()?);
                    records.mtime = Some(time.ok_or_else(|| "its pax record `mtime` is no time".to_owned())?);
                }
                _ => {}
            }
        }
        Ok(records)
    }
}

/// Whether pax records follow each other to the end, as long as they say. tar-core passes over the rest where a length
/// is no number.
fn are_whole(mut records: &[u8]) -> bool {
    while !records.is_empty() {
        let Some(space) = records.iter().position(|byte| *byte == b' ') else { return false };
        let length = std::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let Some(length) = length.filter(|length| *length > space + 1 && *length <= records.len()) else {
            return false;
        };
        if records[length - 1] != b'\n' {
            return false;
        }
        records = &records[length..];
    }
    true
}

/// A time that is no pax record. GNU tar writes those before 1970 in base 256, with a sign, which tar-core takes for a
/// part of the number.
fn header_time(entry: &ParsedEntry<'_>) -> i64 {
    const MTIME: std::ops::Range<usize> = 136..148;
    const NEGATIVE: u8 = 0xff;
    let field = &entry.header.as_bytes()[MTIME];
    if let [NEGATIVE, number @ ..] = field
        && let Some(last) = number.last_chunk::<8>()
    {
        return i64::from_be_bytes(*last);
    }
    i64::try_from(entry.mtime).unwrap_or(i64::MAX)
}

/// Seconds with a fraction; digits beyond nanoseconds are dropped.
fn parse_time(text: &str) -> Option<Time> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    // Neither a second sign nor none of the digits.
    if ![whole, fraction].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn xattrs(entry: &ParsedEntry<'_>) -> Result<Vec<(OsString, Vec<u8>)>, String> {
    let mut xattrs: Vec<(OsString, Vec<u8>)> = Vec::new();
    for (key, value) in &entry.xattrs {
        let key = os_string(key);
        if key.is_empty() || key.as_bytes().contains(&0) || key.len() > LONGEST_XATTR_NAME {
            return Err(format!("has an attribute with the name `{}`, which none can have", shown(&key)));
        }
        if value.len() > LONGEST_XATTR {
            return Err(format!("its attribute `{}` is longer than 64 KiB", shown(&key)));
        }
        // What union filesystems, and plyfs on an ordinary user's disk, would take for their own.
        let is_ours = OVERRIDE_STATS.iter().any(|name| key == *name)
            || key == SYMLINK_OWNERS
            || key == MADE_WITH_MODE
            || kept_name(&key).is_some();
        if is_ours || is_private_xattr(&key) {
            log::warn!(
                "`{}`: the attribute `{}` is left out: it speaks to union filesystems",
                shown(&os_string(&entry.path)),
                shown(&key)
            );
            continue;
        }
        // The last record of a name counts.
        xattrs.retain(|(earlier, _)| *earlier != key);
        xattrs.push((key, value.to_vec()));
    }
    xattrs.sort();
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_pax_records_spell_them() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-0.5", -1, 500_000_000),
            ("-1.75", -2, 250_000_000),
            ("-2", -2, 0),
        ] {
            assert_eq!(parse_time(text), Some(Time { seconds, nanoseconds }), "{text}");
        }
        for text in ["", "x", "1.x", "--1", "+1", "1e3", "99999999999999999999"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_map_of_holes_must_fit_the_file() {
        let part = |offset, length| SparseEntry { offset, length };
        assert_eq!(checked(vec![part(0, 1), part(5, 2)], 9, 3).map(|map| map.len()), Ok(3));
        for (map, size, stored) in [
            (vec![part(0, 10)], 9, 10),
            (vec![part(5, 1), part(0, 1)], 9, 2),
            (vec![part(0, 2), part(1, 2)], 9, 4),
            (vec![part(u64::MAX, 1)], u64::MAX, 1),
            (vec![part(0, 1)], 9, 2),
        ] {
            assert!(checked(map, size, stored).is_err());
        }
    }
}
