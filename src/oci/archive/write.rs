//! How do items become a tar archive, the same bytes for the same layer from whichever disk?
//!
//! Nothing is written that a copy of the layer would not have: no names of owners, no times but those of
//! modification, no inode numbers. What a ustar header cannot hold is in pax records.

use std::io::{self, Write};

use tar_core::{EntryBuilder, EntryType, HEADER_SIZE, HeaderError};

use super::super::error::{Error, Result};
use super::super::item::{Content, Item, Meta, Node, Piece, Sink, Time};
use crate::rules::name::{MarkerName, Name};
use crate::shown::shown;

/// The largest time that a ustar header holds: eleven octal digits.
const LATEST_IN_HEADER: i64 = 0o777_7777_7777;
/// What a marker has: it is a name and nothing else.
static MARKER: Meta =
    Meta { mode: 0o644, uid: 0, gid: 0, mtime: Time { seconds: 0, nanoseconds: 0 }, xattrs: Vec::new() };
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Writes items as an archive.
#[derive(Debug)]
pub struct ArchiveWriter<W> {
    out: W,
    /// No time is later, in seconds since 1970: `SOURCE_DATE_EPOCH`.
    latest: Option<i64>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins one.
    pub fn new(out: W, latest: Option<i64>) -> Self {
        Self { out, latest }
    }

    /// Ends it, with the two blocks of zeros that say so.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> Result<W> {
        self.out.write_all(&ZEROS[..2 * HEADER_SIZE]).map_err(failed)?;
        Ok(self.out)
    }

    fn header(&self, item: &Item) -> Result<Vec<u8>> {
        let mut path = item.path.as_bytes().to_vec();
        let mut size = 0;
        let mut link: &[u8] = &[];
        let mut device = None;
        let mut meta = &item.meta;
        let kind = match &item.node {
            Node::Dir => {
                if path.is_empty() {
                    path.push(b'.');
                }
                path.push(b'/');
                EntryType::Directory
            }
            Node::File { size: length } => {
                size = *length;
                EntryType::Regular
            }
            Node::Symlink(target) => {
                link = target.as_encoded_bytes();
                EntryType::Symlink
            }
            Node::Device { block, major, minor } => {
                device = Some((*major, *minor));
                if *block { EntryType::Block } else { EntryType::Char }
            }
            Node::Fifo => EntryType::Fifo,
            Node::HardLink(first) => {
                link = first.as_bytes();
                EntryType::Link
            }
            Node::Whiteout => {
                path = marker_path(item)?;
                meta = &MARKER;
                EntryType::Regular
            }
            Node::Opaque => {
                path = item.path.join(MarkerName::opaque().as_os_str()).as_bytes().to_vec();
                meta = &MARKER;
                EntryType::Regular
            }
        };
        let mtime = self.latest.map_or(meta.mtime, |latest| {
            if meta.mtime.seconds < latest { meta.mtime } else { Time { seconds: latest, nanoseconds: 0 } }
        });
        let mut header = EntryBuilder::new_ustar();
        header.path(&path).entry_type(kind);
        let in_header = mtime.seconds.clamp(0, LATEST_IN_HEADER);
        let fits: Result<(), HeaderError> = (|| {
            header.mode(meta.mode & 0o7777)?;
            header.uid(meta.uid.into())?.gid(meta.gid.into())?.size(size)?;
            header.mtime(in_header.unsigned_abs())?;
            if let Some((major, minor)) = device {
                header.device(major, minor)?;
            }
            Ok(())
        })();
        fits.map_err(|_| Error::Invalid("has a number that no archive can hold".to_owned()))?;
        if !link.is_empty() {
            header.link_name(link);
        }
        if in_header != mtime.seconds || mtime.nanoseconds != 0 {
            header.add_pax("mtime", decimal(mtime));
        }
        for (key, value) in &meta.xattrs {
            match key.to_str().filter(|key| !key.contains('=')) {
                Some(key) => drop(header.add_pax(&format!("SCHILY.xattr.{key}"), value)),
                None => log::warn!(
                    "`{}`: the attribute `{}` is left out: an archive has no way to spell its name",
                    shown(&item.path),
                    shown(key)
                ),
            }
        }
        Ok(header.finish_bytes())
    }
}

impl<W: Write> Sink for ArchiveWriter<W> {
    fn put(&mut self, item: &Item, content: &mut dyn Content) -> Result<()> {
        let header = self.header(item).map_err(|error| item.failed(error))?;
        self.out.write_all(&header).map_err(failed)?;
        let Node::File { size } = item.node else { return Ok(()) };
        let mut written = 0;
        let out = &mut self.out;
        content.pour(&mut |piece| {
            let length = match piece {
                Piece::Data(bytes) => bytes.len() as u64,
                Piece::Zeros(length) => length,
            };
            written += length;
            if written > size {
                return Err(item.failed(changed()));
            }
            match piece {
                Piece::Data(bytes) => out.write_all(bytes).map_err(failed),
                Piece::Zeros(length) => write_zeros(out, length),
            }
        })?;
        if written != size {
            return Err(item.failed(changed()));
        }
        write_zeros(out, size.next_multiple_of(HEADER_SIZE as u64) - size)
    }
}

fn marker_path(item: &Item) -> Result<Vec<u8>> {
    let hidden = item.path.split().and_then(|(dir, name)| Some((dir, Name::new(name).ok()?.whiteout()?)));
    let Some((dir, marker)) = hidden else {
        return Err(Error::Invalid("is deleted, and no marker can say so: its name is too long".to_owned()));
    };
    Ok(dir.join(marker.as_os_str()).as_bytes().to_vec())
}

fn changed() -> Error {
    Error::Changed("its length changed")
}

/// Seconds with a fraction, as pax records spell times.
fn decimal(time: Time) -> String {
    let Time { seconds, nanoseconds } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, fraction) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    format!("{sign}{whole}.{fraction:09}").trim_end_matches('0').to_owned()
}

fn write_zeros(out: &mut impl Write, mut length: u64) -> Result<()> {
    while length > 0 {
        let some = length.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..some as usize]).map_err(failed)?;
        length -= some;
    }
    Ok(())
}

fn failed(error: io::Error) -> Error {
    Error::Io { what: "write", path: "the archive".into(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelt_as_pax_records_have_them() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (1, 1, "1.000000001"),
            (-1, 500_000_000, "-0.5"),
            (-2, 250_000_000, "-1.75"),
            (-2, 0, "-2"),
        ] {
            assert_eq!(decimal(Time { seconds, nanoseconds }), text);
        }
    }
}
