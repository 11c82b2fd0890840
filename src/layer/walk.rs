//! What is in a whole tree of a branch, as it lies on the disk?

use std::ffi::{OsStr, OsString};

use rustix::fs::FileType;

use crate::branch::Dir;
use crate::error::Result;

/// So deep no tree is walked: each step back up opens the way from the root anew.
const DEEPEST: usize = 1000;

/// Shows every entry beneath a directory, markers as well: the directories that lead to it, its name, and its inode
/// number. Holds one descriptor at a time. Says whether everything was shown: not what is beneath 1,000 directories.
///
/// # Errors
/// Those of opening and reading the root. What cannot be read beneath it is passed over, with a word in the log.
pub fn walk(root: &Dir, mut show: impl FnMut(&[OsString], &OsStr, u64)) -> Result<bool> {
    let mut way: Vec<OsString> = Vec::new();
    let mut left = Vec::new();
    let mut visit = |dir: &Dir, way: &[OsString], left: &mut Vec<(usize, OsString)>| {
        let mut unclear = Vec::new();
        dir.each(|name, kind, ino| {
            show(way, name, ino);
            match kind {
                FileType::Directory => left.push((way.len(), name.to_owned())),
                FileType::Unknown => unclear.push(name.to_owned()),
                _ => {}
            }
        })?;
        for name in unclear {
            if dir.stat(&name)?.is_some_and(|stat| stat.kind() == FileType::Directory) {
                left.push((way.len(), name));
            }
        }
        Ok(())
    };
    let mut whole = true;
    visit(root, &way, &mut left)?;
    while let Some((depth, name)) = left.pop() {
        if depth == DEEPEST {
            whole = false;
            continue;
        }
        way.truncate(depth);
        way.push(name);
        let opened = way.iter().try_fold(root.clone(), |dir, name| dir.open_dir(name));
        let visited: Result<()> = opened.and_then(|dir| visit(&dir, &way, &mut left));
        if let Err(e) = visited {
            log::warn!("passed over: {e}");
            whole = false;
        }
    }
    Ok(whole)
}
