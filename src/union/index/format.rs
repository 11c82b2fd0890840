//! Whose notes are in this workdir, and in which format?
//!
//! `plyfs/format` says both. Notes of another upper are set aside in `plyfs/aside-UPPER`, where that upper finds them
//! again; they are never used for this one. The format is specified in docs/WORKDIR.md.

use std::ffi::{OsStr, OsString};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::log_file::{add, read};
use crate::branch::{Dir, HOME, NEXT_NOTES, OWNERS, UpperDir, WorkDir};
use crate::error::{Error, Result};

const FORMAT: &str = "format";
const NEW: &str = "format.new";
const VOLATILE: &str = "volatile";
const HEAD: &str = "plyfs workdir 2";
/// What belongs to one upper.
const NOTES: [&str; 4] = [INDEX, LINKS, OWNERS, VOLATILE];
const INDEX: &str = "index";
const LINKS: &str = "links";
/// Where notes are made ready to take the place of those of now.
const NEXT: &str = NEXT_NOTES;

/// Whether the upper can be known again by the next mount.
pub(super) fn is_known(upper: &Dir) -> Result<bool> {
    Ok(id_of(upper)? != UNKNOWN)
}

/// Sees to it that the notes in the workdir are this upper's.
///
/// An upper that lies on a snapshot, and has none yet, has those that are kept with the snapshot: it was made, and the
/// mount ended before the workdir knew of it.
pub(super) fn claim(work: &WorkDir, upper: &Dir, snapshot: Option<&UpperDir>) -> Result<()> {
    let home = work.root()?;
    let ours = id_of(upper)?;
    let theirs = read_format(&home)?;
    // What cannot be known again has left no notes either.
    let is_ours = theirs.as_deref() == Some(&*ours);
    if !is_ours {
        if let Some(theirs) = &theirs {
            refuse_after_crash(&home)?;
            set_aside(&home, theirs)?;
        }
        if let Some(snapshot) = snapshot
            && home.stat(&aside_name(&ours))?.is_none()
        {
            copy_from(&home, &work.links()?, snapshot)?;
        }
        write_format(&home, &ours)?;
    }
    // Also if the last mount was killed before it had done so.
    bring_back(&home, &ours)?;
    refuse_after_crash(&home)
}

/// The notes are this upper's from now on.
pub(super) fn write(work: &WorkDir, upper: &Dir) -> Result<()> {
    let home = work.root()?;
    write_format(&home, &id_of(upper)?)?;
    home.sync()
}

/// A directory with the notes of a snapshot, beside those of now.
pub(super) fn make_next(work: &WorkDir, snapshot: Option<&UpperDir>) -> Result<UpperDir> {
    let home = work.root()?;
    let name = OsStr::new(NEXT);
    home.remove_tree(name)?;
    home.make_dir(name, Mode::RWXU)?;
    let next = home.open_upper_dir(name)?;
    next.make_dir(OsStr::new(LINKS), Mode::RWXU)?;
    add(&next, 0, &[])?;
    if let Some(snapshot) = snapshot {
        copy_from(&next, &next.open_upper_dir(OsStr::new(LINKS))?, snapshot)?;
    }
    Ok(next)
}

/// The notes are those that were made ready, and this upper's.
pub(super) fn take_next(work: &WorkDir, upper: &Dir) -> Result<()> {
    let home = work.root()?;
    let next = home.open_upper_dir(OsStr::new(NEXT))?;
    for name in [INDEX, LINKS] {
        home.remove_tree(OsStr::new(name))?;
        next.rename(OsStr::new(name), &home, OsStr::new(name))?;
    }
    home.remove_dir(OsStr::new(NEXT))?;
    write_format(&home, &id_of(upper)?)?;
    home.sync()
}

/// Copies the log, and links what the links lead to.
fn copy_from(home: &UpperDir, links: &UpperDir, snapshot: &UpperDir) -> Result<()> {
    let log = read(snapshot, INDEX)?.unwrap_or_default();
    home.remove_marker(OsStr::new(INDEX))?;
    add(home, 0, log.as_bytes())?;
    let name = OsStr::new(LINKS);
    if snapshot.stat(name)?.is_some() {
        let from = snapshot.open_upper_dir(name)?;
        for entry in from.list()? {
            links.remove_marker(&entry.name)?;
            links.link(&from.open_upper_inode(&entry.name)?, &entry.name)?;
        }
    }
    Ok(())
}

/// Where this upper's notes are in a workdir that is not written to.
pub(super) fn find(work: &Dir, upper: &Dir) -> Result<Option<Dir>> {
    let ours = id_of(upper)?;
    if ours == UNKNOWN || work.stat(OsStr::new(HOME))?.is_none() {
        return Ok(None);
    }
    let home = match work.open_dir(OsStr::new(HOME)) {
        Err(e) if [Errno::NOTDIR, Errno::LOOP, Errno::ACCESS].iter().any(|n| e.is(*n)) => return Ok(None),
        opened => opened?,
    };
    let stat = home.stat_self()?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        log::warn!(
            "the notes in the workdir are not this user's, and not used: hard links show as on the disk"
        );
        return Ok(None);
    }
    if read_format(&home)?.as_deref() == Some(&*ours) {
        refuse_after_crash(&home)?;
        return Ok(Some(home));
    }
    let aside = aside_name(&ours);
    if home.stat(&aside)?.is_none() {
        return Ok(None);
    }
    let aside = home.open_dir(&aside)?;
    refuse_after_crash(&aside)?;
    Ok(Some(aside))
}

/// Says that the upper is written without syncs. It is on the disk before anything else is.
pub(super) fn mark_volatile(work: &WorkDir) -> Result<()> {
    let home = work.root()?;
    match home.create(OsStr::new(VOLATILE), Mode::RUSR | Mode::WUSR) {
        Err(e) if e.is(Errno::EXIST) => {}
        created => created?.sync()?,
    }
    home.sync()
}

pub(super) fn unmark_volatile(work: &WorkDir) -> Result<()> {
    work.root()?.remove_marker(OsStr::new(VOLATILE))
}

fn refuse_after_crash(home: &Dir) -> Result<()> {
    match home.stat(OsStr::new(VOLATILE))? {
        Some(_) => Err(Error::VolatileCrash),
        None => Ok(()),
    }
}

/// For an upper that cannot be known again.
const UNKNOWN: &str = "unknown";

fn id_of(upper: &Dir) -> Result<String> {
    let id = upper.inode().lasting_id(&upper.stat_self()?)?;
    Ok(id.map_or_else(|| UNKNOWN.to_owned(), |id| id.as_str().to_owned()))
}

fn read_format(home: &Dir) -> Result<Option<String>> {
    let Some(text) = read(home, FORMAT)? else { return Ok(None) };
    let mut lines = text.lines();
    match (lines.next(), lines.next().and_then(|line| line.strip_prefix("upper "))) {
        (Some(HEAD), Some(upper)) => Ok(Some(upper.to_owned())),
        // Cut short by a crash, before there were notes.
        (None, _) | (Some(HEAD), None) => Ok(None),
        (Some(head), _) => Err(Error::NewerWorkdir(head.escape_debug().to_string())),
    }
}

fn write_format(home: &UpperDir, upper: &str) -> Result<()> {
    home.remove_marker(OsStr::new(NEW))?;
    let file = home.create(OsStr::new(NEW), Mode::RUSR | Mode::WUSR)?;
    file.write_all_at(0, format!("{HEAD}\nupper {upper}\n").as_bytes())?;
    file.sync_data()?;
    home.rename(OsStr::new(NEW), home, OsStr::new(FORMAT))
}

fn aside_name(upper: &str) -> OsString {
    format!("aside-{upper}").into()
}

fn set_aside(home: &UpperDir, theirs: &str) -> Result<()> {
    let has_notes = NOTES.iter().map(|name| home.stat(OsStr::new(name))).collect::<Result<Vec<_>>>()?;
    if has_notes.iter().all(Option::is_none) {
        return Ok(());
    }
    log::warn!(
        "the workdir was last used with another upper: its notes are set aside in {HOME}/aside-{theirs}"
    );
    let aside = aside_name(theirs);
    match home.make_dir(&aside, Mode::RWXU) {
        Err(e) if e.is(Errno::EXIST) => {}
        made => made?,
    }
    move_notes(home, &home.open_upper_dir(&aside)?)
}

fn bring_back(home: &UpperDir, ours: &str) -> Result<()> {
    let aside = aside_name(ours);
    if ours == UNKNOWN || home.stat(&aside)?.is_none() {
        return Ok(());
    }
    move_notes(&home.open_upper_dir(&aside)?, home)?;
    home.remove_dir(&aside)?;
    home.sync()
}

fn move_notes(from: &UpperDir, to: &UpperDir) -> Result<()> {
    for name in NOTES.map(OsStr::new) {
        if from.stat(name)?.is_some() {
            to.remove_tree(name)?;
            from.rename(name, to, name)?;
        }
    }
    Ok(())
}
