//! What is done on each mount, and how fast must plyfs be at it?
//!
//! A workload makes its mounts, does its work, and returns a number for each of its rows. What it does before
//! the clock runs costs nobody anything.

mod change;
mod clients;
mod copy_up;
mod curves;
mod data;
mod look;
mod memory;
mod projects;
mod round_trip;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::ground::Ground;
use crate::scale::Scale;

/// Returns a number for each row.
type Run = Box<dyn Fn(&Ground, &Candidate) -> Result<Vec<f64>>>;

/// Something to do on a mount of each candidate.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: String,
    /// How the candidates are mounted.
    pub(crate) syncing: Syncing,
    /// Whether it belongs to a quick look.
    pub(crate) essential: bool,
    /// Whether a run that was too short for the clock is repeated.
    pub(crate) repeated: bool,
    pub(crate) rows: Vec<Row>,
    /// What its rows are when they are points of curves.
    pub(crate) plot: Option<Plot>,
    pub(crate) run: Run,
}

/// One number of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) target: Option<Target>,
    /// Whether whole files are copied up in it, so that it matters who syncs them.
    pub(crate) copies: bool,
    /// Where it is on its curve, and which curve that is if each candidate has several.
    pub(crate) point: Option<(u64, &'static str)>,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    /// The only one of which more is better.
    PerSecond,
}

/// What plyfs has to keep: docs/BENCHMARKS.md says where it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// Times what the kernel's overlayfs takes.
    Ratio(f64),
    /// The same, but of what it takes in another row.
    RatioTo(&'static str, f64),
    /// In the row's unit.
    Absolute(f64),
}

/// What a plot of curves says on its edges.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
}

impl Workload {
    fn new(
        name: &'static str,
        about: impl Into<String>,
        rows: impl IntoIterator<Item = Row>,
        run: impl Fn(&Ground, &Candidate) -> Result<Vec<f64>> + 'static,
    ) -> Self {
        Self {
            name,
            about: about.into(),
            syncing: Syncing::AsIs,
            essential: false,
            repeated: true,
            rows: rows.into_iter().collect(),
            plot: None,
            run: Box::new(run),
        }
    }

    fn essential(self) -> Self {
        Self { essential: true, ..self }
    }

    /// It takes its time, or makes what is not to be made often.
    fn once(self) -> Self {
        Self { repeated: false, ..self }
    }

    fn volatile(self) -> Self {
        Self { syncing: Syncing::Volatile, ..self }
    }

    fn plotted(self, title: &'static str, x: &'static str, y: &'static str) -> Self {
        Self { plot: Some(Plot { title, x, y }), repeated: false, ..self }
    }

    /// Whether somebody who says `name` means this, or a row of it.
    pub(crate) fn goes_by(&self, name: &str) -> bool {
        self.name == name || self.rows.iter().any(|row| row.name == name)
    }
}

/// A row of seconds.
fn row(name: &str) -> Row {
    Row { name: name.to_owned(), unit: Unit::Seconds, target: None, copies: false, point: None }
}

impl Row {
    /// At most so many times what the kernel's overlayfs takes.
    fn at_most(self, ratio: f64) -> Self {
        self.must(Target::Ratio(ratio))
    }

    fn must(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    fn copies(self) -> Self {
        Self { copies: true, ..self }
    }

    fn counts(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }
}

/// All workloads that this user can run, in the order of docs/BENCHMARKS.md.
pub(crate) fn all(scale: &Scale) -> Vec<Workload> {
    let parts = [
        look::workloads(scale),
        projects::workloads(),
        memory::workloads(scale),
        data::workloads(scale),
        change::workloads(scale),
        copy_up::workloads(scale),
        clients::workloads(scale),
        round_trip::workloads(),
        curves::workloads(scale),
    ];
    let all = parts.into_iter().flatten();
    all.filter(|workload| scale.may_loop_mount || !workload.name.ends_with("reflink")).collect()
}

/// Runs a program to its end, its output thrown away.
pub(crate) fn program<P: AsRef<OsStr>>(name: &str, words: &[&str], paths: &[P]) -> Result<()> {
    let code = exit_code(Command::new(name).args(words).args(paths))?;
    if code == 0 { Ok(()) } else { Err(format!("{name} ended with {code}").into()) }
}

/// The exit code of a program that may say no.
fn exit_code(command: &mut Command) -> Result<i32> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let name = output.get_program().display().to_string();
    let output = output.output().map_err(|error| format!("{name}: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    match (output.status.code(), complaint.lines().next()) {
        (Some(code), None) => Ok(code),
        (_, Some(complaint)) => Err(complaint.into()),
        (None, None) => Err(format!("{name}: {}", output.status).into()),
    }
}

/// `find DIR -printf %s`: a listing and the attributes of everything.
fn find(dir: &Path) -> Result<()> {
    program("find", &[], &[dir.as_os_str(), OsStr::new("-printf"), OsStr::new("%s")])
}
