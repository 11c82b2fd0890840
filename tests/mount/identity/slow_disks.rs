//! A disk that stands still: only those wait who need what it holds back.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread;

use rustix::io::Errno;

use crate::common::{Branch, FaultyFs, Union, exists, names, overwrite, refused, stat, text};

/// What somebody does while something else stands still.
type Work = (&'static str, fn(&Union));

/// Row 12: in other directories, of the upper and of lowers.
const ELSEWHERE: [Work; 9] = [
    ("lookup", |u| assert_eq!(text(u.at("fast/f")), "fast")),
    ("listing", |u| assert_eq!(names(u.at("fast/list")), ["one", "two"])),
    ("create", |u| fs::write(u.at("fast/new"), "new").unwrap()),
    ("mkdir", |u| fs::create_dir_all(u.at("fast/new_dir/sub")).unwrap()),
    ("write", |u| overwrite(u.at("fast/deep/er/written"), 0, "WRI")),
    ("link", |u| fs::hard_link(u.at("fast/f"), u.at("fast/deep/link")).unwrap()),
    ("unlink", |u| fs::remove_file(u.at("fast/removed")).unwrap()),
    ("move a file", |u| fs::rename(u.at("fast/moves"), u.at("fast/deep/moved")).unwrap()),
    ("move a directory", |u| fs::rename(u.at("fast/tree"), u.at("fast/deep/tree")).unwrap()),
];

/// Row 12: in the directory that is being moved. What changes must be in the result. (In the directory above the kernel
/// itself lets nobody in who looks for a name.)
const INSIDE: [Work; 9] = [
    ("lookup", |u| assert_eq!(text(u.at("p/d/f")), "inside")),
    ("lookup below", |u| assert_eq!(text(u.at("p/d/sub/g")), "below")),
    ("lookup of what is not there", |u| assert!(!exists(u.at("p/d/missing")))),
    ("listing", |u| assert_eq!(names(u.at("p/d/list")), ["one", "two"])),
    ("stat of what is copied", |u| assert_eq!(stat(u.at("p/d/slow")).len(), 4)),
    ("create", |u| fs::write(u.at("p/d/new"), "new").unwrap()),
    ("create below", |u| fs::write(u.at("p/d/sub/new"), "new").unwrap()),
    ("write", |u| overwrite(u.at("p/d/written"), 0, "WRI")),
    ("unlink", |u| fs::remove_file(u.at("p/d/removed")).unwrap()),
];

fn fill(b: Branch) -> Branch {
    b.file("p/d/slow", "slow")
        .file("p/d/f", "inside")
        .file("p/d/sub/g", "below")
        .file("p/d/list/one", "")
        .file("p/d/list/two", "")
        .file("p/d/written", "written")
        .file("p/d/removed", "removed")
}

fn fill_fast(b: Branch) -> Branch {
    b.file("fast/f", "fast")
        .file("fast/list/one", "")
        .file("fast/list/two", "")
        .file("fast/deep/er/written", "written")
        .file("fast/removed", "")
        .file("fast/moves", "moves")
        .file("fast/tree/sub/f", "tree")
}

/// Starts a rename within one directory, lets it stand still, and does each work; nobody may wait for it. `check` looks
/// at the result, twice.
#[track_caller]
fn work_while_a_directory_moves(work: &[Work], check: impl Fn(&Union)) {
    let disk = FaultyFs::new();
    let lower = disk.dir("lower");
    fill(Branch::at(&lower));
    let mut union = Union::builder().lower(fill_fast).lower_at(lower).mount();
    // So that the kernel has it by name.
    assert!(stat(union.at("p/d")).is_dir());
    disk.stall_reads_of(&["lower/p/d/slow"], 0);
    thread::scope(|scope| {
        let moving = scope.spawn(|| fs::rename(union.at("p/d"), union.at("p/moved")));
        disk.until_stalled();
        for (what, act) in work {
            act(&union);
            assert!(disk.is_stalled() && !moving.is_finished(), "{what} waits for the rename");
        }
        disk.recover();
        moving.join().unwrap().unwrap();
    });
    for _ in 0..2 {
        assert!(!exists(union.at("p/d")));
        assert_eq!(text(union.at("p/moved/slow")), "slow");
        check(&union);
        union.remount();
    }
}

#[test]
fn nobody_elsewhere_waits_for_a_directory_to_move() {
    work_while_a_directory_moves(&ELSEWHERE, |union| {
        assert_eq!(names(union.at("p/moved")), ["f", "list", "removed", "slow", "sub", "written"]);
        assert_eq!(text(union.at("fast/new")), "new");
        assert_eq!(text(union.at("fast/deep/er/written")), "WRItten");
        assert_eq!(stat(union.at("fast/deep/link")).ino(), stat(union.at("fast/f")).ino());
        assert_eq!(text(union.at("fast/deep/tree/sub/f")) + &text(union.at("fast/deep/moved")), "treemoves");
        assert!(!exists(union.at("fast/removed")) && !exists(union.at("fast/moves")));
    });
}

#[test]
fn nobody_inside_waits_for_a_directory_to_move_and_what_changes_moves_along() {
    work_while_a_directory_moves(&INSIDE, |union| {
        assert_eq!(names(union.at("p/moved")), ["f", "list", "new", "slow", "sub", "written"]);
        assert_eq!(names(union.at("p/moved/sub")), ["g", "new"]);
        assert_eq!(text(union.at("p/moved/written")), "WRItten");
        assert_eq!(text(union.at("p/moved/new")), "new");
    });
}

/// Each alone, so that one that waits does not hide another.
#[test]
fn no_work_of_any_kind_waits_for_a_directory_to_move() {
    let all: Vec<_> = ELSEWHERE.into_iter().chain(INSIDE).collect();
    let work = |work: Work| thread::spawn(move || work_while_a_directory_moves(&[work], |_| ()));
    let under_way: Vec<_> = all.iter().map(|one| (one.0, work(*one))).collect();
    let waits = under_way.into_iter().filter_map(|(what, work)| work.join().is_err().then_some(what));
    let waiting: Vec<_> = waits.collect();
    assert!(waiting.is_empty(), "who waits: {waiting:?}");
}

/// Row 16: a lock that is held over a system call is everybody's.
#[test]
fn nobody_waits_for_a_sync_of_a_hard_linked_copy() {
    let mut syncs = 0;
    for after in 0.. {
        let disk = FaultyFs::new();
        let union = Union::builder()
            .writable_in(disk.path())
            .option("stable_inodes")
            .lower(|b| b.file("d/a", "text").link("d/a", "d/b").file("g/f", "other").file("g/h", "more"))
            .mount();
        let mut file = File::options().append(true).open(union.at("d/a")).unwrap();
        file.write_all(b" and more").unwrap();
        // In the upper: whoever changes names in a directory that is being synced waits for the disk's own lock.
        fs::write(union.at("g/old"), "").unwrap();
        disk.stall_syncs(after);
        let stalled = thread::scope(|scope| {
            let syncing = scope.spawn(|| file.sync_all());
            let stalled = disk.stalls_unless(|| syncing.is_finished());
            if stalled {
                let unless_waiting = |what: &str| assert!(disk.is_stalled(), "{what} waits for sync {after}");
                assert_eq!(text(union.at("g/f")), "other");
                unless_waiting("a lookup");
                assert_eq!(names(union.at("g")), ["f", "h", "old"]);
                unless_waiting("a listing");
                // A copy-up syncs what it copies; these need no sync of their own.
                fs::write(union.at("g/new"), "new").unwrap();
                unless_waiting("a new file");
                fs::rename(union.at("g/new"), union.at("g/newer")).unwrap();
                unless_waiting("a rename");
                fs::remove_file(union.at("g/h")).unwrap();
                unless_waiting("a removal");
            }
            disk.recover();
            syncing.join().unwrap().unwrap();
            stalled
        });
        if !stalled {
            break;
        }
        syncs += 1;
    }
    assert!(syncs > 0, "the file, its directory or the notes are synced");
}

/// What is made while the tree is gathered, and has gone again before it is published, has no whiteout.
#[test]
fn what_comes_and_goes_while_a_directory_moves_does_not_come_back() {
    let disk = FaultyFs::new();
    for name in ["a", "b", "c", "d"] {
        disk.file(&format!("d/{name}/f"), "slow file");
    }
    let union = Union::builder().lower_at(disk.path().to_owned()).mount();
    // Known to the kernel, so that nothing of the disk is asked.
    let made = ["a", "b", "c", "d"].map(|name| union.at("d").join(name));
    made.iter().for_each(|dir| assert_eq!(names(dir), ["f"]));
    disk.stall();
    thread::scope(|scope| {
        let moving = scope.spawn(|| fs::rename(union.at("d"), union.at("e")).unwrap());
        disk.until_stalled();
        for dir in &made {
            fs::write(dir.join("temporary"), "new").unwrap();
            fs::write(dir.join("removed"), "new").unwrap();
        }
        disk.recover();
        // The tree is being gathered, or has been.
        for dir in &made {
            drop(fs::rename(dir.join("temporary"), dir.join("final")));
            drop(fs::remove_file(dir.join("removed")));
        }
        moving.join().unwrap();
    });
    for name in ["a", "b", "c", "d"] {
        let left = names(union.at("e").join(name));
        let both = left.contains(&"temporary".to_owned()) && left.contains(&"final".to_owned());
        assert!(!both, "{name}: {left:?}");
    }
}

/// Takes a write lease (`F_SETLEASE`, `F_WRLCK`) on its argument and does not give it back before its input ends.
const HOLD_A_LEASE: &str = r#"
    $SIG{IO} = "IGNORE";
    open(my $file, "+<", $ARGV[0]) or die $!;
    fcntl($file, 1024, 1) or die $!;
    syswrite(STDOUT, "!");
    sysread(STDIN, my $end, 1);
"#;

/// Whoever opens the file would wait for up to 45 s, and everybody else with him once no event loop is left.
#[test]
fn a_lease_on_a_file_keeps_nobody_waiting() {
    let union = Union::builder().lower(|b| b.file("leased", "text").file("changed", "text")).mount();
    let holders = ["leased", "changed"].map(|name| {
        let mut holder = Command::new("perl")
            .args(["-e", HOLD_A_LEASE])
            .arg(union.lower_path(0).join(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        holder
    });
    refused(fs::read(union.at("leased")), Errno::AGAIN);
    let mut changed = File::options().append(true).open(union.at("changed")).unwrap();
    refused(changed.write_all(b" and more"), Errno::AGAIN);
    for mut holder in holders {
        drop(holder.stdin.take());
        assert!(holder.wait().unwrap().success());
    }
    assert_eq!(text(union.at("leased")), "text");
    changed.write_all(b" and more").unwrap();
    assert_eq!(text(union.at("changed")), "text and more");
}
