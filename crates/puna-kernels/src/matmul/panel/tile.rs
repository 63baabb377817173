//! The inner loop of integer products: a chunk of one or two panels against some tokens.

use super::{CHUNK, SUBS, SUPERS};
use crate::blocks::panel::{Columns, PanelBuffers, ROWS, add_superblock};
use crate::blocks::{Layout, SUPERBLOCK, Scales, Width, Zero};
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Bytes from the integers of one panel of a chunk to those of the next.
pub(crate) const PANEL_STRIDE: usize = CHUNK * ROWS;

/// Scales, and biases, from those of one panel to those of the next.
pub(crate) const PANEL_SCALES: usize = SUBS * ROWS;

/// Factors of superblocks, from those of one panel to those of the next.
pub(crate) const PANEL_SUPERS: usize = SUPERS * 2 * ROWS;

/// Where outputs go.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) y: *mut f32,
    /// From those of one token to those of the next.
    pub(crate) stride: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
}

/// A chunk of panels against some tokens; `acc[t, panel, row] += ...`.
pub(crate) struct PanelTile {
    /// Of the first panel; others lie [`PANEL_STRIDE`] bytes and [`PANEL_SCALES`] values further.
    /// Nobody reads them behind the tile's product, which may change them.
    pub(crate) weights: PanelBuffers,
    pub(crate) panels: usize,
    /// Sub-blocks in the chunk, and the form of the weights.
    pub(crate) subs: usize,
    pub(crate) layout: Layout,
    /// The first token at the chunk's first column.
    pub(crate) x: Columns,
    /// Columns of the whole matrix: the distance of tokens.
    pub(crate) cols: usize,
    pub(crate) tokens: usize,
    /// `[tokens, panels, 16]`.
    pub(crate) acc: *mut f32,
}

impl PanelTile {
    /// The same with some of the tokens.
    pub(crate) fn part(&self, tokens: Range<usize>) -> Self {
        let subs = tokens.start * (self.cols / self.layout.sub);
        let scales = tokens.start * (self.cols / self.layout.activations_per_scale());
        Self {
            x: Columns {
                x: self.x.x.wrapping_add(tokens.start * self.cols),
                scales: self.x.scales.wrapping_add(scales),
                by_sixteen: self.x.by_sixteen.wrapping_add(scales),
                zeros: self.x.zeros.wrapping_add(subs),
                sums: self.x.sums.wrapping_add(subs),
                digits: self.x.digits.wrapping_add(2 * subs),
                words: self.x.words.wrapping_add(2 * subs),
                short: self.x.short.wrapping_add(scales),
            },
            tokens: tokens.len(),
            acc: self.acc.wrapping_add(tokens.start * self.panels * LANES),
            ..*self
        }
    }
}

/// All tokens of a tile: `P` panels x `T` tokens at a time where there are as many.
///
/// # Safety
/// The tile's pointers must cover its shape.
#[inline(always)]
pub(crate) unsafe fn panel_tile<S: Simd, const P: usize, const T: usize>(s: S, tile: &PanelTile) {
    // SAFETY: the caller vouches for the tile.
    unsafe {
        if tile.panels == P {
            formats::<S, P, T>(s, tile);
        } else {
            formats::<S, 1, T>(s, tile);
        }
    }
}

/// # Safety
/// The tile's pointers must cover its shape; it has `P` panels.
#[inline(always)]
unsafe fn formats<S: Simd, const P: usize, const T: usize>(s: S, tile: &PanelTile) {
    use Scales::{Floats, Integers};
    use Width::{Eight, Five, Four, Seven, Signed, Six};
    use Zero::{Bias, Constant};
    let Layout { sub, zero, scales, .. } = tile.layout;
    let width = tile.layout.width();
    // SAFETY: the caller vouches for the tile.
    unsafe {
        match (scales, sub, zero, width) {
            (Floats, _, Constant(_), Four) if S::RUNS => {
                all_tokens::<S, InBlocks<false>, P, T>(s, tile, Four);
            }
            (Floats, _, Constant(_), Signed | Eight) => {
                all_tokens::<S, InBlocks<false>, P, T>(s, tile, Signed);
            }
            (Floats, _, Constant(_), _) => {
                all_tokens::<S, InBlocks<false>, P, T>(s, tile, Seven);
            }
            (Floats, _, Bias, Four) if S::RUNS => {
                all_tokens::<S, InBlocks<true>, P, T>(s, tile, Four);
            }
            (Floats, _, Bias, Signed | Eight) => {
                all_tokens::<S, InBlocks<true>, P, T>(s, tile, Eight);
            }
            (Floats, _, Bias, _) => {
                all_tokens::<S, InBlocks<true>, P, T>(s, tile, Seven);
            }
            (Integers, _, Constant(_), _) => {
                all_tokens::<S, InSuperblocks<16, false>, P, T>(s, tile, Six);
            }
            (Integers, 16, Bias, _) => {
                all_tokens::<S, InSuperblocks<16, true>, P, T>(s, tile, Four);
            }
            (Integers, _, Bias, Four) if S::RUNS => {
                all_tokens::<S, InSuperblocks<32, true>, P, T>(s, tile, Four);
            }
            (Integers, _, Bias, _) => {
                all_tokens::<S, InSuperblocks<32, true>, P, T>(s, tile, Five);
            }
        }
    }
}

/// A form of weights.
trait Form {
    /// `P` panels x `T` tokens; returns `T`.
    ///
    /// # Safety
    /// The tile's pointers must cover its shape from `token` on.
    unsafe fn some_tokens<S: Simd, const P: usize, const T: usize>(
        s: S,
        tile: &PanelTile,
        width: Width,
        token: usize,
    ) -> usize;
}

/// Blocks of 32 with scales of their own, and perhaps biases.
struct InBlocks<const BIAS: bool>;

/// Superblocks of sub-blocks of `SUB` columns, with or without minimums.
struct InSuperblocks<const SUB: usize, const BIAS: bool>;

/// # Safety
/// The tile's pointers must cover its shape; it has `P` panels.
#[inline(always)]
unsafe fn all_tokens<S: Simd, F: Form, const P: usize, const T: usize>(
    s: S,
    tile: &PanelTile,
    width: Width,
) {
    let mut token = 0;
    // SAFETY: the tokens lie within the tile.
    unsafe {
        while token < tile.tokens {
            token += match tile.tokens - token {
                // Two times four are quicker than six and two by 1 to 3 %: two have too few sums.
                7 | 8 if T > 4 => F::some_tokens::<S, P, 4>(s, tile, width, token),
                left if left >= T => F::some_tokens::<S, P, T>(s, tile, width, token),
                4.. if T > 4 => F::some_tokens::<S, P, 4>(s, tile, width, token),
                2.. => F::some_tokens::<S, P, 2>(s, tile, width, token),
                _ => F::some_tokens::<S, P, 1>(s, tile, width, token),
            };
        }
    }
}

impl<const BIAS: bool> Form for InBlocks<BIAS> {
    #[inline(always)]
    unsafe fn some_tokens<S: Simd, const P: usize, const T: usize>(
        s: S,
        tile: &PanelTile,
        width: Width,
        token: usize,
    ) -> usize {
        // SAFETY: all indices lie within the shape by contract.
        unsafe {
            let x_subs = tile.cols / 32;
            let x_scales = tile.x.scales.add(token * x_subs);
            let acc_at = tile.acc.add(token * P * LANES);
            let mut acc = [[s.splat(0.0); P]; T];
            for (t, acc) in acc.iter_mut().enumerate() {
                for (p, acc) in acc.iter_mut().enumerate() {
                    *acc = s.load(acc_at.add((t * P + p) * LANES));
                }
            }
            for sub in 0..tile.subs {
                let start = if S::RUNS && width == Width::Signed {
                    [s.splat_i(0); T]
                } else {
                    starts::<S, BIAS, T>(s, tile, (token, x_subs, sub))
                };
                let dot = dots::<S, 32, P, T>(s, tile, (token, sub), (width, start));
                let mut scale = [s.splat(0.0); P];
                for (p, scale) in scale.iter_mut().enumerate() {
                    *scale = s.load(tile.weights.scales.add(p * PANEL_SCALES + sub * ROWS));
                }
                for (t, (acc, dot)) in acc.iter_mut().zip(dot).enumerate() {
                    let x_scale = s.splat(*x_scales.add(t * x_subs + sub));
                    for (p, (acc, dot)) in acc.iter_mut().zip(dot).enumerate() {
                        *acc = s.fma(s.to_f(dot), s.mul(scale[p], x_scale), *acc);
                    }
                }
                if BIAS {
                    let mut bias = [s.splat(0.0); P];
                    for (p, bias) in bias.iter_mut().enumerate() {
                        *bias = s.load(tile.weights.bias.add(p * PANEL_SCALES + sub * ROWS));
                    }
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let x_sum = s.splat(*tile.x.sums.add((token + t) * x_subs + sub));
                        for (acc, &bias) in acc.iter_mut().zip(&bias) {
                            *acc = s.fma(bias, x_sum, *acc);
                        }
                    }
                }
            }
            for (t, acc) in acc.iter().enumerate() {
                for (p, acc) in acc.iter().enumerate() {
                    s.store(acc_at.add((t * P + p) * LANES), *acc);
                }
            }
        }
        T
    }
}

impl<const SUB: usize, const BIAS: bool> Form for InSuperblocks<SUB, BIAS> {
    /// Sums stay in memory: registers hold the integers of the superblock.
    #[inline(always)]
    unsafe fn some_tokens<S: Simd, const P: usize, const T: usize>(
        s: S,
        tile: &PanelTile,
        width: Width,
        token: usize,
    ) -> usize {
        let (subs, x_subs) = (SUPERBLOCK / SUB, tile.cols / SUB);
        let x_supers = tile.cols / SUPERBLOCK;
        // SAFETY: all indices lie within the shape by contract.
        unsafe {
            let acc_at = tile.acc.add(token * P * LANES);
            for index in 0..tile.subs / subs {
                let mut short = true;
                for t in 0..T {
                    short &= *tile.x.short.add((token + t) * x_supers + index);
                }
                let at = (token, index);
                let sum = if short {
                    superblock::<S, SUB, BIAS, true, P, T>(s, tile, width, at)
                } else {
                    superblock::<S, SUB, BIAS, false, P, T>(s, tile, width, at)
                };
                for (t, sum) in sum.into_iter().enumerate() {
                    let x_scale = s.splat(*tile.x.scales.add((token + t) * x_supers + index));
                    let digits =
                        tile.x.digits.wrapping_add(2 * ((token + t) * x_subs + index * subs));
                    for (p, sum) in sum.into_iter().enumerate() {
                        let supers = tile.weights.supers.add(p * PANEL_SUPERS + 2 * index * ROWS);
                        let minus = if BIAS {
                            let at =
                                tile.weights.bias.add(p * PANEL_SCALES + index * subs / 4 * ROWS);
                            let minimums = minimums::<S, SUB>(s, at.cast_const().cast(), digits);
                            Some((s.load(supers.add(ROWS)), minimums))
                        } else {
                            None
                        };
                        let acc = acc_at.add((t * P + p) * LANES);
                        let sum = (s.load(supers), sum);
                        s.store(acc, add_superblock(s, sum, minus, (x_scale, s.load(acc))));
                    }
                }
            }
        }
        T
    }
}

/// The integer sums of superblock `index` of `P` panels with `T` tokens from `token` on. Those of
/// sub-blocks that fit into 16 bits (`SHORT`) are scaled by one instruction instead of three.
///
/// # Safety
/// The superblock must be readable in each panel, and at each token.
#[inline(always)]
unsafe fn superblock<
    S: Simd,
    const SUB: usize,
    const BIAS: bool,
    const SHORT: bool,
    const P: usize,
    const T: usize,
>(
    s: S,
    tile: &PanelTile,
    width: Width,
    (token, index): (usize, usize),
) -> [[S::I; P]; T] {
    let (subs, x_subs) = (SUPERBLOCK / SUB, tile.cols / SUB);
    let mut sum = [[s.splat_i(0); P]; T];
    for sub in index * subs..(index + 1) * subs {
        // SAFETY: by contract.
        unsafe {
            let start = starts::<S, BIAS, T>(s, tile, (token, x_subs, sub));
            let dot = dots::<S, SUB, P, T>(s, tile, (token, sub), (width, start));
            for p in 0..P {
                let at = tile.weights.scales.add(p * PANEL_SCALES + sub * ROWS);
                let scale = s.load_i(at.cast_const().cast());
                let low = s.and_i(scale, s.splat_i(0xffff));
                for (sum, dot) in sum.iter_mut().zip(&dot) {
                    sum[p] = if SHORT {
                        s.dot_words(sum[p], dot[p], low)
                    } else {
                        s.add_i(sum[p], s.mul_i(dot[p], scale))
                    };
                }
            }
        }
    }
    sum
}

/// The minimums of a superblock times both digits of a token's sums.
///
/// # Safety
/// Both must be readable.
#[inline(always)]
unsafe fn minimums<S: Simd, const SUB: usize>(
    s: S,
    packed: *const u8,
    digits: *const i8,
) -> [S::I; 2] {
    let subs = SUPERBLOCK / SUB;
    let mut sums = [s.splat_i(0); 2];
    for (digit, sum) in sums.iter_mut().enumerate() {
        for four in 0..subs / 4 {
            // SAFETY: by contract; dwords of four sub-blocks.
            unsafe {
                let minimums = s.load_i(packed.add(four * 4 * ROWS));
                let x = digits.add(digit * subs + 4 * four).cast::<i32>().read_unaligned();
                *sum = s.dot4(*sum, minimums, s.splat_i(x), Width::Seven);
            }
        }
    }
    sums
}

/// Writes sums, `[tokens, rows]` of whole panels, to their places.
///
/// # Safety
/// There must be a place for each of them.
#[inline(always)]
pub(crate) unsafe fn put_sums<S: Simd>(s: S, sums: &[f32], to: Place, rows: usize) {
    for (token, sums) in sums.chunks_exact(rows).enumerate() {
        for (panel, sums) in sums.as_chunks::<LANES>().0.iter().enumerate() {
            // SAFETY: by contract.
            unsafe {
                let y = to.y.add(token * to.stride + panel * LANES);
                let sums = s.load(sums.as_ptr());
                s.store(y, if to.add { s.add(s.load(y), sums) } else { sums });
            }
        }
    }
}

/// Where the integer sums of a sub-block start.
///
/// # Safety
/// The tokens must have that sub-block.
#[inline(always)]
unsafe fn starts<S: Simd, const BIAS: bool, const T: usize>(
    s: S,
    tile: &PanelTile,
    (token, x_subs, sub): (usize, usize, usize),
) -> [S::I; T] {
    let mut start = [s.splat_i(0); T];
    if !BIAS {
        for (t, start) in start.iter_mut().enumerate() {
            // SAFETY: by contract.
            *start = s.splat_i(unsafe { *tile.x.zeros.add((token + t) * x_subs + sub) });
        }
    }
    start
}

/// Integer dot products of sub-block `sub` of `P` panels with `T` tokens from `token` on, from `start`
/// on.
///
/// # Safety
/// The sub-block must be readable in each panel, and at each token.
#[inline(always)]
unsafe fn dots<S: Simd, const SUB: usize, const P: usize, const T: usize>(
    s: S,
    tile: &PanelTile,
    (token, sub): (usize, usize),
    (width, start): (Width, [S::I; T]),
) -> [[S::I; P]; T] {
    let w = tile.weights.quants.wrapping_add(sub * SUB * ROWS).cast_const();
    let x = tile.x.x.wrapping_add(token * tile.cols + sub * SUB);
    let mut dot = [[s.splat_i(0); P]; T];
    if S::RUNS {
        for p in 0..P {
            let w = w.wrapping_add(p * PANEL_STRIDE);
            // SAFETY: by contract.
            let sums = unsafe { s.dot_run(start, w, (x, tile.cols), SUB / 4, width) };
            for (dot, sum) in dot.iter_mut().zip(sums) {
                dot[p] = sum;
            }
        }
        return dot;
    }
    for (dot, start) in dot.iter_mut().zip(start) {
        *dot = [start; P];
    }
    for i in 0..SUB / 4 {
        // SAFETY: columns 4 i .. of the panels and of each token are in range by contract.
        unsafe {
            let mut ws = [s.splat_i(0); P];
            for (p, ws) in ws.iter_mut().enumerate() {
                *ws = s.load_i(w.add(p * PANEL_STRIDE + 64 * i));
            }
            for (t, dot) in dot.iter_mut().enumerate() {
                let x = s.splat_i(x.add(t * tile.cols + 4 * i).cast::<i32>().read_unaligned());
                for (dot, &w) in dot.iter_mut().zip(&ws) {
                    *dot = s.dot4(*dot, w, x, width);
                }
            }
        }
    }
    dot
}
