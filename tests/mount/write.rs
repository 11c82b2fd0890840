//! write: lands in the upper, whole and in order, and never in a lower.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Barrier;
use std::thread;

use rustix::io::Errno;

use crate::common::{Union, mtime, overwrite, pattern, refused, stat, text};

#[test]
fn the_first_write_brings_the_file_into_the_upper() {
    let union = Union::over(|b| b.file("d/f", "0123456789"));
    overwrite(union.at("d/f"), 3, "abc");
    assert_eq!(text(union.at("d/f")), "012abc6789");
    assert_eq!(text(union.upper("d/f")), "012abc6789");
}

#[test]
fn a_write_into_the_middle_of_a_big_lower_file_changes_nothing_else() {
    let mut content = pattern(7, 2_500_000);
    let union = Union::over(|b| b.file("f", &content));
    for offset in [1_000_001, 4095, 2_499_999] {
        overwrite(union.at("f"), offset, "!");
        content[offset as usize] = b'!';
        assert!(fs::read(union.at("f")).unwrap() == content, "after the write at {offset}");
    }
    assert!(fs::read(union.upper("f")).unwrap() == content);
}

#[test]
fn appending_goes_to_the_end_whoever_wrote_before() {
    let union = Union::over(|b| b.file("log", "lower\n"));
    let mut first = File::options().append(true).open(union.at("log")).unwrap();
    let mut second = File::options().append(true).open(union.at("log")).unwrap();
    writeln!(first, "first").unwrap();
    writeln!(second, "second").unwrap();
    writeln!(first, "first again").unwrap();
    assert_eq!(text(union.at("log")), "lower\nfirst\nsecond\nfirst again\n");
    assert_eq!(stat(union.at("log")).len(), 31);
}

#[test]
fn a_write_beyond_the_end_leaves_zeros_between() {
    let union = Union::over(|b| b.file("f", "abc"));
    overwrite(union.at("f"), 10_000, "end");
    let bytes = fs::read(union.at("f")).unwrap();
    assert_eq!(bytes.len(), 10_003);
    assert_eq!((&bytes[..3], &bytes[10_000..]), (b"abc".as_slice(), b"end".as_slice()));
    assert!(bytes[3..10_000].iter().all(|byte| *byte == 0));
}

#[test]
fn a_big_write_arrives_whole() {
    let content = pattern(9, 5 * 1024 * 1024 + 3);
    let union = Union::over(|b| b.file("old", "old"));
    for name in ["new", "old"] {
        fs::write(union.at(name), &content).unwrap();
        assert!(fs::read(union.at(name)).unwrap() == content, "{name}");
        assert!(fs::read(union.upper(name)).unwrap() == content, "{name} on disk");
    }
}

#[test]
fn a_write_sets_the_modification_time() {
    let union = Union::over(|b| b.file("f", "text").mtime("f", 1_000_000_000, 0));
    overwrite(union.at("f"), 0, "T");
    let first = mtime(union.at("f"));
    assert!(first.0 > 1_000_000_000);
    thread::sleep(std::time::Duration::from_millis(20));
    overwrite(union.at("f"), 0, "T");
    assert!(mtime(union.at("f")) > first);
    assert_eq!(mtime(union.at("f")), mtime(union.upper("f")));
}

#[test]
fn what_is_not_open_for_writing_takes_no_write() {
    let union = Union::over(|b| b.file("f", "text").dir("d"));
    let reading = File::open(union.at("f")).unwrap();
    refused(reading.write_at(b"x", 0), Errno::BADF);
    refused(File::options().write(true).open(union.at("d")), Errno::ISDIR);
    assert!(union.in_upper().is_empty());
}

/// A buffer shared by two copy-ups would mix them.
#[test]
fn files_that_are_copied_up_at_once_keep_their_own_data() {
    const FILES: u8 = 12;
    let len = 1_200_000;
    let union = Union::over(|mut b| {
        for seed in 0..FILES {
            b = b.file(&format!("d{}/f{seed}", seed % 3), pattern(seed, len));
        }
        b
    });
    let start = Barrier::new(FILES.into());
    thread::scope(|scope| {
        for seed in 0..FILES {
            let path = union.at(format!("d{}/f{seed}", seed % 3));
            let start = &start;
            scope.spawn(move || {
                start.wait();
                overwrite(path, 600_000, [seed]);
            });
        }
    });
    for seed in 0..FILES {
        let mut expected = pattern(seed, len);
        expected[600_000] = seed;
        let name = format!("d{}/f{seed}", seed % 3);
        assert!(fs::read(union.at(&name)).unwrap() == expected, "{name}");
        assert!(fs::read(union.upper(&name)).unwrap() == expected, "{name} on disk");
    }
}

#[test]
fn of_writers_that_race_for_one_copy_up_none_loses() {
    for round in 0..10 {
        let union = Union::over(|b| b.file("f", vec![b'.'; 400_000]));
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for writer in 0..8_u8 {
                let (path, start) = (union.at("f"), &start);
                scope.spawn(move || {
                    let file = File::options().write(true).open(path).unwrap();
                    start.wait();
                    file.write_all_at(&[b'0' + writer; 100], u64::from(writer) * 50_000).unwrap();
                });
            }
        });
        let mut expected = vec![b'.'; 400_000];
        for writer in 0..8_u8 {
            let at = usize::from(writer) * 50_000;
            expected[at..at + 100].fill(b'0' + writer);
        }
        assert!(fs::read(union.at("f")).unwrap() == expected, "round {round}");
    }
}

#[test]
fn synchronous_writes_work() {
    use std::os::unix::fs::OpenOptionsExt;
    let union = Union::over(|b| b.file("f", "text"));
    let flags = rustix::fs::OFlags::SYNC.bits().cast_signed();
    let file = File::options().write(true).custom_flags(flags).open(union.at("f")).unwrap();
    file.write_all_at(b"sync", 0).unwrap();
    assert_eq!(text(union.upper("f")), "sync");
}

#[test]
fn a_file_that_grows_uses_blocks() {
    let union = Union::over(|b| b);
    fs::write(union.at("f"), vec![1; 1_000_000]).unwrap();
    File::open(union.at("f")).unwrap().sync_all().unwrap();
    assert!(stat(union.at("f")).blocks() * 512 >= 1_000_000);
}
