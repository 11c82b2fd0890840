//! Steps of a run, and the way back.

use crate::stage::{Stage, everybody};

#[test]
fn a_step_is_undone_while_the_session_goes_on() {
    for who in everybody() {
        let stage = Stage::new(who);
        let said = stage.sh("echo 0 > f; plyfs run --name s -- sh -euc '
             echo 1 > f; : > ready; while [ ! -e go ]; do sleep 0.02; done; cat f; : > seen
             while [ ! -e end ]; do sleep 0.02; done; cat f' & live s
             plyfs run --name s -- sh -c 'while [ ! -e ready ]; do sleep 0.02; done'; plyfs snapshot s one
             plyfs run --name s -- sh -c 'echo 2 > f; echo go > go; while [ ! -e seen ]; do sleep 0.02; done'
             plyfs rewind s one; plyfs run --name s -- sh -c 'cat f; [ ! -e go ]; echo end > end'; wait; cat f");
        assert_eq!(said, "one\n2\n1\n1\n0\n", "{who:?}");
    }
}

#[test]
fn a_step_is_undone_when_the_session_has_ended() {
    for who in everybody() {
        let stage = Stage::new(who);
        let said = stage.sh("echo 0 > f; plyfs run --name s -- sh -c 'echo 1 > f; echo a > a'; plyfs snapshot s
             plyfs run --name s -- sh -c 'echo 2 > f; rm a; echo b > b'; plyfs snapshot s two; plyfs diff s | grep home
             plyfs rewind s 1; plyfs diff s | grep home; plyfs run --name s -- sh -c 'cat f a'
             plyfs apply s > /dev/null; cat f a
             plyfs rewind s two; plyfs apply s > /dev/null; cat f b; [ ! -e a ]; plyfs runs | wc -l; plyfs discard s
             ls .local/state/plyfs/run");
        let home = stage.home().display().to_string();
        let wanted = format!("1\ntwo\nA {home}/b\nM {home}/f\nA {home}/a\nM {home}/f\n1\na\n1\na\n2\nb\n1\n");
        assert_eq!(said, wanted, "{who:?}");
    }
}
