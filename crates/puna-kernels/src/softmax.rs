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

impl Kernels {
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
pub(crate) fn log_softmax_row<S: Simd>(s: S, x: &[f32], out: &mut [f32]) {
    let max = math::max(x);
    let shift = s.splat(max);
    let sum = sum_lanes!(s, x, f32::NEG_INFINITY, |v| math::exp(s, s.sub(v, shift)));
    let log = sum.ln() as f32;
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x - max) - log;
    }
}
