//! What is a change, and how is a list of them written?

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::shown::shown;
use crate::units;

/// How an entry differs from what the lowers show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
}

/// One entry that differs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Change {
    #[serde(rename = "change")]
    pub(crate) kind: Kind,
    /// From the union's root.
    #[serde(rename = "path", serialize_with = "as_shown")]
    pub(crate) way: Vec<OsString>,
    /// What a file has by now, in bytes; of a deleted one, what it had.
    pub(crate) size: u64,
}

fn as_shown<S: Serializer>(way: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("/{}", shown(&way.iter().collect::<PathBuf>())))
}

impl Change {
    pub(crate) fn text(&self) -> String {
        let letter = match self.kind {
            Kind::Added => 'A',
            Kind::Modified => 'M',
            Kind::Deleted => 'D',
        };
        format!("{letter} /{}\n", shown(&self.way.iter().collect::<PathBuf>()))
    }
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Stat {
    added: usize,
    modified: usize,
    deleted: usize,
    /// Of files that were added or modified, as they are by now.
    bytes: u64,
}

impl Stat {
    pub(crate) fn of(changes: &[Change]) -> Self {
        let mut stat = Self::default();
        for change in changes {
            match change.kind {
                Kind::Added => stat.added += 1,
                Kind::Modified => stat.modified += 1,
                Kind::Deleted => stat.deleted += 1,
            }
            if change.kind != Kind::Deleted {
                stat.bytes += change.size;
            }
        }
        stat
    }

    pub(crate) fn text(&self) -> String {
        let Self { added, modified, deleted, bytes } = self;
        format!("{added} added, {modified} modified, {deleted} deleted; {} in files\n", units::size(*bytes))
    }
}
