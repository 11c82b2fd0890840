//! What was done, would be done, or cannot be done?

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Source;
use super::decide::Verdict;
use super::error::{Error, Result};
use super::plan::{Item, Plan, Way};
use crate::shown::{shown, shown_lines};

#[derive(Debug, Serialize)]
struct Row {
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict: Option<String>,
}

fn letter(item: &Item) -> Option<(char, &'static str)> {
    Some(match item.verdict {
        Verdict::Leave => return None,
        Verdict::Conflict(_) => ('C', "conflict"),
        Verdict::Make => match (item.run, item.now) {
            (Some(_), None) => ('A', "added"),
            (Some(_), Some(_)) => ('M', "modified"),
            (None, _) => ('D', "deleted"),
        },
    })
}

fn path(source: &Source, way: &Way) -> PathBuf {
    source.target.join(way.iter().collect::<PathBuf>())
}

/// Lists what is done, and what is in conflict, one path a line.
pub(super) fn list(source: &Source, plan: &Plan, json: bool) -> Result<()> {
    // What goes with its directory is not named.
    let is_inside = |way: &Way| {
        (1..way.len()).any(|length| {
            plan.items
                .get(&way[..length])
                .is_some_and(|item| item.run.is_none() && item.verdict == Verdict::Make && item.now.is_some())
        })
    };
    let shown_items: Vec<_> = plan
        .items
        .iter()
        .filter(|(way, item)| !(item.verdict == Verdict::Make && item.run.is_none() && is_inside(way)))
        .filter_map(|(way, item)| Some((way, item, letter(item)?)))
        .collect();
    let row = |(way, item, (_, change)): &(&Way, &Item, (char, &'static str))| Row {
        change,
        path: shown(&path(source, way)).to_string(),
        conflict: match item.verdict {
            Verdict::Conflict(conflict) => Some(conflict.to_string()),
            _ => None,
        },
    };
    let rows: Vec<Row> = shown_items.iter().map(row).collect();
    let line = |(way, _, (letter, _)): &(&Way, &Item, (char, &'static str))| {
        format!("{letter} {}\n", shown(&path(source, way)))
    };
    crate::say::say(json, &rows, || shown_items.iter().map(line).collect())
        .map_err(Error::io("write", Path::new("stdout")))
}

/// Says what is in conflict.
pub(super) fn conflicts(source: &Source, plan: &Plan) {
    for (way, conflict, item) in plan.conflicts() {
        eprintln!("C {}: {conflict}", shown(&path(source, way)));
        for line in item.note.iter().flat_map(|note| note.lines()) {
            eprintln!("    {}", shown_lines(line));
        }
    }
    eprintln!(
        "plyfs: nothing was done: --ours leaves these as they are outside, --theirs takes the run's, --merge merges text; or \
         name paths to apply"
    );
}
