//! Which id does a user see for an id on disk, and which id goes to the disk?
//!
//! The words are those of fuse-overlayfs' manual: `uidmapping=` and `gidmapping=` are lists of
//! `on-disk:shown:length` triples, and squashing shows one id for everything.

use std::fmt;

/// What a user sees for an id that no range covers: the kernel's own overflow id, `nobody`.
pub const OVERFLOW_ID: u32 = 65534;

/// The kernel's "no id": chown(2) takes it for "leave it", so it can be in no range.
const NO_ID: u32 = u32::MAX;

/// A run of ids that are shown with another number than they have on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    disk: u32,
    shown: u32,
    length: u32,
}

impl Range {
    fn new(disk: u32, shown: u32, length: u32) -> Result<Self, IdMapError> {
        if length == 0 {
            return Err(IdMapError::Empty { disk, shown });
        }
        // The end is one past the last id, so a sum that fits leaves NO_ID out.
        if disk.checked_add(length).is_none() || shown.checked_add(length).is_none() {
            return Err(IdMapError::TooLong { disk, shown, length });
        }
        Ok(Self { disk, shown, length })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u32, b: u32| a < b + other.length && b < a + self.length;
        meet(self.disk, other.disk) || meet(self.shown, other.shown)
    }
}

/// One id shown for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Squash {
    shown: u32,
    own: u32,
}

/// How ids on disk and ids that users see correspond; the identity by default.
///
/// Invariant: no two ranges overlap, on the disk's side or on the users', so both directions
/// have at most one answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap {
    ranges: Vec<Range>,
    squash: Option<Squash>,
}

impl IdMap {
    /// Reads `on-disk:shown:length[:on-disk:shown:length…]`. One empty leading field is
    /// tolerated, because container engines write `uidmapping=:0:1000:1`.
    ///
    /// # Errors
    /// A field that is no number, an incomplete triple, an empty or overlong range, an overlap.
    pub fn parse(text: &str) -> Result<Self, IdMapError> {
        let fields = text
            .strip_prefix(':')
            .unwrap_or(text)
            .split(':')
            .map(|field| field.parse().map_err(|_| IdMapError::NotANumber(field.to_owned())))
            .collect::<Result<Vec<u32>, _>>()?;
        let (triples, rest) = fields.as_chunks::<3>();
        if !rest.is_empty() {
            return Err(IdMapError::Incomplete);
        }
        let mut ranges: Vec<Range> = Vec::with_capacity(triples.len());
        for &[disk, shown, length] in triples {
            let range = Range::new(disk, shown, length)?;
            if ranges.iter().any(|earlier| earlier.overlaps(&range)) {
                return Err(IdMapError::Overlap { disk, shown, length });
            }
            ranges.push(range);
        }
        Ok(Self { ranges, squash: None })
    }

    /// The same map, but everything is shown as `shown`, and what is created belongs to `own`,
    /// the daemon's own id, on disk.
    #[must_use]
    pub fn squashed(self, shown: u32, own: u32) -> Self {
        Self { squash: Some(Squash { shown, own }), ..self }
    }

    /// Whether every id is shown as it is on disk.
    pub fn is_identity(&self) -> bool {
        self.ranges.is_empty() && self.squash.is_none()
    }

    /// Whether one id is shown for everything. A chown then changes nothing on disk: it
    /// succeeds and is forgotten, because whatever is stored, the same id would be shown.
    pub fn is_squashed(&self) -> bool {
        self.squash.is_some()
    }

    /// The id that a user sees for `disk`.
    pub fn shown(&self, disk: u32) -> u32 {
        if let Some(squash) = self.squash {
            return squash.shown;
        }
        if self.ranges.is_empty() {
            return disk;
        }
        self.ranges
            .iter()
            .find_map(|range| {
                let offset = disk.checked_sub(range.disk)?;
                (offset < range.length).then(|| range.shown + offset)
            })
            .unwrap_or(OVERFLOW_ID)
    }

    /// The id on disk of something new that belongs to `shown`; None when no range covers it,
    /// and the caller refuses. Squashed, that is always the daemon's own id.
    pub fn disk(&self, shown: u32) -> Option<u32> {
        if let Some(squash) = self.squash {
            return Some(squash.own);
        }
        if self.ranges.is_empty() {
            return Some(shown);
        }
        self.ranges.iter().find_map(|range| {
            let offset = shown.checked_sub(range.shown)?;
            (offset < range.length).then(|| range.disk + offset)
        })
    }
}

/// The ranges as [`IdMap::parse`] reads them.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Range { disk, shown, length }) in self.ranges.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{disk}:{shown}:{length}")?;
        }
        Ok(())
    }
}

/// The map of user ids and the map of group ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// For owners.
    pub uid: IdMap,
    /// For groups.
    pub gid: IdMap,
}

impl IdMaps {
    /// Whether both maps are the identity.
    pub fn is_identity(&self) -> bool {
        self.uid.is_identity() && self.gid.is_identity()
    }
}

/// Why a mapping is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMapError {
    /// A field is not a number from 0 to 4294967295.
    NotANumber(String),
    /// The number of fields is no multiple of three.
    Incomplete,
    /// A range of length 0.
    Empty {
        /// Its first id on disk.
        disk: u32,
        /// Its first shown id.
        shown: u32,
    },
    /// A range goes beyond the last id, 4294967294.
    TooLong {
        /// Its first id on disk.
        disk: u32,
        /// Its first shown id.
        shown: u32,
        /// Its length.
        length: u32,
    },
    /// A range shares an id with an earlier one, on disk or as shown.
    Overlap {
        /// Its first id on disk.
        disk: u32,
        /// Its first shown id.
        shown: u32,
        /// Its length.
        length: u32,
    },
}

impl fmt::Display for IdMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANumber(field) => write!(f, "`{field}` is not an id or a length"),
            Self::Incomplete => f.write_str("ranges are three numbers each, on-disk:shown:length"),
            Self::Empty { disk, shown } => {
                write!(f, "the range {disk}:{shown}:0 is empty: its length must be at least 1")
            }
            Self::TooLong { disk, shown, length } => {
                write!(f, "the range {disk}:{shown}:{length} goes beyond the last id, {}", NO_ID - 1)
            }
            Self::Overlap { disk, shown, length } => {
                write!(f, "the range {disk}:{shown}:{length} overlaps an earlier one")
            }
        }
    }
}

impl std::error::Error for IdMapError {}

/// Whom a mount in a user namespace serves, where the kernel checks with the ids that the namespace has.
///
/// A file whose owner or group it does not have cannot be written there, whatever its mode says; and of a caller's groups
/// it has one. So the files of other groups of his are shown as his own group's, and what he may write though it belongs
/// to somebody whom the namespace does not have (/tmp) is shown as his own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The user.
    pub uid: u32,
    /// His group.
    pub gid: u32,
    /// All groups that he is in.
    pub groups: Vec<u32>,
    /// The namespace has the ids below this one, and his own.
    pub ids: u32,
}

impl Guest {
    /// Owner and group to show of an inode with these ids and this mode, as stat(2) has it.
    #[must_use]
    pub fn shown(&self, uid: u32, gid: u32, mode: u32) -> (u32, u32) {
        const TYPE: u32 = 0o170_000;
        const SYMLINK: u32 = 0o120_000;
        let is_member = self.gid == gid || self.groups.contains(&gid);
        let gid = if is_member { self.gid } else { gid };
        let has = |id: u32, own: u32| id < self.ids || id == own;
        if has(uid, self.uid) && has(gid, self.gid) {
            return (uid, gid);
        }
        let writes = mode & 0o002 != 0 || is_member && mode & 0o020 != 0;
        if uid == self.uid {
            // What is his he may write, whatever the group is.
            (uid, self.gid)
        } else if writes && mode & TYPE != SYMLINK {
            (if has(uid, self.uid) { uid } else { self.uid }, self.gid)
        } else {
            (uid, gid)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_identity() {
        let maps = IdMaps::default();
        assert!(maps.is_identity());
        for id in [0, 1000, OVERFLOW_ID, u32::MAX] {
            assert_eq!((maps.uid.shown(id), maps.uid.disk(id)), (id, Some(id)));
        }
    }

    #[test]
    fn ranges_map_both_ways() {
        let map = IdMap::parse(":1000:0:1:100000:1:65536").expect("a map as podman writes it");
        assert!(!map.is_identity());
        for (disk, shown) in [(1000, 0), (100_000, 1), (165_535, 65_536)] {
            assert_eq!((map.shown(disk), map.disk(shown)), (shown, Some(disk)), "{disk}:{shown}");
        }
        for disk in [0, 999, 1001, 99_999, 165_536] {
            assert_eq!(map.shown(disk), OVERFLOW_ID, "unmapped on disk: {disk}");
        }
        assert_eq!(map.disk(65_537), None);
    }

    #[test]
    fn the_longest_range_covers_every_id() {
        let map = IdMap::parse("0:0:4294967295").expect("every id but the last");
        assert_eq!(map.disk(u32::MAX - 1), Some(u32::MAX - 1));
        assert_eq!(map.disk(u32::MAX), None);
    }

    #[test]
    fn a_guest_may_do_what_he_may() {
        let guest = |ids| Guest { uid: 1000, gid: 1000, groups: vec![4, 1000], ids };
        let (dir, file, symlink) = (0o040_000, 0o100_000, 0o120_000);
        for (ids, (uid, gid, mode), shown) in [
            // A namespace with the usual ids shows what is.
            (65_536, (0, 0, dir | 0o1777), (0, 0)),
            (65_536, (0, 0, file | 0o644), (0, 0)),
            (65_536, (1000, 0, file | 0o644), (1000, 0)),
            (65_536, (0, 4, file | 0o640), (0, 1000)),
            (65_536, (100_000, 0, file | 0o644), (100_000, 0)),
            (65_536, (100_000, 0, file | 0o666), (1000, 1000)),
            // One that has his own only: nobody's, but for what he may write.
            (0, (1000, 1000, file | 0o600), (1000, 1000)),
            (0, (1000, 0, file | 0o644), (1000, 1000)),
            (0, (0, 0, dir | 0o1777), (1000, 1000)),
            (0, (0, 0, dir | 0o755), (0, 0)),
            (0, (0, 0, symlink | 0o777), (0, 0)),
            (0, (0, 4, file | 0o640), (0, 1000)),
            (0, (0, 4, file | 0o660), (1000, 1000)),
            (0, (0, 5, file | 0o660), (0, 5)),
        ] {
            assert_eq!(guest(ids).shown(uid, gid, mode), shown, "{ids}: {uid}:{gid} {mode:o}");
        }
    }

    #[test]
    fn squashing_wins_over_ranges() {
        let map = IdMap::parse("0:5:10").expect("a range").squashed(7, 1000);
        assert!(map.is_squashed() && !map.is_identity());
        assert_eq!((map.shown(3), map.disk(99)), (7, Some(1000)));
    }

    #[test]
    fn what_is_no_map() {
        let bad = |field: &str| IdMapError::NotANumber(field.to_owned());
        for (text, error) in [
            ("", bad("")),
            ("0:0:x", bad("x")),
            ("0:0:-1", bad("-1")),
            ("0:0:4294967296", bad("4294967296")),
            ("::0:0:1", bad("")),
            ("0:0:1:", bad("")),
            ("0:0", IdMapError::Incomplete),
            ("0:0:1:5", IdMapError::Incomplete),
            ("3:4:0", IdMapError::Empty { disk: 3, shown: 4 }),
            ("1:0:4294967295", IdMapError::TooLong { disk: 1, shown: 0, length: u32::MAX }),
            ("0:9:10:9:30:1", IdMapError::Overlap { disk: 9, shown: 30, length: 1 }),
            ("0:9:10:50:18:1", IdMapError::Overlap { disk: 50, shown: 18, length: 1 }),
        ] {
            assert_eq!(IdMap::parse(text), Err(error), "{text:?}");
        }
    }
}
