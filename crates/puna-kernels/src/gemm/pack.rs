//! Elements to words: copies, or rounds pairs of neighbors along the inner dimension to bfloat16.
//!
//! Rounding is to nearest even. Subnormal values may become zero and a NaN may lose its payload, as
//! the instructions that multiply bfloat16 have it.

use super::Words;
use crate::simd::{LANES, Simd};

/// Rows `[rows, inner]` to rows of words, `stride` words apart; an odd last element is paired with
/// zero.
///
/// # Safety
/// The elements must be readable and the words writable.
#[inline(always)]
pub(crate) unsafe fn rows_to_words<S: Simd>(
    s: S,
    words: Words,
    (from, from_stride): (*const f32, usize),
    (rows, inner): (usize, usize),
    (out, stride): (*mut u32, usize),
) {
    for row in 0..rows {
        // SAFETY: every element and word lies within the given shapes.
        unsafe {
            let (from, out) = (from.add(row * from_stride), out.add(row * stride));
            if words == Words::F32 {
                std::ptr::copy_nonoverlapping(from.cast(), out, inner);
                continue;
            }
            let mut at = 0;
            while at + 2 * LANES <= inner {
                let (a, b) = (s.load(from.add(at)), s.load(from.add(at + LANES)));
                s.store_i(out.cast::<u8>().add(2 * at), s.round_bf16(a, b));
                at += 2 * LANES;
            }
            if at < inner {
                let mut padded = [0f32; 2 * LANES];
                std::ptr::copy_nonoverlapping(from.add(at), padded.as_mut_ptr(), inner - at);
                let (a, b) = (s.load(padded.as_ptr()), s.load(padded.as_ptr().add(LANES)));
                let mut tail = [0u32; LANES];
                s.store_i(tail.as_mut_ptr().cast(), s.round_bf16(a, b));
                let words = (inner - at).div_ceil(2);
                std::ptr::copy_nonoverlapping(tail.as_ptr(), out.add(at / 2), words);
            }
        }
    }
}

/// Steps of words, in panels of `width` columns: those of a panel's step lie together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) at: *mut u32,
    /// A multiple of 16.
    pub(crate) width: usize,
    /// Words from a panel to the next one.
    pub(crate) panel: usize,
}

impl Steps {
    /// Where the words of 16 columns from `col` on go.
    #[inline(always)]
    pub(crate) fn to(self, step: usize, col: usize) -> *mut u8 {
        let word = col / self.width * self.panel + step * self.width + col % self.width;
        self.at.wrapping_add(word).cast()
    }
}

/// Bytes that are asked for ahead: rows of a wide matrix lie on different pages, which hardware does
/// not look ahead to.
const AHEAD: usize = 12 * 1024;

/// Rows that are asked for ahead.
fn rows_ahead(row_bytes: usize) -> usize {
    (AHEAD / row_bytes.max(1)).clamp(2, 12)
}

/// A matrix `[inner, cols]` to steps of words; columns beyond `cols` up to the end of a panel are zero.
/// It is read row by row, through all panels.
///
/// # Safety
/// The elements must be readable, and the words of all panels writable.
#[inline(always)]
pub(crate) unsafe fn columns_to_words<S: Simd>(
    s: S,
    words: Words,
    (from, from_stride): (*const f32, usize),
    (inner, cols): (usize, usize),
    out: Steps,
) {
    let ahead = rows_ahead(4 * cols);
    for step in 0..words.steps(inner) {
        for col in (0..cols.next_multiple_of(out.width)).step_by(LANES) {
            for r in 0..words.per_word() {
                let row = step * words.per_word() + r + ahead;
                s.prefetch(from.wrapping_add(row * from_stride + col).cast());
            }
            let some = cols.saturating_sub(col).min(LANES);
            // SAFETY: `some` columns are readable in every row below `inner`; words by contract.
            unsafe {
                let row = |r: usize| {
                    if r >= inner || some == 0 {
                        return s.splat(0.0);
                    }
                    let at = from.add(r * from_stride + col);
                    if some == LANES {
                        return s.load(at);
                    }
                    let mut padded = [0f32; LANES];
                    std::ptr::copy_nonoverlapping(at, padded.as_mut_ptr(), some);
                    s.load(padded.as_ptr())
                };
                let word = match words {
                    Words::F32 => s.bits(row(step)),
                    Words::Bf16Pairs => s.pair_bf16(row(2 * step), row(2 * step + 1)),
                };
                s.store_i(out.to(step, col), word);
            }
        }
    }
}

/// [`columns_to_words`] of rows of bfloat16.
///
/// # Safety
/// As there; the elements have 2 bytes each.
#[inline(always)]
pub(crate) unsafe fn rounded_columns_to_words<S: Simd>(
    s: S,
    (from, from_stride): (*const u16, usize),
    (inner, cols): (usize, usize),
    out: Steps,
) {
    let ahead = rows_ahead(2 * cols);
    for step in 0..inner.div_ceil(2) {
        for col in (0..cols.next_multiple_of(out.width)).step_by(LANES) {
            // A line holds two vectors.
            let row = 2 * step + col / LANES % 2 + ahead;
            s.prefetch(from.wrapping_add(row * from_stride + col).cast());
            let some = cols.saturating_sub(col).min(LANES);
            // SAFETY: `some` columns are readable in every row below `inner`; words by contract.
            unsafe {
                let row = |r: usize| {
                    if r >= inner || some == 0 {
                        return s.splat_i(0);
                    }
                    let at = from.add(r * from_stride + col);
                    if some == LANES {
                        return s.load_words(at.cast());
                    }
                    let mut padded = [0u16; LANES];
                    std::ptr::copy_nonoverlapping(at, padded.as_mut_ptr(), some);
                    s.load_words(padded.as_ptr().cast())
                };
                let word = s.or_i(row(2 * step), s.shl_i(row(2 * step + 1), 16));
                s.store_i(out.to(step, col), word);
            }
        }
    }
}

/// Rows of words, `stride` apart, to steps: word `i` of row `r` to `out[i * rows + r]`. Rows are a
/// multiple of 16.
///
/// # Safety
/// The words must be readable, and as many writable at `out`.
#[inline(always)]
pub(crate) unsafe fn transpose_words<S: Simd>(
    s: S,
    (from, stride): (*const u32, usize),
    (rows, steps): (usize, usize),
    out: *mut u32,
) {
    for first in (0..rows).step_by(LANES) {
        // SAFETY: four words of 16 rows at a time, then single ones, all within the shape.
        unsafe {
            let from = from.add(first * stride).cast::<u8>();
            let whole = steps - steps % 4;
            for step in (0..whole).step_by(4) {
                let four = s.rows16(from.add(4 * step), 4 * stride);
                for (i, words) in four.into_iter().enumerate() {
                    s.store_i(out.add((step + i) * rows + first).cast(), words);
                }
            }
            for step in whole..steps {
                let words = s.rows4(from.add(4 * step), 4 * stride);
                s.store_i(out.add(step * rows + first).cast(), words);
            }
        }
    }
}

/// A piece of a packed matrix to one of its transpose: up to 16 rows of 32 pairs of neighbors along one
/// dimension, to as many along the other. Word `o` of row `s` is the elements `(o, 2 s)` and
/// `(o, 2 s + 1)`, and becomes halves of the words `2 s` and `2 s + 1` of row `o / 2`. What is not there
/// counts as zero.
#[inline(always)]
pub(crate) fn turn_pairs<S: Simd>(s: S, from: &[u32], to: &mut [u32]) {
    const ROW: usize = 2 * LANES;
    let mut padded = [0; ROW * LANES];
    let from = if from.len() < padded.len() {
        padded[..from.len()].copy_from_slice(from);
        &padded
    } else {
        from
    };
    let (low, high) = (s.splat_i(0xffff), s.splat_i(-0x1_0000));
    let from = from.as_ptr().cast::<u8>();
    for (four, rows) in to.chunks_mut(2 * ROW).enumerate() {
        // SAFETY: 16 bytes of each of the 16 rows that there are; whole vectors of a row.
        unsafe {
            let columns = s.rows16(from.add(16 * four), 4 * ROW);
            for (pair, row) in columns.as_chunks::<2>().0.iter().zip(rows.as_chunks_mut::<ROW>().0)
            {
                let even = s.or_i(s.and_i(pair[0], low), s.shl_i(pair[1], 16));
                let odd = s.or_i(s.shr_i(pair[0], 16), s.and_i(pair[1], high));
                for (half, words) in s.zip_i(even, odd).into_iter().enumerate() {
                    s.store_i(row[LANES * half..].as_mut_ptr().cast(), words);
                }
            }
        }
    }
}
