//! Which branches do the options name, in which order?

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{OptionError, escape, path};

/// The branches so far, and the words that gave them: overlayfs' or AUFS', never both.
#[derive(Debug, Default)]
pub(super) struct Stack {
    lowers: Vec<PathBuf>,
    upper: Option<PathBuf>,
    given_by: Option<Style>,
    /// `lowerdir` or `lowerdir+`, whichever was first.
    lowers_by: Option<&'static str>,
}

/// Who writes branches that way, with the option for an error message.
#[derive(Debug, Clone, Copy)]
enum Style {
    Overlayfs(&'static str),
    Aufs(&'static str),
    Ours(&'static str),
}

impl Style {
    fn option(self) -> &'static str {
        match self {
            Self::Overlayfs(option) | Self::Aufs(option) | Self::Ours(option) => option,
        }
    }

    fn of(option: &'static str) -> Self {
        match option {
            "dirs" | "br" | "br:" => Self::Aufs(option),
            _ if option.starts_with("--") => Self::Ours(option),
            _ => Self::Overlayfs(option),
        }
    }
}

impl Stack {
    /// `lowerdir=`: replaces an earlier one.
    pub(super) fn set_lowers(&mut self, list: &[u8]) -> Result<(), OptionError> {
        self.give_lowers("lowerdir")?;
        let pieces = escape::split_paths(list);
        if pieces.iter().any(|piece| piece.is_empty()) {
            return Err(OptionError::EmptyPath("lowerdir"));
        }
        self.lowers = pieces.into_iter().map(path).collect();
        Ok(())
    }

    /// `lowerdir+=` and `--lower`: one more, below the others.
    pub(super) fn add_lower(&mut self, option: &'static str, dir: PathBuf) -> Result<(), OptionError> {
        self.give_lowers(option)?;
        self.lowers.push(dir);
        Ok(())
    }

    /// `upperdir=` and `--upper`.
    pub(super) fn set_upper(&mut self, option: &'static str, dir: PathBuf) -> Result<(), OptionError> {
        self.give(option)?;
        self.upper = Some(dir);
        Ok(())
    }

    /// `dirs=`, `br=`, `br:`: the whole stack, each branch with or without its permission.
    pub(super) fn set_aufs(&mut self, option: &'static str, list: &[u8]) -> Result<(), OptionError> {
        self.give(option)?;
        self.upper = None;
        self.lowers.clear();
        for (index, piece) in escape::split_paths(list).into_iter().enumerate() {
            let (dir, permission) = split_permission(piece)?;
            if dir.as_os_str().is_empty() {
                return Err(OptionError::EmptyPath(option));
            }
            match (index, permission) {
                (0, None | Some(Permission::ReadWrite)) => self.upper = Some(dir),
                (_, None | Some(Permission::ReadOnly)) => self.lowers.push(dir),
                (_, Some(Permission::ReadWrite)) => {
                    return Err(OptionError::WritableBelowTop(dir));
                }
            }
        }
        Ok(())
    }

    /// The upper, and the lowers from the topmost down.
    pub(super) fn into_branches(self) -> (Option<PathBuf>, Vec<PathBuf>) {
        (self.upper, self.lowers)
    }

    /// A list replaces an earlier one and `lowerdir+` adds: who writes both may mean either, so the kernel refuses it.
    fn give_lowers(&mut self, option: &'static str) -> Result<(), OptionError> {
        match self.lowers_by.replace(option) {
            Some(earlier) if earlier != option => Err(OptionError::TwoStacks(earlier, option)),
            _ => self.give(option),
        }
    }

    /// Two styles in one line would leave it open which branch is above which.
    fn give(&mut self, option: &'static str) -> Result<(), OptionError> {
        let style = Style::of(option);
        match (self.given_by, style) {
            (None, _)
            | (Some(Style::Overlayfs(_)), Style::Overlayfs(_))
            | (Some(Style::Aufs(_)), Style::Aufs(_))
            | (Some(Style::Ours(_)), Style::Ours(_)) => {
                self.given_by = Some(style);
                Ok(())
            }
            (Some(earlier), later) => Err(OptionError::TwoStacks(earlier.option(), later.option())),
        }
    }
}

enum Permission {
    ReadWrite,
    ReadOnly,
}

/// `PATH=ro` in its two parts. AUFS' `rr` says that nobody else changes the branch, and `+wh`
/// that its whiteouts count; for us both hold for every read-only branch.
fn split_permission(piece: &[u8]) -> Result<(PathBuf, Option<Permission>), OptionError> {
    let Some(equals) = piece.iter().rposition(|&byte| byte == b'=') else {
        return Ok((path(piece), None));
    };
    let dir = path(&piece[..equals]);
    let permission = &piece[equals + 1..];
    match permission.to_ascii_lowercase().as_slice() {
        b"rw" => Ok((dir, Some(Permission::ReadWrite))),
        b"ro" | b"rr" | b"ro+wh" | b"rr+wh" => Ok((dir, Some(Permission::ReadOnly))),
        _ => Err(OptionError::Permission {
            permission: OsStr::from_bytes(permission).to_string_lossy().into_owned(),
            path: dir,
        }),
    }
}
