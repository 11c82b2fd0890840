//! An upper that is full when it is mounted: it can be read, and what is in it can be deleted.

use std::fs;

use rustix::io::Errno;

use crate::common::{Branch, Tmpfs, Union, exists, needs_root, overwrite, text};

/// Row 19: room for so many files, and so many blocks of data.
const ROOMS: [(u64, u64); 4] = [(0, 0), (0, u64::MAX), (20, 0), (1, 0)];

fn lower(b: Branch) -> Branch {
    b.file("in_lower", "lower")
        .file("d/f", "lower")
        .file("a", "linked")
        .link("a", "b")
        .file("hidden", "lower")
}

/// Done whole, or refused for want of room and not begun.
#[track_caller]
fn is_done_or_finds_no_room(
    union: &Union,
    what: &str,
    change: impl Fn() -> std::io::Result<()>,
    done: impl Fn() -> bool,
    not_begun: impl Fn() -> bool,
) {
    let before = union.in_upper();
    match change() {
        Ok(()) => assert!(done(), "{what}: not done"),
        Err(e) => {
            assert_eq!(e.raw_os_error(), Some(Errno::NOSPC.raw_os_error()), "{what}: {e}");
            assert!(not_begun(), "{what}: half done");
            assert_eq!(union.in_upper(), before, "{what}");
        }
    }
}

#[track_caller]
fn is_read_and_emptied(union: &Union) {
    assert_eq!(text(union.at("mine")), "upper".repeat(3000));
    assert_eq!(text(union.at("d/f")) + &text(union.at("hidden")), "lowerupper");
    let gone = |name: &str| !exists(union.at(name));
    let remove = |name: &str| fs::remove_file(union.at(name));
    is_done_or_finds_no_room(
        union,
        "rm of a lower file",
        || remove("in_lower"),
        || gone("in_lower"),
        || text(union.at("in_lower")) == "lower",
    );
    is_done_or_finds_no_room(
        union,
        "rm of an upper file over a lower one",
        || remove("hidden"),
        || gone("hidden"),
        || text(union.at("hidden")) == "upper",
    );
    is_done_or_finds_no_room(
        union,
        "mkdir",
        || fs::create_dir(union.at("new")),
        || exists(union.at("new")),
        || gone("new"),
    );
    for name in (0..MINE).map(|index| format!("more{index}")).chain(["mine".to_owned()]) {
        remove(&name).unwrap_or_else(|e| panic!("rm of an upper file: {e}"));
        assert!(gone(&name));
    }
    fs::remove_dir(union.at("empty")).unwrap_or_else(|e| panic!("rmdir: {e}"));
    // What was freed is there to be used.
    if exists(union.at("in_lower")) {
        remove("in_lower").unwrap_or_else(|e| panic!("rm of a lower file, with room for its whiteout: {e}"));
    }
    assert!(gone("in_lower"));
}

/// So many files of the upper that their room is enough for a whiteout, and for all that a fresh workdir needs.
const MINE: usize = 12;

fn upper(b: Branch) -> Branch {
    let b = b.file("mine", "upper".repeat(3000)).dir("empty").file("hidden", "upper");
    (0..MINE).fold(b, |b, index| b.file(&format!("more{index}"), ""))
}

#[test]
fn it_mounts_with_a_fresh_workdir() {
    needs_root!("a tmpfs");
    for (files, blocks) in ROOMS {
        let disk = Tmpfs::small();
        let builder = Union::builder().writable_in(disk.path()).upper(upper).lower(lower);
        let fillers = disk.leave_room(files, blocks);
        let mut union = builder.mount();
        is_read_and_emptied(&union);
        drop(fillers);
        overwrite(union.at("d/f"), 0, "UPPER");
        union.remount();
        assert_eq!(text(union.at("d/f")), "UPPER");
    }
}

#[test]
fn it_mounts_with_a_used_workdir() {
    needs_root!("a tmpfs");
    for crashed in [false, true] {
        for (files, blocks) in ROOMS {
            let disk = Tmpfs::small();
            let mut union = Union::builder().writable_in(disk.path()).upper(upper).lower(lower).mount();
            overwrite(union.at("a"), 0, "LINK");
            let fillers;
            if crashed {
                fillers = disk.leave_room(files, blocks);
                union.crash_and_remount();
            } else {
                union.unmount();
                fillers = disk.leave_room(files, blocks);
                union.mount();
            }
            assert_eq!(["a", "b"].map(|name| text(union.at(name))), ["LINKed"; 2]);
            is_read_and_emptied(&union);
            assert_eq!(["a", "b"].map(|name| text(union.at(name))), ["LINKed"; 2]);
            drop(fillers);
            union.remount();
            assert_eq!(["a", "b"].map(|name| text(union.at(name))), ["LINKed"; 2]);
        }
    }
}
