//! read: any range of any branch's file, without a copy.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::common::{Union, exists, mode, pattern, refused, text};

#[test]
fn any_range_reads_as_it_is_on_disk() {
    let big = pattern(1, 3 * 1024 * 1024 + 17);
    let union = Union::builder().upper(|b| b.file("upper", &big)).lower(|b| b.file("lower", &big)).mount();
    for name in ["upper", "lower"] {
        assert!(fs::read(union.at(name)).unwrap() == big, "{name}");
        let file = File::open(union.at(name)).unwrap();
        for (offset, len) in [(0, 1), (4095, 2), (131_071, 131_074), (big.len() - 5, 5), (1, 0)] {
            let mut buffer = vec![0; len];
            file.read_exact_at(&mut buffer, offset as u64).unwrap();
            assert!(buffer == big[offset..offset + len], "{name} at {offset}");
        }
    }
}

#[test]
fn reading_at_and_beyond_the_end_gives_nothing() {
    let union = Union::over(|b| b.file("f", "12345").file("empty", ""));
    let file = File::open(union.at("f")).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, 3).unwrap(), 2);
    assert_eq!(file.read_at(&mut buffer, 5).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
    assert_eq!(text(union.at("empty")), "");
}

#[test]
fn a_hole_reads_as_zeros() {
    let union = Union::over(|b| b.sparse("f", 300_000, &[(200_000, b"data")]));
    let bytes = fs::read(union.at("f")).unwrap();
    assert_eq!(bytes.len(), 300_000);
    assert_eq!(&bytes[200_000..200_004], b"data");
    assert!(bytes[..200_000].iter().chain(&bytes[200_004..]).all(|byte| *byte == 0));
}

#[test]
fn reading_copies_nothing_up() {
    let union = Union::over(|b| b.file("d/f", "text").symlink("d/s", "f"));
    assert_eq!(text(union.at("d/f")), "text");
    assert_eq!(text(union.at("d/s")), "text");
    assert!(union.in_upper().is_empty());
}

#[test]
fn a_file_opened_for_writing_and_only_read_stays_in_its_lower() {
    let union = Union::over(|b| b.file("d/f", "text"));
    for append in [false, true] {
        let mut content = String::new();
        let mut file = File::options().read(true).write(true).append(append).open(union.at("d/f")).unwrap();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "text");
        file.sync_all().unwrap();
        drop(file);
        assert!(union.in_upper().is_empty());
    }
}

#[test]
fn a_directory_cannot_be_read_as_a_file() {
    let union = Union::over(|b| b.dir("d"));
    refused(fs::read(union.at("d")), Errno::ISDIR);
}

#[test]
fn many_readers_at_once_read_the_same() {
    let content = pattern(3, 700_000);
    let union = Union::over(|b| b.file("f", &content));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(fs::read(union.at("f")).unwrap() == content));
        }
    });
}

#[test]
fn a_program_in_a_lower_can_be_executed() {
    let union = Union::over(|b| b.file("hello", "#!/bin/sh\necho hello $1\n").mode("hello", 0o755));
    fs::copy("/bin/true", union.at("true")).unwrap();
    assert_eq!(mode(union.at("true")) & 0o111, 0o111);
    assert_eq!(crate::common::sh(union.root(), "./true; ./hello you"), "hello you\n");
    assert!(!exists(union.upper("hello")));
}
