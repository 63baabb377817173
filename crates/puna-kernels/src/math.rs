//! Exponentials on lane vectors, and sums of long rows.
//!
//! `exp` reduces to `2^n e^r`, |r| <= ln 2 / 2, with Cephes' degree-5 polynomial for
//! `(e^r - 1 - r) / r^2` (relative error about 1e-7, under 2 ulp); overflow gives infinity,
//! underflow subnormals and zero, NaN stays NaN.

use crate::simd::{LANES, Simd};

/// Lane vectors summed in f32 before a partial sum moves on to f64: bounds the error of long rows.
const STEPS_PER_PARTIAL: usize = 16;

/// `e^x` per lane.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(-105.0), s.min(s.splat(89.0), x));
    // Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits.
    let magic = s.splat(12_582_912.0);
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), magic);
    let n = s.sub(shifted, magic);
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    // 2^n in two factors: n reaches from -152 to 129.
    let n = s.sub_i(s.bits(shifted), s.splat_i(12_582_912f32.to_bits().cast_signed()));
    let half = s.sra1(n);
    let power = |n| s.of_bits(s.shl23(s.add_i(n, s.splat_i(127))));
    s.mul(s.mul(p, power(half)), power(s.sub_i(n, half)))
}

/// `1 / (1 + e^-x)` per lane.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `tanh x` per lane: Cephes' odd polynomial below 0.625, exponentials above.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let z = s.mul(x, x);
    let mut p = s.splat(-5.704_988_7e-3);
    for c in [2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = s.fma(p, z, s.splat(c));
    }
    let near = s.fma(s.mul(p, z), x, x);
    let one = s.splat(1.0);
    let e = exp(s, s.add(x, x));
    let far = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.select_lt(z, s.splat(0.390_625), near, far)
}

/// Calls `f` on every lane vector of `x`, the last one filled up with `fill`, and writes back.
#[inline(always)]
pub(crate) fn map_in_place<S: Simd>(s: S, x: &mut [f32], fill: f32, f: impl Fn(S::F) -> S::F) {
    let (vectors, tail) = x.as_chunks_mut::<LANES>();
    for v in vectors {
        // SAFETY: a whole array of 16 f32.
        unsafe { s.store(v.as_mut_ptr(), f(s.load(v.as_ptr()))) }
    }
    if !tail.is_empty() {
        let mut v = [fill; LANES];
        v[..tail.len()].copy_from_slice(tail);
        // SAFETY: a whole array of 16 f32.
        unsafe { s.store(v.as_mut_ptr(), f(s.load(v.as_ptr()))) }
        tail.copy_from_slice(&v[..tail.len()]);
    }
}

/// Sum over `f` of every lane vector of `x` (the last one filled up with `fill`, for which `f`
/// must give zero), with partial sums in f64.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, x: &[f32], fill: f32, f: impl Fn(S::F) -> S::F) -> f64 {
    let mut total = 0.0;
    for part in x.chunks(STEPS_PER_PARTIAL * LANES) {
        let (vectors, tail) = part.as_chunks::<LANES>();
        let mut acc = s.splat(0.0);
        for v in vectors {
            // SAFETY: a whole array of 16 f32.
            acc = s.add(acc, f(unsafe { s.load(v.as_ptr()) }));
        }
        if !tail.is_empty() {
            let mut v = [fill; LANES];
            v[..tail.len()].copy_from_slice(tail);
            // SAFETY: a whole array of 16 f32.
            acc = s.add(acc, f(unsafe { s.load(v.as_ptr()) }));
        }
        total += f64::from(s.sum(acc));
    }
    total
}

/// The largest element; NaN if there is one, -inf of nothing.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    // Four-way so that the loop vectorizes without reordering anything that matters.
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut nan = false;
    let (vectors, tail) = x.as_chunks::<LANES>();
    for v in vectors {
        for (m, &v) in lanes.iter_mut().zip(v) {
            *m = if v > *m { v } else { *m };
            nan |= v.is_nan();
        }
    }
    for (m, &v) in lanes.iter_mut().zip(tail) {
        *m = if v > *m { v } else { *m };
        nan |= v.is_nan();
    }
    if nan { f32::NAN } else { lanes.into_iter().fold(f32::NEG_INFINITY, f32::max) }
}
