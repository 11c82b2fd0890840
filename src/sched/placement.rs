//! On which CPU does a thread run, and what does it give way to?
//!
//! One of the seven files with `unsafe` code: scheduling policies and a thread's own resource usage have no safe call.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

/// How long a thread that gives way runs at a time, in nanoseconds, the least that the kernel takes: the shorter, the sooner
/// it has its next turn if others keep its CPU busy.
const SLICE: u64 = 100_000;

/// What a thread of the ordinary policy has, as ioprio_set(2) takes it: class 2, priority 4.
const BEST_EFFORT: libc::c_int = 2 << 13 | 4;
/// `IOPRIO_WHO_PROCESS`, which means a thread.
const OF_THREAD: libc::c_int = 1;

/// A thread that is moved between CPUs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    thread: Pid,
    /// Where it might run when it began.
    allowed: CpuSet,
    /// Where it must run now.
    cpu: Option<usize>,
}

impl Placement {
    /// Of this thread, which from now on gives way to every other one of its scheduling group (`SCHED_IDLE`). The kernel
    /// takes a CPU with nothing else to run for an idle one, so whoever is woken from there stays there. Without
    /// privileges there is no way back.
    pub(super) fn of_follower() -> Result<Self, Errno> {
        let allowed = sched_getaffinity(None)?;
        // Kernels before 6.12 know no slice, and ignore it.
        set_scheduler(libc::SCHED_OTHER, SLICE)?;
        // Its reads and writes are the caller's. By itself the kernel would let them wait for everybody else's.
        set_io_priority(BEST_EFFORT)?;
        set_scheduler(libc::SCHED_IDLE, 0)?;
        Ok(Self { thread: gettid(), allowed, cpu: None })
    }

    /// Keeps it to one CPU.
    pub(super) fn keep_to(&mut self, cpu: usize) -> Result<(), Errno> {
        if self.cpu == Some(cpu) {
            return Ok(());
        }
        if cpu >= CpuSet::MAX_CPU || !self.allowed.is_set(cpu) {
            return Err(Errno::INVAL);
        }
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(Some(self.thread), &one)?;
        self.cpu = Some(cpu);
        Ok(())
    }

    /// Lets it run wherever it might when it began.
    pub(super) fn let_go(&mut self) {
        if self.cpu.take().is_some()
            && let Err(e) = sched_setaffinity(Some(self.thread), &self.allowed)
        {
            log::debug!("sched_setaffinity: {e}");
        }
    }
}

fn set_scheduler(policy: i32, slice: u64) -> Result<(), Errno> {
    let size = size_of::<libc::sched_attr>();
    let attributes = libc::sched_attr {
        size: size as u32,
        sched_policy: policy as u32,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: slice,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a struct that lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn set_io_priority(priority: libc::c_int) -> Result<(), Errno> {
    // SAFETY: three integers, and nothing that is pointed to.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, OF_THREAD, 0, priority) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// How often this thread has slept since it began.
pub(super) fn times_slept() -> i64 {
    // SAFETY: integers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `rusage`, which is ours.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nvcsw
}

/// Whether more threads want to run than there are CPUs, `ours` not counted: then whoever gives way would wait.
pub(super) fn is_machine_busy(ours: usize) -> bool {
    let running = fs::read_to_string("/proc/loadavg").ok().and_then(|line| running_threads(&line));
    let cpus = fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|list| cpus_listed(&list));
    running.zip(cpus).is_some_and(|(running, cpus)| running >= cpus + ours)
}

/// Field 4 of /proc/loadavg, as proc(5) has it: `0.50 0.40 0.30 RUNNING/ALL LAST-PID`.
fn running_threads(loadavg: &str) -> Option<usize> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// How many CPUs are in a list such as `0-3,8`.
fn cpus_listed(list: &str) -> Option<usize> {
    let length = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    list.trim_end().split(',').map(length).sum()
}

/// Where another thread is: `/proc/TID/task/TID/stat`, kept open while it is the same one that is asked for.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    thread: u32,
    stat: Option<File>,
}

impl Whereabouts {
    /// The CPU that it runs on, or has run on before it went to sleep.
    pub(super) fn cpu_of(&mut self, thread: u32) -> Option<usize> {
        if self.thread != thread || self.stat.is_none() {
            self.thread = thread;
            // Where it has ended or /proc hides it, it is nowhere.
            self.stat = File::open(format!("/proc/{thread}/task/{thread}/stat")).ok();
        }
        let mut line = [0; 1024];
        match self.stat.as_ref()?.read_at(&mut line, 0) {
            Ok(length) => processor(&line[..length]),
            Err(_) => {
                // It has ended; another one may have its number by now.
                self.stat = None;
                None
            }
        }
    }
}

/// Field 39 of a stat line, as proc(5) counts. The second is the thread's name, in parentheses, with whatever in it.
fn processor(line: &[u8]) -> Option<usize> {
    let name_ends = line.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&line[name_ends + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(39 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_thread_is_found_on_the_cpu_that_it_is_kept_to() {
        // Of a thread of our own: its policy does not come back.
        thread::spawn(|| {
            let mut placement = Placement::of_follower().unwrap();
            let allowed = placement.allowed;
            let mut whereabouts = Whereabouts::default();
            let me = u32::try_from(gettid().as_raw_nonzero().get()).unwrap();
            for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)) {
                placement.keep_to(cpu).unwrap();
                assert_eq!(whereabouts.cpu_of(me), Some(cpu));
            }
            placement.let_go();
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
            assert_eq!(placement.keep_to(CpuSet::MAX_CPU), Err(Errno::INVAL));
            // SAFETY: two integers each.
            let (policy, priority) =
                unsafe { (libc::sched_getscheduler(0), libc::syscall(libc::SYS_ioprio_get, OF_THREAD, 0)) };
            assert_eq!((policy, priority), (libc::SCHED_IDLE, BEST_EFFORT.into()));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_machine_is_busy_when_more_want_to_run_than_can() {
        assert_eq!(running_threads("0.50 0.40 0.30 12/345 6789\n"), Some(12));
        assert_eq!(running_threads(""), None);
        for (list, cpus) in
            [("0\n", Some(1)), ("0-1", Some(2)), ("0-3,8,10-11\n", Some(7)), ("", None), ("3-1", None)]
        {
            assert_eq!(cpus_listed(list), cpus, "{list}");
        }
        assert!(!is_machine_busy(usize::MAX / 2));
    }

    #[test]
    fn a_thread_that_has_ended_is_nowhere() {
        let mut whereabouts = Whereabouts::default();
        let ended = thread::spawn(|| gettid().as_raw_nonzero().get()).join().unwrap();
        assert_eq!(whereabouts.cpu_of(u32::try_from(ended).unwrap()), None);
        assert_eq!(whereabouts.cpu_of(0), None);
    }

    #[test]
    fn sleeping_is_noticed() {
        let before = times_slept();
        thread::sleep(std::time::Duration::from_millis(1));
        assert!(times_slept() > before);
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_hide_the_field() {
        let mut line = b"12 (a) R 1 (b) S ".to_vec();
        for field in 4..=52 {
            line.extend(format!("{field} ").into_bytes());
        }
        assert_eq!(processor(&line), Some(39));
        assert_eq!(processor(b"12 (short) S 1"), None);
        assert_eq!(processor(b""), None);
    }
}
