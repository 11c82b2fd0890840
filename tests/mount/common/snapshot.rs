//! A directory tree as it is at one moment, to be compared with another moment.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt::Write;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, openat, statat};
use rustix::io::Errno;

/// Each path relative to the root, with its fields.
pub(crate) struct Snapshot {
    entries: BTreeMap<PathBuf, Fields>,
}

/// Field by field, as text: only ever compared and shown.
type Fields = BTreeMap<&'static str, String>;

impl Snapshot {
    /// Walks the tree by directory descriptors, so that no depth is too deep, and without
    /// leaving a trace in it.
    #[track_caller]
    pub(crate) fn of(root: &Path) -> Self {
        let mut snapshot = Self { entries: BTreeMap::new() };
        let dir = open_dir(CWD, root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        let fields = fields(&statat(&dir, c"", AtFlags::EMPTY_PATH).unwrap(), &dir, c".");
        snapshot.entries.insert(PathBuf::from("."), fields);
        snapshot.walk(dir, Path::new(""));
        snapshot
    }

    /// Every path beneath the root.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.entries.keys().map(PathBuf::as_path).filter(|path| *path != Path::new("."))
    }

    /// One field of one path.
    pub(crate) fn field(&self, path: &Path, field: &str) -> Option<&str> {
        Some(self.entries.get(path)?.get(field)?.as_str())
    }

    /// Only the paths that are wanted.
    pub(crate) fn part(&self, wanted: impl Fn(&Path) -> bool) -> Self {
        let entries = self.entries.iter().filter(|(path, _)| wanted(path));
        Self { entries: entries.map(|(path, fields)| (path.clone(), fields.clone())).collect() }
    }

    /// The names in the root.
    pub(crate) fn names(&self) -> Vec<String> {
        let in_root = self.paths().filter(|path| path.parent() == Some(Path::new("")));
        in_root.map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    /// What is different later, one line each, but for the fields to be ignored.
    pub(crate) fn differences(&self, later: &Self, ignored: &[&str]) -> String {
        let mut report = String::new();
        for path in self.entries.keys().chain(later.entries.keys().filter(|p| !self.has(p))) {
            let shown = path.display();
            match (self.entries.get(path), later.entries.get(path)) {
                (Some(before), Some(after)) => {
                    for (field, was) in before.iter().filter(|(f, _)| !ignored.contains(f)) {
                        let is = &after[field];
                        if was != is {
                            writeln!(report, "{shown}: {field} was {was}, is {is}").unwrap();
                        }
                    }
                }
                (Some(_), None) => writeln!(report, "{shown}: is gone").unwrap(),
                (None, _) => writeln!(report, "{shown}: was not there").unwrap(),
            }
        }
        report
    }

    fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    fn walk(&mut self, dir: OwnedFd, path: &Path) {
        let mut listing = Dir::new(dir).unwrap();
        while let Some(entry) = listing.read() {
            let entry = entry.unwrap_or_else(|e| panic!("readdir {}: {e}", path.display()));
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let parent = listing.fd().unwrap();
            let place = path.join(os_str(name));
            let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                .unwrap_or_else(|e| panic!("{} is listed: {e}", place.display()));
            let kind = FileType::from_raw_mode(stat.st_mode);
            assert_eq!(entry.file_type(), kind, "{}: type in the listing", place.display());
            self.entries.insert(place.clone(), fields(&stat, parent, name));
            if kind == FileType::Directory {
                let child =
                    open_dir(parent, name).unwrap_or_else(|e| panic!("open {}: {e}", place.display()));
                self.walk(child, &place);
            }
        }
    }
}

fn fields(stat: &Stat, parent: impl std::os::fd::AsFd, name: &CStr) -> Fields {
    let parent = parent.as_fd();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let time = |seconds, nanos| format!("{seconds}.{nanos:09}");
    let mut fields = Fields::from([
        ("mode", format!("{:o}", stat.st_mode)),
        ("uid", stat.st_uid.to_string()),
        ("gid", stat.st_gid.to_string()),
        ("size", if kind == FileType::Directory { 0 } else { stat.st_size }.to_string()),
        ("rdev", stat.st_rdev.to_string()),
        ("ino", stat.st_ino.to_string()),
        ("nlink", stat.st_nlink.to_string()),
        ("mtime", time(stat.st_mtime, stat.st_mtime_nsec)),
        ("ctime", time(stat.st_ctime, stat.st_ctime_nsec)),
        ("xattrs", xattrs(&format!("/proc/self/fd/{}", parent.as_raw_fd()), name)),
    ]);
    // readlink(2) itself sets a symbolic link's access time, and knows no O_NOATIME.
    if kind != FileType::Symlink {
        fields.insert("atime", time(stat.st_atime, stat.st_atime_nsec));
    }
    let content = match kind {
        FileType::RegularFile => {
            let file = open(parent, name, OFlags::empty()).expect("a file can be read");
            digest(&File::from(file)).expect("a file can be read")
        }
        FileType::Symlink => {
            format!("{:?}", rustix::fs::readlinkat(parent, name, Vec::new()).unwrap())
        }
        _ => String::new(),
    };
    fields.insert("content", content);
    fields
}

/// The data that is not zero, and where: the same for a hole and for zeros written out.
fn digest(file: &File) -> io::Result<String> {
    const BLOCK: usize = 4096;
    let mut hasher = DefaultHasher::new();
    let mut buffer = Vec::new();
    let mut at = 0;
    // ENXIO: no data behind this offset.
    while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        at = data - data % BLOCK as u64;
        buffer.resize(64 * BLOCK, 0);
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        for (index, block) in buffer[..read].chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                (at + (index * BLOCK) as u64, block).hash(&mut hasher);
            }
        }
        at += read as u64;
    }
    let mut start = [0; 24];
    let len = file.read_at(&mut start, 0)?;
    Ok(format!("{:?}… #{:x}", String::from_utf8_lossy(&start[..len]), hasher.finish()))
}

fn xattrs(dir: &str, name: &CStr) -> String {
    let path = Path::new(dir).join(os_str(name));
    let len = match rustix::fs::llistxattr_query(&path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return String::new(),
        Ok(len) => len,
        Err(e) => panic!("listxattr {}: {e}", path.display()),
    };
    let mut list = vec![0; len];
    let len = rustix::fs::llistxattr(&path, &mut list).expect("the list is as long as it was");
    let mut all = BTreeMap::new();
    for key in list[..len].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::lgetxattr(&path, key, &mut value).expect("a listed xattr is there");
        let value = String::from_utf8_lossy(&value[..len]).into_owned();
        all.insert(String::from_utf8_lossy(key).into_owned(), value);
    }
    format!("{all:?}")
}

fn open_dir(parent: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    open(parent, name, OFlags::DIRECTORY)
}

/// Opens for reading, without a trace in the access time where that is allowed.
fn open(
    parent: impl std::os::fd::AsFd,
    name: impl rustix::path::Arg,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    name.into_with_c_str(|name| match openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(&parent, name, flags, Mode::empty()),
        outcome => outcome,
    })
}

fn os_str(name: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes())
}
