//! Products of float rows: dot products in tiles of rows x tokens.
//!
//! Every output is the sum, over pieces of 4 KiB of its activation row, of a dot product that
//! accumulates in 16 lanes from left to right and is then reduced in one fixed order. Tiles only
//! decide which outputs are computed side by side, so decoding one token and prefilling many give
//! the same bits. The pieces keep a tile's rows and tokens in the first-level cache.

use super::AHEAD;
use crate::kernels::FloatPair;
use crate::simd::Simd;

/// Bytes of an activation row that are multiplied before the lanes are reduced.
const PIECE_BYTES: usize = 4096;

/// Rows whose pieces are streamed before the next piece of the tokens, where these are several.
const STREAMED_ROWS: usize = 32;

/// Up to so many tokens weights are streamed from memory, once, and the tokens stay in the cache.
pub(super) const FEW_TOKENS: usize = 8;

/// Rows that stay in the second-level cache while the tokens pass by.
const ROW_BLOCK: usize = 64;

/// A product of `rows` x `tokens` outputs: `y[t * y_stride + r] = sum_i x[t, i] w[r, i]`.
pub(crate) struct FloatTile {
    pub(crate) w: *const u8,
    /// Bytes between rows of w.
    pub(crate) w_stride: usize,
    pub(crate) rows: usize,
    pub(crate) x: *const u8,
    /// Bytes between rows of x.
    pub(crate) x_stride: usize,
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    pub(crate) y: *mut f32,
    /// Elements between rows of y.
    pub(crate) y_stride: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
}

/// Element types of a product: what one step loads and multiplies.
pub(crate) trait Pair<S: Simd> {
    /// A loaded step.
    type Step: Copy;
    /// Elements per step.
    const STEP: usize;
    /// Bytes of a weight and of an activation.
    const BYTES: (usize, usize);
    /// # Safety
    /// A step of weights must be readable.
    unsafe fn load_w(s: S, p: *const u8) -> Self::Step;
    /// # Safety
    /// A step of activations must be readable.
    unsafe fn load_x(s: S, p: *const u8) -> Self::Step;
    fn multiply(s: S, acc: S::F, w: Self::Step, x: Self::Step) -> S::F;
}

/// f32 activations with weights that `$load` widens.
macro_rules! widened {
    ($name:ident, $bytes:literal, |$s:ident, $p:ident| $load:expr) => {
        pub(crate) struct $name;
        impl<S: Simd> Pair<S> for $name {
            type Step = S::F;
            const STEP: usize = 16;
            const BYTES: (usize, usize) = ($bytes, 4);
            #[inline(always)]
            unsafe fn load_w($s: S, $p: *const u8) -> S::F {
                // SAFETY: a step of weights is readable by contract.
                unsafe { $load }
            }
            #[inline(always)]
            unsafe fn load_x(s: S, p: *const u8) -> S::F {
                // SAFETY: a step of activations is readable by contract.
                unsafe { s.load(p.cast()) }
            }
            #[inline(always)]
            fn multiply(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
                s.fma(w, x, acc)
            }
        }
    };
}
widened!(F32, 4, |s, p| s.load(p.cast()));
widened!(F16, 2, |s, p| s.load_f16(p));
widened!(Bf16, 2, |s, p| s.load_bf16(p));

/// bfloat16 weights and activations.
struct Bf16Bf16;
impl<S: Simd> Pair<S> for Bf16Bf16 {
    type Step = S::I;
    const STEP: usize = 32;
    const BYTES: (usize, usize) = (2, 2);
    #[inline(always)]
    unsafe fn load_w(s: S, p: *const u8) -> S::I {
        // SAFETY: a step of 32 bfloat16 is readable by contract.
        unsafe { s.load_i(p) }
    }
    #[inline(always)]
    unsafe fn load_x(s: S, p: *const u8) -> S::I {
        // SAFETY: a step of 32 bfloat16 is readable by contract.
        unsafe { s.load_i(p) }
    }
    #[inline(always)]
    fn multiply(s: S, acc: S::F, w: S::I, x: S::I) -> S::F {
        s.dot_bf16(acc, w, x)
    }
}

/// The same by multiplications of float32, odd elements first, as `vdpbf16ps` has them: the same bits but
/// for subnormal numbers, and quicker where that instruction is slow (docs/performance.md).
struct Bf16ByF32;
impl<S: Simd> Pair<S> for Bf16ByF32 {
    /// The odd elements and the even ones.
    type Step = (S::F, S::F);
    const STEP: usize = 32;
    const BYTES: (usize, usize) = (2, 2);
    #[inline(always)]
    unsafe fn load_w(s: S, p: *const u8) -> (S::F, S::F) {
        // SAFETY: a step of 32 bfloat16 is readable by contract.
        let words = unsafe { s.load_i(p) };
        let odd = s.and_i(words, s.splat_i(-0x1_0000));
        (s.of_bits(odd), s.of_bits(s.shl_i(words, 16)))
    }
    #[inline(always)]
    unsafe fn load_x(s: S, p: *const u8) -> (S::F, S::F) {
        // SAFETY: by contract.
        unsafe { Self::load_w(s, p) }
    }
    #[inline(always)]
    fn multiply(s: S, acc: S::F, w: (S::F, S::F), x: (S::F, S::F)) -> S::F {
        s.fma(w.1, x.1, s.fma(w.0, x.0, acc))
    }
}

/// A step at the end of a row, filled up with zeros (zero bytes are 0.0 in every format).
#[derive(Clone, Copy)]
struct Padded([u8; 64]);

impl Padded {
    /// # Safety
    /// `bytes` (at most 64) must be readable at `p`.
    #[inline(always)]
    unsafe fn read(p: *const u8, bytes: usize) -> Self {
        let mut padded = [0; 64];
        // SAFETY: readable by contract, writable because of the array's size.
        unsafe { std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), bytes.min(64)) };
        Self(padded)
    }
}

/// `R` x `T` dot products of `n` elements, side by side; each has its own fixed order. Asks for the
/// memory `ahead` of the weights (0: for none).
///
/// # Safety
/// `n` elements must be readable at every pointer.
#[inline(always)]
pub(crate) unsafe fn dots<S: Simd, P: Pair<S>, const R: usize, const T: usize>(
    s: S,
    w: [*const u8; R],
    x: [*const u8; T],
    n: usize,
    ahead: usize,
) -> [[f32; T]; R] {
    let mut acc = [[s.splat(0.0); T]; R];
    let whole = n - n % P::STEP;
    // SAFETY: every step lies within the n elements; the last, partial one is copied first.
    unsafe {
        let mut i = 0;
        while i < whole {
            let mut xs = [P::load_x(s, x[0].add(i * P::BYTES.1)); T];
            for (xs, x) in xs.iter_mut().zip(x) {
                *xs = P::load_x(s, x.add(i * P::BYTES.1));
            }
            for (acc, w) in acc.iter_mut().zip(w) {
                let ws = P::load_w(s, w.add(i * P::BYTES.0));
                if ahead > 0 {
                    s.prefetch(w.wrapping_add(i * P::BYTES.0 + ahead));
                }
                for (acc, &xs) in acc.iter_mut().zip(&xs) {
                    *acc = P::multiply(s, *acc, ws, xs);
                }
            }
            i += P::STEP;
        }
        if whole < n {
            let mut xs = [Padded([0; 64]); T];
            for (xs, x) in xs.iter_mut().zip(x) {
                *xs = Padded::read(x.add(whole * P::BYTES.1), (n - whole) * P::BYTES.1);
            }
            for (acc, w) in acc.iter_mut().zip(w) {
                let ws = Padded::read(w.add(whole * P::BYTES.0), (n - whole) * P::BYTES.0);
                let ws = P::load_w(s, ws.0.as_ptr());
                for (acc, xs) in acc.iter_mut().zip(&xs) {
                    *acc = P::multiply(s, *acc, ws, P::load_x(s, xs.0.as_ptr()));
                }
            }
        }
    }
    let mut sums = [[0.0; T]; R];
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        for (sum, &acc) in sums.iter_mut().zip(acc) {
            *sum = s.sum(acc);
        }
    }
    sums
}

/// Where a tile of outputs lies.
#[derive(Clone, Copy)]
struct Corner {
    row: usize,
    token: usize,
    /// First column and number of columns of the piece.
    piece: (usize, usize),
    /// How far ahead weights are asked for; 0: not.
    ahead: usize,
}

/// Adds a piece's dot products to `R` x `T` outputs (sets them at the first piece); returns `T`.
///
/// # Safety
/// The tile's pointers must cover its shape, and the corner plus `R` x `T` lie in it.
#[inline(always)]
unsafe fn add_dots<S: Simd, P: Pair<S>, const R: usize, const T: usize>(
    s: S,
    tile: &FloatTile,
    at: Corner,
) -> usize {
    let (col, n) = at.piece;
    // SAFETY: rows and tokens from the corner on lie within the tile by contract.
    unsafe {
        let mut w = [tile.w.add(at.row * tile.w_stride + col * P::BYTES.0); R];
        for (r, w) in w.iter_mut().enumerate() {
            *w = w.add(r * tile.w_stride);
        }
        let mut x = [tile.x.add(at.token * tile.x_stride + col * P::BYTES.1); T];
        for (t, x) in x.iter_mut().enumerate() {
            *x = x.add(t * tile.x_stride);
        }
        let dots = dots::<S, P, R, T>(s, w, x, n, at.ahead);
        for (r, dots) in dots.iter().enumerate() {
            for (t, &dot) in dots.iter().enumerate() {
                let y = tile.y.add((at.token + t) * tile.y_stride + at.row + r);
                *y = if col == 0 && !tile.add { dot } else { *y + dot };
            }
        }
    }
    T
}

/// All tokens against rows `first..end` for one piece of the columns.
///
/// # Safety
/// The tile's pointers must cover its shape.
#[inline(always)]
unsafe fn piece<S: Simd, P: Pair<S>, const R: usize, const T: usize>(
    s: S,
    tile: &FloatTile,
    (first, end): (usize, usize),
    piece: (usize, usize),
) {
    let mut token = 0;
    while token < tile.tokens {
        let wide = token + T <= tile.tokens;
        // The first tokens bring the rows from memory; they ask for those that come next.
        let ahead = if token == 0 { R * tile.w_stride } else { 0 };
        let mut row = first;
        while row < end {
            let at = Corner { row, token, piece, ahead };
            // SAFETY: the corner and its extent lie in the tile.
            unsafe {
                match (row + R <= end, wide) {
                    (true, true) => add_dots::<S, P, R, T>(s, tile, at),
                    (true, false) => add_dots::<S, P, R, 1>(s, tile, at),
                    (false, true) => add_dots::<S, P, 1, T>(s, tile, at),
                    (false, false) => add_dots::<S, P, 1, 1>(s, tile, at),
                };
            }
            row += if row + R <= end { R } else { 1 };
        }
        token += if wide { T } else { 1 };
    }
}

/// All tokens, few, against `R` rows for one piece of the columns: the weights come from memory.
///
/// # Safety
/// The tile's pointers must cover its shape.
#[inline(always)]
unsafe fn row_piece<S: Simd, P: Pair<S>, const R: usize>(
    s: S,
    tile: &FloatTile,
    row: usize,
    piece: (usize, usize),
) {
    let (mut token, mut ahead) = (0, if R == 1 { AHEAD } else { 4 * AHEAD });
    while token < tile.tokens {
        let at = Corner { row, token, piece, ahead };
        // SAFETY: the corner and its extent lie in the tile.
        token += unsafe {
            match tile.tokens - token {
                8.. if S::ROWS >= 8 => add_dots::<S, P, R, 8>(s, tile, at),
                4.. => add_dots::<S, P, R, 4>(s, tile, at),
                2.. => add_dots::<S, P, R, 2>(s, tile, at),
                _ => add_dots::<S, P, R, 1>(s, tile, at),
            }
        };
        ahead = 0;
    }
}

/// The product of a tile with one pair of types.
///
/// # Safety
/// The tile's pointers must cover its shape.
#[inline(always)]
unsafe fn product<S: Simd, P: Pair<S>, const R: usize, const T: usize>(s: S, tile: &FloatTile) {
    let step = PIECE_BYTES / P::BYTES.1;
    if tile.tokens <= FEW_TOKENS {
        // Row after row is one stream of memory; four rows at a time are slower, by a twelfth for one
        // token.
        let block = if tile.tokens == 1 { 1 } else { STREAMED_ROWS };
        for first in (0..tile.rows).step_by(block) {
            for col in (0..tile.cols).step_by(step) {
                let piece = (col, step.min(tile.cols - col));
                let end = tile.rows.min(first + block);
                let mut row = first;
                // Eight sums are fewer than a multiplication's latency hides.
                while S::ROWS >= 8 && tile.tokens == FEW_TOKENS && row + 2 <= end {
                    // SAFETY: the caller vouches for the tile.
                    unsafe { row_piece::<S, P, 2>(s, tile, row, piece) }
                    row += 2;
                }
                for row in row..end {
                    // SAFETY: the caller vouches for the tile.
                    unsafe { row_piece::<S, P, 1>(s, tile, row, piece) }
                }
            }
        }
        return;
    }
    for first in (0..tile.rows).step_by(ROW_BLOCK) {
        let rows = (first, tile.rows.min(first + ROW_BLOCK));
        for col in (0..tile.cols).step_by(step) {
            // SAFETY: the caller vouches for the tile.
            unsafe { piece::<S, P, R, T>(s, tile, rows, (col, step.min(tile.cols - col))) }
        }
    }
}

/// The product of a tile, `R` rows x `T` tokens at a time; of bfloat16 pairs `P` x `U` where there is no
/// instruction for them.
///
/// # Safety
/// The tile's pointers must cover its shape.
#[inline(always)]
pub(crate) unsafe fn float_tile<
    S: Simd,
    const R: usize,
    const T: usize,
    const P: usize,
    const U: usize,
>(
    s: S,
    pair: FloatPair,
    tile: &FloatTile,
) {
    // SAFETY: the caller vouches for the tile.
    unsafe {
        match pair {
            FloatPair::F32 => product::<S, F32, R, T>(s, tile),
            FloatPair::F16 => product::<S, F16, R, T>(s, tile),
            FloatPair::Bf16 => product::<S, Bf16, R, T>(s, tile),
            FloatPair::Bf16Bf16 if S::DOT_BF16 => product::<S, Bf16Bf16, R, T>(s, tile),
            FloatPair::Bf16Bf16 => bf16_tile_by_f32::<S, P, U>(s, tile),
        }
    }
}

/// [`float_tile`] of bfloat16 pairs by multiplications of float32.
///
/// # Safety
/// The tile's pointers must cover its shape.
#[inline(always)]
unsafe fn bf16_tile_by_f32<S: Simd, const R: usize, const T: usize>(s: S, tile: &FloatTile) {
    // SAFETY: the caller vouches for the tile.
    unsafe { product::<S, Bf16ByF32, R, T>(s, tile) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Kernels};

    #[test]
    fn every_instruction_set_multiplies_bfloat16_pairs() {
        let (rows, tokens, cols) = (5, 7, 77);
        // Integers up to 8 bits are exact in bfloat16, and so are their sums in f32.
        let value = |i: usize| (i * 37 % 101) as f32 - 50.0;
        let pack = |n: usize| -> Vec<u16> {
            (0..n).map(|i| crate::numbers::f32_to_bf16(value(i))).collect()
        };
        let (w, x) = (pack(rows * cols), pack(tokens * cols));
        for kernels in Isa::ALL.iter().filter_map(|&isa| Kernels::for_isa(isa)) {
            let mut y = vec![f32::NAN; rows * tokens];
            let tile = FloatTile {
                w: w.as_ptr().cast(),
                w_stride: 2 * cols,
                rows,
                x: x.as_ptr().cast(),
                x_stride: 2 * cols,
                tokens,
                cols,
                y: y.as_mut_ptr(),
                y_stride: rows,
                add: false,
            };
            // SAFETY: the buffers were made for this shape.
            unsafe { kernels.float_tile(FloatPair::Bf16Bf16, &tile) }
            for (i, &y) in y.iter().enumerate() {
                let (t, r) = (i / rows, i % rows);
                let terms = (0..cols).map(|c| value(t * cols + c) * value(r * cols + c));
                assert_eq!(y, terms.sum::<f32>(), "{:?}", kernels.isa());
            }
        }
    }
}
