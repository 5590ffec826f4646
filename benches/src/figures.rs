//! What is told of many measurements of one thing: the middle and both ends.

use std::time::Duration;

/// The median and the extremes of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Figure {
    /// Summarises the values; none of no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[half - 1], values[half]),
            _ => values[half],
        };
        Some(Self { median, lowest, highest })
    }
}

/// Divides value by value: what two contestants did in the same round.
pub(crate) fn ratios(ours: &[f64], peer: &[f64]) -> Option<Figure> {
    Figure::of(ours.iter().zip(peer).map(|(ours, peer)| ours / peer))
}

/// Returns milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let odd = Figure::of([9.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.lowest, odd.median, odd.highest), (1.0, 2.0, 9.0));
        assert_eq!(Figure::of([4.0, 1.0, 2.0, 9.0]).unwrap().median, 3.0);
        assert_eq!(Figure::of([]), None);
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        // The second round was slow for both: their ratio is as ever.
        let ratio = ratios(&[20.0, 2.0, 22.0], &[10.0, 1.0, 11.0]).unwrap();
        assert_eq!((ratio.lowest, ratio.median, ratio.highest), (2.0, 2.0, 2.0));
    }
}
