//! How long does the first write to a lower file take, and how long the second?

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use indicatif::ProgressBar;
use serde::Serialize;

use super::error::BenchError;
use super::interrupt::Interrupt;
use super::playground::{Place, Playground, Syncing};
use super::stats::{Sample, Summary};
use crate::units::{self, KIB, MIB};

/// The first size, and how much is written.
pub(super) const SMALLEST: u64 = 4 * KIB;
/// From one size to the next.
const FACTOR: u64 = 4;
/// What the lower files of one playground may have together, if they are more than one.
const AT_ONCE: u64 = 64 * MIB;
/// Left free beside the files: nobody's disk should be filled to the last byte.
const RESERVE: u64 = 64 * MIB;

/// What came of one size.
#[derive(Debug)]
pub(super) enum Measured {
    Cost(Cost),
    NoRoom(NoRoom),
}

/// What the first and second write to a file of one size cost, in seconds.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    pub(super) size: u64,
    pub(super) sync: Writes,
    pub(super) volatile: Writes,
}

/// Of one of the two unions.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Writes {
    pub(super) first: Summary,
    pub(super) second: Summary,
}

/// A size that was left out.
#[derive(Debug, Serialize)]
pub(super) struct NoRoom {
    pub(super) size: u64,
    pub(super) needs: u64,
    pub(super) free: u64,
}

/// All sizes up to `largest`.
pub(super) fn sizes(largest: u64) -> Result<Vec<u64>, BenchError> {
    let next = |size: &u64| size.checked_mul(FACTOR);
    let sizes: Vec<u64> =
        std::iter::successors(Some(SMALLEST), next).take_while(|size| *size <= largest).collect();
    if sizes.is_empty() { Err(BenchError::TooSmall(largest)) } else { Ok(sizes) }
}

/// More of what is quick: it is what varies most.
fn repetitions(size: u64) -> usize {
    if size <= MIB {
        15
    } else if size <= AT_ONCE {
        7
    } else {
        3
    }
}

/// Measures one size, on files of their own.
pub(super) fn measure(
    place: &Place,
    size: u64,
    interrupt: &Interrupt,
    progress: &ProgressBar,
) -> Result<Measured, BenchError> {
    let repetitions = repetitions(size);
    let at_once = usize::try_from(AT_ONCE / size).unwrap_or(usize::MAX).clamp(1, repetitions);
    // Each lower file, and the copies in both uppers.
    let (needs, free) = (size * at_once as u64 * 3 + RESERVE, place.room()?);
    if needs > free {
        return Ok(Measured::NoRoom(NoRoom { size, needs, free }));
    }
    let mut samples: [[Sample; 2]; 2] = Default::default();
    let mut done = 0;
    while done < repetitions {
        let now = at_once.min(repetitions - done);
        // One more: whatever is done only once in a mount's life is done for that one.
        let files = if at_once > 1 { now + 1 } else { now };
        let ground = Playground::new(place, files, size, interrupt)?;
        if files > now {
            for syncing in Syncing::BOTH {
                write_twice(&ground, syncing, now)?;
            }
        }
        for file in 0..now {
            progress.set_message(format!("{}: {} of {repetitions}", units::size(size), done + file + 1));
            // They take turns at being first.
            let mut turn = Syncing::BOTH;
            turn.rotate_left((done + file) % 2);
            for syncing in turn {
                interrupt.check()?;
                let times = write_twice(&ground, syncing, file)?;
                let of_union = &mut samples[usize::from(syncing == Syncing::Volatile)];
                of_union.iter_mut().zip(times).for_each(|(sample, time)| sample.add(time));
            }
        }
        ground.end()?;
        done += now;
    }
    let [sync, volatile] =
        samples.map(|[first, second]| Some(Writes { first: first.summary()?, second: second.summary()? }));
    match (sync, volatile) {
        (Some(sync), Some(volatile)) => Ok(Measured::Cost(Cost { size, sync, volatile })),
        _ => unreachable!("every size is measured at least once"),
    }
}

/// The first and the second write to a file, each with nothing else to be written meanwhile.
fn write_twice(ground: &Playground, syncing: Syncing, file: usize) -> Result<[f64; 2], BenchError> {
    let path = ground.file(syncing, file);
    let failed = |error| BenchError::Step { what: "write to", path: path.clone(), error };
    let mut times = [0.0; 2];
    for time in &mut times {
        ground.settle()?;
        // The way to it is no part of the write.
        let size = fs::metadata(&path).map_err(failed)?.len();
        let start = Instant::now();
        write_in_the_middle(&path, size).map_err(failed)?;
        *time = start.elapsed().as_secs_f64();
    }
    Ok(times)
}

/// Open, write, close.
fn write_in_the_middle(path: &Path, size: u64) -> io::Result<()> {
    let middle = (size / 2) & !(SMALLEST - 1);
    OpenOptions::new().write(true).open(path)?.write_all_at(&[b'y'; SMALLEST as usize], middle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GIB;

    #[test]
    fn sizes_go_up_to_the_largest() {
        assert_eq!(sizes(4 * KIB).unwrap(), [4 * KIB]);
        assert_eq!(sizes(65 * KIB).unwrap(), [4 * KIB, 16 * KIB, 64 * KIB]);
        assert_eq!(sizes(GIB).unwrap().len(), 10);
        assert!(sizes(u64::MAX).is_ok());
        assert!(sizes(4 * KIB - 1).unwrap_err().to_string().contains("4 KiB or more"));
    }
}
