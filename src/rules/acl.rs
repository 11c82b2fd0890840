//! Which ids does a POSIX ACL name, as users see them and as the disk has them?
//!
//! An ACL is an extended attribute of its own format, version 2: four bytes of version, then entries of eight bytes: a
//! tag, permissions, an id. Only the entries of named users and groups have ids that mean something.

use std::borrow::Cow;
use std::ffi::OsStr;

use super::ids::{IdMap, IdMaps};

/// The attribute of an ACL that says who may do what.
pub const ACCESS: &str = "system.posix_acl_access";
/// The attribute of a directory's ACL that what is made in it gets.
pub const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// An id in an ACL that no id on disk stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped(pub u32);

/// Whether an extended attribute is an ACL.
#[must_use]
pub fn is_acl(key: &OsStr) -> bool {
    key == ACCESS || key == DEFAULT
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

/// An ACL, read for what it says of a mode's nine permission bits; entries as they are written.
struct Entries(Vec<(u16, u16, [u8; 4])>);

impl Entries {
    fn parse(acl: &[u8]) -> Option<Self> {
        let (version, entries) = acl.split_first_chunk::<4>()?;
        let (entries, rest) = entries.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return None;
        }
        let entry = |&[t, u, p, q, a, b, c, d]: &[u8; 8]| {
            (u16::from_le_bytes([t, u]), u16::from_le_bytes([p, q]), [a, b, c, d])
        };
        Some(Self(entries.iter().map(entry).collect()))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in &self.0 {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id);
        }
        bytes
    }

    fn find(&mut self, tag: u16) -> Option<&mut u16> {
        self.0.iter_mut().find(|(is, ..)| *is == tag).map(|(_, permissions, _)| permissions)
    }

    /// The entries that a mode has, with the place of their bits in it: the group's are the mask's if there is one.
    fn classes(&mut self) -> [(u32, Option<&mut u16>); 3] {
        let group = if self.find(MASK).is_some() { MASK } else { GROUP_OBJ };
        let (mut owner, mut of_group, mut other) = (None, None, None);
        for (tag, permissions, _) in &mut self.0 {
            match *tag {
                USER_OBJ => owner = Some(permissions),
                OTHER => other = Some(permissions),
                tag if tag == group => of_group = Some(permissions),
                _ => {}
            }
        }
        [(6, owner), (3, of_group), (0, other)]
    }

    fn says_more_than_a_mode(&self) -> bool {
        self.0.iter().any(|(tag, ..)| [USER, GROUP, MASK].contains(tag))
    }
}

/// The mode of a file whose access ACL was set to this one, and whether the ACL says more than the mode. None if it
/// is not an ACL.
#[must_use]
pub fn mode_of(acl: &[u8], mode: u32) -> Option<(u32, bool)> {
    let mut entries = Entries::parse(acl)?;
    let says_more = entries.says_more_than_a_mode();
    let mut shown = mode & !0o777;
    for (shift, permissions) in entries.classes() {
        shown |= u32::from(*permissions? & 7) << shift;
    }
    Some((shown, says_more))
}

/// The access ACL of a file whose permission bits are set to those of `mode`.
#[must_use]
pub fn after_chmod(acl: &[u8], mode: u32) -> Option<Vec<u8>> {
    let mut entries = Entries::parse(acl)?;
    for (shift, permissions) in entries.classes() {
        *permissions? = (mode >> shift & 7) as u16;
    }
    Some(entries.bytes())
}

/// The access ACL of what is made with `mode` in a directory with this default ACL, if it says more than the mode; and
/// the mode. Source: acl(5), "Object creation and default ACLs".
#[must_use]
pub fn inherited(default: &[u8], mode: u32) -> Option<(u32, Option<Vec<u8>>)> {
    let mut entries = Entries::parse(default)?;
    let mut shown = mode & !0o777;
    for (shift, permissions) in entries.classes() {
        let permissions = permissions?;
        *permissions &= (mode >> shift & 7) as u16;
        shown |= u32::from(*permissions) << shift;
    }
    let acl = entries.says_more_than_a_mode().then(|| entries.bytes());
    Some((shown, acl))
}

#[cfg(test)]
mod tests {
    use super::super::ids::OVERFLOW_ID;
    use super::*;

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
        let disk = acl(&[(USER_OBJ, NO_ID), (USER, 1003), (GROUP, 2004), (MASK, NO_ID)]);
        let seen = acl(&[(USER_OBJ, NO_ID), (USER, 3), (GROUP, 4), (MASK, NO_ID)]);
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

    fn with(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries.iter().map(|(tag, permissions, id)| (*tag, *permissions, id.to_le_bytes()));
        Entries(entries.collect()).bytes()
    }

    #[test]
    fn the_mask_is_what_the_mode_calls_the_group() {
        let plain = with(&[(USER_OBJ, 6, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 0, NO_ID)]);
        assert_eq!(mode_of(&plain, 0o104_777), Some((0o104_640, false)));
        let masked = with(&[
            (USER_OBJ, 7, NO_ID),
            (USER, 7, 5),
            (GROUP_OBJ, 5, NO_ID),
            (MASK, 1, NO_ID),
            (OTHER, 4, NO_ID),
        ]);
        assert_eq!(mode_of(&masked, 0o100_000), Some((0o100_714, true)));
        let after = after_chmod(&masked, 0o100_620).unwrap();
        assert_eq!(mode_of(&after, 0o100_000), Some((0o100_620, true)));
        assert_eq!(
            after,
            with(&[
                (USER_OBJ, 6, NO_ID),
                (USER, 7, 5),
                (GROUP_OBJ, 5, NO_ID),
                (MASK, 2, NO_ID),
                (OTHER, 0, NO_ID)
            ])
        );
    }

    #[test]
    fn what_is_made_gets_no_more_than_it_was_made_with() {
        let default = with(&[
            (USER_OBJ, 7, NO_ID),
            (USER, 7, 5),
            (GROUP_OBJ, 5, NO_ID),
            (MASK, 7, NO_ID),
            (OTHER, 5, NO_ID),
        ]);
        let (mode, acl) = inherited(&default, 0o100_640).unwrap();
        assert_eq!(mode, 0o100_640);
        assert_eq!(mode_of(&acl.unwrap(), 0o100_000), Some((0o100_640, true)));
        let plain = with(&[(USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 0, NO_ID)]);
        assert_eq!(inherited(&plain, 0o040_777), Some((0o040_750, None)));
        assert_eq!(inherited(b"\x02\0\0\0", 0o777), None);
    }
}
