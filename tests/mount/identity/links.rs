//! Hard links of a lower: the names stay one file, whatever happens between two mounts and whoever moves meanwhile.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use rustix::io::Errno;

use crate::common::{
    Branch, FaultyFs, LoopDisk, Snapshot, Tmpfs, Union, exists, names, needs_root, overwrite, refused,
    say_not_played, sh, stat, temp_dir, text,
};

fn two_names(b: Branch) -> Branch {
    b.file("a", "lower").link("a", "b")
}

fn three_names(b: Branch) -> Branch {
    two_names(b).link("a", "c")
}

/// Row 3: how the notes of the last mount may be lost.
type Loss = (&'static str, fn(&Path));

const LOSSES: [Loss; 3] = [
    ("removed", |notes| fs::remove_file(notes).unwrap()),
    ("emptied", |notes| fs::write(notes, "").unwrap()),
    ("torn", |notes| {
        let len = fs::metadata(notes).unwrap().len();
        File::options().write(true).open(notes).unwrap().set_len(len / 2).unwrap();
    }),
];

#[test]
fn the_last_name_has_what_was_written_though_the_notes_are_lost() {
    for (how, lose) in LOSSES {
        let mut union = Union::over(three_names);
        overwrite(union.at("a"), 0, "UP");
        File::open(union.at("a")).unwrap().sync_all().unwrap();
        union.unmount();
        lose(&union.kept("index"));
        union.mount();
        for name in ["a", "b"] {
            fs::remove_file(union.at(name)).unwrap();
        }
        for round in ["at once", "after a remount"] {
            assert_eq!(text(union.at("c")), "UPwer", "notes {how}, {round}");
            union.remount();
        }
    }
}

/// The note finds no room, the copy does.
#[test]
fn the_last_name_has_what_was_written_though_the_disk_was_full() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::small();
    let mut union = Union::builder().writable_in(disk.path()).lower(three_names).mount();
    let rooms = (0..12).map(|files| (files, u64::MAX)).chain((0..12).map(|blocks| (40, blocks)));
    let mut done = 0;
    for (files, blocks) in rooms {
        let room = format!("room for {files} files and {blocks} blocks");
        let fillers = disk.leave_room(files, blocks);
        let written = File::options().write(true).open(union.at("a")).and_then(|mut a| a.write_all(b"UP"));
        drop(fillers);
        // A clean end would note it once more.
        union.crash_and_remount();
        if written.is_ok() {
            done += 1;
            for name in ["a", "b"] {
                fs::remove_file(union.at(name)).unwrap();
            }
            union.remount();
            assert_eq!(text(union.at("c")), "UPwer", "{room}");
        } else {
            assert_eq!(["a", "b", "c"].map(|name| text(union.at(name))), ["lower"; 3], "{room}");
        }
        union.start_over();
    }
    assert!(done > 2, "there is never room");
}

/// What somebody does to a lower between two mounts: nothing that changes the file itself.
type Outside = (&'static str, fn(&Path, &Path));

const OUTSIDE: [Outside; 4] = [
    ("ln", |a, elsewhere| fs::hard_link(a, elsewhere.join("link")).unwrap()),
    ("chmod", |a, _| fs::set_permissions(a, fs::Permissions::from_mode(0o640)).unwrap()),
    ("touch", |a, _| {
        let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
        utimensat(CWD, a, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty())
            .unwrap();
    }),
    ("a backup", |a, elsewhere| {
        // As a program does that keeps versions: a link, and away with it.
        fs::hard_link(a, elsewhere.join("link")).unwrap();
        fs::remove_file(elsewhere.join("link")).unwrap();
    }),
];

/// Row 4: a change time tells no file from another.
#[test]
fn the_names_are_one_file_though_somebody_touched_the_lower() {
    for (what, act) in OUTSIDE {
        let elsewhere = temp_dir();
        let mut union = Union::over(two_names);
        let number = stat(union.at("a")).ino();
        overwrite(union.at("a"), 0, "AAA");
        union.unmount();
        act(&union.lower_path(0).join("a"), elsewhere.path());
        union.mount_as_changed();
        for round in ["at once", "after a remount"] {
            assert_eq!(["a", "b"].map(|name| text(union.at(name))), ["AAAer"; 2], "{what}, {round}");
            union.remount();
        }
        overwrite(union.at("b"), 0, "BBB");
        for round in ["at once", "after a remount"] {
            for name in ["a", "b"] {
                assert_eq!(text(union.at(name)), "BBBer", "{name} after {what}, {round}");
                assert_eq!(stat(union.at(name)).ino(), number, "{name} after {what}, {round}");
            }
            assert_eq!(text(union.upper("a")), "BBBer", "{what}, {round}");
            union.remount();
        }
    }
}

/// Row 5: what moves, and by which name and how it is written meanwhile.
const MOVED_AND_WRITTEN: [(&str, &str); 3] = [("d", "z/b"), ("z", "d/a"), ("d", "d/a")];

/// Which directories are in the upper before: what is written then needs no directory that the rename has.
const IN_UPPER: [&[&str]; 4] = [&[], &["d"], &["z"], &["d", "z"]];

fn bring_up(union: &Union, dirs: &[&str]) {
    for dir in dirs {
        fs::write(union.at(dir).join("new"), "").unwrap();
    }
}

/// Where a name is after `moved` was renamed.
fn after_the_move(moved: &str, path: &str) -> String {
    match path.strip_prefix(&format!("{moved}/")) {
        Some(name) => format!("moved/{name}"),
        None => path.to_owned(),
    }
}

fn with_pair(b: Branch, pair: usize) -> Branch {
    b.file(&format!("d/a{pair}"), "begin ").link(&format!("d/a{pair}"), &format!("z/b{pair}"))
}

#[track_caller]
fn is_one_file(union: &Union, moved: &str, pair: usize, expected: &str, case: &str) {
    let names = ["d/a", "z/b"].map(|path| format!("{}{pair}", after_the_move(moved, path)));
    let seen = names.each_ref().map(|path| (stat(union.at(path)).ino(), text(union.at(path))));
    for (_, content) in &seen {
        assert_eq!(content, expected, "{names:?}: {case}");
    }
    assert_eq!(seen[0].0, seen[1].0, "{names:?} are one inode: {case}");
}

#[test]
fn names_stay_one_file_while_the_directory_of_one_moves_and_the_files_are_appended_to() {
    const PAIRS: usize = 300;
    for (moved, written) in MOVED_AND_WRITTEN {
        let other = if moved == "d" { "z" } else { "d" };
        let mut union = Union::over(|mut b| {
            for index in 0..2500 {
                b = b.file(&format!("d/{index}"), "").file(&format!("z/{index}"), "");
            }
            (0..PAIRS).fold(b, with_pair)
        });
        bring_up(&union, &[other]);
        let open = |pair| File::options().append(true).open(union.at(format!("{written}{pair}"))).unwrap();
        let handles: Vec<_> = (0..PAIRS).map(open).collect();
        let (moves, mut appended) = (AtomicBool::new(true), 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let renamed = fs::rename(union.at(moved), union.at("moved"));
                moves.store(false, Ordering::Release);
                renamed.unwrap();
            });
            while moves.load(Ordering::Acquire) {
                (&handles[appended % PAIRS]).write_all(b"x").unwrap();
                appended += 1;
            }
        });
        drop(handles);
        let case = format!("mv {moved}, append to {written}");
        for round in ["at once", "after a remount"] {
            for pair in 0..PAIRS {
                let times = appended / PAIRS + usize::from(pair < appended % PAIRS);
                is_one_file(
                    &union,
                    moved,
                    pair,
                    &format!("begin {}", "x".repeat(times)),
                    &format!("{case}, {round}"),
                );
            }
            union.remount();
        }
    }
}

/// The same without luck: the rename has copied some of the files, and stands still.
#[test]
fn names_stay_one_file_though_one_is_written_when_the_others_copy_is_made() {
    for (moved, written) in MOVED_AND_WRITTEN {
        for in_upper in IN_UPPER {
            move_and_write(moved, written, in_upper);
        }
    }
}

fn move_and_write(moved: &str, written: &str, in_upper: &[&str]) {
    const PAIRS: usize = 8;
    let disk = FaultyFs::new();
    let lower = disk.dir("lower");
    let branch = (0..PAIRS).fold(Branch::at(&lower), with_pair);
    // Wherever they are in a listing, hardly all of the pairs come after the last of them.
    let slow: Vec<_> = (0..3).map(|n| format!("{moved}/slow{n}")).collect();
    slow.iter().fold(branch, |b, name| b.file(name, "slow"));
    let mut union = Union::builder().lower_at(lower).option("stable_inodes").mount();
    bring_up(&union, in_upper);
    let append = |pair| File::options().append(true).open(union.at(format!("{written}{pair}"))).unwrap();
    let handles: Vec<_> = (0..PAIRS).map(append).collect();
    disk.stall_reads_of(&slow.iter().map(|name| format!("lower/{name}")).collect::<Vec<_>>(), 2);
    thread::scope(|scope| {
        let moving = scope.spawn(|| fs::rename(union.at(moved), union.at("moved")));
        disk.until_stalled();
        let writing =
            scope.spawn(move || handles.into_iter().try_for_each(|mut file| file.write_all(b"and more")));
        // It may have to wait for the rename; that it need not is `slow_disks`' matter.
        for _ in 0..50 {
            if !writing.is_finished() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        disk.recover();
        writing.join().unwrap().unwrap();
        moving.join().unwrap().unwrap();
    });
    for round in ["at once", "after a remount"] {
        for pair in 0..PAIRS {
            let case = format!("mv {moved}, append to {written}, in the upper: {in_upper:?}, {round}");
            is_one_file(&union, moved, pair, "begin and more", &case);
        }
        union.remount();
    }
}

/// Row 9.
#[test]
fn hard_linked_symlinks_are_touched_and_removed_one_by_one() {
    let mut union = Union::over(|b| b.symlink("s", "target").link("s", "t").link("s", "u"));
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, union.at("s"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    fs::remove_file(union.at("s")).unwrap();
    for name in ["t", "u"] {
        assert_eq!(fs::read_link(union.at(name)).unwrap(), Path::new("target"), "{name}");
        assert_eq!(stat(union.at(name)).mtime(), 1_000_000_000, "{name}");
        fs::remove_file(union.at(name)).unwrap();
    }
    assert!(names(union.root()).is_empty());
    union.remount();
    assert!(names(union.root()).is_empty());
    symlink("target", union.at("s")).unwrap();
}

/// Row 13: nobody can tell when the last name outside the branch goes.
#[test]
fn a_copy_without_a_name_is_freed_by_the_next_mount_at_the_latest() {
    let elsewhere = temp_dir();
    let mut union = Union::over(three_names);
    // A backup that shares the lower's inodes, say.
    union.unmount();
    fs::hard_link(union.lower_path(0).join("a"), elsewhere.path().join("outside")).unwrap();
    union.mount_as_changed();
    overwrite(union.at("a"), 0, "WRITTEN");
    for name in ["a", "b"] {
        fs::remove_file(union.at(name)).unwrap();
        union.remount();
        assert_eq!(text(union.at("c")), "WRITTEN", "one name has it");
    }
    fs::remove_file(union.at("c")).unwrap();
    union.remount();
    union.unmount();
    let left = Snapshot::of(&union.work(""));
    let copies =
        left.paths().filter(|path| left.field(path, "content").is_some_and(|text| text.contains("WRITTEN")));
    assert_eq!(copies.count(), 0, "of what has no name nothing is kept");
    union.mount();
    assert!(names(union.root()).is_empty());
}

/// Row 14.
#[test]
fn a_mount_that_only_reads_shows_what_was_written_by_all_names_and_changes_nothing() {
    let mut union = Union::over(|b| three_names(b).file("d/f", "lower"));
    overwrite(union.at("a"), 0, "UP");
    overwrite(union.at("d/f"), 0, "UP");
    fs::remove_file(union.at("c")).unwrap();
    let numbers = |union: &Union| ["a", "b", "d", "d/f"].map(|path| stat(union.at(path)).ino());
    let before = numbers(&union);
    union.unmount();
    let on_disk = |union: &Union| [union.upper(""), union.work("")].map(|dir| Snapshot::of(&dir));
    let disk = on_disk(&union);
    union.mount_with("ro");
    assert_eq!(["a", "b", "d/f"].map(|path| text(union.at(path))), ["UPwer"; 3]);
    assert!(!exists(union.at("c")));
    assert_eq!(numbers(&union), before);
    assert_eq!(["a", "b"].map(|path| stat(union.at(path)).nlink()), [2; 2]);
    refused(fs::write(union.at("a"), ""), Errno::ROFS);
    union.unmount();
    for (before, after) in disk.iter().zip(on_disk(&union)) {
        // Reading sets access times in an upper, nothing else.
        assert_eq!(before.differences(&after, &["atime"]), "");
    }
    union.mount();
}

/// What nobody can look for now may be looked for later.
#[test]
fn a_copy_stays_as_long_as_its_lower_is_away() {
    needs_root!("to mount on the lower");
    let fill = |b: Branch| b.file("p/x", "old").link("p/x", "s/y");
    let mut union = Union::over(fill);
    fs::write(union.at("p/x"), "precious").unwrap();
    fs::remove_file(union.at("p/x")).unwrap();
    assert_eq!(text(union.at("s/y")), "precious");
    union.unmount();
    let lower = union.lower_path(0);
    sh("/", &format!("mount -t tmpfs none {}", lower.display()));
    union.mount();
    union.unmount();
    sh("/", &format!("umount {}", lower.display()));
    union.mount();
    assert_eq!(text(union.at("s/y")), "precious");
}

/// The upper's directory is the same one, and nothing of what was in it is.
#[test]
fn an_upper_that_was_emptied_shows_the_lowers_again() {
    let mut union = Union::over(two_names);
    overwrite(union.at("a"), 0, "SECRET");
    union.unmount();
    fs::remove_file(union.upper("a")).unwrap();
    union.mount();
    for name in ["a", "b"] {
        assert_eq!(text(union.at(name)), "lower", "{name}");
    }
    union.remount_as_changed();
}

/// Two images that were made alike call different files by the same handle.
#[test]
fn files_of_two_images_are_never_taken_for_each_other() {
    needs_root!("a loop device");
    let place = temp_dir();
    let make = "mksquashfs fs image -quiet -no-progress -all-time 0";
    sh(place.path(), &format!("mkdir -p one/fs/etc two/fs/opt
        cd one; echo one > fs/etc/a; ln fs/etc/a fs/etc/b; {make}; cd ../two; echo two > fs/opt/p; ln fs/opt/p fs/opt/q; {make}"));
    let disk = |name: &str| LoopDisk::read_only(&place.path().join(name).join("image"));
    let (Some(one), Some(two)) = (disk("one"), disk("two")) else {
        return say_not_played("this machine lends no loop device, or does not know squashfs");
    };
    let builder = Union::builder().lower_at(one.path().to_owned()).lower_at(two.path().to_owned());
    let union = builder.mount();
    overwrite(union.at("etc/a"), 0, "SEC");
    for name in ["opt/p", "opt/q"] {
        assert_eq!(text(union.at(name)), "two\n", "{name}");
    }
}
