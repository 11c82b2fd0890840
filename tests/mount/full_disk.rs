//! A disk that is full: an operation is done whole or refused whole, however little room there is.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::common::{Branch, Tmpfs, Union, needs_root, overwrite, refused, sh};

/// A change, of a name in a union that [`fill`] has filled.
type Change = (&'static str, fn(&Union) -> io::Result<()>);

fn fill(b: Branch) -> Branch {
    b.file("f", "file f")
        .file("deep/er/g", "file g")
        .file("d/one", "1")
        .file("d/sub/two", "2")
        .file("linked", "three names")
        .link("linked", "deep/linked")
        .link("linked", "d/linked")
}

fn exchange(union: &Union, one: &str, other: &str) -> io::Result<()> {
    Ok(renameat_with(CWD, union.at(one), CWD, union.at(other), RenameFlags::EXCHANGE)?)
}

fn chmod(union: &Union, path: &str) -> io::Result<()> {
    fs::set_permissions(union.at(path), fs::Permissions::from_mode(0o700))
}

const CHANGES: [Change; 11] = [
    ("write", |u| chmod(u, "deep/er/g")),
    ("write by one of three names", |u| chmod(u, "d/linked")),
    ("unlink", |u| fs::remove_file(u.at("deep/er/g"))),
    ("move a file", |u| fs::rename(u.at("f"), u.at("deep/er/f"))),
    ("move a file over another", |u| fs::rename(u.at("f"), u.at("deep/er/g"))),
    ("move one of three names", |u| fs::rename(u.at("d/linked"), u.at("moved"))),
    ("move a directory", |u| fs::rename(u.at("d"), u.at("deep/d"))),
    ("exchange two files", |u| exchange(u, "f", "deep/er/g")),
    ("exchange a file and a directory", |u| exchange(u, "f", "d")),
    ("one more name", |u| fs::hard_link(u.at("f"), u.at("deep/f"))),
    ("a directory in a lower one", |u| fs::create_dir(u.at("deep/er/new"))),
];

/// All that users see but times, and link counts of directories: a parent that is in the upper already has
/// another one.
fn seen(union: &Union) -> String {
    sh(
        union.root(),
        "find . -type d -printf '%p %y %m %i\\n' -o -printf '%p %y %m %n %i\\n' | sort
         find . -type f | sort | while read f; do cat $f; echo; done",
    )
}

/// Every step of every operation finds no room, one after the other.
#[test]
fn an_operation_that_finds_no_room_halfway_has_not_begun() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::of_files(60);
    let mut union = Union::builder().writable_in(disk.path()).lower(fill).mount();
    for (what, change) in CHANGES {
        change(&union).unwrap();
        union.remount();
        let changed = seen(&union);
        union.start_over();
        let original = seen(&union);
        assert_ne!(without_numbers(&original), without_numbers(&changed), "{what}");
        let mut refusals = 0;
        for room in 0.. {
            let mut fillers = Some(disk.leave_room(room, u64::MAX));
            let outcome = change(&union);
            let done = outcome.is_ok();
            for round in ["at once", "after a remount"] {
                if done {
                    assert_eq!(
                        without_numbers(&seen(&union)),
                        without_numbers(&changed),
                        "{what}, {room}, {round}"
                    );
                } else {
                    assert_eq!(seen(&union), original, "{what}, room for {room}, {round}");
                }
                drop(fillers.take());
                union.remount();
            }
            if done {
                break;
            }
            refused(outcome, Errno::NOSPC);
            refusals += 1;
            union.start_over();
        }
        assert!(refusals > 0, "{what} takes no room");
        union.start_over();
    }
    overwrite(union.at("f"), 0, "F");
}

/// New directories have new numbers.
fn without_numbers(seen: &str) -> String {
    let is_entry = |line: &str| line.starts_with('.');
    let cut = |line| str::rsplit_once(line, ' ').map_or(line, |(rest, _)| rest);
    seen.lines().map(|line| if is_entry(line) { cut(line) } else { line }).collect::<Vec<_>>().join("\n")
}
