//! Quantized weights as right operands of products in tiles: panels of pairs of bfloat16.
//!
//! What integer products unpack, scaled and rounded: `(q - zero) scale` or `q scale + bias` in
//! float32, then to the nearest bfloat16. Integers, scales and biases are those of
//! [`super::panel`], so every format is served by the same few instructions.

use super::panel::{Corner, PanelSource, SCRATCH};
use crate::blocks::panel::{PanelBuffers, ROWS};
use crate::blocks::{CHUNK, Layout, SUPERBLOCK, Scales, Zero};
use crate::gemm::MakePanels;
use crate::kernels::Kernels;
use crate::matrix::Matrix;
use crate::simd::Simd;
use std::ops::Range;

/// Columns of a panel, which are rows of the weights.
const WIDTH: usize = 2 * ROWS;

/// Quantized weights.
pub(super) struct Rounded<'a> {
    pub(super) source: PanelSource<'a>,
    pub(super) w: Matrix<'a>,
}

impl Rounded<'_> {
    /// Whether these weights can be packed: their rows are whole panels of 16.
    pub(super) fn takes(w: &Matrix) -> bool {
        w.rows.is_multiple_of(ROWS)
    }
}

impl MakePanels for Rounded<'_> {
    unsafe fn pack(
        &self,
        kernels: &Kernels,
        (inner, rows): (Range<usize>, Range<usize>),
        out: *mut u32,
    ) {
        let layout = self.source.layout();
        let steps = inner.len() / 2;
        SCRATCH.with_borrow_mut(|(scratch, _)| {
            for row in (rows.start..rows.end.next_multiple_of(WIDTH)).step_by(ROWS) {
                let (panel, half) = ((row - rows.start) / WIDTH, row % WIDTH);
                let out = out.wrapping_add(panel * WIDTH * steps + half);
                if row >= self.w.rows {
                    for step in 0..steps {
                        // SAFETY: there is room for whole panels by contract.
                        unsafe { out.add(step * WIDTH).write_bytes(0, ROWS) }
                    }
                    continue;
                }
                for col in inner.clone().step_by(CHUNK) {
                    let cols = col..inner.end.min(col + CHUNK);
                    let (at, subs) = ((col - inner.start) / 2, cols.len() / layout.sub);
                    let corner = Corner { row, next_row: row + ROWS, cols };
                    let to = scratch.panel(0);
                    // SAFETY: `Matrix::check_sizes` holds and the corner lies in the matrix; the
                    // scratch holds a whole chunk, and there is room by contract.
                    unsafe {
                        kernels.fill(&self.source.blocks(&self.w, &corner), &to);
                        kernels.round_panel(layout, &to, subs, out.wrapping_add(at * WIDTH));
                    }
                }
            }
        });
    }
}

/// Sub-blocks of 16 rows as pairs of neighbors in a row: those of all rows in 16 words, [`WIDTH`] words
/// apart.
///
/// # Safety
/// The sub-blocks must be readable and their words writable.
#[inline(always)]
pub(crate) unsafe fn round_panel<S: Simd>(
    s: S,
    layout: Layout,
    from: &PanelBuffers,
    subs: usize,
    out: *mut u32,
) {
    let byte = s.splat_i(0xff);
    // SAFETY: all indices lie within the sub-blocks.
    unsafe {
        for sub in 0..subs {
            let (scale, offset) = factors(s, layout, from, sub);
            for four in sub * layout.sub / 4..(sub + 1) * layout.sub / 4 {
                let q = s.load_i(from.quants.add(4 * ROWS * four));
                let value =
                    |shift: u32| s.fma(s.to_f(s.and_i(s.shr_i(q, shift), byte)), scale, offset);
                let out = out.add(2 * four * WIDTH);
                s.store_i(out.cast(), s.pair_bf16(value(0), value(8)));
                s.store_i(out.add(WIDTH).cast(), s.pair_bf16(value(16), value(24)));
            }
        }
    }
}

/// Scales and offsets of a sub-block.
///
/// # Safety
/// It must be readable.
#[inline(always)]
unsafe fn factors<S: Simd>(s: S, layout: Layout, from: &PanelBuffers, sub: usize) -> (S::F, S::F) {
    let supers = from.supers.wrapping_add(sub * layout.sub / SUPERBLOCK * 2 * ROWS);
    let scales = from.scales.wrapping_add(sub * ROWS).cast_const();
    // SAFETY: by contract; the bytes of four sub-blocks' minimums lie side by side.
    unsafe {
        let scale = match layout.scales {
            Scales::Floats => s.load(scales),
            Scales::Integers => s.mul(s.load(supers), s.to_f(s.load_i(scales.cast()))),
        };
        let offset = match (layout.zero, layout.scales) {
            (Zero::Constant(zero), _) => s.mul(scale, s.splat(-f32::from(zero))),
            (Zero::Bias, Scales::Floats) => s.load(from.bias.add(sub * ROWS)),
            (Zero::Bias, Scales::Integers) => {
                let four = s.load_i(from.bias.add(sub / 4 * ROWS).cast_const().cast());
                let minimums = s.and_i(s.shr_i(four, 8 * (sub % 4) as u32), s.splat_i(0xff));
                s.mul(s.load(supers.add(ROWS)), s.to_f(minimums))
            }
        };
        (scale, offset)
    }
}
