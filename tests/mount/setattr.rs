//! chmod, chown, truncate, utimens: to the upper, to the nanosecond, and to nothing else.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use rustix::io::Errno;

use crate::common::{ALICE, BOB, Union, exists, mode, mtime, names, needs_root, refused, stat, text};

fn chmod(union: &Union, path: &str, mode: u32) {
    fs::set_permissions(union.at(path), Permissions::from_mode(mode)).unwrap();
}

fn set_mtime(union: &Union, path: &str, tv_sec: i64, tv_nsec: i64) {
    let last_modification = Timespec { tv_sec, tv_nsec };
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access, last_modification };
    utimensat(CWD, union.at(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn chmod_copies_up_and_changes_the_mode_alone() {
    let mut union = Union::over(|b| {
        b.file("f", "text").mtime("f", 1_000_000_000, 55).file("d/child", "").mode("d", 0o755)
    });
    chmod(&union, "f", 0o4711);
    chmod(&union, "d", 0o1700);
    assert_eq!(union.in_upper(), ["d", "f"], "a directory comes without its children");
    for _ in 0..2 {
        assert_eq!(mode(union.at("f")), 0o4711);
        assert_eq!(mtime(union.at("f")), (1_000_000_000, 55));
        assert_eq!(text(union.at("f")), "text");
        assert_eq!(mode(union.at("d")), 0o1700);
        assert_eq!(names(union.at("d")), ["child"]);
        union.remount();
    }
}

/// `chmod -R` and `chown -R` over an image that is as it should be already would copy all of it.
#[test]
fn what_changes_nothing_copies_nothing_up() {
    let union = Union::over(|b| b.file("f", "text").mode("f", 0o640).dir("d").symlink("s", "f"));
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for name in ["f", "d"] {
        chmod(&union, name, mode(union.at(name)));
        chown(union.at(name), Some(own.0), Some(own.1)).unwrap();
        chown(union.at(name), None, Some(own.1)).unwrap();
    }
    std::os::unix::fs::lchown(union.at("s"), Some(own.0), Some(own.1)).unwrap();
    assert_eq!(union.in_upper(), Vec::<String>::new());
    chmod(&union, "f", 0o600);
    assert_eq!(union.in_upper(), ["f"]);
}

/// What takes rights from a program is a change, even to the owner that it has.
#[test]
fn a_chown_that_takes_rights_away_is_a_change() {
    needs_root!("chown");
    let union = Union::over(|b| {
        let b = b.file("suid", "text").mode("suid", 0o4755).file("able", "text");
        b.xattr("able", "security.capability", crate::common::CAP_NET_RAW)
    });
    for name in ["suid", "able"] {
        chown(union.at(name), Some(0), Some(0)).unwrap();
    }
    assert_eq!(union.in_upper(), ["able", "suid"]);
    assert_eq!(mode(union.at("suid")), 0o755);
    let capability = rustix::fs::getxattr(union.at("able"), "security.capability", &mut [0; 32]);
    assert_eq!(capability, Err(Errno::NODATA));
}

#[test]
fn any_change_sets_the_change_time() {
    let union = Union::over(|b| b.file("f", "text"));
    let changed = || (stat(union.at("f")).ctime(), stat(union.at("f")).ctime_nsec());
    let mut last = changed();
    let steps: [&dyn Fn(); 3] = [&|| chmod(&union, "f", 0o600), &|| set_mtime(&union, "f", 5, 5), &|| {
        File::options().write(true).open(union.at("f")).unwrap().set_len(2).unwrap()
    }];
    for step in steps {
        std::thread::sleep(std::time::Duration::from_millis(20));
        step();
        assert!(changed() > last);
        last = changed();
    }
}

#[test]
fn chown_changes_owner_and_group_apart() {
    needs_root!("chown");
    let union = Union::over(|b| b.file("f", "text").owner("f", ALICE, ALICE).dir("d"));
    chown(union.at("f"), None, Some(BOB)).unwrap();
    assert_eq!((stat(union.at("f")).uid(), stat(union.at("f")).gid()), (ALICE, BOB));
    chown(union.at("f"), Some(BOB), None).unwrap();
    assert_eq!((stat(union.upper("f")).uid(), stat(union.upper("f")).gid()), (BOB, BOB));
    chown(union.at("d"), Some(ALICE), Some(BOB)).unwrap();
    assert_eq!((stat(union.at("d")).uid(), stat(union.at("d")).gid()), (ALICE, BOB));
}

#[test]
fn truncate_shortens_and_lengthens() {
    let union = Union::over(|b| b.file("f", "0123456789").file("g", "0123456789"));
    let truncate = |name: &str, len| {
        File::options().write(true).open(union.at(name)).unwrap().set_len(len).unwrap();
    };
    truncate("f", 4);
    assert_eq!(text(union.at("f")), "0123");
    truncate("f", 6);
    assert_eq!(text(union.at("f")), "0123\0\0");
    truncate("g", 12);
    assert_eq!(text(union.at("g")), "0123456789\0\0");
    truncate("g", 0);
    assert_eq!(text(union.at("g")), "");
    assert_eq!(stat(union.upper("g")).len(), 0);
}

#[test]
fn truncate_to_the_same_length_still_changes_the_time() {
    let union = Union::over(|b| b.file("f", "12345").mtime("f", 1_000_000_000, 0));
    File::options().write(true).open(union.at("f")).unwrap().set_len(5).unwrap();
    assert_eq!(text(union.at("f")), "12345");
    assert!(mtime(union.at("f")).0 > 1_000_000_000);
}

/// fuser misreads times before 1970 that have a fraction.
#[test]
fn times_are_kept_to_the_nanosecond_before_1970_too() {
    let times = [
        (1_700_000_000, 123_456_789),
        (0, 0),
        (0, 1),
        (-1, 0),
        (-1, 999_999_999),
        (-59, 250_000_000),
        (-1_000_000_000, 1),
        (4_000_000_000, 5),
    ];
    let mut union = Union::over(|b| b.file("f", "").dir("d").symlink("s", "f"));
    for (seconds, nanos) in times {
        for path in ["f", "d", "s"] {
            set_mtime(&union, path, seconds, nanos);
            assert_eq!(mtime(union.at(path)), (seconds, nanos), "{path}");
            assert_eq!(mtime(union.upper(path)), (seconds, nanos), "{path} on disk");
        }
        if seconds == -59 {
            union.remount();
            assert_eq!(mtime(union.at("f")), (seconds, nanos), "after a remount");
        }
    }
}

#[test]
fn lower_times_before_1970_are_shown_and_copied() {
    let union = Union::over(|b| b.file("f", "text").mtime("f", -59, 250_000_000));
    assert_eq!(mtime(union.at("f")), (-59, 250_000_000));
    chmod(&union, "f", 0o600);
    assert_eq!(mtime(union.at("f")), (-59, 250_000_000));
    assert_eq!(mtime(union.upper("f")), (-59, 250_000_000));
}

#[test]
fn each_time_can_be_set_alone_or_to_now() {
    let union = Union::over(|b| b.file("f", "").mtime("f", 1_000_000_000, 3));
    let set = |access: (i64, i64), modification: (i64, i64)| {
        let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: spec(access), last_modification: spec(modification) };
        utimensat(CWD, union.at("f"), &times, AtFlags::empty()).unwrap();
    };
    let accessed = || (stat(union.at("f")).atime(), stat(union.at("f")).atime_nsec());
    let omit = (0, UTIME_OMIT);
    set((2_000_000_000, 7), omit);
    assert_eq!(accessed(), (2_000_000_000, 7));
    assert_eq!(mtime(union.at("f")), (1_000_000_000, 3));
    set(omit, (0, UTIME_NOW));
    assert_eq!(accessed(), (2_000_000_000, 7));
    assert!(mtime(union.at("f")).0 > 1_600_000_000);
    set((0, UTIME_NOW), (-5, 5));
    assert!(accessed().0 < 2_000_000_000);
    assert_eq!(mtime(union.at("f")), (-5, 5));
}

/// A node of a device that does not exist: to open it would fail.
#[test]
fn chmod_of_a_device_node_does_not_open_the_device() {
    needs_root!("devices");
    let union = Union::over(|b| b.char_device("tty", 511, 4095).fifo("fifo"));
    chmod(&union, "tty", 0o604);
    // Nobody writes to the fifo: to open it would wait for ever.
    chmod(&union, "fifo", 0o604);
    set_mtime(&union, "fifo", 7, 7);
    set_mtime(&union, "tty", 7, 7);
    chown(union.at("fifo"), Some(ALICE), None).unwrap();
    assert_eq!((mode(union.at("tty")), mtime(union.at("tty"))), (0o604, (7, 7)));
    assert_eq!((mode(union.at("fifo")), mtime(union.at("fifo"))), (0o604, (7, 7)));
    assert_eq!(stat(union.at("tty")).rdev(), rustix::fs::makedev(511, 4095));
}

#[test]
fn the_root_of_the_mount_can_be_changed() {
    let mut union = Union::over(|b| b.file("f", ""));
    chmod(&union, ".", 0o710);
    set_mtime(&union, ".", 1_000_000_000, 5);
    for _ in 0..2 {
        assert_eq!(mode(union.at(".")), 0o710);
        assert_eq!(mtime(union.at(".")), (1_000_000_000, 5));
        assert_eq!(names(union.root()), ["f"]);
        union.remount();
    }
    assert_eq!(mode(union.upper("")), 0o710);
}

#[test]
fn a_missing_or_deleted_file_has_nothing_to_change() {
    let union = Union::over(|b| b.file("f", ""));
    fs::remove_file(union.at("f")).unwrap();
    for name in ["f", "missing"] {
        let outcome = fs::set_permissions(union.at(name), Permissions::from_mode(0o600));
        refused(outcome, Errno::NOENT);
    }
    assert_eq!(union.in_upper(), [".wh.f"]);
}

#[test]
fn a_change_reaches_every_hard_link() {
    let mut union = Union::over(|b| b.file("a", "").link("a", "b"));
    chmod(&union, "a", 0o640);
    for _ in 0..2 {
        assert_eq!(mode(union.at("b")), 0o640);
        union.remount();
    }
    assert!(exists(union.upper("a")));
}
