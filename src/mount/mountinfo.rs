//! What is mounted where, in the kernel's own words?

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The types of our mounts in the mount table. Some tools look for the second, and call us by that name.
const FS_TYPES: [&str; 2] = [FS_TYPE, "fuse.fuse-overlayfs"];
/// The type of a plyfs.
pub const FS_TYPE: &str = "fuse.plyfs";

/// The type of a mount that this process makes: by the name that it was called by.
pub(super) fn fs_type() -> &'static str {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name();
    let is_called = |fs_type: &&&str| name.is_some_and(|name| fs_type.strip_prefix("fuse.") == name.to_str());
    FS_TYPES.iter().find(is_called).unwrap_or(&FS_TYPES[0])
}

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The mount.
    pub(super) mount_id: u64,
    /// The mount that it is mounted in.
    pub(super) parent_id: u64,
    /// The filesystem: `major:minor`, as stat shows it.
    pub(super) device: String,
    /// Which directory of the filesystem is mounted.
    pub(super) root: PathBuf,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// Its flags, comma-separated.
    pub(super) flags: String,
    /// Its type.
    pub(super) fs_type: String,
    /// The filesystem's own options, comma-separated.
    pub(super) options: String,
}

impl Entry {
    /// Whether this is a mount of ours, or another plyfs'. With [`Self::is_alias`] it need not be.
    pub(super) fn is_plyfs(&self) -> bool {
        FS_TYPES.contains(&&*self.fs_type)
    }

    /// Whether it was mounted with that option of its filesystem.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|given| given == option)
    }

    /// Whether another program makes mounts of that type, too.
    pub(super) fn is_alias(&self) -> bool {
        self.fs_type != FS_TYPES[0]
    }
}

/// All mounts, each after those that it covers.
pub(super) fn all() -> io::Result<Vec<Entry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// The filesystem of a session, as [`Entry::device`] has it, if this kernel tells (Linux 6.16) and it is mounted.
pub(super) fn device_of_session(device: &OwnedFd) -> Option<String> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", device.as_raw_fd())).ok()?;
    let number = info.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?;
    Some(format!("0:{}", number.trim()))
}

/// The mount with this id. Ids are used again: whoever asks holds a descriptor on the mount, or knows it by more.
pub(super) fn by_id(mount_id: u64) -> io::Result<Option<Entry>> {
    Ok(all()?.into_iter().find(|entry| entry.mount_id == mount_id))
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse(line: &[u8]) -> Option<Entry> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mut fields = line.split(|&byte| byte == b' ');
    let mount_id = text(fields.next()?).parse().ok()?;
    let parent_id = text(fields.next()?).parse().ok()?;
    let device = text(fields.next()?);
    let root = unescape(fields.next()?).into();
    let mountpoint = unescape(fields.next()?).into();
    let flags = text(fields.next()?);
    fields.find(|field| field == b"-")?;
    let fs_type = text(fields.next()?);
    let options = text(fields.nth(1).unwrap_or_default());
    Some(Entry { mount_id, parent_id, device, root, mountpoint, flags, fs_type, options })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3).and_then(octal)).flatten();
        plain.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::ffi::OsStr::from_bytes(digits).to_str()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields() {
        for (line, path, fs_type) in [
            ("36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw", "/mnt", "ext3"),
            ("36 35 98:0 / /mnt rw - fuse.plyfs - rw", "/mnt", "fuse.plyfs"),
            (r"36 35 98:0 / /a\040b\134c\011 rw x:1 y:2 - fuse.plyfs none rw", "/a b\\c\t", FS_TYPES[0]),
        ] {
            let entry = parse(line.as_bytes()).expect(line);
            assert_eq!(entry.mountpoint, Path::new(path), "{line}");
            assert_eq!((entry.mount_id, entry.parent_id, entry.device.as_str()), (36, 35, "98:0"), "{line}");
            assert!(entry.flags.starts_with("rw"), "{line}");
            assert_eq!(entry.fs_type, fs_type, "{line}");
            assert!(entry.options.starts_with("rw"), "{line}");
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 98:0 / /mnt rw"), None);
    }
}
