//! In which order is everything run, so that no candidate has a better time of day than another?

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use plyfs::bench::stats::{Sample, Summary};

use crate::Result;
use crate::candidate::Candidate;
use crate::ground::Ground;
use crate::report;
use crate::work::{Row, Workload};

/// What is very short is not repeated for ever.
const MOST_RUNS: f64 = 10.0;

/// A workload, and what came of each of its rows.
pub(crate) struct Measured<'a> {
    pub(crate) workload: &'a Workload,
    /// For each candidate, in their order: what it took in each row, nothing if it has no such thing; or why it failed.
    pub(crate) outcomes: Vec<Result<Vec<Sample>, String>>,
}

impl Measured<'_> {
    /// Each row, with what each candidate did.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Row, Vec<Option<Summary>>)> {
        let summary = |sample: Option<&Sample>| sample?.summary();
        self.samples().map(move |(row, samples)| (row, samples.into_iter().map(summary).collect()))
    }

    /// The same, with each of its turns.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (&Row, Vec<Option<&Sample>>)> {
        self.workload.rows.iter().enumerate().map(|(at, row)| {
            let of_each = self.outcomes.iter().map(move |outcome| outcome.as_ref().ok()?.get(at));
            (row, of_each.collect())
        })
    }
}

/// Runs a workload, again and again until the clock has seen enough of it; the mean of each row.
fn one_turn(ground: &Ground, workload: &Workload, candidate: &Candidate) -> Result<Vec<f64>> {
    let mut sums = (workload.run)(ground, candidate)?;
    let mut runs = 1.0;
    while workload.repeated && sums.iter().sum::<f64>() < ground.scale.seconds && runs < MOST_RUNS {
        let more = (workload.run)(ground, candidate)?;
        sums.iter_mut().zip(more).for_each(|(sum, value)| *sum += value);
        runs += 1.0;
    }
    Ok(sums.into_iter().map(|sum| sum / runs).collect())
}

/// Runs each workload on all candidates in turn, several times round; each round begins with another one.
pub(crate) fn run<'a>(
    ground: &Ground,
    workloads: &'a [Workload],
    candidates: &[Candidate],
) -> Result<Vec<Measured<'a>>> {
    let rounds = ground.scale.rounds as usize;
    let progress = Progress::new(workloads.len() * rounds * candidates.len())?;
    let mut all = Vec::new();
    for (number, workload) in workloads.iter().enumerate() {
        progress.begin(&format!(
            "[{}/{}] {}: {}",
            number + 1,
            workloads.len(),
            workload.name,
            workload.about
        ));
        let mut samples: Vec<Result<Vec<Sample>, String>> =
            vec![Ok(vec![Sample::default(); workload.rows.len()]); candidates.len()];
        for round in 0..rounds {
            for turn in 0..candidates.len() {
                let at = (round + turn) % candidates.len();
                let candidate = &candidates[at];
                progress.step(&format!("{}, {}, round {}", workload.name, candidate.name, round + 1));
                // Who failed once has failed.
                let Ok(rows) = &mut samples[at] else { continue };
                match one_turn(ground, workload, candidate) {
                    Ok(values) => rows.iter_mut().zip(values).for_each(|(sample, value)| sample.add(value)),
                    Err(error) => samples[at] = Err(error.to_string()),
                }
            }
        }
        let measured = Measured { workload, outcomes: samples };
        progress.say(&report::in_short(&measured, candidates));
        all.push(measured);
    }
    progress.end();
    Ok(all)
}

/// What runs, how far it is, and how long it may take yet: a bar on a terminal, else a line for each workload.
struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    fn new(runs: usize) -> Result<Self> {
        let bar = ProgressBar::new(runs as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} about {eta} left  {msg}")?);
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Self { bar, started: Instant::now() })
    }

    fn begin(&self, what: &str) {
        if self.bar.is_hidden() && self.bar.position() > 0 {
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
            let left = self.started.elapsed().as_secs() * (all - done) / done;
            self.say(&format!("{what} (about {} min left)", left.div_ceil(60)));
        } else {
            self.say(what);
        }
    }

    fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| println!("{text}"));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
