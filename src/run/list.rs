//! `plyfs runs`: which runs are there, and what do they hold?

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::error::{Error, Result};
use super::place::{Place, Run};
use crate::exit::Exit;
use crate::shown::shown;
use crate::units;

/// The unit of `st_blocks`, in bytes.
const STAT_BLOCK: u64 = 512;

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    live: bool,
    /// How many processes are in it.
    processes: usize,
    /// Seconds since 1970.
    created: u64,
    /// What the upper, the snapshots and the workdir take on the disk.
    bytes: u64,
    directory: String,
    command: Vec<String>,
}

pub(super) fn list(json: bool) -> Result<ExitCode> {
    let (runs, unreadable) = Place::find()?.runs()?;
    for error in unreadable {
        eprintln!("plyfs: {error}");
    }
    let rows = runs.iter().map(row).collect::<Result<Vec<_>>>()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    crate::say::say(json, &rows, || text(&rows, now)).map_err(Error::io("write", Path::new("stdout")))?;
    Ok(Exit::Success.into())
}

fn row(run: &Run) -> Result<Row> {
    let live = run.is_live()?;
    let processes = if live { run.processes().len() } else { 0 };
    let elsewhere = (run.about.upper.parent() != Some(&run.dir)).then_some(&run.about.upper);
    let bytes = std::iter::once(&run.dir).chain(elsewhere).map(|dir| size(dir)).sum();
    Ok(Row {
        name: run.name.clone(),
        live,
        processes,
        created: run.about.created,
        bytes,
        directory: shown(&run.about.directory).to_string(),
        command: run.about.command.iter().map(|word| shown(word).to_string()).collect(),
    })
}

/// What a tree takes on the disk, in bytes. What cannot be looked at takes nothing.
fn size(path: &Path) -> u64 {
    let Ok(stat) = fs::symlink_metadata(path) else { return 0 };
    let below: u64 = match stat.is_dir() {
        true => fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum(),
        false => 0,
    };
    stat.blocks() * STAT_BLOCK + below
}

fn text(rows: &[Row], now: u64) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let line = |row: &Row| {
        let state = match (row.live, row.processes) {
            (false, _) => "-".to_owned(),
            (true, count) => format!("live:{count}"),
        };
        let command = if row.command.is_empty() { "(shell)".to_owned() } else { row.command.join(" ") };
        let age = age(now.saturating_sub(row.created));
        format!("{:width$}  {state:8}  {age:>4}  {:>9}  {command}\n", row.name, units::size(row.bytes))
    };
    rows.iter().map(line).collect()
}

/// A time in its largest unit, as `3d` or `20s`.
fn age(seconds: u64) -> String {
    let units = [(86400, 'd'), (3600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    let (length, letter) = unit.unwrap_or((1, 's'));
    format!("{}{letter}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        for (seconds, shown) in [(0, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (200_000, "2d")] {
            assert_eq!(age(seconds), shown);
        }
    }
}
