//! What is a run? Written when it is made, and read by whoever enters it, looks at it or applies it.
//!
//! A file of lines, `WORD VALUE`, in the escaping of /proc/mounts; its first line is `plyfs run 1`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::cli::Net;
use crate::control::{escaped, unescaped};

const HEAD: &[u8] = b"plyfs run 1";

/// What a run is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The command that it was made for.
    pub command: Vec<OsString>,
    /// Where that was called.
    pub directory: PathBuf,
    /// What it shows, topmost first; none for the whole system.
    pub lowers: Vec<PathBuf>,
    /// Where its changes go.
    pub upper: PathBuf,
    /// Its workdir.
    pub work: PathBuf,
    /// What is as it is outside.
    pub pass: Vec<PathBuf>,
    /// What does not show.
    pub hide: Vec<PathBuf>,
    /// Whether the command is root in it.
    pub root: bool,
    /// Whether root is the only user in it, and so whose a file is is not kept.
    pub alone: bool,
    /// Whether records in the upper say whose its files are.
    pub records: bool,
    /// Its network.
    pub net: Net,
}

impl About {
    /// As it is written.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = [HEAD, b"\n"].concat();
        let mut line = |word: &str, value: &OsStr| {
            text.extend_from_slice(word.as_bytes());
            text.push(b' ');
            text.extend(escaped(value.as_bytes()));
            text.push(b'\n');
        };
        line("created", OsStr::new(&self.created.to_string()));
        line("directory", self.directory.as_os_str());
        line("upper", self.upper.as_os_str());
        line("work", self.work.as_os_str());
        self.command.iter().for_each(|word| line("word", word));
        self.lowers.iter().for_each(|lower| line("lower", lower.as_os_str()));
        self.pass.iter().for_each(|path| line("pass", path.as_os_str()));
        self.hide.iter().for_each(|path| line("hide", path.as_os_str()));
        line("root", OsStr::new(if self.root { "yes" } else { "no" }));
        line("alone", OsStr::new(if self.alone { "yes" } else { "no" }));
        line("records", OsStr::new(if self.records { "yes" } else { "no" }));
        line("net", OsStr::new(if self.net == Net::None { "none" } else { "host" }));
        text
    }

    /// What such a text says; None if it is none, or of a later version.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        if lines.next()? != HEAD {
            return None;
        }
        let mut about = Self::default();
        for line in lines {
            let at = line.iter().position(|&byte| byte == b' ')?;
            let value = OsString::from_vec(unescaped(&line[at + 1..]).into_vec());
            let path = || PathBuf::from(&value);
            match &line[..at] {
                b"created" => about.created = value.to_str()?.parse().ok()?,
                b"directory" => about.directory = path(),
                b"upper" => about.upper = path(),
                b"work" => about.work = path(),
                b"word" => about.command.push(value),
                b"lower" => about.lowers.push(path()),
                b"pass" => about.pass.push(path()),
                b"hide" => about.hide.push(path()),
                b"root" => about.root = value == "yes",
                b"alone" => about.alone = value == "yes",
                b"records" => about.records = value == "yes",
                b"net" => about.net = if value == "none" { Net::None } else { Net::Host },
                _ => return None,
            }
        }
        Some(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let about = About {
            created: 17,
            command: vec!["sh".into(), "-c".into(), "echo a\\b\nc".into(), OsString::new()],
            directory: OsString::from_vec(b"/\xff".to_vec()).into(),
            lowers: vec!["/a b".into(), "/c".into()],
            upper: "/u".into(),
            work: "/w".into(),
            pass: vec!["/p".into()],
            hide: vec!["/h".into(), "/i".into()],
            root: true,
            alone: true,
            records: true,
            net: Net::None,
        };
        assert_eq!(About::parse(&about.text()), Some(about));
        assert_eq!(About::parse(&About::default().text()), Some(About::default()));
        assert_eq!(About::parse(b"plyfs run 2\n"), None);
        assert_eq!(About::parse(b""), None);
    }
}
