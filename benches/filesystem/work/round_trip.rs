//! What does it cost to be answered, and does it matter who sits where?

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use super::{Row, Workload, row};
use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::corpus::BIG;
use crate::ground::Ground;

/// What the caller does between two requests, in microseconds: it computes.
const PAUSES: [u64; 5] = [1, 10, 100, 1_000, 10_000];
/// For what share of what a run is to take each point is measured, pauses included.
const SHARE: f64 = 0.2;
const FEWEST: u32 = 30;

/// Who sits where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seats {
    /// As the kernel and the daemon have it.
    Free,
    /// Both are kept to one CPU.
    Together,
    /// Each is kept to one of its own.
    Apart,
}

const ALL: [(Seats, &str, &str); 3] = [
    (Seats::Free, "", "free"),
    (Seats::Together, "on one CPU", "together"),
    (Seats::Apart, "on two CPUs", "apart"),
];

pub(super) fn workloads() -> Vec<Workload> {
    let rows = ALL.iter().flat_map(|(_, curve, short)| {
        PAUSES
            .map(|pause| Row { point: Some((pause, curve)), ..row(&format!("round-trip-{short}-{pause}us")) })
    });
    let about = "statvfs, which no kernel remembers, with a pause after each answer, by who sits where";
    vec![Workload::new("round-trip", about, rows.collect::<Vec<_>>(), round_trips).plotted(
        "What an answer costs, by where caller and daemon are",
        "microseconds between an answer and the next request",
        "time",
    )]
}

fn round_trips(ground: &Ground, candidate: &Candidate) -> Result<Vec<f64>> {
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let mut all = Vec::new();
    for (seats, ..) in ALL {
        let mounted = ground.disk.mount(candidate, &ground.corpus.big, Syncing::AsIs)?;
        let file = mounted.path().join(BIG);
        match (seats, mounted.daemon()) {
            (Seats::Free, _) => {}
            (_, Some(daemon)) if cpus.len() > 1 => {
                // Its threads are there once it has answered.
                ask(&file, FEWEST * 4, 0)?;
                keep_process_to(daemon, cpus[usize::from(seats == Seats::Apart)])?;
                keep_to(None, cpus[0])?;
            }
            // Nobody to be kept anywhere.
            _ => return Ok(all),
        }
        let measured: Result<Vec<f64>> =
            PAUSES.iter().map(|&pause| round_trip(ground, &file, pause)).collect();
        sched_setaffinity(None, &allowed)?;
        all.extend(measured?);
    }
    Ok(all)
}

/// Seconds for an answer.
fn round_trip(ground: &Ground, file: &Path, pause: u64) -> Result<f64> {
    let seconds = ground.scale.seconds * SHARE;
    let times = ((seconds * 1e6) as u64 / (pause + 20)).max(FEWEST.into());
    let times = u32::try_from(times)?;
    ask(file, times / 4, pause)?;
    Ok(ask(file, times, pause)?.as_secs_f64() / f64::from(times))
}

/// How long the answers took.
fn ask(file: &Path, times: u32, pause: u64) -> Result<Duration> {
    let mut waited = Duration::ZERO;
    for _ in 0..times {
        let asked = Instant::now();
        rustix::fs::statvfs(file)?;
        let answered = Instant::now();
        waited += answered - asked;
        while answered.elapsed() < Duration::from_micros(pause) {
            std::hint::spin_loop();
        }
    }
    Ok(waited)
}

fn keep_process_to(process: u32, cpu: usize) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = thread?.file_name();
        let thread = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        keep_to(thread, cpu)?;
    }
    Ok(())
}

fn keep_to(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(sched_setaffinity(thread, &one)?)
}
