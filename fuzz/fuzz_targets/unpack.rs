//! Whatever an archive says, it is unpacked or refused, and nothing beside the target changes.

#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use plyfs::branch::{Atime, Inodes, UpperDir};
use plyfs::cli::{OwnersArgs, OwnersIn};
use plyfs::oci::archive::{Ending, read};
use plyfs::oci::owners::Owners;
use plyfs::oci::progress::Progress;
use plyfs::oci::unpack::{Denied, Unpacker};
use rustix::fs::{Mode, OFlags};

thread_local! {
    static PROGRESS: Progress = Progress::begin("fuzzing").expect("signals can be listened to");
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, archive)) = data.split_first() else { return };
    let archive = with_right_checksums(archive);
    let place = if choice & 1 == 0 { OwnersIn::Override } else { OwnersIn::Ours };
    let ending = if choice & 2 == 0 { Ending::Required } else { Ending::Verified };
    let owners = Owners::new(&OwnersArgs { owners: Some(place), ..OwnersArgs::default() }).expect("no maps");
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let area = tempfile::Builder::new().prefix("plyfs-fuzz-").tempdir_in(parent).expect("a directory");
    fs::create_dir(area.path().join("canary")).expect("our own");
    fs::write(area.path().join("canary/file"), "as it was").expect("our own");
    let target = area.path().join("out");
    fs::create_dir(&target).expect("our own");
    PROGRESS.with(|progress| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&target, flags, Mode::empty()).expect("our own");
        let root = UpperDir::root(root, Atime::Kept, Inodes::MayChange);
        let mut unpacker = Unpacker::new(root, &owners, Denied::Fails, progress);
        let unpacked = read(&archive[..], ending, &mut unpacker).and_then(|()| unpacker.finish());
        if let Err(error) = unpacked {
            assert!(!error.to_string().contains('\n'), "a message of several lines: {error}");
        }
    });
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("our own").map(|entry| entry.expect("our own").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(area.path()), ["canary", "out"]);
    assert_eq!(names(&area.path().join("canary")), ["file"]);
    assert_eq!(fs::read(area.path().join("canary/file")).expect("our own"), b"as it was");
});

/// Almost no bytes that a fuzzer makes have a checksum that is right, and all headers would be refused for that.
fn with_right_checksums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    }
    archive
}
