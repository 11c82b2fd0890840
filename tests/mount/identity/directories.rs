//! Directories: what fails halfway has not begun, and no directory is too full or too deep to be moved.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::common::{
    Branch, FaultyFs, LoopDisk, Playground, Union, exists, names, needs_root, say_not_played, text,
};

/// A directory that shows nothing, for all that a lower has in it.
fn emptied(b: Branch) -> Branch {
    b.whiteout("d/a").whiteout("d/b").whiteout("d/c")
}

fn lower(b: Branch) -> Branch {
    b.file("d/a", "A").file("d/b", "B").file("d/c/deep", "C").file("new/file", "new")
}

/// What removes `d`'s markers from the upper.
type Removal = (&'static str, fn(&Union) -> std::io::Result<()>);

const REMOVALS: [Removal; 2] = [
    ("rmdir", |union| fs::remove_dir(union.at("d"))),
    ("rename onto it", |union| fs::rename(union.at("new"), union.at("d"))),
];

/// It was done, or nothing was done: in no case is anything back that was deleted.
#[track_caller]
fn is_done_or_as_before(union: &mut Union, what: &str, outcome: &std::io::Result<()>, case: &str) {
    for round in ["at once", "after a remount"] {
        let case = format!("{what}, {case}, {round}, {outcome:?}");
        match outcome {
            Ok(()) if what == "rmdir" => assert!(!exists(union.at("d")), "{case}"),
            Ok(()) => {
                assert_eq!(names(union.at("d")), ["file"], "{case}");
                assert!(!exists(union.at("new")), "{case}");
            }
            Err(_) => {
                assert_eq!(names(union.at("d")), [""; 0], "back: {case}");
                for name in ["a", "b", "c"] {
                    assert!(!exists(union.at("d").join(name)), "{name} is back: {case}");
                }
                assert_eq!(text(union.at("new/file")), "new", "{case}");
            }
        }
        union.remount();
    }
}

/// Row 1.
#[test]
fn a_removal_that_finds_a_directory_among_the_markers_brings_nothing_back() {
    for (what, remove) in REMOVALS {
        let mut union =
            Union::builder().upper(|b| emptied(b).file("d/.wh.zz/inside", "")).lower(lower).mount();
        assert!(names(union.at("d")).is_empty());
        let outcome = remove(&union);
        is_done_or_as_before(&mut union, what, &outcome, "a directory among the markers");
        if outcome.is_err() {
            fs::remove_dir_all(union.upper("d/.wh.zz")).unwrap();
            union.remount_as_changed();
            remove(&union).unwrap();
        }
    }
}

/// Row 1 with EPERM.
#[test]
fn a_removal_that_finds_an_immutable_marker_brings_nothing_back() {
    needs_root!("chattr +i");
    for (what, remove) in REMOVALS {
        for immutable in ["a", "b", "c"] {
            let mut union = Union::builder().upper(emptied).lower(lower).mount();
            // By a handle: it may be elsewhere afterwards.
            let marker = fs::File::open(union.upper(format!("d/.wh.{immutable}"))).unwrap();
            let flags = ioctl_getflags(&marker).unwrap();
            ioctl_setflags(&marker, flags | IFlags::IMMUTABLE).unwrap();
            let outcome = remove(&union);
            let seen = if exists(union.at("d")) { names(union.at("d")) } else { Vec::new() };
            ioctl_setflags(&marker, flags).unwrap();
            drop(marker);
            let back: Vec<_> = seen.iter().filter(|name| *name != "file").collect();
            assert!(back.is_empty(), "{what}, {immutable} stays: {back:?} are back");
            is_done_or_as_before(&mut union, what, &outcome, &format!("{immutable} was immutable"));
            if let Err(e) = outcome {
                assert_eq!(e.raw_os_error(), Some(Errno::PERM.raw_os_error()), "{what}: {e}");
                remove(&union).unwrap();
            }
        }
    }
}

/// Row 1 with EIO, at every change that it takes.
#[test]
fn a_removal_that_fails_halfway_brings_nothing_back() {
    for (what, remove) in REMOVALS {
        let (mut failures, mut successes) = (0, 0);
        for after in 0.. {
            let disk = FaultyFs::new();
            let mut union = Union::builder().writable_in(disk.path()).upper(emptied).lower(lower).mount();
            disk.fail_change(after, Errno::IO);
            let outcome = remove(&union);
            disk.recover();
            is_done_or_as_before(&mut union, what, &outcome, &format!("change {after} fails"));
            if outcome.is_err() {
                (failures, successes) = (failures + 1, 0);
            } else {
                successes += 1;
            }
            // What fails after it has happened is no error any more.
            if successes > 6 {
                break;
            }
        }
        assert!(failures > 0, "{what} takes changes");
    }
}

/// The same, but only the removals of files count: the markers.
#[test]
fn a_removal_of_which_one_marker_stays_brings_nothing_back() {
    for (what, remove) in REMOVALS {
        for after in 0..4 {
            let disk = FaultyFs::new();
            let mut union = Union::builder().writable_in(disk.path()).upper(emptied).lower(lower).mount();
            disk.fail_unlink(after, Errno::IO);
            let outcome = remove(&union);
            disk.recover();
            is_done_or_as_before(&mut union, what, &outcome, &format!("unlink {after} fails"));
        }
    }
}

/// Row 8: what the daemon may have open.
const FEW_DESCRIPTORS: &str = "ulimit -n 256";

/// A directory that the lowers fill, and one that has a part in the upper besides.
#[track_caller]
fn moves_with_few_descriptors(what: &str, lowers: &[fn(Branch) -> Branch], check: impl Fn(&Path)) {
    for in_upper in [false, true] {
        let what = format!("{what}, a part in the upper: {in_upper}");
        let builder = Union::builder().setup(FEW_DESCRIPTORS).lower(|b| b.file("other/f", "other"));
        let mut union = lowers.iter().fold(builder, |builder, fill| builder.lower(fill)).mount();
        if in_upper {
            fs::write(union.at("d/in_upper"), "").unwrap();
            fs::remove_file(union.at("d/in_upper")).unwrap();
        }
        let renamed = thread::scope(|scope| {
            let renaming = scope.spawn(|| fs::rename(union.at("d"), union.at("moved")));
            while !renaming.is_finished() {
                // Nobody else is without descriptors either.
                fs::write(union.at("other/new"), "new").unwrap();
                assert_eq!(text(union.at("other/f")), "other", "{what}");
                fs::remove_file(union.at("other/new")).unwrap();
            }
            renaming.join().unwrap()
        });
        renamed.unwrap_or_else(|e| panic!("mv of {what}: {e}"));
        for _ in 0..2 {
            assert!(!exists(union.at("d")));
            check(&union.at("moved"));
            union.remount();
        }
    }
}

fn many_files(b: Branch, from: usize) -> Branch {
    (from..from + 300).fold(b, |b, index| b.file(&format!("d/{index}"), index.to_string()))
}

#[test]
fn a_full_directory_moves_with_few_descriptors() {
    let check = |dir: &Path| {
        assert_eq!(names(dir).len(), 300);
        (0..300).for_each(|index| assert_eq!(text(dir.join(index.to_string())), index.to_string()));
    };
    moves_with_few_descriptors("300 files", &[|b| many_files(b, 0)], check);
}

#[test]
fn a_full_directory_of_several_lowers_moves_with_few_descriptors() {
    let check = |dir: &Path| {
        assert_eq!(names(dir).len(), 900);
        (0..900).for_each(|index| assert_eq!(text(dir.join(index.to_string())), index.to_string()));
    };
    moves_with_few_descriptors(
        "900 files",
        &[|b| many_files(b, 0), |b| many_files(b, 300), |b| many_files(b, 600)],
        check,
    );
}

#[test]
fn a_directory_of_many_directories_moves_with_few_descriptors() {
    fn fill(b: Branch) -> Branch {
        (0..300).fold(b, |b, index| b.file(&format!("d/{index}/f"), index.to_string()))
    }
    let check = |dir: &Path| {
        (0..300).for_each(|index| assert_eq!(text(dir.join(format!("{index}/f"))), index.to_string()));
    };
    moves_with_few_descriptors("300 directories", &[fill, fill], check);
}

#[test]
fn a_deep_directory_moves_with_few_descriptors() {
    fn fill(b: Branch) -> Branch {
        b.file(&format!("d/{}/f", deep()), "deep").file("d/f", "shallow")
    }
    fn deep() -> String {
        vec!["n"; 300].join("/")
    }
    let check = |dir: &Path| {
        assert_eq!(text(dir.join(deep()).join("f")), "deep");
        assert_eq!(text(dir.join("f")), "shallow");
    };
    moves_with_few_descriptors("300 levels", &[fill], check);
    moves_with_few_descriptors("300 levels of three lowers", &[fill, fill, fill], check);
}

/// The same where the upper has a part of each directory.
#[test]
fn a_merged_deep_directory_moves_with_few_descriptors() {
    let deep = vec!["n"; 300].join("/");
    let mut union = Union::builder()
        .setup(FEW_DESCRIPTORS)
        .upper(|b| b.file(&format!("d/{deep}/upper"), "upper"))
        .lower(|b| b.file(&format!("d/{deep}/lower"), "lower"))
        .lower(|b| b.file(&format!("d/{deep}/bottom"), "bottom"))
        .mount();
    fs::rename(union.at("d"), union.at("moved")).unwrap();
    for _ in 0..2 {
        assert_eq!(names(union.at("moved").join(&deep)), ["bottom", "lower", "upper"]);
        union.remount();
    }
}

/// Row 11.
#[test]
fn over_a_device_0_0_that_overlayfs_left_in_the_upper_a_name_is_made_anew() {
    needs_root!("devices");
    type Make = (&'static str, fn(PathBuf) -> std::io::Result<()>);
    let makes: [Make; 6] = [
        ("create", |path| fs::write(path, "new")),
        ("mkdir", fs::create_dir),
        ("symlink", |path| std::os::unix::fs::symlink("new", path)),
        ("link", |path| fs::hard_link(path.with_file_name("other"), path)),
        ("rename a file", |path| fs::rename(path.with_file_name("other"), path)),
        ("rename a directory", |path| fs::rename(path.with_file_name("dir"), path)),
    ];
    for (what, make) in makes {
        let mut union = Union::builder()
            .option("upper_from_overlayfs")
            .upper(|b| b.dir("in").char_device("in/f", 0, 0).file("in/other", "other"))
            .lower(|b| b.file("in/f/old", "old").file("in/dir/x", ""))
            .mount();
        assert_eq!(names(union.at("in")), ["dir", "other"], "{what}");
        make(union.at("in/f")).unwrap_or_else(|e| panic!("{what}: {e}"));
        for round in ["at once", "after a remount"] {
            assert!(exists(union.at("in/f")), "{what}, {round}");
            assert!(!exists(union.at("in/f/old")), "{what}: the deleted directory shows {round}");
            union.remount();
        }
        let is_dir = fs::symlink_metadata(union.at("in/f")).unwrap().is_dir();
        if is_dir { fs::remove_dir_all(union.at("in/f")) } else { fs::remove_file(union.at("in/f")) }
            .unwrap();
        for round in ["at once", "after a remount"] {
            assert!(!exists(union.at("in/f")), "{what}, removed, {round}");
            union.remount();
        }
    }
}

/// Row 17: a disk that says nothing of types in its listings, with one inode that is damaged.
#[test]
fn an_entry_that_cannot_be_looked_at_hides_no_other_though_the_disk_lists_no_types() {
    needs_root!("a loop device");
    let play = Playground::new();
    play.sh(
        "mkdir tree; cd tree; mkdir -p d/dir; touch d/bad d/other; printf text > d/file; ln -s file d/link; cd ..
         truncate -s 8M image
         mkfs.ext4 -q -O ^filetype,^has_journal,^metadata_csum -d tree image
         debugfs -w -R 'clri /d/bad' image 2> /dev/null",
    );
    let Some(disk) = LoopDisk::read_only(&play.path("image")) else {
        return say_not_played("this machine lends no loop device");
    };
    // An ending looks at everything in a lower, which cannot be done here.
    let lower = disk.path().display();
    play.sh(&format!("mkdir upper work mnt; plyfs -o lowerdir={lower},upperdir=upper,workdir=work mnt"));
    let listed = play.sh("ls -U mnt/d 2>&1 | sort || true");
    // With types, as most tools ask for them.
    let walk = |dir: &str| {
        play.sh(&format!("cd {dir}; find . -mindepth 1 ! -name bad -printf '%y %p\\n' 2> /dev/null | sort"))
    };
    let (on_disk, seen) = (walk(&format!("{lower}/d")), walk("mnt/d"));
    let read = play.sh("cat mnt/d/file mnt/d/link 2>&1 || true; umount mnt");
    assert_eq!(on_disk, "d ./dir\nf ./file\nf ./other\nl ./link\n", "the disk itself");
    assert_eq!(seen, on_disk);
    assert_eq!(read, "texttext");
    let listed: Vec<_> = listed.lines().filter(|name| *name != "bad").collect();
    assert_eq!(listed, ["dir", "file", "link", "other"]);
}
