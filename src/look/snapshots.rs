//! `plyfs snapshots`: which snapshots has this upper, and on which does it lie?

use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use super::Result;
use super::say;
use crate::cli::SnapshotsArgs;
use crate::exit::Exit;
use crate::mount;
use crate::shown::shown;

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// The snapshot that it lies on.
    parent: Option<String>,
    created: String,
    /// Whether the upper lies on it.
    in_stack: bool,
    /// A layer, as the upper is one.
    path: String,
}

pub(super) fn run(args: &SnapshotsArgs) -> Result<ExitCode> {
    let rows: Vec<Row> = mount::snapshots(&args.dir)?
        .into_iter()
        .map(|found| Row {
            created: i64::try_from(found.snapshot.time)
                .ok()
                .and_then(|time| Timestamp::from_second(time).ok())
                .map_or_else(|| "?".to_owned(), |time| time.to_string()),
            name: found.snapshot.name,
            parent: found.snapshot.parent,
            in_stack: found.in_stack,
            path: shown(&found.path).to_string(),
        })
        .collect();
    say(args.json, &rows, || text(&rows))?;
    Ok(Exit::Success.into())
}

fn text(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let line = |row: &Row| {
        let mark = if row.in_stack { '*' } else { ' ' };
        format!("{mark} {:width$}  {}  {}\n", row.name, row.created, row.path)
    };
    rows.iter().map(line).collect()
}
