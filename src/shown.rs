//! How is a raw name shown to people, so that it cannot speak to their terminal?
//!
//! A name on disk is any bytes: an escape sequence in it would move the cursor or colour the screen, and a
//! newline would make up a line of its own. What is printed for people goes through here; what is meant for
//! programs (the output of `plyfs branches` into a pipe) stays as it is.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;

/// `name` with control characters as `\n`, `\t`, `\r` and `\x1b`, and with bytes that are no UTF-8 as `\xff`.
pub fn shown<N: AsRef<OsStr> + ?Sized>(name: &N) -> Shown<'_> {
    Shown { name: name.as_ref(), lines: Lines::One }
}

/// The same for text of several lines: newlines stay.
pub fn shown_lines<N: AsRef<OsStr> + ?Sized>(text: &N) -> Shown<'_> {
    Shown { name: text.as_ref(), lines: Lines::Many }
}

/// A name on its way to people.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    name: &'a OsStr,
    lines: Lines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    One,
    Many,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.name.as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\n' if self.lines == Lines::Many => f.write_char('\n')?,
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c if c.is_control() || turns_the_text(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Unicode's marks of direction: they show what follows in another order.
fn turns_the_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_speaks_to_the_terminal() {
        for (name, text) in [
            (&b"plain name"[..], "plain name"),
            ("größe\\x".as_bytes(), "größe\\x"),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"\x1b[2J\x07\x7f", "\\x1b[2J\\x07\\x7f"),
            (b"a\xffb", "a\\xffb"),
            ("\u{9b}31m\u{202e}".as_bytes(), "\\u{9b}31m\\u{202e}"),
        ] {
            assert_eq!(shown(OsStr::from_bytes(name)).to_string(), text);
        }
        assert_eq!(shown_lines("a\nb\x1b").to_string(), "a\nb\\x1b");
    }
}
