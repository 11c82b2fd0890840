//! copy_file_range: from any branch, into the upper.

use std::fs::{self, File};

use rustix::fs::copy_file_range;
use rustix::io::Errno;

use crate::common::{Union, pattern, refused, text};

/// Copies all of it; the call may do less than it is asked for.
fn copy(from: &File, mut at: u64, to: &File, mut onto: u64, len: usize) {
    let end = at + len as u64;
    while at < end {
        let left = usize::try_from(end - at).unwrap();
        let copied = copy_file_range(from, Some(&mut at), to, Some(&mut onto), left).unwrap();
        assert_ne!(copied, 0, "the source ends early");
    }
}

#[test]
fn a_lower_file_is_copied_into_a_new_one() {
    let content = pattern(2, 1_500_000);
    let union = Union::over(|b| b.file("f", &content));
    let from = File::open(union.at("f")).unwrap();
    let to = File::create(union.at("g")).unwrap();
    copy(&from, 0, &to, 0, content.len());
    assert!(fs::read(union.at("g")).unwrap() == content);
    assert_eq!(union.in_upper(), ["g"], "the source stays in its lower");
}

#[test]
fn a_range_is_copied_into_the_middle_of_a_lower_file() {
    let union = Union::over(|b| b.file("from", "0123456789").file("to", "abcdefghij"));
    let from = File::open(union.at("from")).unwrap();
    let to = File::options().write(true).open(union.at("to")).unwrap();
    copy(&from, 2, &to, 4, 3);
    assert_eq!(text(union.at("to")), "abcd234hij");
    assert_eq!(text(union.upper("to")), "abcd234hij");
    assert_eq!(union.in_upper(), ["to"]);
}

/// What is read before and after comes from the page cache; the copy must not be hidden by it.
#[test]
fn the_copy_shows_at_once_to_readers_from_before() {
    let union = Union::over(|b| b.file("from", vec![b'n'; 200_000]).file("to", vec![b'o'; 200_000]));
    let reading = File::open(union.at("to")).unwrap();
    assert_eq!(fs::read(union.at("to")).unwrap()[0], b'o');
    let to = File::options().write(true).open(union.at("to")).unwrap();
    copy(&File::open(union.at("from")).unwrap(), 0, &to, 0, 200_000);
    let all = std::io::read_to_string(reading).unwrap();
    assert!(all.bytes().all(|byte| byte == b'n'));
}

#[test]
fn within_one_file_a_range_is_copied_behind_itself() {
    let union = Union::over(|b| b.file("f", "0123456789"));
    let file = File::options().read(true).write(true).open(union.at("f")).unwrap();
    copy(&file, 0, &file, 10, 10);
    assert_eq!(text(union.at("f")), "01234567890123456789");
    refused(copy_file_range(&file, Some(&mut 0), &file, Some(&mut 5), 10), Errno::INVAL);
}

#[test]
fn a_handle_for_reading_takes_no_copy() {
    let union = Union::over(|b| b.file("f", "text").file("g", "text"));
    let (from, to) = (File::open(union.at("f")).unwrap(), File::open(union.at("g")).unwrap());
    refused(copy_file_range(&from, None, &to, None, 4), Errno::BADF);
    assert!(union.in_upper().is_empty());
}
