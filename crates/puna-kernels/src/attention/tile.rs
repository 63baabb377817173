//! Rows of queries against one page: the two products of attention and the softmax between them.
//!
//! `R` rows are computed side by side, with as many lane vectors as there are registers for. What
//! a row computes does not depend on the others: every lane of a score is one chain of
//! multiply-adds over the features, every lane of an output one chain over the row's own visible
//! keys, both from the first to the last.

use super::ScoreTransform;
use super::page::KV_PAGE;
use crate::math;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Rows whose queries are packed together.
pub(super) const PACK: usize = 8;

/// Lane vectors of a page's keys.
const VECTORS: usize = KV_PAGE / LANES;

/// How a page's values are loaded.
pub(crate) trait Values<S: Simd> {
    /// Bytes of a value.
    const BYTES: usize;
    /// # Safety
    /// 16 values must be readable.
    unsafe fn load(s: S, p: *const u8) -> S::F;
}

/// Values as f32.
pub(crate) struct Singles;
impl<S: Simd> Values<S> for Singles {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load(s: S, p: *const u8) -> S::F {
        // SAFETY: readable by contract.
        unsafe { s.load(p.cast()) }
    }
}

/// Values as f16.
pub(crate) struct Halfs;
impl<S: Simd> Values<S> for Halfs {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load(s: S, p: *const u8) -> S::F {
        // SAFETY: readable by contract.
        unsafe { s.load_f16(p) }
    }
}

/// One head's keys and values of one page.
#[derive(Clone, Copy)]
pub(crate) struct HeadPage {
    /// `[D][64]`
    pub(crate) k: *const u8,
    /// `[64][padded D]`
    pub(crate) v: *const u8,
    /// Keys and values to fetch into the cache meanwhile, and bytes of each of their values; 0: do
    /// not.
    pub(crate) ahead: (*const u8, *const u8, usize),
    pub(crate) dim: usize,
    pub(crate) padded_dim: usize,
}

/// Rows of one group of [`PACK`], and what they have gathered so far.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `[D][PACK]`, at the first of the rows.
    pub(crate) q: *const f32,
    /// `[rows][64]`, scratch for scores and weights.
    pub(crate) weights: *mut f32,
    /// `[rows][padded D]`, not yet divided by the sum of weights.
    pub(crate) out: *mut f32,
    /// `[rows]`, largest score.
    pub(crate) max: *mut f32,
    /// `[rows][16]`, sums of weights per lane.
    pub(crate) sum: *mut f32,
    /// Slots of the page that each row sees.
    pub(crate) visible: &'a [Range<usize>],
}

/// Rows against a page: as many at a time as the instruction set takes.
///
/// # Safety
/// The pointers must cover the rows, at most [`PACK`], and the page.
#[inline(always)]
pub(super) unsafe fn attend_page<S: Simd, E: Values<S>>(
    s: S,
    page: HeadPage,
    rows: Rows<'_>,
    scores: &ScoreTransform,
) {
    let (mut at, count) = (0, rows.visible.len());
    while at < count {
        let left = count - at;
        // SAFETY: the rows from `at` on are there by contract.
        unsafe {
            let rest = Rows {
                q: rows.q.add(at),
                weights: rows.weights.add(at * KV_PAGE),
                out: rows.out.add(at * page.padded_dim),
                max: rows.max.add(at),
                sum: rows.sum.add(at * LANES),
                visible: &rows.visible[at..],
            };
            at += match left {
                8.. if S::ROWS >= 8 => attend_rows::<S, E, 8, 2>(s, page, rest, scores),
                4.. if S::ROWS >= 8 => attend_rows::<S, E, 4, 4>(s, page, rest, scores),
                4.. if S::ROWS == 4 => attend_rows::<S, E, 4, 1>(s, page, rest, scores),
                2.. if S::ROWS >= 8 => attend_rows::<S, E, 2, 4>(s, page, rest, scores),
                2.. => attend_rows::<S, E, 2, 2>(s, page, rest, scores),
                _ => attend_rows::<S, E, 1, 4>(s, page, rest, scores),
            };
        }
    }
}

/// `R` rows, `V` lane vectors at a time; returns `R`.
///
/// # Safety
/// As [`attend_page`], for at least `R` rows.
#[inline(always)]
unsafe fn attend_rows<S: Simd, E: Values<S>, const R: usize, const V: usize>(
    s: S,
    page: HeadPage,
    rows: Rows<'_>,
    scores: &ScoreTransform,
) -> usize {
    let visible = &rows.visible[..R];
    if visible.iter().all(Range::is_empty) {
        return R;
    }
    // SAFETY: rows, keys and features are in range by contract.
    unsafe {
        for at in (0..VECTORS).step_by(V) {
            let mut acc = [[s.splat(0.0); V]; R];
            let k = page.k.add(at * LANES * E::BYTES);
            let ahead = page.ahead.0.wrapping_add(at * LANES * page.ahead.2 * page.dim);
            let ahead = (ahead, page.ahead.2);
            let keys = Steps { values: k, stride: KV_PAGE, n: page.dim, ahead };
            product::<S, E, R, V, 1, PACK>(s, rows.q, keys, &mut acc);
            for (r, acc) in acc.iter().enumerate() {
                for (v, acc) in acc.iter().enumerate() {
                    s.store(rows.weights.add(r * KV_PAGE + (at + v) * LANES), *acc);
                }
            }
        }
        let corrections = weigh::<S, R>(s, &rows, scores);
        // Keys that all rows see are read once; what only some see, before and behind, row by row.
        let first = visible.iter().map(|v| v.start).max().unwrap_or(0);
        let last = visible.iter().map(|v| v.end).min().unwrap_or(0);
        if visible.iter().all(|v| *v == visible[0]) {
            mix::<S, E, R, V>(s, page, &rows, corrections, visible[0].clone());
        } else {
            let all = if first < last { first..last } else { KV_PAGE..KV_PAGE };
            for (r, (seen, correction)) in visible.iter().zip(corrections).enumerate() {
                let before = seen.start..seen.end.min(all.start);
                mix::<S, E, 1, 4>(s, page, &rows.row(r, &page), [correction; LANES], before);
            }
            mix::<S, E, R, V>(s, page, &rows, [1.0; LANES], all.clone());
            for (r, seen) in visible.iter().enumerate() {
                let behind = seen.start.max(all.end)..seen.end;
                mix::<S, E, 1, 4>(s, page, &rows.row(r, &page), [1.0; LANES], behind);
            }
        }
    }
    R
}

impl Rows<'_> {
    /// Row `r` alone, for [`mix`].
    #[inline(always)]
    fn row(&self, r: usize, page: &HeadPage) -> Self {
        let weights = self.weights.wrapping_add(r * KV_PAGE);
        Self { weights, out: self.out.wrapping_add(r * page.padded_dim), ..*self }
    }
}

/// The second factor of a product.
struct Steps {
    values: *const u8,
    /// Values between steps.
    stride: usize,
    n: usize,
    /// Fetched into the cache, as many values as are read, and the bytes of one.
    ahead: (*const u8, usize),
}

/// `acc[r] += sum_i a[r * ROW + i * STEP] b[i]`, where `b[i]` is `V` lane vectors.
///
/// # Safety
/// The steps must be readable of `R` rows of `a`, and of `b`.
#[inline(always)]
unsafe fn product<
    S: Simd,
    E: Values<S>,
    const R: usize,
    const V: usize,
    const ROW: usize,
    const STEP: usize,
>(
    s: S,
    a: *const f32,
    b: Steps,
    acc: &mut [[S::F; V]; R],
) {
    let lines = (V * LANES * E::BYTES / 64).max(1);
    let Steps { values: mut b, stride, n, ahead: (mut ahead, ahead_bytes) } = b;
    let ahead_step = V * LANES * ahead_bytes / lines;
    // SAFETY: steps and rows are in range by contract; any address may be fetched.
    unsafe {
        let mut a = a;
        for _ in 0..n {
            for _ in 0..lines {
                s.prefetch(ahead);
                ahead = ahead.wrapping_add(ahead_step);
            }
            let mut lanes = [s.splat(0.0); V];
            for (v, lanes) in lanes.iter_mut().enumerate() {
                *lanes = E::load(s, b.add(v * LANES * E::BYTES));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let a = s.splat(*a.add(r * ROW));
                for (acc, lanes) in acc.iter_mut().zip(lanes) {
                    *acc = s.fma(a, lanes, *acc);
                }
            }
            a = a.wrapping_add(STEP);
            b = b.wrapping_add(stride * E::BYTES);
        }
    }
}

/// Turns the scores of `R` rows into weights relative to the new maximum, zero where a row sees
/// nothing; returns the factors that bring older sums to it.
///
/// # Safety
/// As [`attend_page`], for at least `R` rows.
#[inline(always)]
unsafe fn weigh<S: Simd, const R: usize>(
    s: S,
    rows: &Rows<'_>,
    transform: &ScoreTransform,
) -> [f32; LANES] {
    // SAFETY: rows and slots are in range by contract.
    unsafe {
        let (corrections, shifts) = maxima::<S, R>(s, rows, transform);
        for (r, visible) in rows.visible[..R].iter().enumerate() {
            if visible.is_empty() {
                continue;
            }
            let (weights, shift) = (rows.weights.add(r * KV_PAGE), s.splat(shifts[r]));
            let sum = rows.sum.add(r * LANES);
            let mut total = s.mul(s.load(sum), s.splat(corrections[r]));
            for v in 0..VECTORS {
                let x = math::exp(s, s.sub(s.load(weights.add(v * LANES)), shift));
                s.store(weights.add(v * LANES), x);
                total = s.add(total, x);
            }
            s.store(sum, total);
        }
        corrections
    }
}

/// Transforms the scores of `R` rows, with minus infinity where a row sees nothing, and updates their
/// maxima; returns the factors that bring older sums to these, and these.
///
/// # Safety
/// As [`attend_page`], for at least `R` rows.
#[inline(always)]
pub(crate) unsafe fn maxima<S: Simd, const R: usize>(
    s: S,
    rows: &Rows<'_>,
    transform: &ScoreTransform,
) -> ([f32; LANES], [f32; LANES]) {
    let mut lanes = [0f32; KV_PAGE];
    lanes.iter_mut().enumerate().for_each(|(i, lane)| *lane = i as f32);
    let (mut old, mut new) = ([0f32; LANES], [0f32; LANES]);
    // SAFETY: rows and slots are in range by contract; the arrays are lane vectors.
    unsafe {
        for (r, visible) in rows.visible[..R].iter().enumerate() {
            if visible.is_empty() {
                continue;
            }
            let weights = rows.weights.add(r * KV_PAGE);
            let (first, end) = (s.splat(visible.start as f32), s.splat(visible.end as f32));
            let hidden = s.splat(f32::NEG_INFINITY);
            let (all, mut largest) = (visible.len() == KV_PAGE, hidden);
            for v in 0..VECTORS {
                let mut x = s.load(weights.add(v * LANES));
                if let Some(cap) = transform.softcap {
                    let cap = s.splat(cap);
                    x = s.mul(cap, math::tanh(s, s.div(x, cap)));
                }
                if !all {
                    let lane = s.load(lanes.as_ptr().add(v * LANES));
                    x = s.select_lt(lane, end, s.select_lt(lane, first, hidden, x), hidden);
                }
                if !all || transform.softcap.is_some() {
                    s.store(weights.add(v * LANES), x);
                }
                largest = s.max(largest, x);
            }
            old[r] = *rows.max.add(r);
            let largest = s.largest(largest);
            new[r] = if old[r] > largest { old[r] } else { largest };
            *rows.max.add(r) = new[r];
        }
        let corrections = math::exp(s, s.sub(s.load(old.as_ptr()), s.load(new.as_ptr())));
        s.store(old.as_mut_ptr(), corrections);
    }
    (old, new)
}

/// `out[r] = corrections[r] out[r] + sum of weights[r][key] v[key]` over the keys.
///
/// # Safety
/// As [`attend_page`], for at least `R` rows; keys are slots of the page.
#[inline(always)]
unsafe fn mix<S: Simd, E: Values<S>, const R: usize, const V: usize>(
    s: S,
    page: HeadPage,
    rows: &Rows<'_>,
    corrections: [f32; LANES],
    keys: Range<usize>,
) {
    let vectors = page.padded_dim / LANES;
    let mut at = 0;
    // SAFETY: features are in range: whole steps of V vectors, then single ones.
    unsafe {
        while at + V <= vectors {
            mix_vectors::<S, E, R, V>(s, page, rows, corrections, (keys.clone(), at));
            at += V;
        }
        while at < vectors {
            mix_vectors::<S, E, R, 1>(s, page, rows, corrections, (keys.clone(), at));
            at += 1;
        }
    }
}

/// [`mix`] of the `V` lane vectors of features from `at` on.
///
/// # Safety
/// As [`mix`]; the features exist.
#[inline(always)]
unsafe fn mix_vectors<S: Simd, E: Values<S>, const R: usize, const V: usize>(
    s: S,
    page: HeadPage,
    rows: &Rows<'_>,
    corrections: [f32; LANES],
    (keys, at): (Range<usize>, usize),
) {
    // SAFETY: rows, keys and features are in range by contract.
    unsafe {
        let out = |r: usize, v: usize| rows.out.add(r * page.padded_dim + (at + v) * LANES);
        let mut acc = [[s.splat(0.0); V]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = s.mul(s.load(out(r, v)), s.splat(corrections[r]));
            }
        }
        let v = page.v.add((keys.start * page.padded_dim + at * LANES) * E::BYTES);
        let weights = rows.weights.add(keys.start);
        let ahead = page.ahead.1.wrapping_add(at * LANES * page.ahead.2 * KV_PAGE);
        let ahead = (ahead, page.ahead.2);
        let values = Steps { values: v, stride: page.padded_dim, n: keys.len(), ahead };
        product::<S, E, R, V, KV_PAGE, 1>(s, weights, values, &mut acc);
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                s.store(out(r, v), *acc);
            }
        }
    }
}
