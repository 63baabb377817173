//! Comparing arrays of numbers: one place that decides what "close" means and says what was not.

use std::fmt;

/// How far numbers may lie from the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// Largest absolute difference of one element.
    MaxAbs(f32),
    /// Root mean square of the differences over the standard deviation of the reference.
    RmsOverStd(f32),
}

impl Tolerance {
    /// Float32 arithmetic on the same weights (golden README, "Tolerances").
    pub const GOLDEN: Self = Self::MaxAbs(1e-4);
    /// Activations rounded to f16 before the products (golden README).
    pub const F16_ACTIVATIONS: Self = Self::RmsOverStd(0.002);
    /// Activations rounded to bf16 before the products (golden README).
    pub const BF16_ACTIVATIONS: Self = Self::RmsOverStd(0.015);
    /// Activations quantized to 8-bit blocks (golden README).
    pub const INT8_ACTIVATIONS: Self = Self::RmsOverStd(0.05);
}

/// How far two arrays lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Closeness {
    /// Largest absolute difference; infinite where only one side is finite or the signs of two
    /// infinities differ.
    pub max_abs: f32,
    /// Index of that difference.
    pub at: usize,
    /// Root mean square of the differences over the standard deviation of the reference (over its
    /// root mean square where it is constant).
    pub rms_over_std: f32,
}

impl Closeness {
    /// True if the difference lies within the tolerance.
    pub fn within(&self, tolerance: Tolerance) -> bool {
        match tolerance {
            Tolerance::MaxAbs(limit) => self.max_abs <= limit,
            Tolerance::RmsOverStd(limit) => self.rms_over_std <= limit,
        }
    }
}

impl fmt::Display for Closeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max abs {:.3e} at {}, rms/std {:.3e}", self.max_abs, self.at, self.rms_over_std)
    }
}

fn difference(got: f32, want: f32) -> f32 {
    match (got.is_finite(), want.is_finite()) {
        (true, true) => (got - want).abs(),
        (false, false) if got == want || (got.is_nan() && want.is_nan()) => 0.0,
        _ => f32::INFINITY,
    }
}

/// Measures the distance of two arrays of one length; sums are in f64.
///
/// # Panics
/// If the lengths differ.
#[track_caller]
pub fn closeness(got: &[f32], want: &[f32]) -> Closeness {
    assert_eq!(got.len(), want.len(), "got {} values, want {}", got.len(), want.len());
    let mut result = Closeness { max_abs: 0.0, at: 0, rms_over_std: 0.0 };
    let (mut error_sq, mut sum, mut sum_sq) = (0f64, 0f64, 0f64);
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let d = difference(g, w);
        if d > result.max_abs {
            (result.max_abs, result.at) = (d, i);
        }
        error_sq += f64::from(d).powi(2);
        sum += f64::from(w);
        sum_sq += f64::from(w).powi(2);
    }
    let n = want.len().max(1) as f64;
    let variance = (sum_sq / n - (sum / n).powi(2)).max(0.0);
    let scale = if variance > 1e-12 * sum_sq / n { variance } else { sum_sq / n };
    let mean_error_sq = error_sq / n;
    result.rms_over_std = match (mean_error_sq > 0.0, scale > 0.0) {
        (false, _) => 0.0,
        (true, true) => (mean_error_sq / scale).sqrt() as f32,
        (true, false) => f32::INFINITY,
    };
    result
}

/// Root mean square of `got - want` over the standard deviation of `want`.
///
/// # Panics
/// If the lengths differ.
#[track_caller]
pub fn rms_over_std(got: &[f32], want: &[f32]) -> f32 {
    closeness(got, want).rms_over_std
}

/// Fails the test, with the worst element and both measures, if `got` is not close to `want`.
///
/// # Panics
/// If the lengths differ, nothing is compared, or the difference exceeds the tolerance.
#[track_caller]
pub fn assert_close(name: &str, got: &[f32], want: &[f32], tolerance: Tolerance) {
    assert!(!want.is_empty(), "{name}: nothing to compare");
    assert_eq!(got.len(), want.len(), "{name}: got {} values, want {}", got.len(), want.len());
    let c = closeness(got, want);
    assert!(
        c.within(tolerance),
        "{name}: {c}, beyond {tolerance:?}: got {}, want {}",
        got[c.at],
        want[c.at]
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closeness_of_a_small_example_is_what_a_person_computes() {
        let c = closeness(&[1.0, 2.0, 4.0], &[1.0, 2.0, 3.0]);
        assert_eq!((c.max_abs, c.at), (1.0, 2));
        // rms = sqrt(1/3), std of 1, 2, 3 = sqrt(2/3)
        assert!((c.rms_over_std - 0.5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn a_nan_where_the_reference_is_finite_is_never_close() {
        let c = closeness(&[f32::NAN, 1.0], &[0.0, 1.0]);
        assert!(!c.within(Tolerance::MaxAbs(1e9)) && !c.within(Tolerance::RmsOverStd(1e9)));
    }

    #[test]
    fn equal_infinities_are_close_and_opposite_ones_are_not() {
        let inf = f32::INFINITY;
        assert!(closeness(&[-inf, 1.0], &[-inf, 1.0]).within(Tolerance::GOLDEN));
        assert!(!closeness(&[inf, 1.0], &[-inf, 1.0]).within(Tolerance::GOLDEN));
    }

    #[test]
    #[should_panic(expected = "logits: max abs 2.500e-1 at 1")]
    fn assert_close_names_the_array_and_the_worst_element() {
        assert_close("logits", &[1.0, 2.25], &[1.0, 2.0], Tolerance::MaxAbs(0.1));
    }

    #[test]
    #[should_panic(expected = "nothing to compare")]
    fn assert_close_of_nothing_fails() {
        assert_close("empty", &[], &[], Tolerance::GOLDEN);
    }
}
