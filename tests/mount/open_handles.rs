//! Handles from before a change: whatever happens to the name, they stay on the file.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use rustix::fs::{
    Advice, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fadvise, fchown, fgetxattr,
    fsetxattr, futimens, openat,
};

use crate::common::{ALICE, Union, as_user, exists, names, needs_root, pattern, sh, stat, text};

fn read_write(union: &Union, name: &str) -> File {
    File::options().read(true).write(true).open(union.at(name)).unwrap()
}

fn read_all(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// So that the next read asks the daemon.
fn drop_cached_pages(file: &File) {
    file.sync_all().unwrap();
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
}

#[test]
fn a_reader_from_before_the_copy_up_sees_every_write_after_it() {
    let union = Union::over(|b| b.file("f", "lower text"));
    let reader = File::open(union.at("f")).unwrap();
    let writer = read_write(&union, "f");
    assert_eq!(read_all(&reader), "lower text");
    writer.write_all_at(b"UPPER", 0).unwrap();
    assert_eq!(read_all(&reader), "UPPER text");
    assert_eq!(read_all(&writer), "UPPER text");
    writer.write_all_at(b" and a longer end", 10).unwrap();
    assert_eq!(read_all(&reader), "UPPER text and a longer end");
}

#[test]
fn what_was_written_is_not_overwritten_by_old_pages() {
    let original = String::from_utf8(vec![b'.'; 10_000]).unwrap();
    let union = Union::over(|b| b.file("f", &original));
    let reader = File::open(union.at("f")).unwrap();
    let writer = read_write(&union, "f");
    assert_eq!(read_all(&reader), original);
    let mut expected = original.into_bytes();
    // Each write is a part of a page, with the page gone from the cache before and after.
    for (round, offset) in [10_usize, 4090, 20, 9000, 4100, 15].into_iter().enumerate() {
        drop_cached_pages(&reader);
        let mark = [b'0' + u8::try_from(round).unwrap(); 8];
        writer.write_all_at(&mark, offset as u64).unwrap();
        expected[offset..offset + 8].copy_from_slice(&mark);
        drop_cached_pages(&writer);
        assert!(read_all(&reader).as_bytes() == expected, "round {round} by the reader");
        assert!(read_all(&writer).as_bytes() == expected, "round {round} by the writer");
    }
    assert!(fs::read(union.upper("f")).unwrap() == expected);
}

#[test]
fn following_a_log_shows_what_is_appended() {
    let union = Union::over(|b| b.file("log", "old\n"));
    let mut follower = File::open(union.at("log")).unwrap();
    let mut seen = String::new();
    follower.read_to_string(&mut seen).unwrap();
    sh(union.root(), "echo one >> log; echo two >> log");
    follower.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "old\none\ntwo\n");
}

/// Everything that can be done by a descriptor alone, on a file that has no name any more.
fn use_without_a_name(file: &File, content: &str) {
    let found = file.metadata().unwrap();
    assert_eq!((found.nlink(), found.len()), (0, content.len() as u64));
    assert_eq!(read_all(file), content);

    file.write_all_at(b"W", 0).unwrap();
    assert!(read_all(file).starts_with('W'));
    file.set_len(2).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2);
    file.set_permissions(fs::Permissions::from_mode(0o604)).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o604);
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
    futimens(file, &Timestamps { last_access: time, last_modification: time }).unwrap();
    assert_eq!((file.metadata().unwrap().mtime(), file.metadata().unwrap().mtime_nsec()), (1_000_000_000, 5));
    fsetxattr(file, "user.a", b"1", XattrFlags::empty()).unwrap();
    let mut value = [0; 4];
    assert_eq!(fgetxattr(file, "user.a", &mut value), Ok(1));
    if crate::common::is_root() {
        fchown(file, Some(Uid::from_raw(ALICE)), Some(Gid::from_raw(ALICE))).unwrap();
        assert_eq!(file.metadata().unwrap().uid(), ALICE);
    }
    file.sync_all().unwrap();
}

#[test]
fn an_unlinked_lower_file_stays_usable() {
    let union = Union::over(|b| b.file("f", "lower"));
    let file = read_write(&union, "f");
    fs::remove_file(union.at("f")).unwrap();
    use_without_a_name(&file, "lower");
    assert_eq!(union.in_upper(), [".wh.f"]);
}

#[test]
fn an_unlinked_upper_file_stays_usable() {
    let union = Union::over(|b| b);
    fs::write(union.at("f"), "upper").unwrap();
    let file = read_write(&union, "f");
    fs::remove_file(union.at("f")).unwrap();
    use_without_a_name(&file, "upper");
    assert!(union.in_upper().is_empty());
}

#[test]
fn an_unlinked_copied_up_file_stays_usable() {
    let union = Union::over(|b| b.file("f", "lower"));
    let file = read_write(&union, "f");
    file.write_all_at(b"UP", 0).unwrap();
    fs::remove_file(union.at("f")).unwrap();
    use_without_a_name(&file, "UPwer");
    assert_eq!(union.in_upper(), [".wh.f"]);
}

#[test]
fn a_renamed_over_file_stays_usable() {
    let union = Union::over(|b| b.file("in_lower", "lower").file("new1", "1").file("new2", "2"));
    fs::write(union.at("in_upper"), "upper").unwrap();
    for (name, new) in [("in_lower", "new1"), ("in_upper", "new2")] {
        let content = text(union.at(name));
        let file = read_write(&union, name);
        fs::rename(union.at(new), union.at(name)).unwrap();
        use_without_a_name(&file, &content);
        assert_eq!(text(union.at(name)), new[3..], "the new file is untouched");
    }
}

#[test]
fn a_handle_on_a_deleted_file_does_not_reach_its_successor() {
    let union = Union::over(|b| b.file("f", "lower"));
    let old = read_write(&union, "f");
    fs::remove_file(union.at("f")).unwrap();
    fs::write(union.at("f"), "successor").unwrap();
    old.write_all_at(b"OLD", 0).unwrap();
    assert_eq!(text(union.at("f")), "successor");
    assert_eq!(read_all(&old), "OLDer");
    assert_ne!(old.metadata().unwrap().ino(), stat(union.at("f")).ino());
}

#[test]
fn two_handles_on_one_deleted_file_share_it() {
    let union = Union::over(|b| b.file("f", "lower"));
    let (reader, writer) = (File::open(union.at("f")).unwrap(), read_write(&union, "f"));
    fs::remove_file(union.at("f")).unwrap();
    writer.write_all_at(b"UPPER", 0).unwrap();
    assert_eq!(read_all(&reader), "UPPER");
}

/// The right to write came with the creation; the mode is for the next open.
#[test]
fn an_ordinary_user_can_write_the_read_only_file_that_he_just_made() {
    needs_root!("another user");
    let union = Union::builder().option("allow_other").lower(|b| b.dir("d").mode("d", 0o777)).mount();
    as_user(ALICE, || {
        let mut file =
            File::options().write(true).create_new(true).mode(0o444).open(union.at("d/f")).unwrap();
        file.write_all(b"made read-only").unwrap();
        file.set_len(4).unwrap();
    });
    assert_eq!(text(union.at("d/f")), "made");
    assert_eq!(stat(union.upper("d/f")).uid(), ALICE);
}

/// The same where the daemon itself is an ordinary user, who may not open such a file for writing.
#[test]
fn whoever_mounts_can_write_the_read_only_file_that_he_just_made() {
    let mut union = Union::over(|b| b.file("d/deleted", "lower"));
    fs::remove_file(union.at("d/deleted")).unwrap();
    for name in ["f", "d/f", "d/deleted"] {
        let file = File::options().write(true).create_new(true).mode(0o444).open(union.at(name)).unwrap();
        file.write_all_at(b"made read-only", 0).unwrap();
        file.set_len(4).unwrap();
        file.sync_all().unwrap();
    }
    for _ in 0..2 {
        assert_eq!(["f", "d/f", "d/deleted"].map(|name| text(union.at(name))), ["made"; 3]);
        union.remount();
    }
}

#[test]
fn a_handle_keeps_its_rights_when_the_mode_is_taken_away() {
    needs_root!("another user");
    let union = Union::builder()
        .option("allow_other")
        .lower(|b| b.file("f", "lower").owner("f", ALICE, ALICE))
        .mount();
    as_user(ALICE, || {
        let file = read_write(&union, "f");
        file.set_permissions(fs::Permissions::from_mode(0o000)).unwrap();
        file.write_all_at(b"UP", 0).unwrap();
        assert_eq!(read_all(&file), "UPwer");
    });
}

#[test]
fn a_directory_handle_follows_the_directory() {
    let union = Union::over(|b| b.file("d/f", "lower"));
    let dir = openat(CWD, union.at("d"), OFlags::DIRECTORY, Mode::empty()).unwrap();
    fs::rename(union.at("d"), union.at("e")).unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let new = openat(&dir, "new", flags, Mode::from_raw_mode(0o644)).unwrap();
    File::from(new).write_all(b"new").unwrap();
    assert_eq!(text(union.at("e/new")), "new");
    let old = openat(&dir, "f", OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(read_all(&File::from(old)), "lower");
    assert!(!exists(union.at("d")));
}

#[test]
fn many_handles_on_many_files_stay_apart() {
    let union = Union::over(|mut b| {
        for index in 0..300 {
            b = b.file(&format!("{index}"), pattern(index as u8, 5000));
        }
        b
    });
    let handles: Vec<_> = (0..300).map(|index| read_write(&union, &index.to_string())).collect();
    for (index, handle) in handles.iter().enumerate() {
        if index % 3 == 0 {
            fs::remove_file(union.at(index.to_string())).unwrap();
        }
        handle.write_all_at(&[index as u8], 2500).unwrap();
    }
    for (index, handle) in handles.iter().enumerate() {
        let mut expected = pattern(index as u8, 5000);
        expected[2500] = index as u8;
        let mut seen = vec![0; 5000];
        handle.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "{index}");
    }
}

#[test]
fn a_write_by_an_old_handle_brings_no_name_back() {
    let mut union = Union::over(|b| b.file("f", "lower"));
    let handle = read_write(&union, "f");
    fs::remove_file(union.at("f")).unwrap();
    handle.write_all_at(b"UPPER", 0).unwrap();
    drop(handle);
    assert!(!exists(union.at("f")));
    union.remount();
    assert!(!exists(union.at("f")));
}

#[test]
fn a_file_outlives_its_directory_and_does_not_get_into_the_next_one() {
    let union = Union::over(|b| b.file("d/f", "lower"));
    let handle = read_write(&union, "d/f");
    fs::remove_dir_all(union.at("d")).unwrap();
    fs::create_dir(union.at("d")).unwrap();
    handle.write_all_at(b"UPPER", 0).unwrap();
    assert_eq!(read_all(&handle), "UPPER");
    assert!(names(union.at("d")).is_empty());
    assert_eq!(union.in_upper(), ["d", "d/.wh..wh..opq"]);
}

#[test]
fn a_removed_directory_still_answers_by_its_handle() {
    let union = Union::over(|b| b.dir("lower").mode("lower", 0o750));
    let dir = File::open(union.at("lower")).unwrap();
    let number = dir.metadata().unwrap().ino();
    fs::remove_dir(union.at("lower")).unwrap();
    let found = dir.metadata().unwrap();
    assert_eq!((found.ino(), found.mode() & 0o7777), (number, 0o750));
    assert_eq!(found.nlink(), 0);
}
