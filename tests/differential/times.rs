//! When was that, so that two trees can be compared?
//!
//! A time that somebody set is compared to the nanosecond. A time that an operation left is known by the
//! operations that it may have been.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Seconds and nanoseconds.
pub(crate) type Instant = (i64, i64);

/// Times that files are given, before 1970 and after 2038 too.
pub(crate) const TIMES: [Instant; 5] =
    [(1_000_000_000, 123_456_789), (-2, 250_000_000), (0, 0), (-100_000, 999_999_999), (5_000_000_000, 1)];

/// When a file was modified.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// At a time that was set.
    Exactly(Instant),
    /// By one of these operations.
    Within { first: usize, last: usize },
}

/// Two accounts of one moment agree if they can both be true.
impl PartialEq for When {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exactly(one), Self::Exactly(two)) => one == two,
            (Self::Within { first, last }, Self::Within { first: other_first, last: other_last }) => {
                first <= other_last && other_first <= last
            }
            _ => false,
        }
    }
}

/// The time that each operation took.
#[derive(Default)]
pub(crate) struct Clock {
    operations: Vec<(Instant, Instant)>,
}

impl Clock {
    /// Runs the next operation.
    pub(crate) fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        // The disk's own clock: it ticks only now and then.
        let before = instant(clock_gettime(ClockId::RealtimeCoarse));
        let outcome = operation();
        self.operations.push((before, instant(clock_gettime(ClockId::Realtime))));
        outcome
    }

    /// An operation that the other side alone has done.
    pub(crate) fn skip(&mut self) {
        self.time(|| ());
    }

    pub(crate) fn when(&self, time: Instant) -> When {
        // They are in order, and may be many.
        let first = self.operations.partition_point(|(_, after)| *after < time);
        let begun = self.operations.partition_point(|(before, _)| *before <= time);
        if first < begun { When::Within { first, last: begun - 1 } } else { When::Exactly(time) }
    }
}

fn instant(time: Timespec) -> Instant {
    (time.tv_sec, time.tv_nsec)
}
