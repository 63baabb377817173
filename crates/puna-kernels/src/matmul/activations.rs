//! Activations in the form that fast kernels take: 8-bit blocks of 32, or bfloat16.

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
    /// `[tokens, cols / 16]`: scale times the sum of 16 quants, for the zeros of the weights.
    pub(crate) sums: Vec<f32>,
}

impl QuantizedActivations {
    /// Quantizes tokens of `cols` (a multiple of 32) values.
    pub(crate) fn new(kernels: &Kernels, x: &[f32], cols: usize) -> Self {
        let n = x.len();
        let (mut quants, mut scales) = (vec![0; n], vec![0.0; n / 32]);
        let mut sums = vec![0.0; n / 16];
        if n < 2 * MIN_PARALLEL {
            kernels.quantize_activations(x, &mut quants, &mut scales, &mut sums);
        } else {
            let chunk = MIN_PARALLEL.div_ceil(cols) * cols;
            let (q, s, t) =
                (OutPtr::new(&mut quants), OutPtr::new(&mut scales), OutPtr::new(&mut sums));
            pool::run(n.div_ceil(chunk), |i| {
                let range = i * chunk..n.min((i + 1) * chunk);
                let part = |first, len| first / len..(first + range.len()) / len;
                // SAFETY: the ranges of different tasks are disjoint and within the buffers, whose
                // lengths are n, n / 32 and n / 16.
                let (q, s, t) = unsafe {
                    (
                        q.slice(part(range.start, 1)),
                        s.slice(part(range.start, 32)),
                        t.slice(part(range.start, 16)),
                    )
                };
                kernels.quantize_activations(&x[range], q, s, t);
            });
        }
        Self { quants, scales, sums }
    }
}

/// Blocks of 32: `scale = max |x| / 127`, quants rounded to nearest. A block with a NaN or an
/// infinity gets the scale NaN.
#[inline(always)]
pub(crate) fn quantize_activations(
    x: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
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
            *sum = *scale * total as f32;
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
