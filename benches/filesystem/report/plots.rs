//! Which lines does a plot of curves have? One for each candidate and kind of cost.

use plyfs::bench::plot::{Axis, Line, Plot, Stroke, svg};
use plyfs::units::{digits, size, time};

use crate::Result;
use crate::candidate::Candidate;
use crate::runner::Measured;
use crate::work::{self, Unit};

/// The plot, if anybody has anything in it.
pub(super) fn draw(
    measured: &Measured<'_>,
    about: &work::Plot,
    candidates: &[Candidate],
) -> Result<Option<String>> {
    let mut lines: Vec<Line> = Vec::new();
    for (colour, candidate) in candidates.iter().enumerate() {
        let mut curves: Vec<&str> = Vec::new();
        for (row, values) in measured.rows() {
            let (Some((x, curve)), Some(summary)) = (row.point, values[colour]) else { continue };
            let name = format!("{} {curve}", candidate.name).trim_end().to_owned();
            if !curves.contains(&curve) {
                let stroke = if curves.is_empty() { Stroke::Solid } else { Stroke::Dashed };
                curves.push(curve);
                lines.push(Line { name: name.clone(), colour, stroke, points: Vec::new() });
            }
            if let Some(line) = lines.iter_mut().find(|line| line.name == name) {
                line.points.push((x as f64, summary.median));
            }
        }
    }
    if lines.is_empty() {
        return Ok(None);
    }
    let counts_bytes = about.x.starts_with("size");
    let write_x = if counts_bytes { |x| size(x as u64) } else { |x| (x as u64).to_string() };
    let is_rate = measured.workload.rows.iter().any(|row| row.unit == Unit::PerSecond);
    let write_y = if is_rate { digits } else { time };
    let (x, y) = (Axis { label: about.x, write: write_x }, Axis { label: about.y, write: write_y });
    Ok(Some(svg(&Plot { title: about.title, x, y, lines })?))
}
