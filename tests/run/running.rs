//! A command in a run: what it sees, what is left of what it does, and how it ends.

use std::time::{Duration, Instant};

use crate::stage::{Stage, an_ordinary_user, everybody};

#[test]
fn nothing_outside_is_changed() {
    for who in everybody() {
        let stage = Stage::new(who);
        stage.sh("mkdir -p src/deep .config; echo one > src/one; echo two > src/deep/two; ln -s one src/link; ln src/one hard
             chmod 751 src; chmod 600 .config; touch -d '2020-01-02 03:04:05.678' src/one; mkfifo pipe
             setfattr -n user.key -v value src/one");
        let before = stage.all();
        let inside = stage.sh("plyfs run --name all -- sh -euc '
             echo more >> src/one; cat hard; chmod 700 src; mv src/deep moved; rm link 2>/dev/null || true
             setfattr -n user.key -v other src/one; setfattr -n user.new -v x src; touch -d 2001-01-01 pipe
             ln src/one src/again; mkdir new; echo n > new/n; echo tmp > /tmp/plyfs-run-test-$$; cat /tmp/plyfs-run-test-$$
             rm -rf src .config; ls -A'");
        assert_eq!(inside, "one\nmore\ntmp\n.local\nhard\nmoved\nnew\npipe\n");
        assert_eq!(stage.all(), before, "{who:?}");
        assert_eq!(stage.sh("ls /tmp | grep -c plyfs-run-test- || true"), "0\n");
        let diff = stage.sh("plyfs diff all | grep home");
        assert!(
            diff.contains("/home/moved/two\n") && diff.contains("D ") && diff.contains("/home/src\n"),
            "{diff}"
        );
        // All of it but for the place of runs, where something is mounted; and the run goes on.
        assert_eq!(
            stage.sh("plyfs run --name all -- sh -c 'rm -rf ~ 2>/dev/null; ls -A ~; cat moved/two 2>/dev/null || echo gone'"),
            ".local\ngone\n"
        );
        assert_eq!(stage.all(), before, "{who:?}");
        stage.sh("plyfs discard all; [ -z \"$(plyfs runs)\" ]; [ -z \"$(ls -A .local/state/plyfs/run)\" ]");
    }
}

#[test]
fn the_command_is_run_as_it_would_be_outside() {
    for who in everybody() {
        let stage = Stage::new(who);
        let said = stage.sh("mkdir 'a b'; cd 'a b'; pwd; id -u; id -g
             echo in | WORD='x  y' plyfs run -- sh -c 'pwd; id -u; id -g; cat; echo \"$WORD\" \"$1\" \"$#\"' sh 'a  b' '' c");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..3], lines[3..6], "{who:?}");
        assert_eq!(lines[6..], ["in", "x  y a  b 3"]);
        for (script, code) in [
            ("plyfs run -- true", 0),
            ("plyfs run -- false", 1),
            ("plyfs run -- sh -c 'exit 77'", 77),
            ("plyfs run -- no-such-program-anywhere", 127),
            ("plyfs run -- /etc", 126),
            ("plyfs run -- ./missing", 127),
            ("plyfs run --name a/b -- true", 125),
            ("plyfs run --lower /no/such/dir -- true", 125),
            ("plyfs run --pass /no/such/dir -- true", 125),
            ("plyfs run --pass / -- true", 125),
            ("cd /; plyfs run --hide $HOME -- test ! -e $HOME", 0),
        ] {
            stage.fails(code, script);
        }
        // Signals end it as they end the command, and are handed on.
        stage.fails(143, "plyfs run -- sh -c 'kill -TERM $$'; exit $?");
        stage.fails(143, "plyfs run --name k -- sleep 30 & pid=$!; live k; kill $pid; wait $pid");
        assert_eq!(
            stage.sh("plyfs discard k
                 plyfs run -- sh -c 'trap \"echo usr; exit 0\" USR1; echo trapped >&2; while :; do sleep 0.05; done' 2> said & pid=$!
                 while ! grep -q trapped said; do sleep 0.02; done; rm said
                 kill -USR1 $pid; wait $pid"),
            "usr\n"
        );
        assert_eq!(stage.sh("plyfs runs"), "", "what has changed nothing leaves nothing");
    }
}

#[test]
fn a_run_is_listed_entered_again_joined_and_dropped() {
    for who in everybody() {
        let stage = Stage::new(who);
        stage.sh("plyfs run -- touch numbered; plyfs run --name own -- sh -c 'echo a > f'");
        let list = stage.sh("plyfs runs");
        assert!(
            list.starts_with("1    -") && list.lines().nth(1).is_some_and(|line| line.starts_with("own  -")),
            "{list}"
        );
        assert!(list.contains("touch numbered"), "{list}");
        assert!(stage.sh("plyfs runs --json").contains("\"name\": \"own\""));
        assert_eq!(
            stage.sh("plyfs run --name own -- sh -c 'cat f; echo b >> f'; plyfs run --name own -- cat f"),
            "a\na\nb\n"
        );
        let joined = stage.sh("plyfs run --name own -- sh -c 'echo ready; while [ ! -e stop ]; do sleep 0.02; done; cat stop' & live own
             plyfs run --name own -- sh -c 'cat f; echo from-the-other > stop'; wait; [ ! -e stop ]; [ ! -e f ]");
        assert!(joined.ends_with("a\nb\nfrom-the-other\n"), "{joined}");
        let live = stage.fails(4, "plyfs run --name own -- sleep 30 & live own; plyfs runs; code=0; plyfs discard own || code=$?; kill $!; wait $! || true; exit $code");
        assert!(live.contains("live:1") && live.contains("run own is live (process "), "{live}");
        assert!(
            stage.fails(125, "plyfs run --name own --hide /x -- true").contains("--hide is for a new run")
        );
        stage.sh("plyfs discard own 1; [ -z \"$(plyfs runs)\" ]");
        assert!(stage.fails(3, "plyfs discard own").contains("there is no run own"));
        assert!(stage.fails(3, "plyfs apply own").contains("there is no run own"));
        stage.sh("plyfs run --name gone --discard -- touch f; [ -z \"$(plyfs runs)\" ]");
    }
}

#[test]
fn what_goes_on_in_the_background_keeps_the_run() {
    let stage = Stage::new(an_ordinary_user());
    let said = stage.output(
        "plyfs run --name bg -- sh -c 'setsid sh -c \"sleep 1; echo late > late\" >/dev/null 2>&1 & echo started'
         plyfs runs; while plyfs runs | grep -q live; do sleep 0.05; done; plyfs runs; plyfs run --name bg -- cat late",
    );
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(err.contains("run bg goes on"), "{err}");
    assert!(
        out.starts_with("started\nbg  live:") && out.ends_with("late\n") && out.contains("bg  -"),
        "{out}"
    );
}

#[test]
fn the_end_of_the_daemon_ends_the_run_and_loses_nothing() {
    for who in everybody() {
        let stage = Stage::new(who);
        let began = Instant::now();
        let said = stage.fails(125, "plyfs run --name d -- sh -c 'echo kept > kept; sleep 60; echo never' & pid=$!; live d; plyfs run --name d -- sh -c 'while [ ! -e kept ]; do sleep 0.02; done'
             for daemon in $(pgrep -x plyfs); do
                 if tr '\\0' ' ' < /proc/$daemon/cmdline | grep -q \"mount --session-checks.*$HOME\"; then kill -9 $daemon; fi
             done
             wait $pid");
        assert!(began.elapsed() < Duration::from_secs(30), "it hangs");
        assert!(said.contains("the daemon of run d has ended") && !said.contains("never"), "{said}");
        assert_eq!(stage.sh("plyfs run --name d -- cat kept"), "kept\n");
    }
}

#[test]
fn only_what_was_asked_for_is_passed_hidden_or_shown() {
    for who in everybody() {
        let stage = Stage::new(who);
        stage.sh("mkdir -p .ssh shared; echo key > .ssh/id; echo token > token; echo s > shared/s");
        let inside = stage.sh("plyfs run --name p --pass shared --hide .ssh --hide token --hide later -- sh -euc '
             ls -A | tr \"\\n\" \" \"; cat token .ssh/id 2>/dev/null || echo hidden
             echo real > shared/real; echo mine > token; cat token; [ -z \"$(ls .local/state/plyfs/run)\" ]'
             echo late > later; plyfs run --name p -- sh -c 'cat later 2>/dev/null || echo hidden'; cat shared/real token");
        assert_eq!(inside, ".local shared hidden\nmine\nhidden\nreal\ntoken\n");
        let inside = stage.sh("plyfs run --name none --net none -- sh -c 'tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d \" \"'");
        assert_eq!(inside, "lo\n");
    }
}

#[test]
fn a_workspace_keeps_its_own_and_shares_the_rest() {
    for who in everybody() {
        let stage = Stage::new(who);
        stage.sh("mkdir -p app/src base; echo v1 > app/src/f; echo below > base/below; echo hidden > base/secret; mkdir app/w");
        let inside = stage.sh("plyfs run --name w --lower app --lower base --hide app/secret -- sh -euc '
             cd app; cat src/f below; [ ! -e secret ]; echo v2 > src/f; cat src/f; echo out > ../outside
             [ -z \"$(ls ~/.local/state/plyfs/run)\" ]'; cat app/src/f outside; plyfs diff w; plyfs apply w; cat app/src/f");
        let applied = format!("M {}/app/src/f\n", stage.home().display());
        assert_eq!(inside, format!("v1\nbelow\nv2\nv1\nout\nM /src/f\n{applied}v2\n"));
    }
}

#[test]
fn the_upper_may_be_kept_elsewhere() {
    let stage = Stage::new(an_ordinary_user());
    stage.sh(
        "mkdir up; plyfs run --name u --upper up -- sh -c 'echo x > x; [ -z \"$(ls -A up)\" ] || [ ! -e up ]'
         [ -e up$PWD/x ]; plyfs diff u | grep -q x; plyfs discard u; [ -e up$PWD/x ]; ls -A",
    );
}

#[test]
fn runs_are_apart_from_each_other() {
    let stage = Stage::new(an_ordinary_user());
    let said = stage.sh("mkdir app; echo base > app/f
         for n in $(seq 12); do plyfs run --name agent-$n --lower app -- sh -c \"sleep 0.3; echo $n >> app/f; cat app/f | tr '\\n' ' '\" > out-$n & done; wait
         cat out-* | sort; cat app/f; plyfs runs | wc -l");
    let mut wanted: Vec<String> = (1..=12).map(|n| format!("base {n} ")).collect();
    wanted.sort();
    assert_eq!(said, format!("{}\nbase\n12\n", wanted.concat()));
}

#[test]
fn a_run_in_a_run_has_its_own_runs() {
    for who in everybody() {
        let stage = Stage::new(who);
        let said = stage.sh("echo one > f; plyfs run --name outer -- sh -euc '
             echo two > f; plyfs run --name inner -- sh -c \"cat f; echo three > f; cat f\"; cat f; plyfs runs | cut -d\" \" -f1
             plyfs apply inner > /dev/null; cat f'; cat f; plyfs runs | cut -d' ' -f1");
        assert_eq!(said, "two\nthree\ntwo\ninner\nthree\none\nouter\n", "{who:?}");
    }
}

#[test]
fn many_short_processes_and_sockets_work() {
    let stage = Stage::new(an_ordinary_user());
    let said = stage.sh("plyfs run --name many -- sh -euc '
         for n in $(seq 400); do echo $n > f-$n; cat f-$n > /dev/null; rm f-$n; done; ls -A | grep -c f- || true
         if command -v python3 >/dev/null; then python3 - <<PY
import socket, threading
server = socket.socket(socket.AF_UNIX); server.bind(\"sock\"); server.listen()
def answer():
    client, _ = server.accept(); client.sendall(client.recv(100).upper()); client.close()
thread = threading.Thread(target=answer); thread.start()
client = socket.socket(socket.AF_UNIX); client.connect(\"sock\"); client.sendall(b\"hello\"); print(client.recv(100).decode())
thread.join()
PY
         else echo HELLO; fi; [ ! -e /proc/self/fd/3 ]'");
    assert_eq!(said, "0\nHELLO\n");
}

#[test]
fn what_is_killed_while_a_run_is_made_or_dropped_is_in_nobodys_way() {
    let stage = Stage::new(an_ordinary_user());
    stage.sh("plyfs run --name a -- touch x; mkdir .local/state/plyfs/run/half .local/state/plyfs/run/2; touch .local/state/plyfs/run/half/lock");
    assert_eq!(stage.sh("plyfs runs | cut -d' ' -f1"), "a\n");
    assert!(stage.fails(125, "plyfs run --name half -- true").contains("`plyfs discard` removes it"));
    stage.sh("plyfs discard half; plyfs run --name half -- touch y; plyfs run -- touch z; plyfs discard half a 1; plyfs run -- touch w; plyfs runs");
}

#[test]
fn the_terminal_is_the_commands() {
    let stage = Stage::new(an_ordinary_user());
    let said = stage.sh("script -qec 'plyfs run -- tty' /dev/null < /dev/null | tr -d '\\r'
         (sleep 3; printf '\\003'; sleep 1) | script -qec 'trap : INT; plyfs run -- sleep 30; echo rc=$?' /dev/null | grep -o 'rc=[0-9]*'
         (sleep 3; printf '\\032'; sleep 1) | script -qec 'set -m; plyfs run -- sleep 30; echo rc=$?; kill %1; wait' /dev/null | grep -o 'rc=[0-9]*'");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{said}");
    assert_eq!(lines[1..], ["rc=130", "rc=148"], "{said}");
}
