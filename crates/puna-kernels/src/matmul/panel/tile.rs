//! The inner loop of integer products: a chunk of one or two panels against some tokens.

use super::{CHUNK, SUBS};
use crate::blocks::panel::{Columns, PanelBuffers, ROWS};
use crate::blocks::{Layout, Width, Zero};
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Bytes from the integers of one panel of a chunk to those of the next.
pub(crate) const PANEL_STRIDE: usize = CHUNK * ROWS;

/// Scales, and biases, from those of one panel to those of the next.
pub(crate) const PANEL_SCALES: usize = SUBS * ROWS;

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
        Self {
            x: Columns {
                x: self.x.x.wrapping_add(tokens.start * self.cols),
                scales: self.x.scales.wrapping_add(tokens.start * (self.cols / 32)),
                zeros: self.x.zeros.wrapping_add(subs),
                sums: self.x.sums.wrapping_add(subs),
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
    use Width::{Eight, Seven};
    use Zero::{Bias, Constant};
    let Layout { sub, zero, width } = tile.layout;
    // SAFETY: the caller vouches for the tile.
    unsafe {
        match (sub, zero, width) {
            (16, Constant(_), _) => all_tokens::<S, Form<16, false>, P, T>(s, tile, Seven),
            (16, Bias, _) => all_tokens::<S, Form<16, true>, P, T>(s, tile, Seven),
            (_, Constant(_), Seven) => all_tokens::<S, Form<32, false>, P, T>(s, tile, Seven),
            (_, Constant(_), Eight) => all_tokens::<S, Form<32, false>, P, T>(s, tile, Eight),
            (_, Bias, Seven) => all_tokens::<S, Form<32, true>, P, T>(s, tile, Seven),
            (_, Bias, Eight) => all_tokens::<S, Form<32, true>, P, T>(s, tile, Eight),
        }
    }
}

/// Columns of a sub-block, and whether there are biases.
struct Form<const SUB: usize, const BIAS: bool>;

trait Sub {
    const SUB: usize;
    const BIAS: bool;
}

impl<const SUB: usize, const BIAS: bool> Sub for Form<SUB, BIAS> {
    const SUB: usize = SUB;
    const BIAS: bool = BIAS;
}

/// # Safety
/// The tile's pointers must cover its shape; it has `P` panels.
#[inline(always)]
unsafe fn all_tokens<S: Simd, F: Sub, const P: usize, const T: usize>(
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
                7 | 8 if T > 4 => some_tokens::<S, F, P, 4>(s, tile, width, token),
                left if left >= T => some_tokens::<S, F, P, T>(s, tile, width, token),
                4.. if T > 4 => some_tokens::<S, F, P, 4>(s, tile, width, token),
                2.. => some_tokens::<S, F, P, 2>(s, tile, width, token),
                _ => some_tokens::<S, F, P, 1>(s, tile, width, token),
            };
        }
    }
}

/// `P` panels x `T` tokens; returns `T`.
///
/// # Safety
/// The tile's pointers must cover its shape from `token` on.
#[inline(always)]
unsafe fn some_tokens<S: Simd, F: Sub, const P: usize, const T: usize>(
    s: S,
    tile: &PanelTile,
    width: Width,
    token: usize,
) -> usize {
    // SAFETY: all indices lie within the shape by contract.
    unsafe {
        let x_subs = tile.cols / F::SUB;
        let x_scales = tile.x.scales.add(token * (tile.cols / 32));
        let acc_at = tile.acc.add(token * P * LANES);
        let mut acc = [[s.splat(0.0); P]; T];
        for (t, acc) in acc.iter_mut().enumerate() {
            for (p, acc) in acc.iter_mut().enumerate() {
                *acc = s.load(acc_at.add((t * P + p) * LANES));
            }
        }
        for sub in 0..tile.subs {
            let mut start = [s.splat_i(0); T];
            if !F::BIAS {
                for (t, start) in start.iter_mut().enumerate() {
                    *start = s.splat_i(*tile.x.zeros.add((token + t) * x_subs + sub));
                }
            }
            let w = tile.weights.quants.add(sub * F::SUB * ROWS);
            let x = tile.x.x.add(token * tile.cols + sub * F::SUB);
            let dot = dots::<S, F, P, T>(s, (w.cast_const(), width), (x, tile.cols), start);
            let mut scale = [s.splat(0.0); P];
            for (p, scale) in scale.iter_mut().enumerate() {
                *scale = s.load(tile.weights.scales.add(p * PANEL_SCALES + sub * ROWS));
            }
            for (t, (acc, dot)) in acc.iter_mut().zip(dot).enumerate() {
                let x_scale = s.splat(*x_scales.add(t * (tile.cols / 32) + sub * F::SUB / 32));
                for (p, (acc, dot)) in acc.iter_mut().zip(dot).enumerate() {
                    *acc = s.fma(s.to_f(dot), s.mul(scale[p], x_scale), *acc);
                }
            }
            if F::BIAS {
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

/// Integer dot products of a sub-block of `P` panels with `T` tokens, from `start` on.
///
/// # Safety
/// The sub-block must be readable in each panel, and at each token.
#[inline(always)]
unsafe fn dots<S: Simd, F: Sub, const P: usize, const T: usize>(
    s: S,
    (w, width): (*const u8, Width),
    (x, stride): (*const i8, usize),
    start: [S::I; T],
) -> [[S::I; P]; T] {
    let mut dot = [[s.splat_i(0); P]; T];
    for (dot, start) in dot.iter_mut().zip(start) {
        *dot = [start; P];
    }
    for i in 0..F::SUB / 4 {
        // SAFETY: columns 4 i .. of the panels and of each token are in range by contract.
        unsafe {
            let mut ws = [s.splat_i(0); P];
            for (p, ws) in ws.iter_mut().enumerate() {
                *ws = s.load_i(w.add(p * PANEL_STRIDE + 64 * i));
            }
            for (t, dot) in dot.iter_mut().enumerate() {
                let x = s.splat_i(x.add(t * stride + 4 * i).cast::<i32>().read_unaligned());
                for (dot, &w) in dot.iter_mut().zip(&ws) {
                    *dot = s.dot4(*dot, w, x, width);
                }
            }
        }
    }
    dot
}
