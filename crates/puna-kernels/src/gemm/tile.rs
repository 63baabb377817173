//! Packed rows against packed panels: tiles of C in registers.

use super::Words;
use crate::simd::{LANES, Simd};

/// A block of C: packed rows of A against packed panels of B.
pub(crate) struct Block {
    pub(crate) words: Words,
    /// Word of row `r` and step `i` at `r * a_row + i * a_step`.
    pub(crate) a: *const u32,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    pub(crate) rows: usize,
    /// Panels of as many columns as a tile has, `b_panel` words apart; the columns of a step lie
    /// together.
    pub(crate) b: *const u32,
    pub(crate) b_panel: usize,
    pub(crate) cols: usize,
    pub(crate) steps: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    pub(crate) add: bool,
}

/// What is multiplied in a step.
trait Step<S: Simd> {
    type B: Copy;
    unsafe fn load(s: S, p: *const u32) -> Self::B;
    unsafe fn splat(s: S, p: *const u32) -> Self::B;
    fn multiply(s: S, acc: S::F, a: Self::B, b: Self::B) -> S::F;
}

struct F32;
impl<S: Simd> Step<S> for F32 {
    type B = S::F;
    #[inline(always)]
    unsafe fn load(s: S, p: *const u32) -> S::F {
        // SAFETY: 16 words are readable by contract.
        unsafe { s.load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(s: S, p: *const u32) -> S::F {
        // SAFETY: a word is readable by contract.
        s.splat(unsafe { p.cast::<f32>().read() })
    }
    #[inline(always)]
    fn multiply(s: S, acc: S::F, a: S::F, b: S::F) -> S::F {
        s.fma(a, b, acc)
    }
}

struct Bf16Pairs;
impl<S: Simd> Step<S> for Bf16Pairs {
    type B = S::I;
    #[inline(always)]
    unsafe fn load(s: S, p: *const u32) -> S::I {
        // SAFETY: 16 words are readable by contract.
        unsafe { s.load_i(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(s: S, p: *const u32) -> S::I {
        // SAFETY: a word is readable by contract.
        s.splat_i(unsafe { p.read() }.cast_signed())
    }
    #[inline(always)]
    fn multiply(s: S, acc: S::F, a: S::I, b: S::I) -> S::F {
        s.dot_bf16(acc, a, b)
    }
}

/// Where a tile lies in its block.
#[derive(Clone, Copy)]
struct At {
    row: usize,
    rows: usize,
    b: *const u32,
    col: usize,
    cols: usize,
}

/// `R` rows x `V` vectors of C.
///
/// # Safety
/// The block's pointers must cover its shape.
#[inline(always)]
unsafe fn tile<S: Simd, P: Step<S>, const R: usize, const V: usize>(s: S, block: &Block, at: At) {
    let mut acc = [[s.splat(0.0); V]; R];
    // SAFETY: rows beyond the last one repeat it; everything else lies in the block.
    unsafe {
        let mut rows = [block.a; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = block.a.add((at.row + r.min(at.rows - 1)) * block.a_row);
        }
        let mut b = at.b;
        for step in 0..block.steps {
            let mut columns = [P::load(s, b); V];
            for (v, columns) in columns.iter_mut().enumerate().skip(1) {
                *columns = P::load(s, b.add(v * LANES));
            }
            for (acc, row) in acc.iter_mut().zip(rows) {
                let a = P::splat(s, row.add(step * block.a_step));
                for (acc, &columns) in acc.iter_mut().zip(&columns) {
                    *acc = P::multiply(s, *acc, a, columns);
                }
            }
            b = b.add(V * LANES);
        }
        for (r, acc) in acc.iter().enumerate().take(at.rows) {
            let c = block.c.add((at.row + r) * block.c_stride + at.col);
            for (v, &acc) in acc.iter().enumerate() {
                let cols = at.cols.saturating_sub(v * LANES).min(LANES);
                put(s, c.wrapping_add(v * LANES), cols, acc, block.add);
            }
        }
    }
}

/// # Safety
/// `cols` values (at most 16) must be readable and writable at `c`.
#[inline(always)]
unsafe fn put<S: Simd>(s: S, c: *mut f32, cols: usize, value: S::F, add: bool) {
    // SAFETY: by contract; a part of a vector goes through an array.
    unsafe {
        if cols == LANES {
            let value = if add { s.add(s.load(c), value) } else { value };
            s.store(c, value);
        } else if cols > 0 {
            let mut values = [0f32; LANES];
            s.store(values.as_mut_ptr(), value);
            for (i, &value) in values.iter().enumerate().take(cols) {
                let c = c.add(i);
                *c = if add { *c + value } else { value };
            }
        }
    }
}

/// All tiles of a block.
///
/// # Safety
/// The block's pointers must cover its shape.
#[inline(always)]
pub(crate) unsafe fn block<S: Simd, const R: usize, const V: usize>(s: S, block: &Block) {
    for (panel, col) in (0..block.cols).step_by(V * LANES).enumerate() {
        let b = block.b.wrapping_add(panel * block.b_panel);
        let cols = (block.cols - col).min(V * LANES);
        for row in (0..block.rows).step_by(R) {
            let at = At { row, rows: R.min(block.rows - row), b, col, cols };
            // SAFETY: the tile lies in the block, whose pointers the caller vouches for.
            unsafe {
                match block.words {
                    Words::F32 => tile::<S, F32, R, V>(s, block, at),
                    Words::Bf16Pairs => tile::<S, Bf16Pairs, R, V>(s, block, at),
                }
            }
        }
    }
}
