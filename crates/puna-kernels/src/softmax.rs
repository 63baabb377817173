//! Softmax and its logarithm over one row, shifted by the maximum.

use crate::kernels::Kernels;
use crate::math::{self, map_lanes, sum_lanes};
use crate::simd::Simd;

/// `x = e^x / sum e^x`, in place.
pub fn softmax(x: &mut [f32]) {
    Kernels::get().softmax(x);
}

/// `out = x - ln sum e^x`.
///
/// # Panics
/// If the lengths differ.
pub fn log_softmax(x: &[f32], out: &mut [f32]) {
    Kernels::get().log_softmax(x, out);
}

/// The largest value of a row, and `sum e^(x - largest)`; NaN where one is NaN.
#[must_use]
pub fn sum_exp(x: &[f32]) -> (f32, f64) {
    Kernels::get().sum_exp(x)
}

/// Index of the largest value, the lowest among equals; `None` if there is none above -inf, or a NaN.
#[must_use]
pub fn argmax(x: &[f32]) -> Option<usize> {
    /// Values looked at together.
    const CHUNK: usize = 64;
    let max = math::max(x);
    if max.is_nan() || max == f32::NEG_INFINITY {
        return None;
    }
    // Two passes of vectors are quicker than one that remembers where it was.
    let has_it = |chunk: &[f32]| chunk.iter().fold(false, |found, &x| found | (x == max));
    let first = CHUNK * x.chunks(CHUNK).position(has_it)?;
    x[first..].iter().position(|&x| x == max).map(|at| first + at)
}

impl Kernels {
    /// [`sum_exp`] with this instruction set.
    #[must_use]
    pub fn sum_exp(&self, x: &[f32]) -> (f32, f64) {
        let (max, mut sum) = (math::max(x), 0.0);
        self.sum_exp_row(x, max, &mut sum);
        (max, sum)
    }

    /// [`softmax`] with this instruction set.
    pub fn softmax(&self, x: &mut [f32]) {
        self.softmax_row(x);
    }

    /// [`log_softmax`] with this instruction set.
    ///
    /// # Panics
    /// As there.
    pub fn log_softmax(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "input and output");
        self.log_softmax_row(x, out);
    }
}

/// One row.
#[inline(always)]
pub(crate) fn softmax_row<S: Simd>(s: S, x: &mut [f32]) {
    let max = s.splat(math::max(x));
    map_lanes!(s, x, f32::NEG_INFINITY, |v| math::exp(s, s.sub(v, max)));
    let inverse = (1.0 / sum_lanes!(s, x, 0.0, |v| v)) as f32;
    for x in x {
        *x *= inverse;
    }
}

/// One row.
#[inline(always)]
pub(crate) fn sum_exp_row<S: Simd>(s: S, x: &[f32], max: f32, out: &mut f64) {
    let shift = s.splat(max);
    *out = sum_lanes!(s, x, f32::NEG_INFINITY, |v| math::exp(s, s.sub(v, shift)));
}

/// One row.
#[inline(always)]
pub(crate) fn log_softmax_row<S: Simd>(s: S, x: &[f32], out: &mut [f32]) {
    let (max, mut sum) = (math::max(x), 0.0);
    sum_exp_row(s, x, max, &mut sum);
    let log = sum.ln() as f32;
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x - max) - log;
    }
}

#[cfg(test)]
mod tests {
    use super::argmax;

    #[test]
    fn the_largest_value_is_found_anywhere_and_the_first_of_equals() {
        let mut x: Vec<f32> = (0..200).map(|i| ((i * 37) % 101) as f32).collect();
        let by_hand = x.iter().position(|&v| v == 100.0);
        assert_eq!(argmax(&x), by_hand);
        for at in [199, 128, 64, 63, 0] {
            x[at] = 500.0;
            assert_eq!(argmax(&x), Some(at));
        }
        assert_eq!(argmax(&[f32::NEG_INFINITY, -3.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 70]), None);
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[1.0, f32::NAN]), None);
    }
}
