//! How is a result printed, for people or for programs?

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::shown::shown_lines;

/// A value as JSON, with a newline at the end.
///
/// # Errors
/// It has a key that is no text.
pub fn as_json(value: &impl Serialize) -> io::Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

/// Prints a value as JSON, or else as text. Whoever has read enough is no error.
///
/// # Errors
/// Those of writing to stdout.
pub fn say(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
    let mut out = io::stdout();
    let printed = if json {
        out.write_all(as_json(value)?.as_bytes())
    } else if out.is_terminal() {
        write!(out, "{}", shown_lines(&text()))
    } else {
        out.write_all(text().as_bytes())
    };
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
