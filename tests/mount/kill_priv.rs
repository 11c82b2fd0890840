//! suid and sgid, and a change of the file's data: as on a disk, the caller's groups decide, and not the daemon's.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

use crate::common::{ALICE, BOB, Union, as_member, as_user, mode, needs_root, overwrite, stat};

const CAROL: u32 = ALICE + 100;

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn copy_within(path: &Path) {
    let (from, to) = (open(path), open(path));
    let copied = copy_file_range(&from, Some(&mut 0), &to, Some(&mut 100), 4).unwrap();
    assert_eq!(copied, 4);
}

type Change = fn(&Path);

/// Each on a file of its own: what changes a file's data.
const CHANGES: [(&str, Change); 6] = [
    ("write", |path| overwrite(path, 0, "T")),
    ("truncate", |path| open(path).set_len(2).unwrap()),
    ("cut_off", |path| drop(File::create(path).unwrap())),
    ("reserve", |path| fallocate(open(path), FallocateFlags::empty(), 0, 100).unwrap()),
    ("punch", |path| {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(open(path), punch, 0, 2).unwrap();
    }),
    ("copy", copy_within),
];

/// A file for each change, once in the upper and once in a lower.
fn files(group: u32, mode: u32) -> Union {
    let fill = |b: crate::common::Branch, branch: &str| {
        CHANGES.iter().fold(b, |b, (what, _)| {
            let path = format!("{branch}/{what}");
            b.file(&path, "text").owner(&path, ALICE, group).mode(&path, mode)
        })
    };
    let union =
        Union::builder().option("allow_other").upper(|b| fill(b, "upper")).lower(|b| fill(b, "lower"));
    union.mount()
}

#[track_caller]
fn change_all(union: &Union, expected: u32) {
    for branch in ["upper", "lower"] {
        for (what, change) in CHANGES {
            let path = union.at(branch).join(what);
            change(&path);
            assert_eq!(mode(&path), expected, "{branch}, {what}");
            assert_eq!(stat(&path).uid(), ALICE, "{branch}, {what}");
        }
    }
}

#[test]
fn a_member_of_the_group_keeps_sgid_where_the_group_may_not_execute() {
    needs_root!("other users");
    for (before, after) in [(0o2666, 0o2666), (0o6666, 0o2666), (0o2676, 0o676), (0o4777, 0o777)] {
        let union = files(BOB, before);
        as_member(CAROL, &[CAROL + 1, BOB], || change_all(&union, after));
        let union = files(BOB, before);
        // By the group that his new files get.
        as_user(BOB, || change_all(&union, after));
    }
}

#[test]
fn an_outsider_loses_sgid_although_the_group_is_the_daemons() {
    needs_root!("other users");
    let union = files(0, 0o2666);
    as_member(CAROL, &[BOB], || change_all(&union, 0o666));
    for (what, _) in CHANGES {
        assert_eq!(mode(union.upper(format!("lower/{what}"))), 0o666, "{what}");
    }
}

#[test]
fn root_takes_neither_away() {
    needs_root!("other users");
    let union = files(BOB, 0o6676);
    change_all(&union, 0o6676);
}

/// Mapped, the groups that count are those that users see.
#[test]
fn the_group_is_the_one_that_is_shown() {
    needs_root!("other users");
    let map = format!("gidmapping=0:0:1:{BOB}:{CAROL}:1,uidmapping=0:0:1:{ALICE}:{ALICE}:1");
    let union = Union::builder()
        .option("allow_other")
        .option(&map)
        .lower(|b| ["f", "g"].iter().fold(b, |b, f| b.file(f, "text").owner(f, ALICE, BOB).mode(f, 0o2666)))
        .mount();
    as_member(ALICE, &[CAROL], || overwrite(union.at("f"), 0, "T"));
    assert_eq!(mode(union.at("f")), 0o2666);
    as_member(ALICE, &[BOB], || overwrite(union.at("g"), 0, "T"));
    assert_eq!(mode(union.at("g")), 0o666);
}
