//! Copy-up: the whole file with everything that belongs to it, once, and only when it must.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::Path;

use rustix::io::Errno;

use crate::common::{
    ALICE, BOB, Branch, FaultyFs, Tmpfs, Union, mode, mtime, names, needs_root, overwrite, pattern, refused,
    sh, sh_as, stat, text,
};

const MIB: u64 = 1024 * 1024;

/// What a file takes on disk.
fn on_disk(path: impl AsRef<Path>) -> u64 {
    stat(path).blocks() * 512
}

#[test]
fn it_comes_with_the_first_write_and_not_before() {
    let union = Union::over(|b| b.file("f", "text"));
    let file = File::options().read(true).write(true).open(union.at("f")).unwrap();
    file.read_exact_at(&mut [0; 4], 0).unwrap();
    stat(union.at("f"));
    assert!(union.in_upper().is_empty(), "an open and a read copy nothing");
    file.write_all_at(b"T", 0).unwrap();
    assert_eq!(union.in_upper(), ["f"]);
    assert_eq!(text(union.upper("f")), "Text");
}

#[test]
fn it_brings_mode_owner_times_and_xattrs() {
    needs_root!("owners");
    let union = Union::over(|b| {
        b.file("f", "text")
            .owner("f", ALICE, BOB)
            .mode("f", 0o6751)
            .xattr("f", "user.one", "1")
            .xattr("f", "trusted.two", "2")
            .mtime("f", 1_234_567_890, 123_456_789)
    });
    // Setting an xattr changes nothing of what is looked at here.
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(union.at("f"), "user.new", b"3", flags).unwrap();
    for path in [union.at("f"), union.upper("f")] {
        let seen = stat(&path);
        assert_eq!((seen.uid(), seen.gid()), (ALICE, BOB));
        assert_eq!(seen.mode() & 0o7777, 0o6751);
        assert_eq!((seen.mtime(), seen.mtime_nsec()), (1_234_567_890, 123_456_789));
        assert_eq!((seen.atime(), seen.atime_nsec()), (1_234_567_890, 123_456_789));
        for (name, value) in [("user.one", b"1"), ("trusted.two", b"2"), ("user.new", b"3")] {
            let mut buffer = [0; 8];
            assert_eq!(rustix::fs::getxattr(&path, name, &mut buffer), Ok(1), "{name}");
            assert_eq!(&buffer[..1], value, "{name}");
        }
    }
}

#[test]
fn parents_made_on_the_way_are_as_in_their_lower() {
    needs_root!("owners");
    let mut union = Union::over(|b| {
        b.file("private/tmp/shared/f", "text")
            .owner("private", ALICE, ALICE)
            .mode("private", 0o700)
            .mode("private/tmp", 0o1777)
            .owner("private/tmp/shared", 0, BOB)
            .mode("private/tmp/shared", 0o2775)
            .xattr("private/tmp", "user.note", "kept")
            .mtime("private/tmp/shared", 1_000_000_000, 3)
            .mtime("private/tmp", 1_000_000_000, 2)
            .mtime("private", 1_000_000_000, 1)
    });
    overwrite(union.at("private/tmp/shared/f"), 0, "T");
    let dirs = [
        ("private", 0o700, (ALICE, ALICE), 1),
        ("private/tmp", 0o1777, (0, 0), 2),
        ("private/tmp/shared", 0o2775, (0, BOB), 3),
    ];
    for round in ["at once", "after a remount"] {
        for (dir, expected, owner, nanos) in dirs {
            for path in [union.at(dir), union.upper(dir)] {
                assert_eq!(mode(&path), expected, "{dir} {round}");
                assert_eq!((stat(&path).uid(), stat(&path).gid()), owner, "{dir} {round}");
                assert_eq!(mtime(&path), (1_000_000_000, nanos), "{dir} {round}");
            }
        }
        let mut value = [0; 8];
        let len = rustix::fs::getxattr(union.upper("private/tmp"), "user.note", &mut value);
        assert_eq!(&value[..len.unwrap()], b"kept");
        union.remount();
    }
}

#[test]
fn every_kind_of_entry_keeps_its_modification_time() {
    needs_root!("chown, devices");
    let time = (1_000_000_000, 987_654_321);
    let entries = ["file", "dir", "symlink", "fifo", "device"];
    let union = Union::over(|mut b| {
        b = b.file("file", "x").dir("dir").symlink("symlink", "file").fifo("fifo");
        b = b.char_device("device", 1, 3);
        for entry in entries {
            b = b.mtime(entry, time.0, 987_654_321);
        }
        b
    });
    for entry in entries {
        std::os::unix::fs::lchown(union.at(entry), Some(ALICE), None).unwrap();
        assert_eq!(mtime(union.at(entry)), time, "{entry}");
        assert_eq!(mtime(union.upper(entry)), time, "{entry} on disk");
        assert_eq!(stat(union.at(entry)).uid(), ALICE, "{entry}");
    }
}

#[test]
fn a_hole_stays_a_hole() {
    let union = Union::over(|b| {
        b.sparse("f", 1024 * MIB, &[(0, b"start"), (512 * MIB, b"middle"), (1024 * MIB - 3, b"end")])
    });
    overwrite(union.at("f"), 700 * MIB, "x");
    assert_eq!(stat(union.upper("f")).len(), 1024 * MIB);
    assert!(on_disk(union.upper("f")) < MIB, "{} bytes", on_disk(union.upper("f")));
    let file = File::open(union.at("f")).unwrap();
    for (offset, expected) in
        [(0, "start"), (512 * MIB, "middle"), (700 * MIB, "x\0"), (1024 * MIB - 3, "end")]
    {
        let mut buffer = vec![0; expected.len()];
        file.read_exact_at(&mut buffer, offset).unwrap();
        assert_eq!(buffer, expected.as_bytes(), "at {offset}");
    }
}

/// Between two disks no call copies holes by itself.
#[test]
fn a_hole_stays_a_hole_from_one_disk_to_another() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::of_kib(1024);
    let data: [(u64, &[u8]); 2] = [(0, b"start"), (512 * MIB, b"middle")];
    Branch::at(disk.path()).sparse("f", 1024 * MIB, &data).sparse("moved", 1024 * MIB, &data);
    let mut union = Union::builder().lower_at(disk.path().to_owned()).mount();
    overwrite(union.at("f"), 700 * MIB, "x");
    fs::rename(union.at("moved"), union.at("g")).unwrap();
    union.remount();
    for name in ["f", "g"] {
        assert_eq!(stat(union.at(name)).len(), 1024 * MIB);
        assert!(on_disk(union.upper(name)) < MIB, "{name}: {} bytes", on_disk(union.upper(name)));
        let mut middle = [0; 6];
        File::open(union.at(name)).unwrap().read_exact_at(&mut middle, 512 * MIB).unwrap();
        assert_eq!(&middle, b"middle", "{name}");
    }
}

/// The upper has no room for the lower's data: what succeeds has not copied it.
mod without_room_for_the_data {
    use super::*;

    fn union_on(disk: &Tmpfs) -> Union {
        Union::builder()
            .writable_in(disk.path())
            .lower(|b| b.file("big", pattern(1, 4 << 20)).file("small", "small").dir("d"))
            .lower(|b| b.file("tree/a", "fits").file("tree/z", pattern(2, 4 << 20)))
            .mount()
    }

    #[test]
    fn a_file_is_opened_for_truncation() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let union = union_on(&disk);
        fs::write(union.at("big"), "new").unwrap();
        assert_eq!(text(union.at("big")), "new");
    }

    #[test]
    fn a_file_is_truncated_to_nothing() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let union = union_on(&disk);
        let file = File::options().write(true).open(union.at("big")).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        assert_eq!(text(union.at("big")), "new");
    }

    #[test]
    fn a_file_is_removed() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let union = union_on(&disk);
        fs::remove_file(union.at("big")).unwrap();
        assert_eq!(union.in_upper(), [".wh.big"]);
    }

    #[test]
    fn a_file_is_renamed_over() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let union = union_on(&disk);
        fs::rename(union.at("small"), union.at("big")).unwrap();
        assert_eq!(text(union.at("big")), "small");
    }

    #[test]
    fn a_write_fails_and_leaves_nothing_behind() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let mut union = union_on(&disk);
        let free = disk.free();
        for _ in 0..3 {
            let file = File::options().write(true).open(union.at("big")).unwrap();
            refused(file.write_all_at(b"x", 0), Errno::NOSPC);
            drop(file);
            assert!(union.in_upper().is_empty());
            assert_eq!(disk.free(), free, "the disk stays full");
            assert!(fs::read(union.at("big")).unwrap() == pattern(1, 4 << 20));
        }
        overwrite(union.at("small"), 0, "S");
        union.remount();
        assert_eq!(text(union.at("small")), "Small");
        assert!(fs::read(union.at("big")).unwrap() == pattern(1, 4 << 20));
    }

    #[test]
    fn a_directory_that_cannot_be_moved_stays_whole() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let union = union_on(&disk);
        refused(fs::rename(union.at("tree"), union.at("moved")), Errno::NOSPC);
        assert_eq!(names(union.at("tree")), ["a", "z"]);
        assert!(fs::read(union.at("tree/z")).unwrap() == pattern(2, 4 << 20));
        assert!(names(union.root()).iter().all(|name| name != "moved"));
        fs::write(union.at("room"), vec![1; 700_000]).unwrap();
    }

    #[test]
    fn attributes_cannot_be_changed_but_the_file_stays() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let union = union_on(&disk);
        refused(chown(union.at("big"), Some(ALICE), None), Errno::NOSPC);
        assert_eq!(stat(union.at("big")).uid(), 0);
        assert!(union.in_upper().is_empty());
    }
}

/// A lower and an upper on two disks: neither a reflink nor a plain rename crosses.
#[test]
fn it_crosses_from_one_disk_to_another() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::of_kib(16 * 1024);
    let content = pattern(6, 3_000_000);
    fs::write(disk.path().join("f"), &content).unwrap();
    fs::create_dir_all(disk.path().join("d/sub")).unwrap();
    fs::write(disk.path().join("d/sub/g"), "deep").unwrap();
    let mut union = Union::builder().lower_at(disk.path().to_owned()).mount();
    overwrite(union.at("f"), 1_500_000, "!");
    fs::rename(union.at("d"), union.at("e")).unwrap();
    let mut expected = content;
    expected[1_500_000] = b'!';
    for _ in 0..2 {
        assert!(fs::read(union.at("f")).unwrap() == expected);
        assert_eq!(text(union.at("e/sub/g")), "deep");
        union.remount();
    }
}

#[test]
fn a_read_error_fails_it_and_leaves_nothing_behind() {
    let disk = FaultyFs::with_files();
    let union = Union::builder().lower_at(disk.path().to_owned()).mount();
    disk.fail_second_halves();
    for _ in 0..3 {
        let file = File::options().write(true).open(union.at("f")).unwrap();
        refused(file.write_all_at(b"x", 0), Errno::IO);
        refused(fs::rename(union.at("f"), union.at("g")), Errno::IO);
        refused(fs::rename(union.at("d"), union.at("e")), Errno::IO);
        assert!(union.in_upper().iter().all(|name| name == "d"), "{:?}", union.in_upper());
    }
    disk.recover();
    assert!(fs::read(union.at("f")).unwrap() == FaultyFs::content());
    overwrite(union.at("f"), 0, "x");
    assert!(fs::read(union.at("f")).unwrap()[1..] == FaultyFs::content()[1..]);
    fs::rename(union.at("d"), union.at("e")).unwrap();
    assert!(fs::read(union.at("e/59")).unwrap() == FaultyFs::content());
}

#[test]
fn a_lower_on_read_only_media_is_copied_up() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::of_kib(1024);
    let lower = disk.dir("lower");
    sh(&lower, "mkdir -p d/sub; echo f > f; echo g > d/sub/g");
    sh(&lower, &format!("mount -o remount,ro {}", disk.path().display()));
    let mut union = Union::builder().lower_at(lower).mount();
    overwrite(union.at("f"), 0, "F");
    fs::rename(union.at("d"), union.at("e")).unwrap();
    for _ in 0..2 {
        assert_eq!(text(union.at("f")), "F\n");
        assert_eq!(text(union.at("e/sub/g")), "g\n");
        union.remount();
    }
}

#[test]
fn readers_in_the_meantime_read_the_old_or_the_new_but_no_mixture() {
    let old = vec![b'o'; 2_000_000];
    let union = Union::over(|b| b.file("f", &old));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let seen = fs::read(union.at("f")).unwrap();
                    assert_eq!(seen.len(), 2_000_000);
                    assert!(seen[1..].iter().all(|byte| *byte == b'o'));
                }
            });
        }
        overwrite(union.at("f"), 0, "N");
    });
    assert!(fs::read(union.at("f")).unwrap().starts_with(b"No"));
}

#[test]
fn a_write_to_one_file_copies_no_other() {
    let union = Union::over(|b| b.file("d/f", "1").file("d/g", "2").file("d/sub/h", "3"));
    overwrite(union.at("d/f"), 0, "x");
    assert_eq!(union.in_upper(), ["d", "d/f"]);
}

/// The copy waits for its disk; what has nothing to do with it must not wait for the copy.
#[test]
fn a_long_copy_delays_no_work_on_other_files() {
    let disk = FaultyFs::with_files();
    let union = Union::builder()
        .lower(|b| b.file("e/other", "other").file("e/removed", "").file("e/sub/moved", ""))
        .lower_at(disk.path().to_owned())
        .mount();
    disk.stall();
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| overwrite(union.at("f"), 0, "x"));
        disk.until_stalled();
        assert_eq!(names(union.at("e")), ["other", "removed", "sub"]);
        assert_eq!(text(union.at("e/other")), "other");
        overwrite(union.at("e/other"), 0, "O");
        fs::write(union.at("e/new"), "new").unwrap();
        fs::remove_file(union.at("e/removed")).unwrap();
        fs::rename(union.at("e/sub"), union.at("e/renamed")).unwrap();
        assert!(!copying.is_finished());
        disk.recover();
    });
    assert_eq!(names(union.at("e")), ["new", "other", "renamed"]);
    assert!(fs::read(union.at("f")).unwrap()[1..] == FaultyFs::content()[1..]);
}

/// The daemon's thread has served somebody for whom sgid does not survive.
#[test]
fn sgid_comes_along_whoever_wrote_before() {
    needs_root!("owners");
    let union = Union::over(|b| {
        b.file("written", "").owner("written", ALICE, ALICE).dir("d").owner("d", BOB, BOB).mode("d", 0o2777)
    });
    // Both of the daemon's threads have, after so many.
    sh_as(ALICE, union.root(), "for i in $(seq 50); do echo x >> written; done");
    fs::write(union.at("d/f"), "").unwrap();
    assert_eq!(mode(union.upper("d")), 0o2777);
}
