//! Exponentials on lane vectors, and sums of long rows.
//!
//! `exp` reduces to `2^n e^r`, |r| <= ln 2 / 2, with Cephes' degree-5 polynomial for
//! `(e^r - 1 - r) / r^2` (relative error about 1e-7, under 2 ulp); overflow gives infinity,
//! underflow subnormals and zero, NaN stays NaN.

use crate::simd::{LANES, Simd};

/// Lane vectors summed in f32 before a partial sum moves on to f64: bounds the error of long rows.
pub(crate) const STEPS_PER_PARTIAL: usize = 16;

/// `e^x` per lane.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // What is below the smallest subnormal gets an exponent of its own: Intel's processors take some
    // hundred cycles for each product that is so small, and masked scores are -inf.
    let (given, lowest) = (x, s.splat(-104.0));
    let x = s.select_lt(x, lowest, s.splat(0.0), s.min(s.splat(89.0), x));
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
    s.select_lt(given, lowest, s.splat(0.0), s.scale(p, n))
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

/// Replaces every lane vector `v` of a slice by an expression; the last one is filled up with
/// `$fill`.
///
/// A macro because a closure is a function of its own without `target_feature`: once it is too
/// large to be inlined its intrinsics become calls.
macro_rules! map_lanes {
    ($s:expr, $x:expr, $fill:expr, |$v:ident| $value:expr) => {{
        let (s, x): (_, &mut [f32]) = ($s, $x);
        let mut at = 0;
        while at < x.len() {
            let n = x.len().min(at + $crate::simd::LANES) - at;
            let mut padded = [$fill; $crate::simd::LANES];
            let whole = n == $crate::simd::LANES;
            if !whole {
                padded[..n].copy_from_slice(&x[at..]);
            }
            let p = if whole { x[at..].as_mut_ptr() } else { padded.as_mut_ptr() };
            // SAFETY: 16 f32 of the slice or of the array.
            let $v = unsafe { s.load(p) };
            let value = $value;
            // SAFETY: as above.
            unsafe { s.store(p, value) }
            if !whole {
                x[at..].copy_from_slice(&padded[..n]);
            }
            at += n;
        }
    }};
}

/// Sum of an expression over every lane vector `v` of a slice, with partial sums in f64; the last
/// vector is filled up with `$fill`, for which the expression must give zero.
macro_rules! sum_lanes {
    ($s:expr, $x:expr, $fill:expr, |$v:ident| $value:expr) => {{
        let (s, x): (_, &[f32]) = ($s, $x);
        let mut total = 0.0f64;
        for part in x.chunks($crate::math::STEPS_PER_PARTIAL * $crate::simd::LANES) {
            let mut acc = s.splat(0.0);
            for chunk in part.chunks($crate::simd::LANES) {
                let mut padded = [$fill; $crate::simd::LANES];
                let whole = chunk.len() == $crate::simd::LANES;
                if !whole {
                    padded[..chunk.len()].copy_from_slice(chunk);
                }
                let p = if whole { chunk.as_ptr() } else { padded.as_ptr() };
                // SAFETY: 16 f32 of the slice or of the array.
                let $v = unsafe { s.load(p) };
                acc = s.add(acc, $value);
            }
            total += f64::from(s.sum(acc));
        }
        total
    }};
}
pub(crate) use {map_lanes, sum_lanes};

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
