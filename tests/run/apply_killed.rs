//! `plyfs apply` ends at every call that changes something, or one of them fails: each path is as it was or as it is to
//! be, and the same command once more comes to the same end.

use std::process::Command;

use crate::stage::{Stage, an_ordinary_user, say_not_played};

/// All that may change the disk.
const CALLS: &str = "mkdirat,mkdir,linkat,symlinkat,mknodat,renameat,renameat2,unlinkat,unlink,fsync,syncfs,pwrite64,write,ftruncate,\
                     copy_file_range,fchmod,fchmodat,chmod,fchown,fchownat,fsetxattr,setxattr,utimensat";

const BEFORE: &str = "mkdir -p w/d w/gone w/dir; cd w; echo old > a; echo old > d/moved; echo old > gone/g; echo old > dir/x; echo old > was-file
     echo old > h1; ln h1 h2; ln -s old l; chmod 700 d";
const CHANGE: &str = "cd ~/w; echo new > a; mv d e; rm -r gone; rm -r dir; echo new > dir; rm was-file; mkdir was-file; echo new > was-file/in
     echo new > h1; ln -sfn new l; mkdir -p n/er; echo new > n/er/f; chmod 750 n; echo new > again; ln again again2";
const LOOK: &str =
    "cd ~/w; find . -printf '%P %y %m %n %l\n' | sort; find . -type f | sort | xargs -r tail -n +1";

fn prepared() -> Stage {
    let stage = Stage::new(an_ordinary_user());
    stage.sh(&format!("{BEFORE}; plyfs run --name k -- sh -euc '{CHANGE}'"));
    stage
}

fn look(stage: &Stage) -> String {
    stage.sh(LOOK)
}

/// Whether every file holds what it held or what it is to hold. Under the names that are in use meanwhile anything may be.
fn is_whole(stage: &Stage) -> bool {
    let files = stage.sh("cd ~/w; find . -type f ! -path '*/.plyfs-apply-*' | sort | while read -r f; do tr '\\n' ' ' < \"$f\"; done");
    files.split_whitespace().all(|word| word == "old" || word == "new")
}

/// At every `step`-th call.
fn at_every_call(fault: &str, step: usize) {
    if Command::new("strace").arg("-V").output().is_err() {
        return say_not_played("needs strace");
    }
    let after = {
        let stage = prepared();
        stage.sh("plyfs apply k");
        look(&stage)
    };
    let mut at = 1;
    let mut has_changed = 0;
    loop {
        let stage = prepared();
        let before = look(&stage);
        let done = stage.output(&format!(
            "strace -f -qq -o /dev/null -e trace={CALLS} -e inject={CALLS}:{fault}:when={at} plyfs apply k"
        ));
        let now = look(&stage);
        // Of a file with several names, one is written in its place.
        let in_place = now.contains("/h1 <==\n\n");
        assert!(is_whole(&stage) || in_place, "{fault} {at}\n{now}");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        if said.contains("nothing was done") {
            assert_eq!(now, before, "{fault} {at}: {said}");
        }
        has_changed += u32::from(now != before && now != after);
        let once_more = stage.output("plyfs apply k");
        assert!(
            once_more.status.success(),
            "{fault} {at}: {said}\n{}",
            String::from_utf8_lossy(&once_more.stderr)
        );
        assert_eq!(look(&stage), after, "{fault} {at}");
        assert_eq!(stage.sh("find . -name '.plyfs-apply-*'; plyfs apply k"), "", "{fault} {at}");
        if done.status.success() {
            break;
        }
        at += step;
        assert!(at < 500, "it never ends");
    }
    assert!(has_changed > 3, "it was not ended in the midst of it: {has_changed}");
}

#[test]
fn killed_anywhere_it_can_be_repeated() {
    at_every_call("signal=KILL", 1);
}

#[test]
fn a_call_that_fails_leaves_nothing_half_done() {
    at_every_call("error=ENOSPC", 3);
}
