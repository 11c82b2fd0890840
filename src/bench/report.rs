//! What is said of the costs, to people, programs and the eye?

use std::path::Path;

use serde::Serialize;

use super::copy_up::{Cost, NoRoom, Writes};
use super::error::BenchError;
use super::plot::{Axis, Line, Plot, Stroke, svg};
use super::stats::Summary;
use super::table::Table;
use crate::shown::shown;
use crate::units::{self, digits};

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    plyfs: &'static str,
    reflink: bool,
    pub(super) sizes: Vec<Cost>,
    pub(super) skipped: Vec<NoRoom>,
}

pub(super) const FOOT: &str = "
Medians of open + write of 4 KiB in the middle + close. Half of the runs were within ±.
sync: a copy is on disk before it is shown. volatile: with -o volatile, it need not be.";

fn table() -> Table {
    Table::new([
        ("file", 8),
        ("first, sync", 16),
        ("second, sync", 16),
        ("first/second", 12),
        ("first, volatile", 16),
        ("second, volatile", 16),
    ])
}

impl Report {
    pub(super) fn new(reflink: bool) -> Self {
        Self { plyfs: env!("CARGO_PKG_VERSION"), reflink, sizes: Vec::new(), skipped: Vec::new() }
    }

    /// What stands above the rows.
    pub(super) fn head(&self, dir: &Path) -> String {
        let sharing = if self.reflink {
            "files can share blocks here (reflink): a copy-up copies nothing"
        } else {
            "files cannot share blocks here (no reflink): a copy-up copies all data"
        };
        format!("What copy-up costs in {}\n{sharing}\n\n{}", shown(dir), table().head())
    }

    pub(super) fn json(&self) -> Result<String, BenchError> {
        let text = serde_json::to_string_pretty(self).map_err(|error| BenchError::Output(error.into()))?;
        Ok(text + "\n")
    }

    pub(super) fn svg(&self) -> Result<String, BenchError> {
        let line = |name: &str, colour, stroke, cost: fn(&Cost) -> Summary| {
            let points = self.sizes.iter().map(|at| (at.size as f64, cost(at).median)).collect();
            Line { name: name.to_owned(), colour, stroke, points }
        };
        let lines = vec![
            line("first write, sync", 0, Stroke::Solid, |cost| cost.sync.first),
            line("second write, sync", 0, Stroke::Dashed, |cost| cost.sync.second),
            line("first write, volatile", 1, Stroke::Solid, |cost| cost.volatile.first),
            line("second write, volatile", 1, Stroke::Dashed, |cost| cost.volatile.second),
        ];
        let title = if self.reflink { "What copy-up costs, with reflink" } else { "What copy-up costs" };
        let x = Axis { label: "size of the file", write: |bytes| units::size(bytes as u64) };
        let y = Axis { label: "time of a write of 4 KiB", write: units::time };
        svg(&Plot { title, x, y, lines }).map_err(|error| BenchError::Plot(error.to_string()))
    }
}

/// A row of the table.
pub(super) fn row(cost: &Cost) -> String {
    let cells = |writes: Writes| [writes.first, writes.second].map(cell);
    let ([first, second], [first_volatile, second_volatile]) = (cells(cost.sync), cells(cost.volatile));
    let factor = format!("{}×", digits(cost.sync.first.median / cost.sync.second.median));
    table().row(&[units::size(cost.size), first, second, factor, first_volatile, second_volatile])
}

/// What stands in place of a row.
pub(super) fn no_room(skipped: &NoRoom) -> String {
    let NoRoom { size, needs, free } = *skipped;
    let (size, needs, free) = (units::size(size), units::size(needs), units::size(free));
    format!("{size:<8}  skipped: it takes {needs}, and {free} are free")
}

fn cell(summary: Summary) -> String {
    format!("{} ±{:.0}%", units::time(summary.median), summary.spread() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stands_under_its_headings() {
        let summary = |median| Summary {
            median,
            lower_quartile: median * 0.9,
            upper_quartile: median * 1.1,
            least: 0.0,
            most: 1.0,
            runs: 3,
        };
        let writes = Writes { first: summary(0.002), second: summary(0.000_1) };
        let cost = Cost { size: 16 << 20, sync: writes, volatile: writes };
        assert_eq!(
            row(&cost),
            "16 MiB        2.00 ms ±10%       100 µs ±10%         20.0×      2.00 ms ±10%       100 µs ±10%"
        );
        let skipped = NoRoom { size: 1 << 30, needs: 3 << 30, free: 1 << 29 };
        assert_eq!(no_room(&skipped), "1 GiB     skipped: it takes 3 GiB, and 512 MiB are free");
    }
}
