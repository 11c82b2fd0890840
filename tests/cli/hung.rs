//! Does every tool come back when a daemon does not?

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::stage::{Daemon, Said, Stage};

/// More than any tool waits.
const BOUND: Duration = Duration::from_secs(25);

fn in_time(run: impl FnOnce() -> Said) -> (Said, Duration) {
    let start = Instant::now();
    let said = run();
    let took = start.elapsed();
    assert!(took < BOUND, "{took:?}: {said:?}");
    (said, took)
}

fn stopped(stage: &Stage) -> Daemon {
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    daemon.signal(Signal::STOP);
    daemon
}

#[test]
fn a_lazy_unmount_asks_a_stopped_daemon_nothing() {
    let stage = Stage::new();
    let daemon = stopped(&stage);
    let (said, took) = in_time(|| stage.plyfs("umount -z m"));
    said.succeeds();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(stage.mounts().is_empty());
    daemon.signal(Signal::CONT);
    assert_eq!(daemon.ends().code(), Some(0));
}

#[test]
fn branches_and_stats_of_a_stopped_daemon_end_with_an_error() {
    let stage = Stage::new();
    let daemon = stopped(&stage);
    for line in ["branches m", "stats m"] {
        let (said, _) = in_time(|| stage.plyfs(line));
        said.fails(1, &["does not answer within 10 s", "plyfs umount --lazy"]);
    }
    daemon.signal(Signal::CONT);
    stage.plyfs("branches m").succeeds();
    stage.plyfs("umount m").succeeds();
    assert_eq!(daemon.ends().code(), Some(0));
}

#[test]
fn an_unmount_does_not_wait_for_ever_for_a_stopped_daemon() {
    let stage = Stage::new();
    let daemon = stopped(&stage);
    let (said, _) = in_time(|| stage.plyfs("umount m"));
    said.succeeds();
    assert!(stage.mounts().is_empty());
    daemon.signal(Signal::CONT);
    assert_eq!(daemon.ends().code(), Some(0));
}
