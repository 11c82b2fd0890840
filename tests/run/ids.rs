//! Which users there are in a run.

use std::fs;
use std::process::Command;

use crate::stage::{Stage, Who, an_ordinary_user, is_root, say_not_played, succeeded};

/// Whether there is newuidmap(1), which lends ids.
fn has_newuidmap() -> bool {
    Command::new("newuidmap").output().is_ok()
}

/// With ids lent to the user, in a mount namespace of root's where /etc/subuid says so.
fn with_lent_ids(stage: &Stage, script: &str) -> String {
    let (lent, users) = (stage.home().join("lent"), stage.home().join("users"));
    fs::write(&lent, "54321:700000:65536\n").unwrap();
    // newuidmap(1) wants to know who he is.
    let known = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(&users, known + "plyfs-test:x:54321:54321::/:/bin/sh\n").unwrap();
    let before = format!(
        "for file in /etc/subuid /etc/subgid; do mount --bind {} $file; done; mount --bind {} /etc/passwd; exec \"$@\"",
        lent.display(),
        users.display()
    );
    let behind = ["unshare", "--mount", "sh", "-euc", &before, "sh"];
    succeeded(script, &stage.shell_behind(&behind, script).output().unwrap())
}

#[test]
fn with_lent_ids_everything_is_shown_as_outside() {
    if !is_root() || !has_newuidmap() {
        return say_not_played("needs root (a /etc/subuid of its own) and newuidmap");
    }
    let stage = Stage::new(Who::Somebody);
    let said = with_lent_ids(
        &stage,
        "touch own; stat -c '%u:%g %a' /etc/passwd /tmp own; plyfs run --name a -- sh -euc '
         id -u; stat -c \"%u:%g %a\" /etc/passwd /tmp own; touch new; stat -c %u:%g new
         touch /tmp/plyfs-lent; stat -c %u:%g /tmp /tmp/plyfs-lent; chown 5 new 2>/dev/null || echo no'",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], lines[4..7], "{said}");
    assert_eq!(
        (lines[3], &lines[7..]),
        ("54321", &["54321:54321", "0:0", "54321:54321", "no"][..]),
        "{said}"
    );
}

#[test]
fn with_lent_ids_root_gives_files_away_and_becomes_others() {
    if !is_root() || !has_newuidmap() {
        return say_not_played("needs root (a /etc/subuid of its own) and newuidmap");
    }
    let stage = Stage::new(Who::Somebody);
    let said = with_lent_ids(
        &stage,
        "plyfs run --root --name a -- sh -euc '
         id -u; touch f; chown 5:7 f; chmod 4750 f; stat -c \"%u:%g %a\" f
         as=\"setpriv --reuid 5 --regid 7 --clear-groups\"; $as id -u
         $as sh -c \"echo x > /tmp/plyfs-lent-5; stat -c %u:%g /tmp/plyfs-lent-5\"
         ls /root > /dev/null; touch /root/mine; cat /etc/shadow | wc -c; echo r:x:: > /etc/shadow; cat /etc/shadow
         echo q > ~/q; stat -c %u ~/q'; stat -c %u .local/state/plyfs/run/a/upper$PWD/f
         plyfs apply a q > /dev/null; stat -c %u q; plyfs apply a f 2>&1 || true
         plyfs apply --no-owners a f > /dev/null; stat -c %u:%a f",
    );
    let wanted = format!(
        "0\n5:7 4750\n5\n5:7\n0\nr:x::\n0\n54321\n54321\nplyfs: nothing was done: {}/f belongs to user 5 in the run: only root \
         gives files away (--no-owners makes them yours)\n54321:4750\n",
        stage.home().display()
    );
    assert_eq!(said, wanted);
}

#[test]
fn without_lent_ids_root_is_alone_and_installers_do_not_mind() {
    let stage = Stage::new(an_ordinary_user());
    let said = stage.sh("plyfs run --root --name a -- sh -euc '
         id -u; touch f; chown 33:33 f; chmod 4755 f; echo x >> /etc/group; tail -n 1 /etc/group
         cp -a /etc/passwd copy; tar cf t.tar copy; tar xpf t.tar --numeric-owner; stat -c %u copy; apt-config dump 2>/dev/null | grep -c Sandbox::User || true'");
    assert!(said.starts_with("0\nx\n0\n"), "{said}");
}

#[test]
fn files_of_the_users_other_groups_are_his_to_use() {
    if !is_root() {
        return say_not_played("needs root (another group)");
    }
    let stage = Stage::new(Who::Me);
    stage.sh("mkdir team; echo read > team/read; echo write > team/write; chgrp -R 7 team; chmod 2770 team
         chmod 640 team/read; chmod 660 team/write; mkdir mine; chown 54321:54321 mine");
    let script = "plyfs run --name g -- sh -euc '
        cat team/read; echo more >> team/write; cat team/write; touch team/new; (echo x >> team/read) 2>/dev/null || echo no'";
    let mut command = stage
        .shell("HOME=$PWD/mine exec setpriv --reuid 54321 --regid 54321 --groups 54321,7 sh -euc \"$0\"");
    command.arg(script);
    assert_eq!(succeeded(script, &command.output().unwrap()), "read\nwrite\nmore\nno\n");
    assert_eq!(stage.sh("cat team/write; ls team"), "write\nread\nwrite\n");
}
