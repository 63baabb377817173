//! Root-mean-square normalization (Zhang and Sennrich 2019, eq. 4).

use crate::kernels::Kernels;
use crate::math::sum_lanes;
use crate::parallel::{Begin, for_each_chunk_mut, made};
use crate::simd::Simd;

/// Values from which rows are worth a second thread.
const MIN_PARALLEL: usize = 16 * 1024;

/// `out = weight * (x / sqrt(mean(x²) + eps))` for each row.
///
/// # Shapes
/// `x`, `out`: `[rows, weight.len()]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    Kernels::get().rms_norm(x, weight, eps, out);
}

/// [`rms_norm`] in new memory.
///
/// # Panics
/// As there.
#[must_use]
pub fn rms_norm_new(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let cols = weight.len();
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values in rows of {cols}", x.len());
    let kernels = Kernels::get();
    made(Begin::Zeros(x.len()), MIN_PARALLEL.div_ceil(cols) * cols, |first, out| {
        let rows = x[first..].chunks_exact(cols).zip(out.chunks_exact_mut(cols));
        rows.for_each(|(x, out)| kernels.rms_norm_row(x, weight, eps, out));
    })
}

impl Kernels {
    /// [`rms_norm`] with this instruction set.
    ///
    /// # Panics
    /// As there.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "input and output");
        if x.is_empty() {
            return;
        }
        let cols = weight.len();
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values in rows of {cols}", x.len());
        if x.len() < 2 * MIN_PARALLEL {
            for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
                self.rms_norm_row(x, weight, eps, out);
            }
        } else {
            let chunk = MIN_PARALLEL.div_ceil(cols) * cols;
            for_each_chunk_mut(out, chunk, |first, out| {
                let rows = x[first..].chunks_exact(cols).zip(out.chunks_exact_mut(cols));
                rows.for_each(|(x, out)| self.rms_norm_row(x, weight, eps, out));
            });
        }
    }
}

/// One row.
#[inline(always)]
pub(crate) fn rms_norm_row<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_lanes!(s, x, 0.0, |v| s.mul(v, v)) / x.len() as f64;
    let inverse = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = w * (x * inverse);
    }
}
