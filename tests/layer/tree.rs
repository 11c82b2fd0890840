//! What lies on a disk, in words that can be compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};

/// How closely it is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Types, modes, contents, links.
    Shape,
    /// Also owners, times and extended attributes.
    All,
}

/// Every entry beneath a directory, in the order of their names; the root is ``.
pub(crate) fn tree(root: &Path, detail: Detail) -> BTreeMap<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty())
        .unwrap_or_else(|e| panic!("open {}: {e}", root.display()));
    let mut look = Look { detail, found: BTreeMap::new(), names: HashMap::new() };
    let stat = rustix::fs::fstat(&dir).unwrap();
    let line = look.line(&dir, OsStr::new("."), b"", &stat);
    look.found.insert(Vec::new(), line);
    look.walk(dir, &mut Vec::new());
    look.found
}

/// The same as lines of text.
pub(crate) fn lines(root: &Path, detail: Detail) -> Vec<String> {
    let line = |(path, what): (Vec<u8>, String)| format!("{} {what}", OsStr::from_bytes(&path).display());
    tree(root, detail).into_iter().skip(1).map(line).collect()
}

struct Look {
    detail: Detail,
    found: BTreeMap<Vec<u8>, String>,
    /// Of files with several names, the first.
    names: HashMap<(u64, u64), Vec<u8>>,
}

impl Look {
    fn walk(&mut self, dir: OwnedFd, path: &mut Vec<u8>) {
        let mut names: Vec<OsString> = Dir::read_from(&dir)
            .unwrap()
            .map(|entry| OsString::from_vec(entry.unwrap().file_name().to_bytes().to_vec()))
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort();
        for name in names {
            let before = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let line = self.line(&dir, &name, path, &stat);
            self.found.insert(path.clone(), line);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.walk(openat(&dir, &name, flags, Mode::empty()).unwrap(), path);
            }
            path.truncate(before);
        }
    }

    fn line(&mut self, dir: &OwnedFd, name: &OsStr, path: &[u8], stat: &Stat) -> String {
        let mode = stat.st_mode & 0o7777;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let mut line = match kind {
            FileType::Directory => format!("dir {mode:o}"),
            FileType::RegularFile => format!("file {mode:o} {}", content(dir, name, stat)),
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).unwrap();
                format!("-> {}", String::from_utf8_lossy(target.as_bytes()))
            }
            FileType::Fifo => format!("fifo {mode:o}"),
            FileType::CharacterDevice => format!("char {mode:o} {}:{}", number.0, number.1),
            FileType::BlockDevice => format!("block {mode:o} {}:{}", number.0, number.1),
            other => format!("{other:?}"),
        };
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let first = self.names.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.to_vec());
            line.push_str(&format!(" = {}", OsStr::from_bytes(first).display()));
        }
        if self.detail == Detail::All {
            let (seconds, nanoseconds) = (stat.st_mtime, stat.st_mtime_nsec);
            line.push_str(&format!(" {}:{} {seconds}.{nanoseconds:09}", stat.st_uid, stat.st_gid));
            for (key, value) in xattrs(dir, name) {
                line.push_str(&format!(" {}={value:02x?}", key.display()));
            }
        }
        line
    }
}

fn content(dir: &OwnedFd, name: &OsStr, stat: &Stat) -> String {
    const LONGEST: i64 = 64 << 20;
    if stat.st_size > LONGEST {
        return format!("[{} bytes]", stat.st_size);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut bytes = Vec::new();
    match openat(dir, name, flags, Mode::empty()) {
        Err(errno) => return format!("[{errno}]"),
        Ok(file) => File::from(file).read_to_end(&mut bytes).unwrap(),
    };
    if bytes.len() <= 40 {
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    // FNV-1a: enough to tell one content from another.
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("[{} bytes, {sum:016x}]", bytes.len())
}

/// Extended attributes, sorted by name. A path through the descriptor, because it must not be too long.
fn xattrs(dir: &OwnedFd, name: &OsStr) -> Vec<(OsString, Vec<u8>)> {
    use std::os::fd::AsRawFd;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    xattrs_of(&path)
}

/// Extended attributes of what a path names, links not followed.
pub(crate) fn xattrs_of(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut list = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or_default();
    let mut found = Vec::new();
    for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(key), &mut value[..]).unwrap_or_default();
        value.truncate(length);
        found.push((OsString::from_vec(key.to_vec()), value));
    }
    found.sort();
    found
}

/// What differs between two trees, for messages.
pub(crate) fn difference(one: &BTreeMap<Vec<u8>, String>, other: &BTreeMap<Vec<u8>, String>) -> Vec<String> {
    let mut lines = Vec::new();
    for path in one.keys().chain(other.keys().filter(|path| !one.contains_key(*path))) {
        let (a, b) = (one.get(path), other.get(path));
        if a != b {
            let nothing = String::from("nothing");
            let shown = OsStr::from_bytes(path).display();
            lines.push(format!("{shown}: {} / {}", a.unwrap_or(&nothing), b.unwrap_or(&nothing)));
        }
    }
    lines
}
