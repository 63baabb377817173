//! Activations in the form that fast kernels take: 8-bit blocks of 32, or bfloat16.

use crate::blocks::{Layout, Zero};
use crate::kernels::Kernels;
use crate::numbers::f32_to_bf16;
use crate::parallel::{OutPtr, for_each_chunk_mut};
use crate::pool;

/// Values from which conversion is worth a second thread.
const MIN_PARALLEL: usize = 16 * 1024;

/// Tokens of signed bytes with one scale per 32.
pub(crate) struct QuantizedActivations {
    /// `[tokens, cols]`, within ±127.
    pub(crate) quants: Vec<i8>,
    /// `[tokens, cols / 32]`.
    pub(crate) scales: Vec<f32>,
    /// `[tokens, cols / 16]`: sums of 16 quants.
    sums: Vec<i32>,
}

/// What the zeros of the weights add, per sub-block of the weights: `[tokens, cols / sub]`.
pub(crate) enum ZeroTerms {
    /// Minus the weights' constant zero times the sum of the quants: the start of integer sums.
    Integers(Vec<i32>),
    /// Scale times the sum of the quants: the factor of the weights' biases.
    Floats(Vec<f32>),
}

impl QuantizedActivations {
    /// Quantizes tokens of `cols` (a multiple of 32) values.
    pub(crate) fn new(kernels: &Kernels, x: &[f32], cols: usize) -> Self {
        let n = x.len();
        let (mut quants, mut scales) = (vec![0; n], vec![0.0; n / 32]);
        let mut sums = vec![0; n / 16];
        if n < 2 * MIN_PARALLEL {
            kernels.quantize_activations(x, &mut quants, &mut scales, &mut sums);
        } else {
            let chunk = MIN_PARALLEL.div_ceil(cols) * cols;
            let (q, s, t) =
                (OutPtr::new(&mut quants), OutPtr::new(&mut scales), OutPtr::new(&mut sums));
            pool::run(n.div_ceil(chunk), |i| {
                let range = i * chunk..n.min((i + 1) * chunk);
                let part = |len| range.start / len..range.end / len;
                // SAFETY: the ranges of different tasks are disjoint and within the buffers, whose
                // lengths are n, n / 32 and n / 16.
                let (q, s, t) = unsafe { (q.slice(part(1)), s.slice(part(32)), t.slice(part(16))) };
                kernels.quantize_activations(&x[range.clone()], q, s, t);
            });
        }
        Self { quants, scales, sums }
    }

    /// The terms of a form of weights.
    pub(crate) fn zero_terms(&self, layout: Layout) -> ZeroTerms {
        let sums = self.sums.iter();
        let pairs = self.sums.as_chunks::<2>().0.iter().map(|[a, b]| a + b);
        match (layout.zero, layout.sub) {
            (Zero::Constant(zero), 16) => {
                ZeroTerms::Integers(sums.map(|sum| -i32::from(zero) * sum).collect())
            }
            (Zero::Constant(zero), _) => {
                ZeroTerms::Integers(pairs.map(|sum| -i32::from(zero) * sum).collect())
            }
            (Zero::Bias, 16) => {
                let scaled = sums.enumerate().map(|(i, &sum)| self.scales[i / 2] * sum as f32);
                ZeroTerms::Floats(scaled.collect())
            }
            (Zero::Bias, _) => {
                let scaled = self.scales.iter().zip(pairs).map(|(scale, sum)| scale * sum as f32);
                ZeroTerms::Floats(scaled.collect())
            }
        }
    }
}

/// Blocks of 32: `scale = max |x| / 127`, quants rounded to nearest. A block with a NaN or an
/// infinity gets the scale NaN.
#[inline(always)]
pub(crate) fn quantize_activations(
    x: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
) {
    let blocks = x.as_chunks::<32>().0.iter().zip(quants.as_chunks_mut::<32>().0);
    for ((x, q), (scale, sums)) in blocks.zip(scales.iter_mut().zip(sums.as_chunks_mut::<2>().0)) {
        // Bits of |x| order like the values, with NaN above infinity.
        let largest = x.iter().fold(0, |m, x| (x.to_bits() & 0x7fff_ffff).max(m));
        let finite = largest < 0x7f80_0000;
        *scale = if finite { f32::from_bits(largest) / 127.0 } else { f32::NAN };
        let inverse = if finite && largest > 0 { 127.0 / f32::from_bits(largest) } else { 0.0 };
        // Below 3e-37 the inverse overflows; such a block is zero for all purposes.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        for (half, sum) in sums.iter_mut().enumerate() {
            let mut total = 0;
            for (x, q) in x[16 * half..16 * half + 16].iter().zip(&mut q[16 * half..]) {
                // Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits.
                let rounded = (x * inverse + 12_582_912.0).to_bits() as u8;
                *q = rounded.cast_signed();
                total += i32::from(*q);
            }
            *sum = total;
        }
    }
}

/// Nearest bfloat16 of every element.
#[inline(always)]
pub(crate) fn round_bf16(x: &[f32], out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f32_to_bf16(x);
    }
}

/// [`round_bf16`] of a whole batch.
pub(crate) fn round_tokens(kernels: &Kernels, x: &[f32]) -> Vec<u16> {
    let mut out = vec![0; x.len()];
    for_each_chunk_mut(&mut out, MIN_PARALLEL, |first, out| {
        kernels.round_bf16(&x[first..first + out.len()], out);
    });
    out
}
