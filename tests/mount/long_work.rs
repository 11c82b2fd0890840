//! What takes long keeps nobody from being answered who does not need it.
//!
//! No clock: the copies stall on the lower's disk until everybody else has been answered.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::thread;

use rustix::fs::XattrFlags;
use rustix::process::Signal;

use crate::common::{
    ALICE, FaultyFs, Union, as_user, mode, needs_root, overwrite, pattern, requests, sh, sh_as, stat,
    temp_dir, text,
};

/// More than what is copied while others wait.
const BIG: usize = 2 << 20;

/// Whoever needs none of what stalls is answered, whatever he asks.
#[track_caller]
fn others_are_answered(union: &Union) {
    assert_eq!(text(union.at("other/f")), "text");
    overwrite(union.at("other/f"), 0, "T");
    fs::write(union.at("other/new"), "new").unwrap();
    fs::rename(union.at("other/new"), union.at("other/newer")).unwrap();
    fs::set_permissions(union.at("other/f"), Permissions::from_mode(0o600)).unwrap();
    rustix::fs::setxattr(union.at("other/f"), "user.a", b"1", XattrFlags::empty()).unwrap();
    assert_eq!(fs::read_dir(union.at("other")).unwrap().count(), 2);
    fs::remove_file(union.at("other/newer")).unwrap();
    fs::remove_file(union.at("other/f")).unwrap();
    assert_eq!(fs::read_dir(union.at("other")).unwrap().count(), 0);
}

fn union(disk: &FaultyFs, options: &str) -> Union {
    let union = Union::builder()
        .lower(|b| b.file("other/f", "text").file("one/f", "").dir("two"))
        .lower_at(disk.path().to_owned())
        .option("allow_other");
    if options.is_empty() { union.mount() } else { union.option(options).mount() }
}

#[test]
fn one_loop_answers_others_while_a_file_is_copied_up() {
    needs_root!("a disk of our own");
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 5] = [
        ("write", |path| overwrite(path, 0, "x")),
        ("truncate", |path| File::options().write(true).open(path).unwrap().set_len(BIG as u64).unwrap()),
        ("chmod", |path| fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap()),
        ("link", |path| fs::hard_link(path, path.with_extension("too")).unwrap()),
        ("rename", |path| fs::rename(path, path.with_extension("moved")).unwrap()),
    ];
    for (what, change) in changes {
        let disk = FaultyFs::new();
        disk.file("big/f", pattern(1, BIG));
        let union = union(&disk, "threads=1");
        disk.stall();
        thread::scope(|scope| {
            let changing = scope.spawn(|| change(&union.at("big/f")));
            disk.until_stalled();
            others_are_answered(&union);
            assert!(union.in_upper().iter().all(|name| !name.starts_with("big/")), "{what} has not stalled");
            disk.recover();
            changing.join().unwrap();
        });
        assert!(union.in_upper().iter().any(|name| name.starts_with("big/f")), "{what}");
    }
}

#[test]
fn more_copies_than_loops_keep_nobody_waiting() {
    needs_root!("a disk of our own");
    const COPIES: u64 = 20;
    let disk = FaultyFs::new();
    for file in 0..COPIES {
        disk.file(&format!("big/{file}"), pattern(file as u8, BIG));
    }
    let union = union(&disk, "");
    disk.stall();
    thread::scope(|scope| {
        let write = |file| overwrite(union.at(format!("big/{file}")), 0, "x");
        let copies: Vec<_> = (0..COPIES).map(|file| scope.spawn(move || write(file))).collect();
        while requests(&union, "WRITE") < COPIES {}
        disk.until_stalled();
        others_are_answered(&union);
        assert!(union.in_upper().iter().all(|name| !name.starts_with("big/")), "some have not stalled");
        disk.recover();
        copies.into_iter().for_each(|copy| copy.join().unwrap());
    });
    for file in 0..COPIES {
        let mut expected = pattern(file as u8, BIG);
        expected[0] = b'x';
        assert!(fs::read(union.at(format!("big/{file}"))).unwrap() == expected, "{file}");
    }
}

#[test]
fn one_loop_answers_others_while_a_directory_is_moved() {
    needs_root!("a disk of our own");
    let disk = FaultyFs::new();
    for file in 0..4_u8 {
        disk.file(&format!("top/d/{file}"), pattern(file, 50_000));
    }
    let union = union(&disk, "threads=1");
    disk.stall();
    thread::scope(|scope| {
        let moving = scope.spawn(|| fs::rename(union.at("top/d"), union.at("top/e")).unwrap());
        disk.until_stalled();
        others_are_answered(&union);
        // Names in two directories, and in the one that is being moved.
        fs::hard_link(union.at("one/f"), union.at("two/f")).unwrap();
        assert_eq!(stat(union.at("top/d/3")).len(), 50_000);
        fs::write(union.at("top/d/new"), "made meanwhile").unwrap();
        assert!(!union.in_upper().contains(&"top/e".to_owned()), "it has not stalled");
        disk.recover();
        moving.join().unwrap();
    });
    assert_eq!(crate::common::names(union.at("top/e")), ["0", "1", "2", "3", "new"]);
    for file in 0..4_u8 {
        assert!(fs::read(union.at(format!("top/e/{file}"))).unwrap() == pattern(file, 50_000), "{file}");
    }
    assert_eq!(text(union.at("top/e/new")), "made meanwhile");
}

/// Which thread serves changes nothing: owners, permissions, umask and what strips sgid are the same.
#[test]
fn a_long_copy_up_comes_out_as_a_short_one() {
    needs_root!("other users");
    let content = pattern(3, BIG);
    let union = Union::builder()
        .option("allow_other,threads=1")
        .lower(|b| {
            let files = [("short", 100), ("long", BIG)];
            files.into_iter().fold(b.dir("d").mode("d", 0o777), |b, (name, len)| {
                let path = format!("d/{name}/f");
                let b = b.file(&path, &content[..len]).owner(&path, ALICE, 0).mode(&path, 0o6666);
                b.owner(&format!("d/{name}"), ALICE, ALICE).mode(&format!("d/{name}"), 0o1777)
            })
        })
        .mount();
    for name in ["short", "long"] {
        let dir = union.at("d").join(name);
        // The loop has served somebody with another umask before it starts the worker.
        sh_as(ALICE, union.at("d"), "umask 077; touch before; rm before");
        as_user(ALICE, || overwrite(dir.join("f"), 0, "x"));
        sh_as(ALICE, &dir, "umask 027; touch after");
        let upper = union.upper("d").join(name);
        assert_eq!((mode(&upper), stat(&upper).uid(), stat(&upper).gid()), (0o1777, ALICE, ALICE), "{name}");
        let file = upper.join("f");
        assert_eq!((mode(&file), stat(&file).uid(), stat(&file).gid()), (0o666, ALICE, 0), "{name}");
        let after = upper.join("after");
        assert_eq!((mode(&after), stat(&after).uid(), stat(&after).gid()), (0o640, ALICE, ALICE), "{name}");
    }
}

/// The connection ends while a file is being copied, as by `fusermount3 -uz` and a kill of everybody: the copy comes to
/// its end all the same, and then the daemon does.
#[test]
fn the_daemon_ends_after_the_copy_that_is_under_way() {
    needs_root!("a disk of our own");
    let disk = FaultyFs::new();
    disk.file("big/f", pattern(1, BIG));
    let mut union = union(&disk, "threads=1");
    let connection = rustix::fs::minor(stat(union.root()).dev());
    let control = temp_dir();
    sh("/", &format!("mount -t fusectl none {}", control.path().display()));
    let abort = File::options().write(true).open(control.path().join(format!("{connection}/abort")));
    sh("/", &format!("umount -l {}", control.path().display()));
    disk.stall();
    thread::scope(|scope| {
        let file = File::options().write(true).open(union.at("big/f")).unwrap();
        let writing = scope.spawn(move || file.write_at(b"x", 0));
        disk.until_stalled();
        abort.unwrap().write_all(b"1").unwrap();
        assert!(writing.join().unwrap().is_err());
        // No loop is left by then.
        while sh(control.path(), &format!("ls /proc/{}/task/*/comm | xargs cat", union.pid()))
            .contains("fuser-0")
        {}
        disk.recover();
    });
    // Nothing is mounted any more, and the exit code is 0; the signal comes too late to change anything.
    let status = format!("/proc/{}/stat", union.pid());
    while !fs::read_to_string(&status).unwrap().contains(") Z ") {}
    union.end_by(Signal::TERM);
    assert!(union.in_upper().contains(&"big/f".to_owned()));
    assert_eq!(fs::read(union.upper("big/f")).unwrap()[1..], pattern(1, BIG)[1..]);
    assert!(!union.work("stage").exists(), "what was staged has been published");
    union.mount();
}
