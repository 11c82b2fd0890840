//! After an unmount or a crash, the next mount shows what the last one showed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{FaultyFs, Playground, Union, exists, mounted_type, names, overwrite, pattern, sh, text};

#[test]
fn a_long_day_of_changes_is_all_there() {
    let mut union = Union::builder()
        .lower(|b| {
            b.file("etc/conf", "one\n")
                .file("etc/old", "")
                .file("usr/bin/tool", "#!/bin/sh\n")
                .mode("usr/bin/tool", 0o755)
                .file("var/log/a", "a")
                .file("var/log/b", "b")
        })
        .lower(|b| b.file("etc/base", "base").file("var/cache/x/y/z", "").symlink("bin", "usr/bin"))
        .mount();
    for round in 0..3 {
        sh(
            union.root(),
            &format!(
                "echo {round} >> etc/conf
                 echo new{round} > etc/new{round}
                 rm -rf var/cache; mkdir -p var/cache/{round}; touch var/cache/{round}/hit
                 mv var/log var/log{round}; mkdir var/log; mv var/log{round}/* var/log/; rmdir var/log{round}
                 ln -f etc/base etc/base{round}
                 cp -p usr/bin/tool usr/bin/tool{round}; chmod 700 usr/bin/tool{round}
                 mv etc/base{round} usr/base{round}
                 ln -sfn tool{round} usr/bin/current
                 rm -f etc/old; [ {round} = 1 ] && touch etc/old || true"
            ),
        );
        let listing = "find . -printf '%p %y %m %s %l %n\\n' | sort; cat etc/conf usr/base*";
        let before = sh(union.root(), listing);
        union.remount();
        assert_eq!(sh(union.root(), listing), before, "round {round}");
    }
    assert_eq!(text(union.at("etc/conf")), "one\n0\n1\n2\n");
    assert_eq!(names(union.at("var/cache")), ["2"]);
    assert_eq!(names(union.at("var/log")), ["a", "b"]);
    assert!(!exists(union.at("etc/old")));
}

#[test]
fn markers_are_few_however_often_things_change() {
    let mut union = Union::over(|b| b.file("f", "").file("d/g", ""));
    for _ in 0..5 {
        fs::remove_file(union.at("f")).unwrap();
        fs::write(union.at("f"), "x").unwrap();
        fs::remove_dir_all(union.at("d")).unwrap();
        fs::create_dir(union.at("d")).unwrap();
        union.remount();
    }
    fs::remove_file(union.at("f")).unwrap();
    fs::remove_dir(union.at("d")).unwrap();
    assert_eq!(union.in_upper(), [".wh.d", ".wh.f"]);
}

#[test]
fn each_ending_signal_unmounts_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut union = Union::over(|b| b.file("f", "lower"));
        overwrite(union.at("f"), 0, "UPPER");
        union.end_by(signal);
        assert_eq!(mounted_type(union.root()), None);
        assert!(names(union.root()).is_empty(), "the empty directory beneath is to be seen");
        union.mount();
        assert_eq!(text(union.at("f")), "UPPER");
    }
}

/// Killed at many moments of a copy-up: the file is as before or as after, its neighbour's data
/// never gets into it, and nothing stays in the upper or the workdir.
#[test]
fn a_killed_copy_up_leaves_the_old_file_or_the_new_one() {
    let contents = [1, 2, 3].map(|seed| pattern(seed, 6_000_000));
    let mut union =
        Union::over(|b| b.file("1", &contents[0]).file("2", &contents[1]).file("3", &contents[2]));
    let mut finished = 0;
    for (round, delay) in (0..24).map(|round| (round, Duration::from_micros(300 * round))) {
        let victim = union.at("1");
        let writing = std::thread::spawn(move || {
            File::options().write(true).open(victim)?.write_all_at(b"W", 3_000_000)
        });
        std::thread::sleep(delay);
        union.crash_and_remount();
        if writing.join().unwrap().is_ok() {
            finished += 1;
        }
        let seen = fs::read(union.at("1")).unwrap();
        let mut written = contents[0].clone();
        written[3_000_000] = b'W';
        assert!(seen == contents[0] || seen == written, "round {round}");
        // The next copy-up must not find the last one's leavings.
        overwrite(union.at("2"), 0, "X");
        let mut second = contents[1].clone();
        second[0] = b'X';
        assert!(fs::read(union.at("2")).unwrap() == second, "round {round}");
        assert!(fs::read(union.at("3")).unwrap() == contents[2], "round {round}");
        assert!(union.in_upper().iter().all(|name| name == "1" || name == "2"), "round {round}");
        union.start_over();
    }
    assert!(finished < 24, "no kill came in time");
}

/// Killed when exactly half of a file, and of a directory's third file, is copied.
#[test]
fn a_copy_up_that_was_killed_halfway_is_as_if_it_had_never_begun() {
    type Change = fn(&Union) -> std::io::Result<()>;
    let changes: [Change; 2] = [
        |union| File::options().write(true).open(union.at("f"))?.write_all_at(b"W", 0),
        |union| fs::rename(union.at("d"), union.at("e")),
    ];
    let disk = FaultyFs::with_files();
    let mut union = Union::builder().lower_at(disk.path().to_owned()).mount();
    for change in changes {
        disk.stall();
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| change(&union));
            disk.until_stalled();
            union.kill();
            disk.recover();
            changing.join().unwrap().expect_err("its filesystem is dead");
        });
        union.crash_and_remount();
        assert_eq!(names(union.root()), ["d", "f"]);
        assert!(union.in_upper().is_empty(), "{:?}", union.in_upper());
        assert!(fs::read(union.at("f")).unwrap() == FaultyFs::content());
        assert_eq!(names(union.at("d")).len(), FaultyFs::FILES);
        // What is copied up next is staged in the same place.
        overwrite(union.at("d/7"), 1, "X");
        union.remount();
        let mut expected = FaultyFs::content();
        expected[1] = b'X';
        assert!(fs::read(union.at("d/7")).unwrap() == expected);
        assert!(fs::read(union.at("f")).unwrap() == FaultyFs::content());
        assert_eq!(union.in_upper(), ["d", "d/7"]);
        union.start_over();
    }
}

#[test]
fn a_killed_directory_rename_leaves_the_old_name_or_the_new_one() {
    let mut union = Union::over(|mut b| {
        for index in 0..300 {
            b = b.file(&format!("d/{}/{index}", index % 5), index.to_string());
        }
        b
    });
    for round in 0..16 {
        let (old, new) = (union.at("d"), union.at("e"));
        let moving = std::thread::spawn(move || fs::rename(old, new));
        std::thread::sleep(Duration::from_micros(500 * round));
        union.crash_and_remount();
        let done = moving.join().unwrap();
        let there = names(union.root());
        assert!(there == ["d"] || there == ["e"], "round {round}: {there:?}, {done:?}");
        let files: usize = (0..5).map(|i| names(union.at(&there[0]).join(i.to_string())).len()).sum();
        assert_eq!(files, 300, "round {round}");
        union.start_over();
    }
}

/// A daemon that ends must not take the mount away that its successor has just made.
#[test]
fn a_hundred_quick_cycles_each_leave_a_mount_that_answers() {
    let play = Playground::new();
    play.sh("mkdir lower upper work mnt; echo lower > lower/f");
    for round in 0..100 {
        play.sh(&format!(
            "plyfs -o lowerdir=lower,upperdir=upper,workdir=work mnt
             [ \"$(cat mnt/f)\" = lower ]
             echo {round} > mnt/round
             plyfs umount mnt
             [ -z \"$(ls mnt)\" ]"
        ));
    }
    assert_eq!(text(play.path("upper/round")), "99\n");
}
