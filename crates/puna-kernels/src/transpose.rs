//! Transposes of small matrices.

use crate::gemm::{Write, room};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::parallel::for_each_chunk_mut;
use crate::simd::LANES;
use std::cell::RefCell;

/// Columns of a task.
const COLS: usize = 64;

thread_local! {
    static TURNED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// `to = fromᵀ` or `to += fromᵀ`.
///
/// # Shapes
/// `from` `[rows, cols]`, `to` `[cols, rows]`.
///
/// # Panics
/// If either has another number of values.
pub fn transpose(from: &[f32], (rows, cols): (usize, usize), to: &mut [f32], write: Write) {
    assert_eq!((from.len(), to.len()), (rows * cols, rows * cols), "a matrix and its transpose");
    let kernels = Kernels::get();
    for_each_chunk_mut(to, COLS * rows, |first, to| {
        let first = first / rows;
        TURNED.with_borrow_mut(|turned| {
            let turned = room(turned, to.len()).cast::<f32>();
            // SAFETY: there is room for the chunk's values, all of which are written.
            let turned = unsafe {
                turn(kernels, (from[first..].as_ptr(), cols), (rows, to.len() / rows), turned);
                std::slice::from_raw_parts(turned, to.len())
            };
            match write {
                Write::Set => to.copy_from_slice(turned),
                Write::Add => to.iter_mut().zip(turned).for_each(|(to, x)| *to += x),
            }
        });
    });
}

/// The transpose `[cols, rows]` of rows that are `stride` apart.
///
/// # Safety
/// They must be readable, and as many values writable at `out`.
pub(crate) unsafe fn turn(
    kernels: &Kernels,
    (from, stride): (*const f32, usize),
    (rows, cols): (usize, usize),
    out: *mut f32,
) {
    // SAFETY: by contract.
    unsafe {
        if rows.is_multiple_of(LANES) {
            return kernels.transpose_words((from.cast(), stride), (rows, cols), out.cast());
        }
        for row in 0..rows {
            for col in 0..cols {
                out.add(col * rows + row).write(*from.add(row * stride + col));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_is_set_or_added() {
        for (rows, cols) in [(1, 1), (16, 5), (3, 70), (48, 130), (20, 64)] {
            let from: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            let mut to = vec![1.0; rows * cols];
            transpose(&from, (rows, cols), &mut to, Write::Add);
            let value = |i: usize| (i % rows * cols + i / rows) as f32;
            assert!(to.iter().enumerate().all(|(i, &x)| x == 1.0 + value(i)), "{rows} {cols}");
            transpose(&from, (rows, cols), &mut to, Write::Set);
            assert!(to.iter().enumerate().all(|(i, &x)| x == value(i)), "{rows} {cols}");
        }
    }
}
