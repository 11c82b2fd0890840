//! What do several layers together say of the names in one directory?

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::ControlFlow;

use super::super::error::{Error, Result};
use super::super::item::TreePath;
use crate::branch::{Dir, Stat};
use crate::layer::{Ask, DirMarkers, Formats, ask, list};
use crate::rules::merge::Listed;
use crate::rules::name::{Name, Spelling};
use crate::rules::resolve::{Found, Resolution, Resolver};

/// A directory in one layer: which one, the formats of its entries, and the directory.
pub(in super::super) type Part = (usize, Formats, Dir);

/// The roots of layers, the topmost first, as far as one shows.
pub(in super::super) fn roots<'a>(layers: impl IntoIterator<Item = &'a Dir>) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (at, root) in layers.into_iter().enumerate() {
        let markers = DirMarkers::of(root)?;
        parts.push((at, markers.formats(true), root.clone()));
        if markers.opaque {
            break;
        }
    }
    Ok(parts)
}

/// What shows under a name.
#[derive(Debug)]
pub(in super::super) enum Shows {
    /// Nothing.
    Nothing,
    /// Something that is no directory, of this layer.
    Leaf(usize),
    /// A directory of these parts.
    Dir(Vec<Part>),
}

pub(in super::super) fn shows(parts: &[Part], name: &OsStr) -> Result<Shows> {
    let Ok(name) = Name::new(name) else { return Ok(Shows::Nothing) };
    let mut resolver = Resolver::default();
    let mut dirs = Vec::new();
    for (layer, formats, dir) in parts {
        let word = ask(dir, *formats, &name, Ask::Everything)?;
        let heard = resolver.hear(dir.branch(), word.entry);
        match word.opened {
            Some(opened) => dirs.push((*layer, word.formats, opened)),
            None if word.stat.is_some() && dirs.is_empty() => return Ok(Shows::Leaf(*layer)),
            None => {}
        }
        if heard == ControlFlow::Break(()) {
            break;
        }
    }
    Ok(if matches!(resolver.resolution(), Resolution::Merged(_)) { Shows::Dir(dirs) } else { Shows::Nothing })
}

/// What is said of a name.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) said: Said,
    /// Whether a directory hides its namesakes in the layers below all of these.
    pub(super) is_opaque: bool,
}

#[derive(Debug)]
pub(super) enum Said {
    /// It is deleted.
    Whiteout,
    /// It is no directory; the part that has it, and its attributes.
    Leaf(usize, Stat),
    /// A directory in these layers, with the formats of its entries.
    Dir(Vec<(usize, Formats)>),
}

/// What one part lists of a name.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    whiteout: bool,
    entry: bool,
}

/// Merges the parts of a directory, topmost first: its layer, the formats of its entries, and the directory at `path` there.
pub(super) fn merge(parts: &[Part], path: &TreePath) -> Result<BTreeMap<Name, Verdict>> {
    let mut rows: BTreeMap<Name, Vec<(usize, Row)>> = BTreeMap::new();
    for (part, (_, formats, dir)) in parts.iter().enumerate() {
        for (spelling, listed) in list(dir, *formats)? {
            let (name, is_whiteout) = match spelling {
                Spelling::Entry(name) => (name, matches!(listed, Listed::Whiteout)),
                Spelling::Whiteout(name) => (name, true),
                Spelling::Opaque | Spelling::Reserved => continue,
            };
            let rows = rows.entry(name).or_default();
            if rows.last().is_none_or(|(last, _)| *last != part) {
                rows.push((part, Row::default()));
            }
            if let Some((_, row)) = rows.last_mut() {
                row.whiteout |= is_whiteout;
                row.entry |= !is_whiteout;
            }
        }
    }
    let mut verdicts = BTreeMap::new();
    for (name, rows) in rows {
        let of_entry = |error: Error| error.of_entry(path.join(name.as_os_str()).as_ref());
        if let Some(verdict) = verdict(parts, &name, &rows).map_err(of_entry)? {
            verdicts.insert(name, verdict);
        }
    }
    Ok(verdicts)
}

fn verdict(parts: &[Part], name: &Name, rows: &[(usize, Row)]) -> Result<Option<Verdict>> {
    let mut dirs = Vec::new();
    for (part, row) in rows {
        let (layer, formats, dir) = &parts[*part];
        let word = if row.entry { Some(ask(dir, *formats, name, Ask::Markers)?) } else { None };
        let found = word.as_ref().and_then(|word| word.entry.found);
        match (found, word) {
            (Some(Found::Leaf), Some(word)) => {
                if dirs.is_empty() {
                    let Some(stat) = word.stat else { continue };
                    return Ok(Some(Verdict { said: Said::Leaf(*part, stat), is_opaque: false }));
                }
                return Ok(Some(Verdict { said: Said::Dir(dirs), is_opaque: true }));
            }
            (Some(Found::Dir { opaque }), Some(word)) => {
                dirs.push((*layer, word.formats));
                if opaque || row.whiteout {
                    return Ok(Some(Verdict { said: Said::Dir(dirs), is_opaque: true }));
                }
            }
            _ if row.whiteout => {
                let is_opaque = !dirs.is_empty();
                let said = if is_opaque { Said::Dir(dirs) } else { Said::Whiteout };
                return Ok(Some(Verdict { said, is_opaque }));
            }
            // Gone since it was listed.
            _ => {}
        }
    }
    let said = (!dirs.is_empty()).then_some(Said::Dir(dirs));
    Ok(said.map(|said| Verdict { said, is_opaque: false }))
}
