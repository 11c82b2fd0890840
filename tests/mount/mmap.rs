//! mmap: a mapping is the file, whichever branch it came from.

use std::fs::{self, File};

use crate::common::{Mapping, Union, overwrite, pattern, text};

fn open(union: &Union, name: &str) -> File {
    File::options().read(true).write(true).open(union.at(name)).unwrap()
}

#[test]
fn a_mapping_shows_a_lower_file_and_copies_nothing_up() {
    let content = pattern(4, 300_000);
    let union = Union::over(|b| b.file("f", &content));
    let mapping = Mapping::of(&File::open(union.at("f")).unwrap(), content.len(), Mapping::READ);
    assert!(mapping.bytes() == content);
    assert!(union.in_upper().is_empty());
}

#[test]
fn a_store_into_a_shared_mapping_lands_in_the_upper() {
    let union = Union::over(|b| b.file("f", vec![b'.'; 20_000]));
    let mut mapping = Mapping::of(&open(&union, "f"), 20_000, Mapping::SHARED);
    mapping.store(10_000, b"stored");
    mapping.sync();
    let mut expected = vec![b'.'; 20_000];
    expected[10_000..10_006].copy_from_slice(b"stored");
    assert!(fs::read(union.at("f")).unwrap() == expected);
    assert!(fs::read(union.upper("f")).unwrap() == expected);
}

#[test]
fn a_store_without_msync_arrives_when_the_mapping_goes() {
    let mut union = Union::over(|b| b.file("f", vec![b'.'; 9000]));
    let mut mapping = Mapping::of(&open(&union, "f"), 9000, Mapping::SHARED);
    mapping.store(8999, b"!");
    assert!(text(union.at("f")).ends_with(".!"));
    drop(mapping);
    union.remount();
    assert!(text(union.at("f")).ends_with(".!"));
}

#[test]
fn a_store_into_a_private_mapping_stays_private() {
    let union = Union::over(|b| b.file("f", vec![b'.'; 5000]));
    let mut mapping = Mapping::of(&open(&union, "f"), 5000, Mapping::PRIVATE);
    mapping.store(0, b"mine");
    assert!(mapping.bytes().starts_with(b"mine."));
    assert!(text(union.at("f")).starts_with("....."));
    assert!(union.in_upper().is_empty());
}

/// Kernel overlayfs fails here: its mapping stays on the lower file.
#[test]
fn a_mapping_from_before_the_copy_up_shows_what_is_written_after() {
    let union = Union::over(|b| b.file("f", vec![b'.'; 20_000]));
    let reading = File::open(union.at("f")).unwrap();
    let mapping = Mapping::of(&reading, 20_000, Mapping::READ);
    assert_eq!(mapping.bytes()[5000], b'.');
    overwrite(union.at("f"), 5000, "written");
    assert_eq!(&mapping.bytes()[5000..5007], b"written");
}

#[test]
fn stores_and_writes_see_each_other() {
    let union = Union::over(|b| b.file("f", vec![b'.'; 8192]));
    let mut mapping = Mapping::of(&open(&union, "f"), 8192, Mapping::SHARED);
    mapping.store(0, b"stored");
    overwrite(union.at("f"), 6, "written");
    assert!(mapping.bytes().starts_with(b"storedwritten."));
    mapping.store(100, b"again");
    mapping.sync();
    let seen = text(union.upper("f"));
    assert!(seen.starts_with("storedwritten.") && &seen[100..105] == "again");
}

#[test]
fn a_mapping_outlives_its_name() {
    let union = Union::over(|b| b.file("f", vec![b'.'; 5000]));
    let mut mapping = Mapping::of(&open(&union, "f"), 5000, Mapping::SHARED);
    fs::remove_file(union.at("f")).unwrap();
    mapping.store(4999, b"x");
    mapping.sync();
    assert_eq!(mapping.bytes()[4999], b'x');
}
