//! Corners of operands, packed: B into panels of columns, A into rows or columns of words.

use super::pack::Steps;
use super::{MIN_PARALLEL, MatRef, Order, Stored, Words};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::parallel::OutPtr;
use crate::pool;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// A panel's rows of words before they are transposed.
    static ROWS_OF_PANEL: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Makes room for so many words.
pub(crate) fn room(lines: &mut Vec<Line>, words: usize) -> *mut u32 {
    let needed = words.div_ceil(16);
    if lines.len() < needed {
        lines.resize(needed, Line::ZERO);
    }
    lines.as_mut_ptr().cast()
}

/// Packs a corner of B: panels of columns, in each of which the columns of a step lie together.
pub(crate) fn pack_panels(
    kernels: &Kernels,
    words: Words,
    b: &MatRef<'_>,
    (inner, cols): (Range<usize>, Range<usize>),
    out: &mut Vec<Line>,
) {
    let (width, steps) = (kernels.gemm_cols, words.steps(inner.len()));
    let panels = cols.len().div_ceil(width);
    let out = OutPtr::from(room(out, panels * width * steps));
    let pack = |panel: usize| {
        let first = cols.start + panel * width;
        let cols = first..cols.end.min(first + width);
        // SAFETY: panels lie behind one another in `out`, and there is room for all.
        unsafe {
            pack_panel(kernels, words, b, (inner.clone(), cols), out.at(panel * width * steps));
        }
    };
    if panels * width * inner.len() < MIN_PARALLEL {
        (0..panels).for_each(pack);
    } else {
        pool::run(panels, pack);
    }
}

/// [`pack_panels`] on the calling thread.
///
/// # Safety
/// There must be room for all panels at `out`.
pub(super) unsafe fn pack_panels_here(
    kernels: &Kernels,
    words: Words,
    b: &MatRef<'_>,
    (inner, cols): (Range<usize>, Range<usize>),
    mut out: *mut u32,
) {
    let panel = kernels.gemm_cols * words.steps(inner.len());
    if b.order == Order::Rows {
        let out = Steps { at: out, width: kernels.gemm_cols, panel };
        // SAFETY: by contract.
        return unsafe { pack_columns(kernels, words, b, (inner, cols), out) };
    }
    for first in cols.clone().step_by(kernels.gemm_cols) {
        let cols = first..cols.end.min(first + kernels.gemm_cols);
        // SAFETY: by contract.
        unsafe {
            pack_panel(kernels, words, b, (inner.clone(), cols), out);
            out = out.add(panel);
        }
    }
}

/// One panel.
///
/// # Safety
/// There must be room for its words at `out`.
unsafe fn pack_panel(
    kernels: &Kernels,
    words: Words,
    b: &MatRef<'_>,
    (inner, cols): (Range<usize>, Range<usize>),
    out: *mut u32,
) {
    let (width, steps) = (kernels.gemm_cols, words.steps(inner.len()));
    match b.order {
        Order::Rows => {
            let out = Steps { at: out, width, panel: width * steps };
            // SAFETY: room by contract.
            unsafe { pack_columns(kernels, words, b, (inner, cols), out) }
        }
        Order::Columns => ROWS_OF_PANEL.with_borrow_mut(|scratch| {
            let scratch = room(scratch, width * steps);
            // SAFETY: the corner lies in the checked operand, the scratch holds `width` rows of
            // words; room by contract.
            unsafe {
                let shape = (cols.len(), inner.len());
                match b.stored {
                    Stored::F32 => {
                        let from = b.values[cols.start * b.stride + inner.start..].as_ptr();
                        kernels.rows_to_words(words, (from, b.stride), shape, (scratch, steps));
                    }
                    Stored::Bf16Pairs => {
                        let from = b.values[cols.start * b.stride + inner.start / 2..].as_ptr();
                        let shape = (cols.len(), steps);
                        kernels.rows_to_words(
                            Words::F32,
                            (from, b.stride),
                            shape,
                            (scratch, steps),
                        );
                    }
                }
                let missing = (width - cols.len()) * steps;
                std::ptr::write_bytes(scratch.add(cols.len() * steps), 0, missing);
                kernels.transpose_words((scratch, steps), (width, steps), out);
            }
        }),
    }
}

/// The columns of a corner of a matrix whose rows run along the inner dimension: the words of a step
/// lie together.
///
/// # Safety
/// There must be room for its words at `out`.
unsafe fn pack_columns(
    kernels: &Kernels,
    words: Words,
    of: &MatRef<'_>,
    (inner, cols): (Range<usize>, Range<usize>),
    out: Steps,
) {
    let shape = (inner.len(), cols.len());
    let first = inner.start * of.stride;
    // SAFETY: the corner lies in the checked operand; room by contract.
    unsafe {
        match of.stored {
            Stored::F32 => {
                let from = of.values[first + cols.start..].as_ptr();
                kernels.columns_to_words(words, (from, of.stride), shape, out);
            }
            Stored::Bf16Pairs => {
                let from = of.values[first..].as_ptr().cast::<u16>().wrapping_add(cols.start);
                kernels.rounded_columns_to_words((from, 2 * of.stride), shape, out);
            }
        }
    }
}

/// Packs a corner of A; returns the first word and how far apart rows and steps are.
pub(super) fn pack_rows(
    kernels: &Kernels,
    words: Words,
    a: &MatRef<'_>,
    (rows, inner): (Range<usize>, Range<usize>),
    out: &mut Vec<Line>,
) -> (*const u32, usize, usize) {
    let steps = words.steps(inner.len());
    match a.order {
        Order::Rows if a.stored == Stored::Bf16Pairs => {
            let at = a.values[rows.start * a.stride + inner.start / 2..].as_ptr();
            (at.cast(), a.stride, 1)
        }
        Order::Rows => {
            // Another line per row, so that rows do not all meet the same cache sets.
            let stride = steps.next_multiple_of(16) + 16;
            let at = room(out, rows.len() * stride);
            let from = a.values[rows.start * a.stride + inner.start..].as_ptr();
            let shape = (rows.len(), inner.len());
            // SAFETY: the corner lies in the checked operand, and there is room.
            unsafe { kernels.rows_to_words(words, (from, a.stride), shape, (at, stride)) }
            (at.cast_const(), stride, 1)
        }
        Order::Columns => {
            let stride = rows.len().next_multiple_of(16);
            let at = room(out, steps * stride);
            let out = Steps { at, width: stride, panel: 0 };
            // SAFETY: as above.
            unsafe { pack_columns(kernels, words, a, (inner, rows), out) }
            (at.cast_const(), 1, stride)
        }
    }
}
