//! What do several measurements of the same thing say?

use serde::Serialize;

/// Several measurements of one thing, in no particular order.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

/// What a sample says: its median, and how far apart its ends are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The value in the middle; of an even number, the mean of the two there. One slow outlier does not move it.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// How many measurements there are.
    pub runs: usize,
}

impl Sample {
    /// One more measurement.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they say together; nothing if there are none.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let runs = sorted.len();
        let median = f64::midpoint(sorted[(runs - 1) / 2], sorted[runs / 2]);
        Some(Summary { median, least, most, runs })
    }
}

impl Summary {
    /// How far the ends are apart, as a share of the median: 0.1 means that it is good for a tenth or so.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.most - self.least) / self.median }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(values: &[f64]) -> Option<Summary> {
        let mut sample = Sample::default();
        values.iter().for_each(|value| sample.add(*value));
        sample.summary()
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        for (values, median, least, most) in [
            (&[3.0][..], 3.0, 3.0, 3.0),
            (&[5.0, 1.0], 3.0, 1.0, 5.0),
            (&[9.0, 1.0, 2.0], 2.0, 1.0, 9.0),
            (&[4.0, 1.0, 100.0, 2.0], 3.0, 1.0, 100.0),
        ] {
            let expected = Summary { median, least, most, runs: values.len() };
            assert_eq!(summary(values), Some(expected), "{values:?}");
        }
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn the_spread_is_a_share_of_the_median() {
        let spread = |values| summary(values).map(|summary| summary.spread());
        assert_eq!(spread(&[2.0, 2.0, 2.0]), Some(0.0));
        assert_eq!(spread(&[1.0, 2.0, 4.0]), Some(1.5));
        assert_eq!(spread(&[0.0, 0.0]), Some(0.0));
    }
}
