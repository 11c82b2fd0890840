//! How are changes of a live mount's stack written?
//!
//! As AUFS writes them: `add:INDEX:DIR`, `prepend:DIR`, `append:DIR`, `del:DIR`, `mod:DIR=ro`; and `move:INDEX:DIR`, which it
//! has not. Source: aufs(5), "Module Parameters and Mount Options".

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{OptionError, escape};
use crate::cli::MountArgs;
use crate::control::Position;

/// A change as a user asks for it: directories as they are named from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// One more lower.
    Add(Position, PathBuf),
    /// One lower less; refused if something in it is open and the flag says so.
    Remove(PathBuf, bool),
    /// A lower at another place.
    Move(PathBuf, Position),
    /// The upper becomes a snapshot.
    Snapshot(Option<String>),
    /// The upper is what it was when a snapshot was made.
    Rewind(String),
}

/// One change; none if the word asks for what is so already. None at all if the word is no change.
fn parse_word(word: &[u8]) -> Option<Result<Option<Wish>, OptionError>> {
    let (kind, rest) = split(word, b':')?;
    let wrong = || Err(OptionError::Change(OsStr::from_bytes(word).to_owned()));
    let add = |at, dir| Ok(Some(Wish::Add(at, read_only(dir)?)));
    Some(match kind {
        b"prepend" | b"append" | b"del" | b"mod" if rest.is_empty() => wrong(),
        b"prepend" => add(Position::Top, rest),
        b"append" => add(Position::Bottom, rest),
        b"add" | b"ins" | b"move" => match split(rest, b':').and_then(|(at, dir)| Some((index(at)?, dir))) {
            None | Some((_, b"")) => wrong(),
            Some((at, dir)) if kind == b"move" => Ok(Some(Wish::Move(path(dir), at))),
            Some((at, dir)) => add(at, dir),
        },
        b"del" => Ok(Some(Wish::Remove(path(rest), false))),
        b"mod" => read_only(rest).map(|_| None),
        _ => return None,
    })
}

/// The changes that words ask for.
///
/// # Errors
/// A word that is none.
pub fn parse_changes(words: &[OsString]) -> Result<Vec<Wish>, OptionError> {
    let wish = |word: &OsString| {
        parse_word(word.as_bytes()).unwrap_or_else(|| Err(OptionError::Change(word.clone()))).transpose()
    };
    words.iter().filter_map(wish).collect()
}

/// The changes that a command line asks for, if it is one of `mount -o remount,…` that asks for changes.
///
/// # Errors
/// A change that is none; read-only at the same time.
pub fn parse_remount(args: &MountArgs) -> Result<Option<Vec<Wish>>, OptionError> {
    let lists = args.line.options.iter();
    let given: Vec<&[u8]> = lists.flat_map(|list| escape::split_options(list.as_bytes())).collect();
    if !given.contains(&&b"remount"[..]) {
        return Ok(None);
    }
    // All else is what the mount table says, and mount(8) repeats.
    let words = given.iter().filter_map(|word| parse_word(&escape::unescape(word)));
    let wishes = words.collect::<Result<Vec<_>, _>>()?;
    if wishes.is_empty() {
        return Ok(None);
    }
    if given.iter().rfind(|word| [&b"ro"[..], b"rw"].contains(word)) == Some(&&b"ro"[..]) {
        return Err(OptionError::ChangeAndReadOnly);
    }
    Ok(Some(wishes.into_iter().flatten().collect()))
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == at)?;
    Some((&text[..at], &text[at + 1..]))
}

fn index(text: &[u8]) -> Option<Position> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|at| matches!(at, Position::Index(_)))
}

fn path(text: &[u8]) -> PathBuf {
    OsStr::from_bytes(text).into()
}

/// The directory of a branch that may be followed by its permission, which is to be read-only.
fn read_only(branch: &[u8]) -> Result<PathBuf, OptionError> {
    let Some(at) = branch.iter().rposition(|&byte| byte == b'=') else { return Ok(path(branch)) };
    let (dir, permission) = (&branch[..at], &branch[at + 1..]);
    match permission {
        b"ro" | b"rr" | b"ro+wh" | b"rr+wh" => Ok(path(dir)),
        _ => Err(OptionError::LiveAccess {
            access: String::from_utf8_lossy(permission).into_owned(),
            path: path(dir),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parsed(words: &[&str]) -> Result<Vec<Wish>, String> {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        parse_changes(&words).map_err(|e| e.to_string())
    }

    #[test]
    fn changes_are_written_as_aufs_writes_them() {
        let rows = [
            ("add:1:/a", Wish::Add(Position::Index(1), "/a".into())),
            ("add:2:/a:b=ro", Wish::Add(Position::Index(2), "/a:b".into())),
            ("prepend:a", Wish::Add(Position::Top, "a".into())),
            ("append:/a=rr+wh", Wish::Add(Position::Bottom, "/a".into())),
            ("del:/a=x", Wish::Remove("/a=x".into(), false)),
            ("move:3:/a", Wish::Move("/a".into(), Position::Index(3))),
        ];
        for (word, wish) in rows {
            assert_eq!(parsed(&[word]), Ok(vec![wish]), "{word}");
        }
        assert_eq!(parsed(&["mod:/a=ro"]), Ok(vec![]));
        for wrong in ["add:/a", "add:top:/a", "add:1:", "del:", "delete:/a", "/a", "move:/a"] {
            assert!(parsed(&[wrong]).is_err_and(|e| e.contains(wrong)), "{wrong}");
        }
        assert!(parsed(&["append:/a=rw"]).is_err_and(|e| e.contains("one writable branch")));
    }

    #[test]
    fn a_remount_with_changes_is_told_from_one_without() {
        let remount = |options: &str| {
            let line = ["plyfs", "none", "/m", "-o", options];
            let crate::cli::Command::Mount(args) =
                crate::cli::Cli::try_parse_from(line).unwrap().into_command()
            else {
                panic!("a mount");
            };
            parse_remount(&args)
        };
        let del = Wish::Remove("/a,b".into(), false);
        assert_eq!(remount("rw,nosuid,user_id=0,remount,del:/a\\,b,dev"), Ok(Some(vec![del])));
        assert_eq!(remount("remount,ro"), Ok(None));
        assert_eq!(remount("lowerdir=/a,del:/a"), Ok(None));
        assert_eq!(remount("remount,ro,del:/a"), Err(OptionError::ChangeAndReadOnly));
        assert!(remount("remount,add:/a").is_err());
    }
}
