//! What came of it, for people (a table), for programs (JSON) and for the eye (plots)?

use std::fs;

use plyfs::bench::stats::{Sample, Summary};
use plyfs::bench::table::{Table, markdown};
use plyfs::units::{self, digits};
use serde_json::{Value, json};

use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::ground::Ground;
use crate::options::Options;
use crate::runner::Measured;
use crate::work::{Row, Target, Unit};

mod plots;

/// Prints the table, and writes all files.
pub(crate) fn write(
    results: &[Measured<'_>],
    candidates: &[Candidate],
    ground: &Ground,
    options: &Options,
) -> Result<()> {
    let headings = headings(candidates);
    let rows: Vec<Vec<String>> = results
        .iter()
        .flat_map(Measured::samples)
        .map(|(row, samples)| cells(row, &samples, results, candidates))
        .collect();
    let table = Table::fitting(&headings, &rows);
    println!("\n{}", table.head());
    rows.iter().for_each(|row| println!("{}", table.row(row)));
    println!("\n{NOTES}");
    let failures = failures(results, candidates);
    failures.iter().for_each(|failure| println!("fails: {failure}"));

    let out = &options.out;
    fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    fs::write(out.join("results.md"), markdown(&headings, &rows))?;
    let json = json(results, candidates, ground, options);
    fs::write(out.join("results.json"), serde_json::to_string_pretty(&json)? + "\n")?;
    for measured in results {
        if let Some(about) = &measured.workload.plot
            && let Some(svg) = plots::draw(measured, about, candidates)?
        {
            fs::write(out.join(format!("{}.svg", measured.workload.name)), svg)?;
        }
    }
    Ok(())
}

const NOTES: &str = "\
Medians; in brackets as a ratio to the kernel's overlayfs in the same turn, and its quartiles. cold: a fresh
mount over a warm disk cache. A target in × counts the kernel's overlayfs in the same row, or in the row that it
names; \"unclear\": the quartiles are on both sides of it.
* shows copies before they are on disk, while overlayfs and plyfs sync them (in the rows without volatile).";

fn headings(candidates: &[Candidate]) -> Vec<String> {
    let names = candidates.iter().map(|candidate| candidate.name.clone());
    ["row".to_owned()]
        .into_iter()
        .chain(names)
        .chain(["plyfs must".to_owned(), "it does".to_owned()])
        .collect()
}

/// A row of the table.
fn cells(
    row: &Row,
    samples: &[Option<&Sample>],
    results: &[Measured<'_>],
    candidates: &[Candidate],
) -> Vec<String> {
    let workload =
        results.iter().map(|measured| measured.workload).find(|workload| workload.goes_by(&row.name));
    let syncing = workload.map_or(Syncing::AsIs, |workload| workload.syncing);
    let is_ahead =
        |candidate: &Candidate| row.copies && syncing == Syncing::AsIs && !candidate.syncs_copies();
    let cell = |(at, sample): (usize, &Option<&Sample>)| match sample.and_then(Sample::summary) {
        // Who has no daemon has no such point.
        None if row.unit == Unit::Bytes || row.point.is_some() => "–".to_owned(),
        None => "fails".to_owned(),
        Some(summary) => {
            let star = if is_ahead(&candidates[at]) { "*" } else { "" };
            let ratio = ratio(*sample, samples[0]).filter(|_| at > 0);
            let ratio = ratio.map(|ratio| format!(" ({}; {})", digits(ratio.median), quartiles(&ratio)));
            format!("{}{star}{}", amount(row.unit, summary.median), ratio.unwrap_or_default())
        }
    };
    // Of two binaries the second: the new one.
    let plyfs = candidates.iter().rposition(Candidate::is_plyfs).and_then(|at| samples[at]);
    let (must, does) = verdict(row, plyfs, samples[0], results);
    let of_each = samples.iter().enumerate().map(cell);
    [row.name.clone()].into_iter().chain(of_each).chain([must, does]).collect()
}

fn ratio(sample: Option<&Sample>, to: Option<&Sample>) -> Option<Summary> {
    sample?.ratios_to(to?).summary()
}

fn quartiles(ratio: &Summary) -> String {
    format!("{}–{}", digits(ratio.lower_quartile), digits(ratio.upper_quartile))
}

/// What plyfs must be, and whether it is.
fn verdict(
    row: &Row,
    plyfs: Option<&Sample>,
    kernel: Option<&Sample>,
    results: &[Measured<'_>],
) -> (String, String) {
    let kernel_in = |name: &str| {
        results.iter().flat_map(Measured::samples).find(|(row, _)| row.name == name).and_then(|(_, of)| of[0])
    };
    let (must, limit, does) = match row.target {
        None => return Default::default(),
        Some(Target::Ratio(most)) => (format!("≤ {most}×"), most, ratio(plyfs, kernel)),
        Some(Target::RatioTo(other, most)) => {
            (format!("≤ {most}× {other}"), most, ratio(plyfs, kernel_in(other)))
        }
        Some(Target::Absolute(most)) => {
            (format!("≤ {}", amount(row.unit, most)), most, plyfs.and_then(Sample::summary))
        }
    };
    let does = does.map(|does| match row.target {
        Some(Target::Absolute(_)) => format!("{} {}", judged(&does, limit), amount(row.unit, does.median)),
        _ => format!("{} {}×", judged(&does, limit), digits(does.median)),
    });
    (must, does.unwrap_or_default())
}

/// Whether it is kept, as far as that can be told.
fn judged(does: &Summary, limit: f64) -> &'static str {
    match () {
        () if does.upper_quartile <= limit => "✓",
        () if does.lower_quartile > limit => "✗",
        () => "unclear",
    }
}

fn amount(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => units::time(value),
        Unit::Bytes => format!("{} B", digits(value)),
        Unit::PerSecond => format!("{}/s", digits(value)),
    }
}

/// What is known after a workload: each row on a line.
pub(crate) fn in_short(measured: &Measured<'_>, candidates: &[Candidate]) -> String {
    let line = |(row, values): (&Row, Vec<Option<Summary>>)| {
        let of_each = candidates.iter().zip(values).map(|(candidate, value)| {
            Some(format!("{} {}", candidate.name, amount(row.unit, value?.median)))
        });
        let of_each = of_each.map(|value| value.unwrap_or("–".to_owned()));
        format!("    {}: {}", row.name, of_each.collect::<Vec<_>>().join(", "))
    };
    measured.rows().map(line).collect::<Vec<_>>().join("\n")
}

fn failures(results: &[Measured<'_>], candidates: &[Candidate]) -> Vec<String> {
    let all = results.iter().flat_map(|measured| {
        let of_each = candidates.iter().zip(&measured.outcomes);
        of_each.filter_map(|(candidate, outcome)| {
            let reason = outcome.as_ref().err()?;
            Some(format!("{} on {}: {reason}", measured.workload.name, candidate.name))
        })
    });
    all.collect()
}

fn json(results: &[Measured<'_>], candidates: &[Candidate], ground: &Ground, options: &Options) -> Value {
    let row = |(row, samples): (&Row, Vec<Option<&Sample>>)| {
        let kernel = samples[0];
        let of_each = candidates.iter().zip(samples).map(|(candidate, sample)| {
            let value = json!({
                "value": sample.and_then(Sample::summary),
                "ratio": ratio(sample, kernel),
            });
            (candidate.name.clone(), value)
        });
        json!({
            "name": row.name,
            "unit": match row.unit {
                Unit::Seconds => "seconds",
                Unit::Bytes => "bytes",
                Unit::PerSecond => "a second",
            },
            "results": of_each.collect::<serde_json::Map<_, _>>(),
        })
    };
    json!({
        "candidates": candidates.iter().map(|candidate| json!({
            "name": candidate.name, "version": candidate.version,
        })).collect::<Vec<_>>(),
        "as": if options.in_namespace { "root of a user namespace" } else { "root" },
        "rounds": ground.scale.rounds,
        "rows": results.iter().flat_map(Measured::samples).map(row).collect::<Vec<_>>(),
        "failures": failures(results, candidates),
    })
}
