//! What every test here stands on: a union on a real mount, and a strict look at what it left.
//!
//! A test fills branches, mounts them with the real binary, acts through the mount, and looks at
//! the branches on disk. When its [`Union`] goes out of scope, `ending` checks what must hold
//! after *any* use: lowers untouched, nothing leaked, no foreign file in the upper or the
//! workdir, and the same tree once more after a remount.

mod branch;
mod daemon;
mod dice;
mod ending;
mod faulty_fs;
mod loop_disk;
mod mapping;
mod playground;
mod program;
mod raw;
mod snapshot;
mod tmpfs;
mod trace;
mod union;
mod user;

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

pub(crate) use branch::Branch;
pub(crate) use daemon::mounted_type;
pub(crate) use dice::Dice;
pub(crate) use faulty_fs::{FaultyFs, MissingFeature};
pub(crate) use loop_disk::LoopDisk;
pub(crate) use mapping::Mapping;
pub(crate) use playground::Playground;
pub(crate) use program::{plyfs, program, sh, sh_as, sh_refused};
pub(crate) use raw::{Page, file_handle, write_by_aio};
pub(crate) use snapshot::Snapshot;
pub(crate) use tmpfs::Tmpfs;
pub(crate) use trace::{injected, traced};
pub(crate) use union::{Union, temp_dir};
pub(crate) use user::{ALICE, BOB, as_member, as_user, is_root, open_dev_fuse_to_everybody};

/// Leaves a test that only root can play, with a word on stderr.
macro_rules! needs_root {
    ($why:literal) => {
        if !crate::common::is_root() {
            crate::common::say_not_played(concat!("needs root (", $why, ")"));
            return;
        }
    };
}
pub(crate) use needs_root;

/// A file capability, cap_net_raw+ep, as setcap writes it into `security.capability`.
pub(crate) const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Says something to whoever runs the tests, also when they pass: the harness of `cargo test` does
/// not capture what is written to the descriptor itself.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    writeln!(io::stderr(), "{line}").expect("stderr takes a line");
}

/// A test is left out. Never silently.
pub(crate) fn say_not_played(why: &str) {
    let this = std::thread::current();
    say(&format!("not played: {}: {why}", this.name().unwrap_or("a test")));
}

/// The call must fail, with exactly this errno.
#[track_caller]
pub(crate) fn refused<T: Debug>(outcome: Result<T, impl Into<io::Error>>, with: rustix::io::Errno) {
    match outcome {
        Ok(done) => panic!("expected {with:?}, but it was done: {done:?}"),
        Err(error) => {
            let error: io::Error = error.into();
            assert_eq!(error.raw_os_error(), Some(with.raw_os_error()), "expected {with:?}: {error}");
        }
    }
}

/// The names in a directory, sorted.
#[track_caller]
pub(crate) fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("read_dir {}: {e}", dir.as_ref().display()))
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A file's content, as text.
#[track_caller]
pub(crate) fn text(path: impl AsRef<Path>) -> String {
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.as_ref().display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes into an existing file, without truncating it: the write that copies up.
#[track_caller]
pub(crate) fn overwrite(path: impl AsRef<Path>, offset: u64, bytes: impl AsRef<[u8]>) {
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| file.write_all_at(bytes.as_ref(), offset))
        .unwrap_or_else(|e| panic!("write {}: {e}", path.as_ref().display()));
}

/// Whether there is anything under the name, dangling symbolic links included.
pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// lstat.
#[track_caller]
pub(crate) fn stat(path: impl AsRef<Path>) -> fs::Metadata {
    fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("lstat {}: {e}", path.as_ref().display()))
}

/// The permission bits, with setuid, setgid and sticky.
#[track_caller]
pub(crate) fn mode(path: impl AsRef<Path>) -> u32 {
    stat(path).mode() & 0o7777
}

/// The modification time: seconds and nanoseconds.
#[track_caller]
pub(crate) fn mtime(path: impl AsRef<Path>) -> (i64, i64) {
    let stat = stat(path);
    (stat.mtime(), stat.mtime_nsec())
}

/// How many requests of a kind the daemon has had, by the protocol's name for it.
#[track_caller]
pub(crate) fn requests(union: &Union, opcode: &str) -> u64 {
    let mut counts = [0; 4096];
    let length = rustix::fs::getxattr(union.root(), "user.plyfs.messages", &mut counts[..]).unwrap();
    let counts = String::from_utf8_lossy(&counts[..length]).into_owned();
    let count = counts.lines().find_map(|line| line.strip_prefix(opcode)?.strip_prefix(' '));
    count.map_or(0, |count| count.parse().unwrap())
}

/// Bytes that differ from place to place and from seed to seed, so that a mix-up shows.
pub(crate) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What somebody else does in a moment must have been done before long.
#[track_caller]
pub(crate) fn eventually(is_done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it is not done after ten seconds");
}
