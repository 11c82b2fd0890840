//! Fills a branch before it is mounted.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, makedev, mknodat,
};

/// A branch's directory, to be filled. Paths are relative to it; missing parents are made.
pub(crate) struct Branch {
    root: PathBuf,
}

impl Branch {
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its directory, for what no method here does.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.place(path), content).unwrap();
        self
    }

    /// A file of `len` bytes that is a hole but for `data`.
    pub(crate) fn sparse(self, path: &str, len: u64, data: &[(u64, &[u8])]) -> Self {
        let file = fs::File::create(self.place(path)).unwrap();
        file.set_len(len).unwrap();
        for (offset, bytes) in data {
            file.write_all_at(bytes, *offset).unwrap();
        }
        self
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        fs::create_dir_all(self.place(path)).unwrap();
        self
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        symlink(target, self.place(path)).unwrap();
        self
    }

    /// Another name for a file that is there.
    pub(crate) fn link(self, of: &str, path: &str) -> Self {
        fs::hard_link(self.root.join(of), self.place(path)).unwrap();
        self
    }

    pub(crate) fn fifo(self, path: &str) -> Self {
        mknodat(CWD, self.place(path), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        self
    }

    pub(crate) fn char_device(self, path: &str, major: u32, minor: u32) -> Self {
        let mode = Mode::from_raw_mode(0o644);
        let device = makedev(major, minor);
        mknodat(CWD, self.place(path), FileType::CharacterDevice, mode, device).unwrap();
        self
    }

    /// `.wh.NAME` for the name that `path` ends in.
    pub(crate) fn whiteout(self, path: &str) -> Self {
        let marker = match path.rsplit_once('/') {
            Some((dir, name)) => format!("{dir}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&marker, "")
    }

    /// `.wh..wh..opq` in the directory.
    pub(crate) fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), "")
    }

    pub(crate) fn mode(self, path: &str, mode: u32) -> Self {
        fs::set_permissions(self.root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(crate) fn owner(self, path: &str, uid: u32, gid: u32) -> Self {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(CWD, self.root.join(path), Some(uid), Some(gid), flags).unwrap();
        self
    }

    pub(crate) fn xattr(self, path: &str, name: &str, value: impl AsRef<[u8]>) -> Self {
        let path = self.root.join(path);
        rustix::fs::lsetxattr(&path, name, value.as_ref(), XattrFlags::empty())
            .unwrap_or_else(|e| panic!("setxattr {name} on {}: {e}", path.display()));
        self
    }

    /// The modification time; the access time is set to the same.
    pub(crate) fn mtime(self, path: &str, seconds: i64, nanos: u32) -> Self {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, self.root.join(path), &times, flags).unwrap();
        self
    }

    fn place(&self, path: &str) -> PathBuf {
        let place = self.root.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        place
    }
}
