//! fallocate: reserve, punch, zero.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::common::{Union, refused, stat, text};

fn open(union: &Union, name: &str) -> File {
    File::options().read(true).write(true).open(union.at(name)).unwrap()
}

#[test]
fn reserving_extends_the_file_and_takes_blocks() {
    let union = Union::over(|b| b.file("f", "lower"));
    fallocate(open(&union, "f"), FallocateFlags::empty(), 0, 500_000).unwrap();
    assert_eq!(stat(union.at("f")).len(), 500_000);
    assert!(stat(union.upper("f")).blocks() * 512 >= 500_000);
    let bytes = fs::read(union.at("f")).unwrap();
    assert!(bytes.starts_with(b"lower\0\0"));
}

#[test]
fn reserving_can_keep_the_size() {
    let union = Union::over(|b| b.file("f", "lower"));
    fallocate(open(&union, "f"), FallocateFlags::KEEP_SIZE, 0, 500_000).unwrap();
    assert_eq!(text(union.at("f")), "lower");
    assert_eq!(stat(union.at("f")).len(), 5);
    assert!(stat(union.upper("f")).blocks() * 512 >= 500_000);
}

#[test]
fn a_punched_hole_reads_as_zeros_and_frees_blocks() {
    let union = Union::over(|b| b.file("f", vec![b'x'; 400_000]));
    let file = open(&union, "f");
    // What was read before must not come back from the page cache.
    assert_eq!(fs::read(union.at("f")).unwrap()[100_000], b'x');
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 65_536, 262_144).unwrap();
    let bytes = fs::read(union.at("f")).unwrap();
    assert_eq!(bytes.len(), 400_000);
    assert!(bytes[65_536..65_536 + 262_144].iter().all(|byte| *byte == 0));
    assert_eq!((bytes[65_535], bytes[65_536 + 262_144]), (b'x', b'x'));
    file.sync_all().unwrap();
    assert!(stat(union.upper("f")).blocks() * 512 <= 200_000);
}

#[test]
fn a_zeroed_range_reads_as_zeros() {
    let union = Union::over(|b| b.file("f", vec![b'x'; 50_000]));
    match fallocate(open(&union, "f"), FallocateFlags::ZERO_RANGE, 10_000, 20_000) {
        // Not every disk can.
        Err(Errno::OPNOTSUPP) => return,
        outcome => outcome.unwrap(),
    }
    let bytes = fs::read(union.at("f")).unwrap();
    assert!(bytes[10_000..30_000].iter().all(|byte| *byte == 0));
    assert_eq!((bytes[9_999], bytes[30_000]), (b'x', b'x'));
}

#[test]
fn a_handle_for_reading_reserves_nothing() {
    let union = Union::over(|b| b.file("f", "lower"));
    let reading = File::open(union.at("f")).unwrap();
    refused(fallocate(&reading, FallocateFlags::empty(), 0, 10), Errno::BADF);
    assert!(union.in_upper().is_empty());
}
