//! Finds similar signatures without comparing all pairs: locality-sensitive hashing in bands
//! (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4).
//!
//! The signature is cut into b bands of r values; documents that agree in a whole band are
//! candidates, which two of similarity s become with probability 1 − (1 − sʳ)ᵇ. b and r are chosen
//! so that this curve is steepest around the threshold; each candidate is then checked by the whole
//! signature.

use std::collections::HashMap;

use super::minhash::{PERMUTATIONS, Signature, similarity};
use crate::permutation::mix;

/// No document.
const NONE: u32 = u32::MAX;

/// An index of the signatures seen so far.
#[derive(Debug)]
pub(crate) struct Lsh {
    threshold: f64,
    /// Values of a band.
    rows: usize,
    signatures: Vec<Signature>,
    /// For each band: the last document with a band's hash.
    buckets: Vec<HashMap<u64, u32>>,
    /// For each document, band after band: the document before it in its bucket.
    earlier: Vec<u32>,
}

impl Lsh {
    pub(crate) fn new(threshold: f64) -> Self {
        let (bands, rows) = bands(threshold);
        Self {
            threshold,
            rows,
            signatures: Vec::new(),
            buckets: vec![HashMap::new(); bands],
            earlier: Vec::new(),
        }
    }

    /// Whether a signature is similar to one seen before; if not it is remembered.
    pub(crate) fn is_duplicate(&mut self, signature: Signature) -> bool {
        let bands = self.buckets.len();
        let keys: Vec<u64> = signature.chunks_exact(self.rows).take(bands).map(key).collect();
        for (band, (bucket, key)) in self.buckets.iter().zip(&keys).enumerate() {
            let mut candidate = bucket.get(key).copied().unwrap_or(NONE);
            while candidate != NONE {
                let other = &self.signatures[candidate as usize];
                if similarity(&signature, other) >= self.threshold {
                    return true;
                }
                candidate = self.earlier[candidate as usize * bands + band];
            }
        }
        // Four billion signatures are two terabytes: memory ends before the numbers do.
        let number = u32::try_from(self.signatures.len()).unwrap_or(NONE);
        for (bucket, key) in self.buckets.iter_mut().zip(keys) {
            self.earlier.push(bucket.insert(key, number).unwrap_or(NONE));
        }
        self.signatures.push(signature);
        false
    }
}

fn key(band: &[u32]) -> u64 {
    band.iter().fold(0, |hash, value| mix(hash ^ u64::from(*value)).wrapping_add(1))
}

/// Bands and rows whose curve has the least area on the wrong side of the threshold: false
/// candidates below it plus missed ones above, as datasketch weighs them by default.
fn bands(threshold: f64) -> (usize, usize) {
    const STEPS: u32 = 200;
    let area = |from: f64, to: f64, f: &dyn Fn(f64) -> f64| {
        let step = (to - from) / f64::from(STEPS);
        (0..STEPS).map(|i| f(from + (f64::from(i) + 0.5) * step) * step).sum::<f64>()
    };
    let mut best = (f64::INFINITY, (1, 1));
    for rows in 1..=PERMUTATIONS as i32 {
        for bands in 1..=PERMUTATIONS as i32 / rows {
            let found = |s: f64| 1.0 - (1.0 - s.powi(rows)).powi(bands);
            let wrong = 0.5 * area(0.0, threshold, &found)
                + 0.5 * area(threshold, 1.0, &|s| 1.0 - found(s));
            if wrong < best.0 {
                best = (wrong, (bands as usize, rows as usize));
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::super::minhash::signature;
    use super::*;

    fn words(from: usize, to: usize) -> String {
        (from..to).map(|i| format!("w{i} ")).collect()
    }

    #[test]
    fn bands_are_those_of_datasketch() {
        assert_eq!(bands(0.8), (9, 13)); // MinHashLSH(threshold=0.8, num_perm=128)
        assert_eq!(bands(0.5), (25, 5));
    }

    #[test]
    fn similar_texts_are_found_and_others_are_not() {
        let mut lsh = Lsh::new(0.8);
        let mut seen = |text: &str| lsh.is_duplicate(signature(text).expect("words"));
        assert!(!seen(&words(0, 1000)));
        assert!(seen(&words(0, 1000)));
        assert!(seen(&words(20, 1010)), "similarity 0.97");
        assert!(!seen(&words(500, 1500)), "similarity 0.33");
        assert!(!seen(&words(2000, 3000)));
        assert!(seen(&words(2000, 3010)));
    }
}
