//! What cannot be reached from inside a run.

use crate::stage::{Stage, an_ordinary_user, everybody, is_root_of_a_namespace, say_not_played};

#[test]
fn the_upper_the_control_and_other_runs_are_out_of_reach() {
    for who in everybody() {
        let stage = Stage::new(who);
        stage.sh("plyfs run --name other -- touch of-another");
        let said = stage.sh("plyfs run --name r -- sh -euc '
             echo x > x; ls .local/state/plyfs/run | wc -l
             plyfs snapshot / 2>/dev/null || echo no snapshot; plyfs snapshot r 2>/dev/null || echo no run
             plyfs branch add / /usr 2>/dev/null || echo no branch
             for pid in $(pgrep -x plyfs); do
                 ls -d /proc/$pid/root/. /proc/$pid/cwd/. 2>/dev/null || true
                 cat /proc/$pid/environ 2>/dev/null || true; ls -dL /proc/$pid/fd/* 2>/dev/null || true
             done
             ls /proc/1/root/ 2>/dev/null || echo no root
             rm -rf .local/state/plyfs/run/r; echo fake > .local/state/plyfs/run/fake; plyfs runs | wc -l'
             [ -e .local/state/plyfs/run/r/about ]; [ ! -e .local/state/plyfs/run/fake ]; plyfs runs | cut -d' ' -f1");
        assert_eq!(said, "0\nno snapshot\nno run\nno branch\nno root\n0\nother\nr\n", "{who:?}");
        assert!(stage.sh("plyfs diff r").ends_with("/home/x\n"));
    }
}

#[test]
fn root_in_a_run_is_root_of_nothing_outside() {
    for who in everybody() {
        let stage = Stage::new(who);
        let said = stage.sh("plyfs run --root --name r -- sh -euc '
             id -u; echo changed > /etc/plyfs-test; cat /etc/plyfs-test; chown 0:0 /etc/plyfs-test
             mknod null c 1 3 2>/dev/null || echo no device
             umount -l / 2>/dev/null || echo no umount
             umount -l /proc 2>/dev/null || echo stays; [ -e /proc/1 ]
             mount -t tmpfs none /mnt && umount /mnt && echo mounts'; [ ! -e /etc/plyfs-test ]");
        assert!(said.starts_with("0\nchanged\nno device\nno umount\nstays\n"), "{who:?}: {said}");
    }
}

#[test]
fn what_is_hidden_beneath_what_is_passed_cannot_be_uncovered() {
    for who in everybody() {
        let stage = Stage::new(who);
        stage.sh("mkdir -p shared/secret; echo key > shared/secret/key; echo t > shared/token");
        for how in ["", "--root"] {
            let said = stage.sh(&format!(
                "plyfs run {how} --pass shared --hide shared/secret --hide shared/token -- sh -euc '
                 umount -l $HOME/shared/secret 2>/dev/null || true; umount -l $HOME/shared/token 2>/dev/null || true
                 umount -l $HOME/shared 2>/dev/null || true
                 ls shared/secret 2>/dev/null || true; cat shared/token 2>/dev/null || true; echo end'"
            ));
            assert_eq!(said, "end\n", "{who:?} {how}");
        }
    }
}

#[test]
fn what_belongs_to_others_is_as_outside() {
    if is_root_of_a_namespace() {
        return say_not_played("needs a user who is held to permissions");
    }
    let stage = Stage::new(an_ordinary_user());
    let said = stage.sh("plyfs run --name o -- sh -euc '
         (echo x >> /etc/passwd) 2>/dev/null || echo no; rm -f /etc/passwd 2>/dev/null || echo no
         touch /etc/new 2>/dev/null || echo no; cat /etc/shadow 2>/dev/null || echo no
         touch /tmp/plyfs-run-mine; rm /tmp/plyfs-run-mine; touch f; chmod 4755 f; ls -l f | cut -c1-10'");
    assert_eq!(said, "no\nno\nno\nno\n-rwsr-xr-x\n");
}
