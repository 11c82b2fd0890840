//! What do several measurements of the same thing say?

use serde::Serialize;

/// Several measurements of one thing, in no particular order.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

/// What a sample says: its middle, and how far it scatters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The value in the middle. One slow outlier does not move it.
    pub median: f64,
    /// A quarter of them are smaller.
    pub lower_quartile: f64,
    /// A quarter of them are larger.
    pub upper_quartile: f64,
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

    /// Each as a ratio to the one of another sample that was measured in the same turn: what has slowed both down for a
    /// while does not count. Nothing where one of the two has no such turn.
    #[must_use]
    pub fn ratios_to(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// What they say together; nothing if there are none.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        // Between two values, the mean of them, weighted by how near they are.
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Summary {
            median: at(0.5),
            lower_quartile: at(0.25),
            upper_quartile: at(0.75),
            least: at(0.0),
            most: at(1.0),
            runs: sorted.len(),
        })
    }
}

impl Summary {
    /// How far the middle half of the values lies from the median, as a share of it: 0.1 means that the next
    /// measurement is as likely as not to be within a tenth.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.upper_quartile - self.lower_quartile) / 2.0 / self.median }
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
    fn ratios_are_those_of_one_turn() {
        let sample = |values: &[f64]| Sample(values.to_vec());
        let ratios = sample(&[2.0, 40.0, 6.0]).ratios_to(&sample(&[1.0, 10.0]));
        assert_eq!(ratios.0, [2.0, 4.0]);
        assert!(sample(&[]).ratios_to(&sample(&[1.0])).is_empty());
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        for (values, median, least, most) in [
            (&[3.0][..], 3.0, 3.0, 3.0),
            (&[5.0, 1.0], 3.0, 1.0, 5.0),
            (&[9.0, 1.0, 2.0], 2.0, 1.0, 9.0),
            (&[4.0, 1.0, 100.0, 2.0], 3.0, 1.0, 100.0),
        ] {
            let summary = summary(values).expect("values");
            assert_eq!((summary.median, summary.least, summary.most), (median, least, most), "{values:?}");
            assert_eq!(summary.runs, values.len());
        }
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn one_outlier_is_no_spread() {
        let spread = |values| summary(values).map(|summary| summary.spread());
        assert_eq!(spread(&[2.0, 2.0, 2.0, 2.0, 99.0]), Some(0.0));
        assert_eq!(spread(&[1.0, 2.0, 4.0]), Some(0.375));
        assert_eq!(spread(&[0.0, 0.0]), Some(0.0));
    }
}
