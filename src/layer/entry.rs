//! What does one branch say of one name?

use rustix::fs::FileType;
use rustix::io::Errno;

use super::markers::{
    DirMarkers, Formats, has_whiteout, is_whiteout_inode, refuse_metacopy, refuse_redirect,
};
use crate::branch::{Dir, Stat};
use crate::error::Result;
use crate::rules::name::Name;
use crate::rules::resolve::{Entry, Found};

/// How much is asked of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Whether there is something: no branch below has a say, so markers say nothing.
    Existence,
    /// Also the markers that hide the branches below. On EACCES the directory shows, with its attributes, and is
    /// taken for opaque.
    Show,
    /// Also the markers that hide the branches below.
    Markers,
    /// Also a whiteout beside a non-directory, which hides nothing that it does not hide itself.
    Everything,
}

/// One branch's word, with what was learnt on the way.
#[derive(Debug, Default)]
pub struct Word {
    /// What it holds, and what it hides.
    pub entry: Entry,
    /// The attributes of what it holds.
    pub stat: Option<Stat>,
    /// The directory, if it was opened.
    pub opened: Option<Dir>,
    /// The formats inside the directory.
    pub formats: Formats,
    /// Whether the directory's markers could not be read.
    pub closed: bool,
}

/// Asks a branch's directory, whose entries are in these formats, about a name.
///
/// # Errors
/// Those of the calls that it takes; [`crate::error::Error::OverlayFeature`].
pub fn ask(dir: &Dir, formats: Formats, name: &Name, ask: Ask) -> Result<Word> {
    let Some(stat) = dir.stat(name.as_os_str())? else {
        let whiteout = ask != Ask::Existence && has_whiteout(dir, name)?;
        return Ok(Word { entry: Entry { whiteout, ..Entry::default() }, ..Word::default() });
    };
    if stat.kind() != FileType::Directory {
        let whiteout = ask == Ask::Everything && has_whiteout(dir, name)?;
        if is_whiteout_inode(formats, dir, name, &stat)? {
            let entry = Entry { found: None, whiteout, whiteout_inode: true };
            return Ok(Word { entry, ..Word::default() });
        }
        refuse_metacopy(formats, dir, name, &stat)?;
        let entry = Entry { found: Some(Found::Leaf), whiteout, whiteout_inode: false };
        return Ok(Word { entry, stat: Some(stat), ..Word::default() });
    }
    ask_dir(dir, formats, name, ask, stat)
}

fn ask_dir(dir: &Dir, formats: Formats, name: &Name, ask: Ask, stat: Stat) -> Result<Word> {
    // In an impure directory also the lowest branch's directories may stand for others.
    if ask == Ask::Existence && !formats.impure {
        let entry = Entry { found: Some(Found::Dir { opaque: false }), ..Entry::default() };
        let formats = Formats { devices: formats.devices, ..Formats::default() };
        return Ok(Word { entry, stat: Some(stat), formats, ..Word::default() });
    }
    let opened = dir.open_dir(name.as_os_str())?;
    // What is looked at is what was opened.
    let stat = opened.stat_self()?;
    let mut closed = false;
    let markers = match DirMarkers::of(&opened) {
        Err(e) if ask == Ask::Show && e.is(Errno::ACCESS) => {
            closed = true;
            DirMarkers::default()
        }
        read => read?,
    };
    refuse_redirect(markers, dir, name)?;
    let found = Some(Found::Dir { opaque: markers.opaque || closed });
    let whiteout = ask != Ask::Existence && has_whiteout(dir, name)?;
    Ok(Word {
        entry: Entry { found, whiteout, whiteout_inode: false },
        stat: Some(stat),
        formats: markers.formats(formats.devices),
        opened: Some(opened),
        closed,
    })
}
