//! How do costs grow? Lines over two logarithmic axes, as SVG.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

/// A plot: what it is about, its axes and its lines.
#[derive(Debug)]
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// From left to right.
    pub x: Axis<'a>,
    /// From below to above.
    pub y: Axis<'a>,
    /// In the order of the legend.
    pub lines: Vec<Line>,
}

/// What an axis counts, and how its numbers are written.
#[derive(Debug)]
pub struct Axis<'a> {
    /// Beside it.
    pub label: &'a str,
    /// A number of it, with its unit.
    pub write: fn(f64) -> String,
}

/// One line. Those of one colour belong together.
#[derive(Debug)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Which of the colours.
    pub colour: usize,
    /// How it is drawn.
    pub stroke: Stroke,
    /// From left to right; all numbers above 0.
    pub points: Vec<(f64, f64)>,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// In one go.
    Solid,
    /// In dashes.
    Dashed,
}

/// Told apart by everybody, colour-blind or not (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x50, 0x50, 0x50),
    RGBColor(0xe6, 0x9f, 0x00),
];
const SIZE: (u32, u32) = (960, 540);
/// Right of the axes.
const LEGEND: u32 = 260;
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const FONT: &str = "sans-serif";

/// Draws it.
///
/// # Errors
/// If there is nothing to draw.
pub fn svg(plot: &Plot<'_>) -> Result<String, Box<dyn Error + Send + Sync>> {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let (Some(x), Some(y)) = (range(points().map(|point| point.0)), range(points().map(|point| point.1)))
    else {
        return Err("there is nothing to plot".into());
    };
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        // Plain words instead of the library's errors, which hold no thread's bounds: writing to memory has none.
        draw(&area, plot, x, y).map_err(|error| error.to_string())?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(area: &Area<'_>, plot: &Plot<'_>, x: Range<f64>, y: Range<f64>) -> Result<(), Box<dyn Error>> {
    area.fill(&WHITE)?;
    let (axes, legend) = area.split_horizontally(SIZE.0 - LEGEND);
    let mut ticks: Vec<f64> = plot.lines.iter().flat_map(|line| &line.points).map(|point| point.0).collect();
    ticks.sort_unstable_by(f64::total_cmp);
    ticks.dedup();
    let (x, y) = (x.start / 1.3..x.end * 1.3, y.start / 1.5..y.end * 1.5);
    let y_ticks = round_numbers(&y);
    let text = |size: u32| (FONT, size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(&axes)
        .caption(plot.title, text(20))
        .margin(14)
        .x_label_area_size(54)
        .y_label_area_size(86)
        .build_cartesian_2d(x.log_scale().with_key_points(ticks), y.log_scale().with_key_points(y_ticks))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(text(14))
        .axis_desc_style(text(15))
        .x_desc(plot.x.label)
        .y_desc(plot.y.label)
        .x_label_formatter(&|value| (plot.x.write)(*value))
        .y_label_formatter(&|value| (plot.y.write)(*value))
        .draw()?;
    for (at, line) in plot.lines.iter().enumerate() {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let style = colour.stroke_width(2);
        let points = line.points.iter().copied();
        match line.stroke {
            Stroke::Solid => drop(chart.draw_series(LineSeries::new(points, style))?),
            Stroke::Dashed => drop(chart.draw_series(DashedLineSeries::new(points, 6, 5, style))?),
        }
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;

        let height = 60 + 24 * i32::try_from(at)?;
        let pieces: &[(i32, i32)] = match line.stroke {
            Stroke::Solid => &[(0, 28)],
            Stroke::Dashed => &[(0, 6), (11, 17), (22, 28)],
        };
        for (from, to) in pieces {
            legend.draw(&PathElement::new([(*from, height), (*to, height)], style))?;
        }
        legend.draw(&Text::new(line.name.clone(), (36, height - 8), text(14)))?;
    }
    area.present()?;
    Ok(())
}

/// From the least to the most.
fn range(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    values.map(|value| value..value).reduce(|all, one| all.start.min(one.start)..all.end.max(one.end))
}

/// The powers of ten in a range; with 2 and 5 times those, if they are few.
fn round_numbers(range: &Range<f64>) -> Vec<f64> {
    let (from, to) = (range.start.log10().floor() as i32, range.end.log10().ceil() as i32);
    let factors: &[f64] = if to - from <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all = (from..=to).flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
    all.filter(|number| range.contains(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;

    fn plot(lines: Vec<Line>) -> Plot<'static> {
        let x = Axis { label: "size of the file", write: |bytes| units::size(bytes as u64) };
        Plot { title: "Copies & costs", x, y: Axis { label: "seconds", write: units::time }, lines }
    }

    #[test]
    fn a_plot_says_what_is_on_its_axes() {
        let line = |name: &str, stroke| {
            let points = vec![(4096.0, 0.0001), (1_048_576.0, 0.02)];
            Line { name: name.to_owned(), colour: 0, stroke, points }
        };
        let text = svg(&plot(vec![line("first", Stroke::Solid), line("second", Stroke::Dashed)])).unwrap();
        for word in ["Copies &amp; costs", "size of the file", "4 KiB", "1 MiB", "1.00 ms", "first", "second"]
        {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    }

    #[test]
    fn nothing_makes_no_plot() {
        assert!(svg(&plot(Vec::new())).is_err());
    }
}
