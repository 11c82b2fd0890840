//! A snapshot or a rewind ends at every call that changes the disk, or one of them fails: then it is as before or as
//! after, in this mount and in the next.

use std::process::{Command, Stdio};

use crate::common::{Playground, injected, needs_root};

/// All that may change the disk. Replies to the kernel go by others.
const CALLS: &str = "mkdirat,linkat,renameat,renameat2,unlinkat,fsync,fdatasync,pwrite64,write,fchmod,fchmodat,fchown,\
                     fchownat,fsetxattr,setxattr,utimensat,ftruncate";

/// More than there are.
const MOST: usize = 120;

const MOUNT: &str = "plyfs -o lowerdir=low,upperdir=up m";

/// An upper with a snapshot and changes after it, in which copies have names in several branches.
fn stage() -> Playground {
    let play = Playground::new();
    play.sh(&format!(
        "mkdir -p low/d low/gone; echo low > low/f; echo a > low/d/a; ln low/d/a low/d/b; ln low/d/a low/c; echo g > low/gone/g
         mkdir up m; {MOUNT}; cd m; echo 1 > f; echo 1 >> d/a; mv gone moved; echo n > new; cd ..; plyfs snapshot m first
         cd m; echo 2 > f; echo 2 >> d/b; rm new; mkdir new; echo x > new/x; rm -r moved",
    ));
    play
}

fn tree(play: &Playground) -> String {
    play.sh("cd m; find . -printf '%P %y %m %n %l\n' | sort; tail -n +1 $(find . -type f | sort)")
}

/// `* NAME` of a snapshot that the upper lies on, `NAME` of another.
fn names(play: &Playground) -> Vec<String> {
    let list = play.sh("plyfs snapshots m");
    list.lines().map(|line| line[..line.find("  20").expect("a year")].trim().to_owned()).collect()
}

fn daemon(play: &Playground) -> u32 {
    let pid = play.sh("plyfs show m --json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'");
    pid.trim().parse().expect("a number")
}

/// Runs a command on the mount, which may fail or be without an answer.
fn try_it(play: &Playground, words: &[&str]) -> bool {
    let mut command = Command::new(crate::common::plyfs());
    command
        .args(words)
        .current_dir(play.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().expect("plyfs runs").success()
}

fn is_alive(play: &Playground) -> bool {
    play.path("m/f").exists()
}

/// Plays `command` with the fault at the first, second, … call, until it is beyond the last; `look` compares what there
/// was before with what there is now and after a remount.
fn at_every_call(fault: &str, command: &[&str], look: impl Fn(&Playground, &str, &str)) {
    for at in 1.. {
        assert!(at < MOST, "it never ends");
        let play = stage();
        let before = tree(&play);
        let mut done = false;
        let played =
            injected(daemon(&play), CALLS, &format!("{fault}:when={at}"), || done = try_it(&play, command));
        if !played {
            play.sh("plyfs umount m");
            return;
        }
        let alive = is_alive(&play);
        let place = format!("{fault}, call {at}");
        if alive {
            look(&play, &before, &place);
            play.sh("plyfs umount m");
        } else {
            play.sh("plyfs umount --lazy m");
        }
        play.sh(&format!("for i in $(seq 50); do {MOUNT} && exit 0; sleep 0.1; done; exit 1"));
        look(&play, &before, &format!("{place}, after a remount"));
        // Nothing is left of it, and all goes on.
        play.sh("for i in $(seq 100); do [ -z \"$(ls -A up.snapshots | grep '^\\.')\" ] && exit 0; sleep 0.1; done; ls -A up.snapshots; exit 1");
        let listed: Vec<String> =
            names(&play).iter().map(|line| line.trim_start_matches("* ").to_owned()).collect();
        let there = play.sh("ls up.snapshots | grep -v '^stack'");
        assert_eq!(
            there.lines().collect::<std::collections::BTreeSet<_>>(),
            listed.iter().map(String::as_str).collect(),
            "{place}"
        );
        play.sh("echo on >> m/d/a; cmp m/d/a m/c; cmp m/d/a m/d/b; plyfs snapshot m last; cmp m/d/a m/c; echo z > m/z; plyfs rewind m last; [ ! -e m/z ]; cmp m/d/a m/d/b; plyfs umount m");
        if done && alive {
            // Killed by none: it was beyond the last. One that fails may not matter.
            if fault.contains("KILL") || at > 45 {
                return;
            }
        }
    }
}

fn snapshot_holds(play: &Playground, before: &str, place: &str) {
    assert_eq!(tree(play), before, "{place}");
    let names = names(play);
    let is_one = names == ["* first"] || names == ["* first", "* second"];
    assert!(is_one, "{place}: {names:?}");
}

#[test]
fn a_snapshot_ends_at_any_call() {
    needs_root!("a minute, which is enough once");
    at_every_call("signal=KILL", &["snapshot", "m", "second"], snapshot_holds);
}

#[test]
fn a_snapshot_fails_at_any_call() {
    needs_root!("a minute, which is enough once");
    at_every_call("error=EIO", &["snapshot", "m", "second"], snapshot_holds);
}

/// What is shown after the rewind, played without a fault.
fn rewound() -> String {
    let play = stage();
    play.sh("plyfs rewind m first");
    let tree = tree(&play);
    play.sh("plyfs umount m");
    tree
}

#[test]
fn a_rewind_ends_at_any_call() {
    needs_root!("a minute, which is enough once");
    let after = rewound();
    at_every_call("signal=KILL", &["rewind", "m", "first"], |play, before, place| {
        let now = tree(play);
        assert!(now == before || now == after, "{place}: {now}");
    });
}

#[test]
fn a_rewind_fails_at_any_call() {
    needs_root!("a minute, which is enough once");
    let after = rewound();
    at_every_call("error=EIO", &["rewind", "m", "first"], |play, before, place| {
        let now = tree(play);
        assert!(now == before || now == after, "{place}: {now}");
    });
}
