//! A caller who asks alone is answered on its own CPU, and whatever that takes is nobody else's loss.
//!
//! What is looked at is where the daemon's threads may run and what they give way to, in /proc.

use std::fs;
use std::process::{Child, Command};
use std::thread;

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::common::{Union, overwrite, pattern, refused};

/// A thread of the daemon.
#[derive(Debug)]
struct Thread {
    name: String,
    /// Whether it gives way to all others (`SCHED_IDLE`, 5).
    gives_way: bool,
    /// As /proc lists them.
    cpus: String,
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect(name).trim()
}

fn threads(union: &Union) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{}/task", union.pid())).unwrap();
    let seen = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        // One may have ended meanwhile.
        let status = fs::read_to_string(task.join("status")).ok()?;
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let policy = stat.rsplit(')').next().unwrap().split_whitespace().nth(41 - 3).unwrap().to_owned();
        Some(Thread {
            name: field(&status, "Name").to_owned(),
            gives_way: policy == "5",
            cpus: field(&status, "Cpus_allowed_list").to_owned(),
        })
    });
    seen.collect()
}

/// The thread that follows, if one does.
fn follower(union: &Union) -> Option<Thread> {
    threads(union).into_iter().find(|thread| thread.gives_way)
}

/// Each is a message to the daemon, as no attribute is cached.
fn ask(union: &Union, times: usize) {
    for _ in 0..times {
        refused(rustix::fs::getxattr(union.at("f"), "user.none", &mut [0; 8]), Errno::NODATA);
    }
}

/// Asks until it is so. A busy machine makes plyfs give up, and try again later.
#[track_caller]
fn ask_until(union: &Union, what: &str, is_so: impl Fn() -> bool) {
    assert!(
        (0..1000).any(|_| {
            ask(union, 500);
            is_so()
        }),
        "{what}: {:?}",
        threads(union)
    );
}

fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()
}

fn keep_to(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).unwrap();
}

#[test]
fn one_loop_goes_wherever_a_caller_who_asks_alone_goes() {
    let union = Union::over(|b| b.file("f", "text"));
    assert!(follower(&union).is_none());
    // From a thread of its own, which the other tests do not get back.
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            for cpu in cpus() {
                keep_to(cpu);
                let is_here = || follower(&union).is_some_and(|follower| follower.cpus == cpu.to_string());
                ask_until(&union, "it follows", is_here);
            }
        });
        asking.join().unwrap();
    });
    let (giving_way, others): (Vec<_>, Vec<_>) = threads(&union).into_iter().partition(|t| t.gives_way);
    assert_eq!(giving_way.len(), 1, "{giving_way:?}");
    let anywhere = field(&fs::read_to_string("/proc/self/status").unwrap(), "Cpus_allowed_list").to_owned();
    assert!(others.iter().all(|thread| thread.cpus == anywhere), "{others:?}");
}

#[test]
fn no_loop_does_where_that_is_switched_off_or_there_is_only_one() {
    for option in ["affinity=none", "threads=1"] {
        let union = Union::builder().option(option).lower(|b| b.file("f", "text")).mount();
        ask(&union, 3000);
        assert!(follower(&union).is_none(), "{option}");
    }
}

#[test]
fn threads_that_are_made_meanwhile_may_run_anywhere_and_give_way_to_nobody() {
    let union = Union::over(|b| b.file("f", "text").file("big", pattern(1, 2 << 20)));
    ask_until(&union, "it follows", || follower(&union).is_some());
    overwrite(union.at("big"), 0, "x");
    let workers: Vec<_> = threads(&union).into_iter().filter(|thread| thread.name == "plyfs-long").collect();
    // The one that copied, and the next.
    assert!(workers.len() >= 2, "{workers:?}");
    let anywhere = field(&fs::read_to_string("/proc/self/status").unwrap(), "Cpus_allowed_list").to_owned();
    assert!(workers.iter().all(|worker| worker.cpus == anywhere && !worker.gives_way), "{workers:?}");
}

/// Programs that use all of a CPU, until dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn on_every_cpu() -> Self {
        let busy = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self(cpus().iter().flat_map(|_| [busy(), busy()]).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn whoever_asks_is_answered_though_others_keep_every_cpu_busy() {
    let union = Union::over(|b| b.file("f", "text"));
    ask_until(&union, "it follows", || follower(&union).is_some());
    {
        let _busy = Busy::on_every_cpu();
        ask(&union, 2000);
        overwrite(union.at("f"), 0, "T");
    }
    ask_until(&union, "it follows again", || {
        follower(&union).is_some_and(|follower| !follower.cpus.contains(['-', ',']))
    });
}
