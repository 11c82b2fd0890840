//! What does copy-up cost on this machine?
//!
//! `plyfs bench` in reading order: it makes a `playground` with two mounts, `copy_up` measures on it size by
//! size, and `report` says what came of it. What is left is of use to other measurements too: [`stats`],
//! [`table`], [`plot`] and [`noise`].

mod copy_up;
mod error;
mod interrupt;
pub mod noise;
mod output;
mod playground;
pub mod plot;
mod report;
pub mod stats;
pub mod table;

use std::io::Write;
use std::time::Duration;

use indicatif::ProgressBar;

pub use error::BenchError;

use crate::cli::BenchArgs;
use copy_up::Measured;
use interrupt::Interrupt;
use output::Output;
use report::Report;

/// `plyfs bench`.
///
/// # Errors
/// Every way in which it can fail, see [`BenchError`].
pub fn run(args: &BenchArgs) -> Result<(), BenchError> {
    let sizes = copy_up::sizes(args.max_size)?;
    // What cannot be written at the end should not be measured first.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let svg = args.svg.as_deref().map(Output::open).transpose()?;
    let interrupt = Interrupt::listen()?;
    let place = playground::Place::within(&args.dir)?;

    let mut report = Report::new(place.reflink()?);
    // On stderr, and only if that is a terminal.
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    let say =
        |line: &str| progress.suspend(|| writeln!(std::io::stdout(), "{line}").map_err(BenchError::Output));
    for (at, size) in sizes.into_iter().enumerate() {
        let measured = copy_up::measure(&place, size, &interrupt, &progress)?;
        // Not earlier: if nothing can be mounted, that is all there is to say.
        if at == 0 {
            say(&report.head(&args.dir))?;
        }
        match measured {
            Measured::Cost(cost) => {
                say(&report::row(&cost))?;
                report.sizes.push(cost);
            }
            Measured::NoRoom(skipped) => {
                say(&report::no_room(&skipped))?;
                report.skipped.push(skipped);
            }
        }
    }
    progress.finish_and_clear();
    say(report::FOOT)?;
    if let Some(json) = json {
        say(&json.write(&report.json()?)?)?;
    }
    if let Some(svg) = svg {
        say(&svg.write(&report.svg()?)?)?;
    }
    Ok(())
}
