//! Which source a row comes from, by weight, from the row's number alone.
//!
//! A period of rows is laid out once: each row goes to the source that is furthest behind its
//! share. Every beginning of the sequence then holds each source in its proportion to within a row
//! or two, which random draws do only to within a square root; and the count of a source's earlier
//! rows, which a resumed run needs, is a division and a table look-up.

use crate::DataError;

/// Rows of a period; weights are rounded to its parts.
const PERIOD: usize = 1 << 16;

/// A laid-out period.
#[derive(Debug, Clone)]
pub(crate) struct Mixture {
    /// Source of each row of the period.
    sources: Vec<u16>,
    /// How many earlier rows of the period have the same source.
    ranks: Vec<u32>,
    /// Rows of each source in a period.
    counts: Vec<u64>,
}

impl Mixture {
    /// Lays out the weights, which need not add up to 1.
    pub(crate) fn new(weights: &[f64]) -> Result<Self, DataError> {
        let fails = |got: String| DataError::Setting {
            option: "weight",
            expected: "a positive number for each of at most 65,535 sources",
            got,
        };
        if weights.is_empty() || weights.len() >= PERIOD {
            return Err(fails(format!("{} sources", weights.len())));
        }
        if let Some(weight) = weights.iter().find(|w| !w.is_finite() || **w <= 0.0) {
            return Err(fails(weight.to_string()));
        }
        let counts = parts(weights);
        let mut given = vec![0u64; counts.len()];
        let mut mixture = Self {
            sources: Vec::with_capacity(PERIOD),
            ranks: Vec::with_capacity(PERIOD),
            counts: counts.clone(),
        };
        for row in 0..PERIOD as i64 {
            // Behind by count·(row + 1)/PERIOD − given, times PERIOD to stay in integers.
            let behind = |s: usize| counts[s] as i64 * (row + 1) - given[s] as i64 * PERIOD as i64;
            let mut best = 0;
            for source in 1..counts.len() {
                if behind(source) > behind(best) {
                    best = source;
                }
            }
            mixture.sources.push(best as u16);
            mixture.ranks.push(given[best] as u32);
            given[best] += 1;
        }
        mixture.counts = given;
        Ok(mixture)
    }

    /// The source of a row, and how many earlier rows it has had.
    pub(crate) fn locate(&self, row: u64) -> (usize, u64) {
        let (period, at) = (row / PERIOD as u64, (row % PERIOD as u64) as usize);
        let source = self.sources[at] as usize;
        (source, period * self.counts[source] + u64::from(self.ranks[at]))
    }
}

/// Integers that add up to the period, in proportion to the weights, none of them 0: each the
/// floor of its share, the rest to the largest remainders.
fn parts(weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|w| w / total * PERIOD as f64).collect();
    let mut parts: Vec<u64> = shares.iter().map(|share| (share.floor() as u64).max(1)).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()).then(a.cmp(&b)));
    let mut next = order.iter().cycle();
    while parts.iter().sum::<u64>() < PERIOD as u64 {
        if let Some(&source) = next.next() {
            parts[source] += 1;
        }
    }
    while parts.iter().sum::<u64>() > PERIOD as u64 {
        if let Some(largest) = parts.iter_mut().max() {
            *largest -= 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beginning_holds_the_sources_in_proportion() {
        // LLaMA 1, table 1.
        let weights = [0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02];
        let mixture = Mixture::new(&weights).expect("sound");
        let mut counts = [0u64; 7];
        for row in 0..200_000u64 {
            let (source, earlier) = mixture.locate(row);
            assert_eq!(earlier, counts[source], "row {row}");
            counts[source] += 1;
            for (count, weight) in counts.iter().zip(weights) {
                let off = (*count as f64 - weight * (row + 1) as f64).abs();
                assert!(off < 4.0, "row {row}: off by {off}");
            }
        }
    }

    #[test]
    fn weights_two_to_one_alternate_two_to_one() {
        let mixture = Mixture::new(&[2.0, 1.0]).expect("sound");
        let sources: Vec<usize> = (0..9).map(|row| mixture.locate(row).0).collect();
        assert_eq!(sources.iter().filter(|&&s| s == 0).count(), 6);
        assert!(!sources.windows(2).any(|w| w == [1, 1]), "{sources:?}");
    }

    #[test]
    fn a_weight_that_is_no_positive_number_is_refused() {
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Mixture::new(&[1.0, weight]).is_err(), "{weight}");
        }
    }

    #[test]
    fn a_tiny_weight_still_gets_rows() {
        let mixture = Mixture::new(&[1.0, 1e-9]).expect("sound");
        assert!((0..PERIOD as u64).any(|row| mixture.locate(row).0 == 1));
    }
}
