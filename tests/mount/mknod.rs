//! mknod: fifos, sockets and devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use crate::common::{Union, exists, mode, needs_root, refused, stat, text};

fn mknod(path: &Path, kind: FileType, mode: u32, device: u64) -> Result<(), Errno> {
    mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device)
}

#[test]
fn a_fifo_carries_data() {
    let union = Union::over(|b| b);
    mknod(&union.at("fifo"), FileType::Fifo, 0o600, 0).unwrap();
    assert!(stat(union.at("fifo")).file_type().is_fifo());
    assert!(stat(union.upper("fifo")).file_type().is_fifo());
    assert_eq!(mode(union.at("fifo")), 0o600);
    let writer = std::thread::spawn({
        let path = union.at("fifo");
        move || fs::write(path, "through").unwrap()
    });
    assert_eq!(text(union.at("fifo")), "through");
    writer.join().unwrap();
}

#[test]
fn a_socket_can_be_bound_and_met() {
    let union = Union::over(|b| b);
    let listener = UnixListener::bind(union.at("socket")).unwrap();
    assert!(stat(union.at("socket")).file_type().is_socket());
    let client = UnixStream::connect(union.at("socket")).unwrap();
    listener.accept().unwrap();
    drop(client);
}

#[test]
fn a_regular_file_can_be_made_by_mknod() {
    let union = Union::over(|b| b.file("taken", ""));
    mknod(&union.at("f"), FileType::RegularFile, 0o640, 0).unwrap();
    assert!(stat(union.at("f")).is_file());
    assert_eq!(mode(union.upper("f")), 0o640);
    refused(mknod(&union.at("taken"), FileType::Fifo, 0o600, 0), Errno::EXIST);
}

#[test]
fn device_numbers_are_kept() {
    needs_root!("devices");
    let mut union = Union::over(|b| b.char_device("old", 5, 1));
    let block = makedev(7, 300);
    let char = makedev(1, 3);
    mknod(&union.at("block"), FileType::BlockDevice, 0o660, block).unwrap();
    mknod(&union.at("char"), FileType::CharacterDevice, 0o666, char).unwrap();
    for _ in 0..2 {
        assert!(stat(union.at("block")).file_type().is_block_device());
        assert_eq!(stat(union.at("block")).rdev(), block);
        assert!(stat(union.at("char")).file_type().is_char_device());
        assert_eq!(stat(union.at("char")).rdev(), char);
        assert_eq!(stat(union.at("old")).rdev(), makedev(5, 1));
        union.remount();
    }
}

/// Our whiteout is a `.wh.` file, so this is a node like any other, in the upper.
#[test]
fn a_device_0_0_made_through_the_mount_is_just_a_node() {
    needs_root!("devices");
    let mut union = Union::over(|b| b.file("d/lower", ""));
    mknod(&union.at("d/null"), FileType::CharacterDevice, 0o600, 0).unwrap();
    for _ in 0..2 {
        assert!(stat(union.at("d/null")).file_type().is_char_device());
        assert_eq!(stat(union.at("d/null")).rdev(), 0);
        union.remount();
    }
    fs::remove_file(union.at("d/null")).unwrap();
    assert!(!exists(union.at("d/null")));
    assert_eq!(union.in_upper(), ["d"]);
}

#[test]
fn a_node_takes_the_place_of_a_deleted_file() {
    let mut union = Union::over(|b| b.file("f", "lower"));
    fs::remove_file(union.at("f")).unwrap();
    mknod(&union.at("f"), FileType::Fifo, 0o600, 0).unwrap();
    assert_eq!(union.in_upper(), ["f"]);
    union.remount();
    assert!(stat(union.at("f")).file_type().is_fifo());
}
