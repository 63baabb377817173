//! What happens to the rows of a tile of scores between the products.

use crate::attention::ScoreTransform;
use crate::math;
use crate::simd::{LANES, Simd};

/// A tile of raw scores that become probabilities, up to the sum.
pub(crate) struct SoftmaxTile<'a> {
    /// `[rows, width]`; outside what is visible they become zero.
    pub(crate) scores: *mut f32,
    /// A multiple of 16.
    pub(crate) width: usize,
    /// Per row, what is visible.
    pub(crate) visible: &'a [(u32, u32)],
    pub(crate) transform: ScoreTransform,
    /// Per row, the largest score yet and the sum of exponentials relative to it.
    pub(crate) max: *mut f32,
    pub(crate) sum: *mut f32,
    /// `[rows, dim]`: what was summed up yet, made relative to the new maximum.
    pub(crate) acc: *mut f32,
    pub(crate) dim: usize,
}

/// Scores after scaling and capping, and the derivative of that.
#[inline(always)]
fn transform<S: Simd>(s: S, x: S::F, by: &ScoreTransform) -> (S::F, S::F) {
    let (scale, one) = (s.splat(by.scale), s.splat(1.0));
    let x = s.mul(x, scale);
    let Some(cap) = by.softcap else { return (x, scale) };
    let t = math::tanh(s, s.div(x, s.splat(cap)));
    (s.mul(s.splat(cap), t), s.mul(scale, s.sub(one, s.mul(t, t))))
}

/// Zero, or another value, outside `visible`.
#[inline(always)]
fn outside(row: &mut [f32], (first, end): (u32, u32), value: f32) {
    row[..first as usize].fill(value);
    row[end as usize..].fill(value);
}

/// Where the vectors begin that hold something visible.
#[inline(always)]
fn vectors((first, end): (u32, u32)) -> impl Iterator<Item = usize> {
    (first as usize / LANES * LANES..end as usize).step_by(LANES)
}

/// Zero in all other vectors.
#[inline(always)]
fn outside_vectors(row: &mut [f32], (first, end): (u32, u32)) {
    row[..first as usize / LANES * LANES].fill(0.0);
    row[(end as usize).next_multiple_of(LANES)..].fill(0.0);
}

/// # Safety
/// The pointers must cover the tile's shape.
#[inline(always)]
pub(crate) unsafe fn softmax_tile<S: Simd>(s: S, tile: &SoftmaxTile<'_>) {
    for (r, &visible) in tile.visible.iter().enumerate() {
        // SAFETY: a row of the tile, and its place in the per-row values.
        let (row, max, sum, acc) = unsafe {
            (
                std::slice::from_raw_parts_mut(tile.scores.add(r * tile.width), tile.width),
                &mut *tile.max.add(r),
                &mut *tile.sum.add(r),
                std::slice::from_raw_parts_mut(tile.acc.add(r * tile.dim), tile.dim),
            )
        };
        if visible.0 >= visible.1 {
            row.fill(0.0);
            continue;
        }
        let p = row.as_mut_ptr();
        for at in vectors(visible) {
            // SAFETY: whole vectors of the row.
            unsafe { s.store(p.add(at), transform(s, s.load(p.add(at)), &tile.transform).0) }
        }
        outside(row, visible, f32::NEG_INFINITY);
        let largest = max.max(math::max(row));
        let rescale = (*max - largest).exp();
        let shift = s.splat(largest);
        let mut total = s.splat(0.0);
        outside_vectors(row, visible);
        let p = row.as_mut_ptr();
        for at in vectors(visible) {
            // SAFETY: whole vectors of the row.
            unsafe {
                let value = math::exp(s, s.sub(s.load(p.add(at)), shift));
                total = s.add(total, value);
                s.store(p.add(at), value);
            }
        }
        *sum = *sum * rescale + s.sum(total);
        *max = largest;
        if rescale != 1.0 {
            acc.iter_mut().for_each(|v| *v *= rescale);
        }
    }
}

/// A tile of raw scores that become probabilities, and of their gradients, which become those of
/// the raw scores: `ds = p (dp - delta) transform'`.
pub(crate) struct GradientTile<'a> {
    /// `[rows, width]`
    pub(crate) scores: *mut f32,
    /// `[rows, width]`
    pub(crate) d_scores: *mut f32,
    /// A multiple of 16.
    pub(crate) width: usize,
    /// Per row, what is visible.
    pub(crate) visible: &'a [(u32, u32)],
    pub(crate) transform: ScoreTransform,
    /// Per row, the logarithm of the sum of exponentials, and `sum(d_out * out)`.
    pub(crate) logs: &'a [f32],
    pub(crate) deltas: &'a [f32],
}

/// # Safety
/// The pointers must cover the tile's shape.
#[inline(always)]
pub(crate) unsafe fn gradient_tile<S: Simd>(s: S, tile: &GradientTile<'_>) {
    for (r, &visible) in tile.visible.iter().enumerate() {
        // SAFETY: rows of the tile.
        let (p, d) =
            unsafe { (tile.scores.add(r * tile.width), tile.d_scores.add(r * tile.width)) };
        let (log, delta) = (s.splat(tile.logs[r]), s.splat(tile.deltas[r]));
        for at in vectors(visible) {
            // SAFETY: whole vectors of the rows.
            unsafe {
                let (score, slope) = transform(s, s.load(p.add(at)), &tile.transform);
                let probability = math::exp(s, s.sub(score, log));
                let gradient = s.mul(probability, s.sub(s.load(d.add(at)), delta));
                s.store(p.add(at), probability);
                s.store(d.add(at), s.mul(gradient, slope));
            }
        }
        // SAFETY: as above.
        unsafe {
            outside(std::slice::from_raw_parts_mut(p, tile.width), visible, 0.0);
            outside(std::slice::from_raw_parts_mut(d, tile.width), visible, 0.0);
        }
    }
}
