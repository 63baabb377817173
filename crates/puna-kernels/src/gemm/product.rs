//! The walk of a product over its operands: B is packed into panels that all threads share.

use super::panels::pack_rows;
use super::{Block, MIN_PARALLEL, MatRef, Stored, Words, Write};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::parallel::OutPtr;
use crate::pool;
use std::cell::RefCell;
use std::ops::Range;

/// Words along the inner dimension that are multiplied before C is written: a panel of B of this
/// length stays in the first-level cache.
const STEPS: usize = 256;

/// Rows of A that a task packs: with [`STEPS`] words each they stay in the second-level cache.
const ROWS: usize = 96;

/// Columns of B that are packed at a time.
pub(super) const COLS: usize = 2048;

thread_local! {
    /// A thread's packed rows of A.
    static ROWS_OF_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// The packed panels of B of the product that a thread has called for.
    static PANELS_OF_B: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) at: OutPtr,
    pub(super) stride: usize,
    pub(super) write: Write,
}

/// A piece of the right operand.
#[derive(Clone)]
pub(super) struct Span {
    pub(super) cols: Range<usize>,
    /// Along the inner dimension.
    pub(super) inner: Range<usize>,
}

/// The pieces in which a product goes through its right operand `[k, n]`, those of the same columns
/// together; `step` elements along the inner dimension each.
pub(super) fn spans((k, n): (usize, usize), step: usize) -> impl Iterator<Item = Span> {
    (0..n).step_by(COLS).flat_map(move |col| {
        let cols = col..n.min(col + COLS);
        let inner = (0..k).step_by(step).map(move |first| first..k.min(first + step));
        inner.map(move |inner| Span { cols: cols.clone(), inner })
    })
}

/// Elements along the inner dimension of a piece.
pub(super) fn piece(words: Words) -> usize {
    STEPS * words.per_word()
}

/// A product whose panels `panels_of` gives, piece by piece.
pub(super) fn product(
    kernels: &Kernels,
    (m, n, k): (usize, usize, usize),
    a: MatRef<'_>,
    to: Place,
    words: Words,
    mut panels_of: impl FnMut(Span, &mut Vec<Line>) -> *const u32,
) {
    assert!(a.stored == Stored::F32 || words == Words::Bf16Pairs, "rounded rows, float32 product");
    let mut room = PANELS_OF_B.take();
    for Span { cols, inner } in spans((k, n), piece(words)) {
        let part = Part {
            words,
            a: &a,
            panels: panels_of(Span { cols: cols.clone(), inner: inner.clone() }, &mut room),
            steps: words.steps(inner.len()),
            c: to.at.at(cols.start),
            add: to.write == Write::Add || inner.start > 0,
            inner,
            cols,
            stride: to.stride,
        };
        part.multiply(kernels, m);
    }
    PANELS_OF_B.replace(room);
}

/// A piece of the inner dimension against some columns.
struct Part<'a> {
    words: Words,
    a: &'a MatRef<'a>,
    panels: *const u32,
    inner: Range<usize>,
    steps: usize,
    cols: Range<usize>,
    /// The first of the columns in the first row.
    c: *mut f32,
    stride: usize,
    add: bool,
}

// SAFETY: the panels are only read while a product runs; rows and columns of c are disjoint
// between tasks.
unsafe impl Sync for Part<'_> {}

impl Part<'_> {
    /// All rows of A, over the pool.
    fn multiply(&self, kernels: &Kernels, m: usize) {
        let row_tasks = m.div_ceil(ROWS);
        let panels = self.cols.len().div_ceil(kernels.gemm_cols);
        let threads =
            if m * self.cols.len() * self.inner.len() < MIN_PARALLEL { 1 } else { pool::threads() };
        // A few tasks per thread even out their speeds.
        let split = if threads == 1 { 1 } else { (8 * threads).div_ceil(row_tasks).min(panels) };
        let step = panels.div_ceil(split);
        let run = |task: usize| {
            let (rows, part) = (task / split * ROWS, task % split * step);
            self.multiply_rows(kernels, rows..m.min(rows + ROWS), part..panels.min(part + step));
        };
        if threads == 1 {
            (0..row_tasks * split).for_each(run);
        } else {
            pool::run(row_tasks * split, run);
        }
    }

    fn multiply_rows(&self, kernels: &Kernels, rows: Range<usize>, panels: Range<usize>) {
        if panels.is_empty() {
            return;
        }
        ROWS_OF_A.with_borrow_mut(|packed| {
            let (at, a_row, a_step) =
                pack_rows(kernels, self.words, self.a, (rows.clone(), self.inner.clone()), packed);
            let first = panels.start * kernels.gemm_cols;
            let block = Block {
                words: self.words,
                a: at,
                a_row,
                a_step,
                rows: rows.len(),
                b: self.panels.wrapping_add(first * self.steps),
                b_panel: self.steps * kernels.gemm_cols,
                cols: self.cols.len().min(panels.end * kernels.gemm_cols) - first,
                steps: self.steps,
                c: self.c.wrapping_add(rows.start * self.stride + first),
                c_stride: self.stride,
                add: self.add,
            };
            // SAFETY: both operands were packed for this shape, and `gemm` checked that C has it.
            unsafe { kernels.gemm_block(&block) }
        });
    }
}
