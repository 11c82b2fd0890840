//! Which system calls does the daemon make for something that we do?

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::temp_dir;

/// Runs `act` while strace watches the daemon. One line a call, in the order in which they ended;
/// None where this machine lets nobody watch.
pub(crate) fn traced(daemon: u32, calls: &str, act: impl FnOnce()) -> Option<Vec<String>> {
    let dir = temp_dir();
    let log = dir.path().join("log");
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-qq", "-e", &format!("trace={calls}"), "-p", &daemon.to_string(), "-o"])
        .arg(&log)
        .spawn()
        .expect("strace runs (scripts/check installs what the tests need)");
    if !is_attached(daemon, &mut strace) {
        super::say_not_played("this machine forbids strace of a running process");
        return None;
    }
    act();
    kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
    strace.wait().unwrap();
    let lines = fs::read_to_string(log).unwrap();
    Some(lines.lines().filter(|line| !line.contains("<unfinished")).map(str::to_owned).collect())
}

/// Runs `act` while strace lets something happen to one of the daemon's calls, as `-e inject=` of strace(1) has it. False
/// where this machine lets nobody do that.
pub(crate) fn injected(daemon: u32, calls: &str, fault: &str, act: impl FnOnce()) -> bool {
    let inject = format!("inject={calls}:{fault}");
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", &format!("trace={calls}"), "-e", &inject, "-p", &daemon.to_string()])
        .args(["-o", "/dev/null"])
        .spawn()
        .expect("strace runs (scripts/check installs what the tests need)");
    if !is_attached(daemon, &mut strace) {
        super::say_not_played("this machine forbids strace of a running process");
        return false;
    }
    act();
    // What is dying cannot be let go of: then strace itself ends with it, or hangs.
    let signals = [None, Some(Signal::INT), Some(Signal::KILL)];
    for signal in signals {
        if let Some(signal) = signal {
            kill_process(Pid::from_child(&strace), signal).unwrap();
        }
        let patience = Instant::now() + Duration::from_millis(if signal.is_some() { 2000 } else { 100 });
        while Instant::now() < patience {
            if strace.try_wait().unwrap().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
    strace.wait().unwrap();
    true
}

/// Waits until every thread of the daemon is watched.
fn is_attached(daemon: u32, strace: &mut Child) -> bool {
    let is_watched = |task: &Path| {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let tasks = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
        if tasks.map(|task| task.unwrap().path()).all(|task| is_watched(&task)) {
            return true;
        }
        if strace.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "strace does not get hold of the daemon");
        thread::sleep(Duration::from_millis(5));
    }
}
