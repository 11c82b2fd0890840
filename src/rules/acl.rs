//! Which ids does a POSIX ACL name, as users see them and as the disk has them?
//!
//! An ACL is an extended attribute of its own format, version 2: four bytes of version, then entries of eight bytes: a
//! tag, permissions, an id. Only the entries of named users and groups have ids that mean something.

use std::borrow::Cow;
use std::ffi::OsStr;

use super::ids::{IdMap, IdMaps};

const VERSION: u32 = 2;
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;

/// An id in an ACL that no id on disk stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped(pub u32);

/// Whether an extended attribute is an ACL.
#[must_use]
pub fn is_acl(key: &OsStr) -> bool {
    key == "system.posix_acl_access" || key == "system.posix_acl_default"
}

/// The ACL as users see it. Ids that no range covers are shown as the overflow id, as owners are.
#[must_use]
pub fn shown<'a>(acl: &'a [u8], ids: &IdMaps) -> Cow<'a, [u8]> {
    match mapped(acl, ids, |map, id| Ok(map.shown(id))) {
        Ok(acl) => acl,
        Err(Unmapped(_)) => Cow::Borrowed(acl),
    }
}

/// The ACL as it goes to the disk.
///
/// # Errors
/// It names an id that no range covers, as a chown(2) might.
pub fn on_disk<'a>(acl: &'a [u8], ids: &IdMaps) -> Result<Cow<'a, [u8]>, Unmapped> {
    mapped(acl, ids, |map, id| map.disk(id).ok_or(Unmapped(id)))
}

/// What is no ACL stays as it is: the disk has an opinion of it.
fn mapped<'a>(
    acl: &'a [u8],
    ids: &IdMaps,
    map: impl Fn(&IdMap, u32) -> Result<u32, Unmapped>,
) -> Result<Cow<'a, [u8]>, Unmapped> {
    let unchanged = Ok(Cow::Borrowed(acl));
    let Some((version, entries)) = acl.split_first_chunk::<4>() else { return unchanged };
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return unchanged;
    }
    let mut changed = version.to_vec();
    for &[tag_low, tag_high, permissions @ .., a, b, c, d] in entries {
        let id = u32::from_le_bytes([a, b, c, d]);
        let id = match u16::from_le_bytes([tag_low, tag_high]) {
            USER => named(&ids.uid, id, &map)?,
            GROUP => named(&ids.gid, id, &map)?,
            _ => id,
        };
        changed.extend([tag_low, tag_high]);
        changed.extend(permissions);
        changed.extend(id.to_le_bytes());
    }
    Ok(Cow::Owned(changed))
}

/// Where all owners are shown as one, the named ids are left alone: as one, they would say nothing of who may do
/// what, and could not be set again.
fn named(
    map: &IdMap,
    id: u32,
    mapped: impl Fn(&IdMap, u32) -> Result<u32, Unmapped>,
) -> Result<u32, Unmapped> {
    if map.is_squashed() { Ok(id) } else { mapped(map, id) }
}

#[cfg(test)]
mod tests {
    use super::super::ids::OVERFLOW_ID;
    use super::*;

    const OWNER: u16 = 0x01;
    const MASK: u16 = 0x10;
    const NO_ID: u32 = u32::MAX;

    fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(5_u16.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    fn maps(uid: &str, gid: &str) -> IdMaps {
        IdMaps { uid: IdMap::parse(uid).unwrap(), gid: IdMap::parse(gid).unwrap() }
    }

    #[test]
    fn named_ids_are_mapped_both_ways_and_the_rest_stays() {
        let ids = maps("1000:0:10", "2000:0:10");
        let disk = acl(&[(OWNER, NO_ID), (USER, 1003), (GROUP, 2004), (MASK, NO_ID)]);
        let seen = acl(&[(OWNER, NO_ID), (USER, 3), (GROUP, 4), (MASK, NO_ID)]);
        assert_eq!(*shown(&disk, &ids), *seen);
        assert_eq!(*on_disk(&seen, &ids).unwrap(), *disk);
    }

    #[test]
    fn an_id_that_no_range_covers_is_shown_as_nobody_and_not_stored() {
        let ids = maps("1000:0:10", "2000:0:10");
        let seen = acl(&[(USER, OVERFLOW_ID), (GROUP, OVERFLOW_ID)]);
        assert_eq!(*shown(&acl(&[(USER, 7), (GROUP, 1003)]), &ids), *seen);
        assert_eq!(on_disk(&acl(&[(GROUP, 3), (USER, 77)]), &ids), Err(Unmapped(77)));
        assert_eq!(on_disk(&seen, &ids), Err(Unmapped(OVERFLOW_ID)));
    }

    #[test]
    fn squashed_maps_leave_named_ids_alone() {
        let ids = IdMaps { uid: IdMap::default().squashed(0, 1000), gid: IdMap::parse("2000:0:10").unwrap() };
        let disk = acl(&[(USER, 1003), (GROUP, 2004)]);
        let seen = acl(&[(USER, 1003), (GROUP, 4)]);
        assert_eq!(*shown(&disk, &ids), *seen);
        assert_eq!(*on_disk(&seen, &ids).unwrap(), *disk);
    }

    #[test]
    fn what_is_no_acl_is_left_to_the_disk() {
        let ids = maps("1000:0:10", "2000:0:10");
        let mut version_3 = acl(&[(USER, 3)]);
        version_3[0] = 3;
        let cut = &acl(&[(USER, 3)])[..11];
        for odd in [&[][..], b"\x02", &version_3, cut] {
            assert_eq!(*shown(odd, &ids), *odd);
            assert_eq!(*on_disk(odd, &ids).unwrap(), *odd);
        }
        assert!(is_acl("system.posix_acl_default".as_ref()) && !is_acl("user.acl".as_ref()));
    }
}
