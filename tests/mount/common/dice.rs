//! A repeatable source of choices.

use std::ops::Range;

/// What it throws follows from the seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    /// A range of at most `longest` bytes that ends within `end`.
    pub(crate) fn range(&mut self, end: usize, longest: usize) -> Range<usize> {
        let start = self.throw(end + 1);
        start..start + self.throw((end - start).min(longest) + 1)
    }
}
