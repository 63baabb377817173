//! What happens to tiles of scores between the products: they become operands of the next ones.

use crate::attention::ScoreTransform;
use crate::gemm::{Steps, Words};
use crate::math;
use crate::simd::{LANES, Simd};

/// Columns that are made words of at a time.
pub(super) const GROUP: usize = 2 * LANES;

/// A left operand in the making: rows of words.
#[derive(Clone, Copy)]
pub(crate) struct WordRows {
    pub(crate) at: *mut u32,
    /// Words between rows.
    pub(crate) row: usize,
}

impl WordRows {
    /// Two lane vectors of a row, from a column on that is a multiple of [`GROUP`].
    ///
    /// # Safety
    /// Their words must be writable.
    #[inline(always)]
    unsafe fn put<S: Simd>(
        self,
        s: S,
        words: Words,
        (row, col): (usize, usize),
        values: [S::F; 2],
    ) {
        // SAFETY: by contract.
        unsafe {
            let at = self.at.add(row * self.row + col / words.per_word());
            match words {
                Words::F32 => {
                    s.store(at.cast(), values[0]);
                    s.store(at.add(LANES).cast(), values[1]);
                }
                Words::Bf16Pairs => s.store_i(at.cast(), s.round_bf16(values[0], values[1])),
            }
        }
    }
}

/// A tile of raw scores that become probabilities, up to the sum.
pub(crate) struct SoftmaxTile<'a> {
    /// `[rows, width]`
    pub(crate) scores: *mut f32,
    /// A multiple of [`GROUP`].
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
    /// `[rows, width]`: the probabilities; zero outside what is visible.
    pub(crate) words: Words,
    pub(crate) out: WordRows,
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

/// Minus infinity outside what is visible of a vector.
#[inline(always)]
fn hide(vector: &mut [f32], (first, end): (usize, usize)) {
    vector[..first].fill(f32::NEG_INFINITY);
    vector[end.min(LANES)..].fill(f32::NEG_INFINITY);
}

/// # Safety
/// The pointers must cover the tile's shape.
#[inline(always)]
pub(crate) unsafe fn softmax_tile<S: Simd>(s: S, tile: &SoftmaxTile<'_>) {
    for (r, &visible) in tile.visible.iter().enumerate() {
        // SAFETY: a row of the tile, and its place in the per-row values.
        let (p, max, sum, acc) = unsafe {
            (
                tile.scores.add(r * tile.width),
                &mut *tile.max.add(r),
                &mut *tile.sum.add(r),
                std::slice::from_raw_parts_mut(tile.acc.add(r * tile.dim), tile.dim),
            )
        };
        let zero = s.splat(0.0);
        if visible.0 >= visible.1 {
            for at in (0..tile.width).step_by(GROUP) {
                // SAFETY: words of the row.
                unsafe { tile.out.put(s, tile.words, (r, at), [zero; 2]) }
            }
            continue;
        }
        let (first, end) = (visible.0 as usize, visible.1 as usize);
        let mut most = s.splat(f32::NEG_INFINITY);
        for at in (first / LANES * LANES..end).step_by(LANES) {
            // SAFETY: a whole vector of the row.
            unsafe {
                let mut scores = transform(s, s.load(p.add(at)), &tile.transform).0;
                s.store(p.add(at), scores);
                if at < first || at + LANES > end {
                    let vector = std::slice::from_raw_parts_mut(p.add(at), LANES);
                    hide(vector, (first.saturating_sub(at), end - at));
                    scores = s.load(p.add(at));
                }
                most = s.max(most, scores);
            }
        }
        // A NaN that is no maximum makes the sum one.
        let largest = max.max(s.largest(most));
        let rescale = (*max - largest).exp();
        let shift = s.splat(largest);
        let mut total = zero;
        for group in (0..tile.width).step_by(GROUP) {
            let mut values = [zero; 2];
            for (half, value) in values.iter_mut().enumerate() {
                let at = group + half * LANES;
                if at + LANES > first && at < end {
                    // SAFETY: a whole vector of the row.
                    *value = math::exp(s, s.sub(unsafe { s.load(p.add(at)) }, shift));
                    total = s.add(total, *value);
                }
            }
            // SAFETY: words of the row.
            unsafe { tile.out.put(s, tile.words, (r, group), values) }
        }
        *sum = *sum * rescale + s.sum(total);
        *max = largest;
        if rescale != 1.0 {
            acc.iter_mut().for_each(|v| *v *= rescale);
        }
    }
}

/// A tile of raw scores and of the gradients of their probabilities, keys down and queries across. Of
/// it are made the operands of all three gradients: the probabilities `p` and the gradients of the raw
/// scores, `ds = p (dp - delta) transform'`.
pub(crate) struct GradientTile<'a> {
    /// `[keys, width]`
    pub(crate) scores: *const f32,
    /// `[keys, width]`
    pub(crate) d_scores: *const f32,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    /// Columns that are made words of; a multiple of [`GROUP`].
    pub(crate) cols: usize,
    pub(crate) queries: &'a Queries,
    pub(crate) transform: ScoreTransform,
    pub(crate) words: Words,
    /// `[keys, cols]`: `p` and `ds`, zero where a key is not visible.
    pub(crate) p: WordRows,
    pub(crate) ds: WordRows,
    /// Panels `[keys, cols]` of `ds`.
    pub(crate) ds_panels: Steps,
}

/// What is known of the queries of a tile.
pub(crate) struct Queries {
    /// First visible key of the tile and end; nothing is visible to queries that are not there.
    pub(crate) first: [f32; super::QUERIES],
    pub(crate) end: [f32; super::QUERIES],
    /// The logarithm of the sum of exponentials, and `sum(d_out * out)`.
    pub(crate) logs: [f32; super::QUERIES],
    pub(crate) deltas: [f32; super::QUERIES],
}

/// Probabilities and gradients of scores of two keys and [`GROUP`] queries.
type Pair<F> = ([[F; 2]; 2], [[F; 2]; 2]);

/// # Safety
/// The pointers must cover the tile's shape.
#[inline(always)]
pub(crate) unsafe fn gradient_tile<S: Simd>(s: S, tile: &GradientTile<'_>) {
    for group in (0..tile.cols).step_by(GROUP) {
        let lanes = group..group + GROUP;
        let least = |x: &[f32]| x.iter().fold(f32::INFINITY, |a, &b| if b < a { b } else { a });
        let most = |x: &[f32]| x.iter().fold(0.0, |a, &b| if b > a { b } else { a });
        let (firsts, ends) = (&tile.queries.first[lanes.clone()], &tile.queries.end[lanes]);
        // What some of the queries see, and what all of them do.
        let some = least(firsts) as usize..(most(ends) as usize).min(tile.keys);
        let all = most(firsts) as usize..least(ends) as usize;
        for key in (0..tile.keys).step_by(2) {
            let mut p = [[s.splat(0.0); 2]; 2];
            let mut ds = p;
            for (row, (p, ds)) in (key..).zip(p.iter_mut().zip(&mut ds)) {
                for (half, (p, ds)) in p.iter_mut().zip(ds).enumerate() {
                    if some.contains(&row) {
                        let at = group + half * LANES;
                        // SAFETY: a row of the tile, and whole vectors of it and of the queries.
                        (*p, *ds) = unsafe { gradient(s, tile, (row, at), all.contains(&row)) };
                    }
                }
            }
            // SAFETY: rows and steps of the operands.
            unsafe { tile.put(s, (key, group), (p, ds)) }
        }
    }
}

/// Probabilities and gradients of scores of a key and 16 queries.
///
/// # Safety
/// The key and the queries must be in the tile.
#[inline(always)]
unsafe fn gradient<S: Simd>(
    s: S,
    tile: &GradientTile<'_>,
    (key, at): (usize, usize),
    visible: bool,
) -> (S::F, S::F) {
    let of = tile.queries;
    // SAFETY: by contract.
    unsafe {
        let score = s.load(tile.scores.add(key * tile.width + at));
        let (score, slope) = transform(s, score, &tile.transform);
        let mut p = math::exp(s, s.sub(score, s.load(of.logs[at..].as_ptr())));
        if !visible {
            let (key, zero) = (s.splat(key as f32), s.splat(0.0));
            p = s.select_lt(key, s.load(of.end[at..].as_ptr()), p, zero);
            p = s.select_lt(key, s.load(of.first[at..].as_ptr()), zero, p);
        }
        let d = s.load(tile.d_scores.add(key * tile.width + at));
        let d = s.sub(d, s.load(of.deltas[at..].as_ptr()));
        (p, s.mul(s.mul(p, d), slope))
    }
}

impl GradientTile<'_> {
    /// Two keys and [`GROUP`] queries into all operands.
    ///
    /// # Safety
    /// The first key must be in the tile, and the operands have room for it.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, (key, col): (usize, usize), (p, ds): Pair<S::F>) {
        // SAFETY: by contract; the second key is left out where it is not there.
        unsafe {
            for (row, (p, ds)) in (key..self.keys).zip(p.into_iter().zip(ds)) {
                self.p.put(s, self.words, (row, col), p);
                self.ds.put(s, self.words, (row, col), ds);
            }
            for half in [0, LANES] {
                let [even, odd] = ds.map(|ds| ds[half / LANES]);
                let to = |step| self.ds_panels.to(step, col + half);
                match self.words {
                    Words::Bf16Pairs => s.store_i(to(key / 2), s.pair_bf16(even, odd)),
                    Words::F32 => {
                        s.store(to(key).cast(), even);
                        if key + 1 < self.keys {
                            s.store(to(key + 1).cast(), odd);
                        }
                    }
                }
            }
        }
    }
}
