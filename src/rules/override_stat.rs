//! How does a file that belongs to an ordinary user say that it is somebody else's in the image?
//!
//! By an extended attribute: `UID:GID:MODE[:TYPE]`, the mode in octal, the type as containers/storage spells it
//! (`file`, `dir`, `symlink`, `pipe`, `socket`, `block-MAJOR-MINOR`, `char-MAJOR-MINOR`). fuse-overlayfs leaves the
//! type out. Source: containers/storage, `pkg/idtools`; fuse-overlayfs, `xattr_permissions`.
//!
//! Whoever may write a file may write its attribute: what it says is believed only where the files are an ordinary
//! user's own, never as root.

use std::ffi::{OsStr, OsString};

/// Where it is written, and read first.
pub const OVERRIDE_STAT: &str = "user.containers.override_stat";
/// Where fuse-overlayfs keeps it.
const FUSE_OVERLAYFS_OVERRIDE_STAT: &str = "user.fuseoverlayfs.override_stat";
/// Every name that it has.
pub const OVERRIDE_STATS: [&str; 2] = [OVERRIDE_STAT, FUSE_OVERLAYFS_OVERRIDE_STAT];
/// What only root may set, and what fuse-overlayfs reads in the one namespace.
pub const PRIVILEGED_OVERRIDE_STAT: &str = "security.fuseoverlayfs.override_stat";
/// Before the name of an attribute that only root may set; as fuse-overlayfs 1.14 has it.
const KEPT: &[u8] = b"user.containers.override_";
/// The owners of a directory's symbolic links, which can have no such attribute: `UID:GID:NAME`, a NUL after each.
pub const SYMLINK_OWNERS: &str = "user.plyfs.symlinks";

/// The permission bits that the file itself was made with, in octal. With others it was changed since, through a
/// mount: then they count, and not those of the attribute.
pub const MADE_WITH_MODE: &str = "user.plyfs.mode";

/// In which attribute a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideXattr {
    /// One that only root may set: `xattr_permissions=1`.
    Privileged,
    /// One that every owner may set: `xattr_permissions=2`.
    User,
}

/// What the attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverrideStat {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permission bits, with set-user-ID, set-group-ID and the sticky bit.
    pub mode: u32,
    /// What it is, if that is said.
    pub kind: Option<Kind>,
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    BlockDevice { major: u32, minor: u32 },
    CharDevice { major: u32, minor: u32 },
}

/// Of `st_mode`: the bits of the type, and the types.
const S_IFMT: u32 = 0o170_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFSOCK: u32 = 0o140_000;

impl OverrideStat {
    /// That of an inode which shows this owner, mode with type, and device (major and minor).
    #[must_use]
    pub fn of((uid, gid): (u32, u32), st_mode: u32, (major, minor): (u32, u32)) -> Self {
        let kind = match st_mode & S_IFMT {
            S_IFIFO => Kind::Fifo,
            S_IFCHR => Kind::CharDevice { major, minor },
            S_IFDIR => Kind::Dir,
            S_IFBLK => Kind::BlockDevice { major, minor },
            S_IFLNK => Kind::Symlink,
            S_IFSOCK => Kind::Socket,
            _ => Kind::File,
        };
        Self { uid, gid, mode: st_mode & 0o7777, kind: Some(kind) }
    }

    /// The mode with type that an inode shows which has `st_mode` on the disk, and the device (major and minor) that
    /// it then is. Only a regular file stands for something else.
    #[must_use]
    pub fn shown_mode(&self, st_mode: u32) -> (u32, Option<(u32, u32)>) {
        let on_disk = st_mode & S_IFMT;
        let (kind, device) = match self.kind {
            _ if on_disk != S_IFREG => (on_disk, None),
            Some(Kind::Fifo) => (S_IFIFO, None),
            Some(Kind::Socket) => (S_IFSOCK, None),
            Some(Kind::BlockDevice { major, minor }) => (S_IFBLK, Some((major, minor))),
            Some(Kind::CharDevice { major, minor }) => (S_IFCHR, Some((major, minor))),
            None | Some(Kind::File | Kind::Dir | Kind::Symlink) => (S_IFREG, None),
        };
        // A symbolic link has no mode of its own.
        let mode = if on_disk == S_IFLNK { st_mode } else { self.mode };
        (kind | mode & 0o7777, device)
    }

    /// Reads an attribute's value; None if it says nothing.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
        let mut fields = text.splitn(4, ':');
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok().filter(|mode| *mode <= 0o7777)?;
        let kind = match fields.next() {
            None => None,
            Some(word) => Some(parse_kind(word)?),
        };
        Some(Self { uid, gid, mode, kind })
    }

    /// The attribute's value.
    #[must_use]
    pub fn value(&self) -> String {
        let Self { uid, gid, mode, kind } = self;
        let kind = match kind {
            None => return format!("{uid}:{gid}:{mode:04o}"),
            Some(Kind::File) => "file".to_owned(),
            Some(Kind::Dir) => "dir".to_owned(),
            Some(Kind::Symlink) => "symlink".to_owned(),
            Some(Kind::Fifo) => "pipe".to_owned(),
            Some(Kind::Socket) => "socket".to_owned(),
            Some(Kind::BlockDevice { major, minor }) => format!("block-{major}-{minor}"),
            Some(Kind::CharDevice { major, minor }) => format!("char-{major}-{minor}"),
        };
        format!("{uid}:{gid}:{mode:04o}:{kind}")
    }
}

fn parse_kind(word: &str) -> Option<Kind> {
    let device = |rest: &str| {
        let (major, minor) = rest.split_once('-')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    Some(match word {
        "file" => Kind::File,
        "dir" => Kind::Dir,
        "symlink" => Kind::Symlink,
        "pipe" => Kind::Fifo,
        "socket" => Kind::Socket,
        _ => {
            if let Some(rest) = word.strip_prefix("block-") {
                let (major, minor) = device(rest)?;
                Kind::BlockDevice { major, minor }
            } else {
                let (major, minor) = device(word.strip_prefix("char-")?)?;
                Kind::CharDevice { major, minor }
            }
        }
    })
}

/// The attribute's name under which an ordinary user keeps one that only root may set, or that would have a say in
/// the file's permissions; None for those that a user may set.
#[must_use]
pub fn kept_under(key: &OsStr) -> Option<OsString> {
    let key = key.as_encoded_bytes();
    if key.starts_with(b"user.") {
        return None;
    }
    Some(os_string(&[KEPT, key].concat()))
}

/// What [`kept_under`] was given.
#[must_use]
pub fn kept_name(key: &OsStr) -> Option<OsString> {
    // Every attribute has its namespace before a dot: `user.containers.override_stat` keeps none.
    let kept = key.as_encoded_bytes().strip_prefix(KEPT)?;
    kept.contains(&b'.').then(|| os_string(kept))
}

/// What [`SYMLINK_OWNERS`] says: of which link, and its owner and group.
pub fn symlink_owners(value: &[u8]) -> impl Iterator<Item = (OsString, (u32, u32))> {
    value.split(|byte| *byte == 0).filter_map(|entry| {
        let mut fields = entry.splitn(3, |byte| *byte == b':');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let owner = (number()?, number()?);
        Some((os_string(fields.next()?), owner))
    })
}

fn os_string(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_is_read() {
        for (text, uid, mode, kind) in [
            ("0:0:0755:dir", 0, 0o755, Some(Kind::Dir)),
            ("1000:5:4755:file", 1000, 0o4755, Some(Kind::File)),
            ("33:5:640", 33, 0o640, None),
            ("0:5:0666:char-1-3", 0, 0o666, Some(Kind::CharDevice { major: 1, minor: 3 })),
            ("0:5:0660:block-8-0", 0, 0o660, Some(Kind::BlockDevice { major: 8, minor: 0 })),
            ("0:5:0600:pipe", 0, 0o600, Some(Kind::Fifo)),
        ] {
            let read = OverrideStat::parse(text.as_bytes()).expect(text);
            assert_eq!((read.uid, read.mode, read.kind), (uid, mode, kind), "{text}");
            assert_eq!(OverrideStat::parse(read.value().as_bytes()), Some(read), "{text}");
        }
    }

    #[test]
    fn what_says_nothing_is_not_believed() {
        for text in
            ["", "0", "0:0", "0:0:8", "0:0:10000", "-1:0:644", "0:0:644:door", "0:0:644:char-1", "a:b:c"]
        {
            assert_eq!(OverrideStat::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(OverrideStat::parse(b"0:0:644:\xff"), None);
    }

    #[test]
    fn a_regular_file_stands_for_what_its_record_says() {
        let said = |text: &str| OverrideStat::parse(text.as_bytes()).unwrap();
        for (text, on_disk, shown, device) in [
            ("0:0:4755:file", 0o100_600, 0o104_755, None),
            ("0:0:0644", 0o100_600, 0o100_644, None),
            ("0:5:0666:char-1-3", 0o100_600, 0o020_666, Some((1, 3))),
            ("0:5:0660:block-8-0", 0o100_600, 0o060_660, Some((8, 0))),
            ("0:0:0600:pipe", 0o100_600, 0o010_600, None),
            ("0:0:0600:socket", 0o100_600, 0o140_600, None),
            ("0:0:1777:dir", 0o040_700, 0o041_777, None),
            // What nobody writes, and would lead astray.
            ("0:0:0755:dir", 0o100_600, 0o100_755, None),
            ("0:0:0755:file", 0o040_700, 0o040_755, None),
            ("0:0:0600:symlink", 0o120_777, 0o120_777, None),
        ] {
            assert_eq!(said(text).shown_mode(on_disk), (shown, device), "{text}");
            if text.matches(':').count() == 3 && said(text).shown_mode(on_disk).0 & S_IFMT != S_IFREG {
                let again = OverrideStat::of((0, said(text).gid), shown, device.unwrap_or_default());
                assert_eq!(again.shown_mode(on_disk), (shown, device), "{text}");
            }
        }
    }

    #[test]
    fn only_what_a_user_may_set_keeps_its_name() {
        assert_eq!(kept_under(OsStr::new("user.mime")), None);
        let kept = kept_under(OsStr::new("security.capability")).expect("root's");
        assert_eq!(kept_name(&kept).as_deref(), Some(OsStr::new("security.capability")));
        assert_eq!(kept_name(OsStr::new("user.mime")), None);
        assert_eq!(kept_name(OsStr::new(OVERRIDE_STAT)), None);
    }
}
