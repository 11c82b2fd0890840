//! Who may do what: as on ext4, whoever runs the daemon.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use rustix::fs::{
    Access, AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags, access, accessat, getxattr, openat,
    removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use crate::common::{
    ALICE, BOB, Branch, CAP_NET_RAW, Union, as_member, as_user, exists, mode, needs_root, overwrite, refused,
    sh, sh_as, stat, text,
};

fn for_all_users(fill: impl FnOnce(Branch) -> Branch) -> Union {
    Union::builder().option("allow_other").lower(fill).mount()
}

#[test]
fn the_callers_umask_counts() {
    let union = Union::over(|b| b.dir("d"));
    sh(union.at("d"), "umask 027; touch file; mkdir dir; mkfifo fifo");
    assert_eq!(mode(union.at("d/file")), 0o640);
    assert_eq!(mode(union.at("d/dir")), 0o750);
    assert_eq!(mode(union.at("d/fifo")), 0o640);
}

#[test]
fn the_daemons_umask_does_not() {
    let union = Union::builder().setup("umask 077").lower(|b| b.file("d/f", "").mode("d/f", 0o666)).mount();
    sh(union.at("d"), "umask 0; touch file; mkdir dir; mkfifo fifo; echo >> f");
    assert_eq!(mode(union.at("d/file")), 0o666);
    assert_eq!(mode(union.at("d/dir")), 0o777);
    assert_eq!(mode(union.at("d/fifo")), 0o666);
    assert_eq!(mode(union.upper("d/f")), 0o666, "copied up");
    assert_eq!(mode(union.upper("d")), 0o755, "copied up");
}

#[test]
fn what_is_new_belongs_to_the_caller() {
    needs_root!("another user");
    let union = for_all_users(|b| b.dir("d").mode("d", 0o777));
    sh_as(ALICE, union.at("d"), "touch file; mkdir dir; mkfifo fifo; ln -s file link; ln file hard");
    for name in ["file", "dir", "fifo", "link", "hard"] {
        let path = format!("d/{name}");
        let seen = stat(union.at(&path));
        assert_eq!((seen.uid(), seen.gid()), (ALICE, ALICE), "{name}");
        assert_eq!(stat(union.upper(&path)).uid(), ALICE, "{name} on disk");
    }
    assert_eq!(stat(union.upper("d")).uid(), 0, "the parent is the lower's");
}

#[test]
fn a_file_is_read_and_written_by_whom_its_mode_lets() {
    needs_root!("other users");
    let union = for_all_users(|b| {
        b.file("alices", "text")
            .owner("alices", ALICE, ALICE)
            .mode("alices", 0o600)
            .file("roots", "text")
            .mode("roots", 0o644)
    });
    as_user(BOB, || {
        refused(fs::read(union.at("alices")), Errno::ACCESS);
        assert_eq!(text(union.at("roots")), "text");
        refused(File::options().write(true).open(union.at("roots")), Errno::ACCESS);
        refused(File::create(union.at("new")), Errno::ACCESS);
        refused(fs::remove_file(union.at("roots")), Errno::ACCESS);
        refused(fs::set_permissions(union.at("roots"), Permissions::from_mode(0o777)), Errno::PERM);
        refused(chown(union.at("roots"), Some(BOB), None), Errno::PERM);
        refused(access(union.at("roots"), Access::WRITE_OK), Errno::ACCESS);
    });
    assert!(union.in_upper().is_empty(), "what is refused copies nothing up");
    as_user(ALICE, || overwrite(union.at("alices"), 0, "T"));
    assert_eq!(text(union.upper("alices")), "Text");
}

#[test]
fn a_closed_directory_stays_closed_after_a_copy_up() {
    needs_root!("other users");
    let union = for_all_users(|b| {
        b.file("private/f", "secret")
            .mode("private", 0o700)
            .owner("private", ALICE, ALICE)
            .mode("private/f", 0o666)
    });
    overwrite(union.at("private/f"), 0, "S");
    as_user(BOB, || {
        refused(fs::read(union.at("private/f")), Errno::ACCESS);
        refused(fs::read_dir(union.at("private")), Errno::ACCESS);
    });
    as_user(ALICE, || assert_eq!(text(union.at("private/f")), "Secret"));
    assert_eq!(mode(union.upper("private")), 0o700);
}

#[test]
fn a_setgid_directory_hands_on_its_group() {
    needs_root!("other groups");
    let union = for_all_users(|b| b.dir("d/deep").owner("d/deep", 0, BOB).mode("d/deep", 0o2777));
    sh_as(ALICE, union.at("d/deep"), "touch file; mkdir dir; mkfifo fifo; touch dir/below");
    for name in ["file", "dir", "fifo", "dir/below"] {
        let seen = stat(union.at("d/deep").join(name));
        assert_eq!((seen.uid(), seen.gid()), (ALICE, BOB), "{name}");
    }
    assert_eq!(mode(union.at("d/deep/dir")) & 0o2000, 0o2000, "and the bit itself");
    assert_eq!(mode(union.upper("d/deep")), 0o2777);
}

#[test]
fn in_a_sticky_directory_only_the_owner_removes() {
    needs_root!("other users");
    let union = for_all_users(|b| {
        b.dir("tmp").mode("tmp", 0o1777).file("tmp/old", "").owner("tmp/old", ALICE, ALICE)
    });
    as_user(ALICE, || fs::write(union.at("tmp/new"), "").unwrap());
    as_user(BOB, || {
        for name in ["tmp/old", "tmp/new"] {
            refused(fs::remove_file(union.at(name)), Errno::PERM);
            refused(fs::rename(union.at(name), union.at("tmp/mine")), Errno::PERM);
        }
    });
    assert_eq!(mode(union.upper("tmp")), 0o1777);
    as_user(ALICE, || {
        fs::remove_file(union.at("tmp/old")).unwrap();
        fs::remove_file(union.at("tmp/new")).unwrap();
    });
}

#[test]
fn a_write_by_another_user_takes_setuid_and_setgid_away() {
    needs_root!("other users");
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 4] = [
        ("write", |path| overwrite(path, 0, "x")),
        ("append", |path| sh_append(path)),
        ("truncate", |path| File::options().write(true).open(path).unwrap().set_len(2).unwrap()),
        ("O_TRUNC", |path| fs::write(path, "x").unwrap()),
    ];
    for in_upper in [false, true] {
        for (what, change) in changes {
            let fill = |b: Branch| b.file("f", "program").mode("f", 0o6777);
            let builder = Union::builder().option("allow_other");
            let builder = if in_upper { builder.upper(fill) } else { builder.lower(fill) };
            let mut union = builder.lower(|b| b).mount();
            as_user(ALICE, || change(&union.at("f")));
            for _ in 0..2 {
                assert_eq!(mode(union.at("f")), 0o777, "{what}, in the upper: {in_upper}");
                union.remount();
            }
        }
    }
}

fn sh_append(path: &std::path::Path) {
    use std::io::Write;
    File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
}

#[test]
fn a_write_by_root_leaves_setuid_alone() {
    needs_root!("setuid");
    let union = Union::over(|b| b.file("f", "program").mode("f", 0o4755));
    overwrite(union.at("f"), 0, "P");
    assert_eq!(mode(union.at("f")), 0o4755);
    overwrite(union.at("f"), 1, "R");
    assert_eq!(mode(union.at("f")), 0o4755);
}

/// To move a lower file is to copy it, which must not look like a write.
#[test]
fn a_move_by_an_ordinary_user_leaves_setuid_alone() {
    needs_root!("another user");
    let mut union = for_all_users(|b| {
        b.dir("d").owner("d", ALICE, ALICE).file("d/f", "").owner("d/f", ALICE, ALICE).mode("d/f", 0o6755)
    });
    as_user(ALICE, || fs::rename(union.at("d/f"), union.at("d/g")).unwrap());
    for _ in 0..2 {
        assert_eq!(mode(union.at("d/g")), 0o6755);
        union.remount();
    }
}

#[test]
fn a_change_of_owner_takes_setuid_and_setgid_away() {
    needs_root!("chown");
    let union = Union::over(|b| b.file("f", "program").mode("f", 0o6755));
    chown(union.at("f"), Some(ALICE), Some(ALICE)).unwrap();
    assert_eq!(mode(union.at("f")), 0o755);
}

#[test]
fn setgid_is_not_for_those_outside_the_group() {
    needs_root!("other users");
    let union = for_all_users(|b| b.file("f", "").owner("f", ALICE, BOB));
    as_user(ALICE, || {
        fs::set_permissions(union.at("f"), Permissions::from_mode(0o2755)).unwrap();
    });
    assert_eq!(mode(union.at("f")), 0o755);
    fs::set_permissions(union.at("f"), Permissions::from_mode(0o2755)).unwrap();
    assert_eq!(mode(union.at("f")), 0o2755, "for root it is");
}

#[test]
fn an_ordinary_user_works_in_his_own_lower_directory() {
    needs_root!("another user");
    let mut union = for_all_users(|b| {
        b.file("home/f", "lower")
            .file("home/d/g", "lower")
            .owner("home", ALICE, ALICE)
            .owner("home/f", ALICE, ALICE)
            .owner("home/d", ALICE, ALICE)
            .owner("home/d/g", ALICE, ALICE)
    });
    sh_as(
        ALICE,
        union.at("home"),
        "echo more >> f; mv f h; rm d/g; rmdir d; mkdir d; touch d/new; chmod 700 d; mv d e",
    );
    for _ in 0..2 {
        assert_eq!(text(union.at("home/h")), "lowermore\n");
        assert!(exists(union.at("home/e/new")) && !exists(union.at("home/d")));
        assert_eq!(stat(union.at("home/h")).uid(), ALICE);
        union.remount();
    }
}

/// `stat -c %a` asks the kernel for the mode and nothing else, which a write does not make it ask us again for.
#[test]
fn suid_that_a_write_took_away_is_gone_at_once_for_whoever_asks() {
    needs_root!("several users");
    let union = for_all_users(|b| b.file("f", "text").mode("f", 0o4777).file("g", "text").mode("g", 0o4777));
    for (file, write) in [("f", "echo more >> f"), ("g", "fallocate -l 100 g")] {
        assert_eq!(sh(union.root(), &format!("stat -c %a {file}")), "4777\n");
        sh_as(ALICE, union.root(), write);
        assert_eq!(sh(union.root(), &format!("stat -c %a {file}")), "777\n", "{write}");
        assert_eq!(mode(union.upper(file)), 0o777, "{write}");
    }
}

#[test]
fn what_belongs_to_others_is_changed_by_no_call_and_not_copied_up() {
    needs_root!("other users");
    let union = for_all_users(|b| {
        b.file("d/f", "text")
            .mode("d/f", 0o644)
            .xattr("d/f", "user.note", "1")
            .symlink("d/s", "f")
            .dir("d/sub")
    });
    let time = Timespec { tv_sec: 7, tv_nsec: 7 };
    let times = Timestamps { last_access: time, last_modification: time };
    as_user(BOB, || {
        for path in ["d/f", "d/sub", "d", "d/s"].map(|path| union.at(path)) {
            refused(utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW), Errno::PERM);
            refused(std::os::unix::fs::lchown(&path, Some(BOB), None), Errno::PERM);
            refused(setxattr(&path, "user.note", b"2", XattrFlags::empty()), Errno::ACCESS);
            refused(setxattr(&path, "trusted.note", b"2", XattrFlags::empty()), Errno::PERM);
            refused(setxattr(&path, "security.capability", &CAP_NET_RAW, XattrFlags::empty()), Errno::PERM);
        }
        refused(removexattr(union.at("d/f"), "user.note"), Errno::ACCESS);
        refused(fs::create_dir(union.at("d/new")), Errno::ACCESS);
        refused(std::os::unix::fs::symlink("f", union.at("d/new")), Errno::ACCESS);
        refused(fs::rename(union.at("d/f"), union.at("d/new")), Errno::ACCESS);
        refused(fs::rename(union.at("d"), union.at("new")), Errno::ACCESS);
        refused(fs::remove_dir(union.at("d/sub")), Errno::ACCESS);
        refused(File::options().append(true).open(union.at("d/f")), Errno::ACCESS);
        refused(openat(CWD, union.at("d/f"), OFlags::TRUNC, Mode::empty()), Errno::ACCESS);
    });
    assert!(union.in_upper().is_empty(), "{:?}", union.in_upper());
}

#[test]
fn a_member_of_the_group_may_what_the_group_may() {
    needs_root!("other users");
    let mut union = for_all_users(|b| {
        b.file("d/f", "text").owner("d/f", ALICE, BOB).mode("d/f", 0o060).owner("d", 0, BOB).mode("d", 0o2770)
    });
    let carol = ALICE + 100;
    as_user(carol, || refused(fs::read(union.at("d/f")), Errno::ACCESS));
    as_member(carol, &[BOB], || {
        overwrite(union.at("d/f"), 0, "T");
        fs::write(union.at("d/new"), "new").unwrap();
        // To one of the own groups, and back.
        chown(union.at("d/new"), None, Some(carol)).unwrap();
        chown(union.at("d/new"), None, Some(BOB)).unwrap();
        fs::set_permissions(union.at("d/new"), Permissions::from_mode(0o2755)).unwrap();
        refused(chown(union.at("d/new"), None, Some(ALICE)), Errno::PERM);
        // Whom the owner's bits lock out, the group's do not let in; here it is not the owner who asks.
        assert_eq!(text(union.at("d/f")), "Text");
    });
    as_member(ALICE, &[BOB], || refused(fs::read(union.at("d/f")), Errno::ACCESS));
    for _ in 0..2 {
        let new = stat(union.at("d/new"));
        assert_eq!((new.uid(), new.gid(), new.mode() & 0o7777), (carol, BOB, 0o2755));
        union.remount();
    }
}

#[test]
fn access_answers_by_the_mode_that_is_shown_before_and_after_a_copy_up() {
    needs_root!("other users");
    let union = for_all_users(|b| {
        b.file("f", "").owner("f", ALICE, BOB).mode("f", 0o740).file("plain", "").mode("plain", 0o644)
    });
    let may = |path: &str, how| accessat(CWD, union.at(path), how, AtFlags::EACCESS).is_ok();
    for round in ["in a lower", "in the upper"] {
        for (user, expected) in
            [(ALICE, [true, true, true]), (BOB, [true, false, false]), (ALICE + 9, [false; 3])]
        {
            let asked = as_user(user, || {
                [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK].map(|how| may("f", how))
            });
            assert_eq!(asked, expected, "{user}, {round}");
        }
        assert!(may("f", Access::EXEC_OK), "root, somebody may");
        assert!(!may("plain", Access::EXEC_OK), "root, nobody may");
        assert!(!may("missing", Access::EXISTS));
        overwrite(union.at("f"), 0, "x");
        overwrite(union.at("plain"), 0, "x");
    }
}

#[test]
fn a_write_by_an_ordinary_user_takes_file_capabilities_away() {
    needs_root!("file capabilities");
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 3] = [
        ("write", |path| overwrite(path, 0, "x")),
        ("append", |path| sh_append(path)),
        ("truncate", |path| File::options().write(true).open(path).unwrap().set_len(2).unwrap()),
    ];
    for (what, change) in changes {
        let mut union = for_all_users(|b| {
            b.file("f", "program").mode("f", 0o777).xattr("f", "security.capability", CAP_NET_RAW)
        });
        assert_eq!(getxattr(union.at("f"), "security.capability", &mut [0; 32]), Ok(20));
        as_user(ALICE, || change(&union.at("f")));
        for _ in 0..2 {
            for path in [union.at("f"), union.upper("f")] {
                refused(getxattr(path, "security.capability", &mut [0; 32]), Errno::NODATA);
            }
            union.remount();
        }
        assert_eq!(mode(union.at("f")), 0o777, "{what}");
    }
}
