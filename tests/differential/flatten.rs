//! What do branches flatten to?
//!
//! Independent of plyfs' rules, and of their direction too: one branch after the other is unpacked over what
//! is there, from the bottom up, as programs that unpack OCI layers do.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lremovexattr, lsetxattr, mknodat,
    utimensat,
};

use super::look::xattrs;

/// How a branch's devices 0:0 are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroDevice {
    Whiteout,
    /// In plyfs' own upper, which overlayfs did not write.
    Node,
}

/// Unpacks branches, topmost first as in the mount options, into a directory.
pub(crate) fn flatten(branches: &[(&Path, ZeroDevice)], into: &Path) {
    let mut to = Target { dir_times: BTreeMap::new() };
    for (branch, zero) in branches.iter().rev() {
        to.unpack_dir(branch, into, *zero, &mut BTreeMap::new());
    }
    for (dir, times) in to.dir_times.iter().rev() {
        utimensat(CWD, dir, times, AtFlags::SYMLINK_NOFOLLOW).expect("a directory's times");
    }
}

struct Target {
    /// Set last: filling a directory changes them.
    dir_times: BTreeMap<PathBuf, Timestamps>,
}

impl Target {
    /// `links`: where the inodes of this branch with several names are.
    fn unpack_dir(
        &mut self,
        from: &Path,
        to: &Path,
        zero: ZeroDevice,
        links: &mut BTreeMap<(u64, u64), PathBuf>,
    ) {
        let markers = xattrs(from);
        let says = |key: &str, value: &str| markers.get(key).is_some_and(|v| v == value.as_bytes());
        let both = ["trusted.overlay.opaque", "user.overlay.opaque"];
        let xattr_whiteouts = both.iter().any(|key| says(key, "x"));
        let mut opaque = both.iter().any(|key| says(key, "y")) || says("user.fuseoverlayfs.opaque", "y");

        let mut gone: BTreeSet<OsString> = BTreeSet::new();
        let mut entries: Vec<OsString> = Vec::new();
        for name in names(from) {
            let path = from.join(&name);
            let stat = fs::symlink_metadata(&path).expect("an entry");
            if name == ".wh..wh..opq" {
                opaque = true;
            } else if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
                let reserved = hidden.starts_with(b".wh.") || [&b""[..], b".", b".."].contains(&hidden);
                if !reserved {
                    gone.insert(OsStr::from_bytes(hidden).to_owned());
                }
            } else if is_whiteout(&path, &stat, zero, xattr_whiteouts) {
                gone.insert(name);
            } else {
                entries.push(name);
            }
        }
        let hidden: Vec<_> = if opaque { names(to) } else { gone.into_iter().collect() };
        for name in hidden {
            self.remove(&to.join(name));
        }
        for name in entries {
            self.unpack_entry(&from.join(&name), &to.join(&name), zero, links);
        }
        let stat = fs::symlink_metadata(from).expect("a directory");
        for key in xattrs(to).into_keys() {
            lremovexattr(to, &*key).expect("it was listed");
        }
        attribute(from, to, &stat);
        self.dir_times.insert(to.to_owned(), times(&stat));
    }

    fn unpack_entry(
        &mut self,
        from: &Path,
        to: &Path,
        zero: ZeroDevice,
        links: &mut BTreeMap<(u64, u64), PathBuf>,
    ) {
        let stat = fs::symlink_metadata(from).expect("an entry");
        let there = fs::symlink_metadata(to).ok();
        if there.as_ref().is_some_and(|there| !(there.is_dir() && stat.is_dir())) {
            self.remove(to);
        }
        if stat.is_dir() {
            if !there.is_some_and(|there| there.is_dir()) {
                fs::create_dir(to).expect("a directory");
            }
            return self.unpack_dir(from, to, zero, links);
        }
        if stat.nlink() > 1 {
            let first = links.entry((stat.dev(), stat.ino())).or_insert_with(|| to.to_owned());
            if first != to {
                fs::hard_link(first, to).expect("a hard link");
                return;
            }
        }
        let kind = stat.file_type();
        if kind.is_file() {
            fs::copy(from, to).expect("a file");
        } else if kind.is_symlink() {
            symlink(fs::read_link(from).expect("a target"), to).expect("a symbolic link");
        } else {
            let kind = FileType::from_raw_mode(stat.mode());
            mknodat(CWD, to, kind, Mode::empty(), stat.rdev()).expect("root");
        }
        attribute(from, to, &stat);
        utimensat(CWD, to, &times(&stat), AtFlags::SYMLINK_NOFOLLOW).expect("times");
    }

    fn remove(&mut self, path: &Path) {
        self.dir_times.retain(|dir, _| !dir.starts_with(path));
        match fs::symlink_metadata(path) {
            Ok(stat) if stat.is_dir() => fs::remove_dir_all(path).expect("a directory"),
            Ok(_) => fs::remove_file(path).expect("a file"),
            // A whiteout for what is not there.
            Err(_) => {}
        }
    }
}

fn is_whiteout(path: &Path, stat: &Metadata, zero: ZeroDevice, xattr_whiteouts: bool) -> bool {
    if stat.file_type().is_char_device() {
        return stat.rdev() == 0 && zero == ZeroDevice::Whiteout;
    }
    let keys = ["trusted.overlay.whiteout", "user.overlay.whiteout"];
    stat.is_file()
        && stat.len() == 0
        && xattr_whiteouts
        && xattrs(path).keys().any(|key| keys.contains(&key.as_str()))
}

fn attribute(from: &Path, to: &Path, stat: &Metadata) {
    lchown(to, Some(stat.uid()), Some(stat.gid())).expect("root");
    if !stat.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(stat.mode() & 0o7777)).expect("root");
    }
    for (key, value) in xattrs(from) {
        if !key.contains(".overlay.") && !key.contains(".fuseoverlayfs.") {
            lsetxattr(to, &*key, &value, XattrFlags::empty()).expect("an extended attribute");
        }
    }
}

fn times(stat: &Metadata) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.atime(), tv_nsec: stat.atime_nsec() },
        last_modification: Timespec { tv_sec: stat.mtime(), tv_nsec: stat.mtime_nsec() },
    }
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    names
}
