//! What is mounted where, in the kernel's own words?

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The type of our mounts in the mount table.
pub(super) const FS_TYPE: &str = "fuse.plyfs";

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The mount.
    pub(super) mount_id: u64,
    /// The filesystem: `major:minor`, as stat shows it.
    pub(super) device: String,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// Its type.
    pub(super) fs_type: String,
}

impl Entry {
    /// Whether this is a mount of ours, or another plyfs'.
    pub(super) fn is_plyfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// The mount that a path walk to the absolute `mountpoint` ends in, if one is mounted there.
pub(super) fn topmost_at(mountpoint: &Path) -> io::Result<Option<Entry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    // A mount is listed after the one that it covers, so the last one counts.
    let mut entries = table.split(|&byte| byte == b'\n').filter_map(parse);
    Ok(entries.rfind(|entry| entry.mountpoint == mountpoint))
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse(line: &[u8]) -> Option<Entry> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mut fields = line.split(|&byte| byte == b' ');
    let mount_id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let mountpoint = unescape(fields.nth(1)?).into();
    fields.find(|field| field == b"-")?;
    let fs_type = text(fields.next()?);
    Some(Entry { mount_id, device, mountpoint, fs_type })
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
            (r"36 35 98:0 / /a\040b\134c\011 rw x:1 y:2 - fuse.plyfs none rw", "/a b\\c\t", FS_TYPE),
        ] {
            let entry = parse(line.as_bytes()).expect(line);
            assert_eq!(entry.mountpoint, Path::new(path), "{line}");
            assert_eq!((entry.mount_id, entry.device.as_str()), (36, "98:0"), "{line}");
            assert_eq!(entry.fs_type, fs_type, "{line}");
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 98:0 / /mnt rw"), None);
    }
}
