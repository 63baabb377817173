//! Rows that are rounded to bfloat16 once, for several products.

use super::{Elements, MatRef, Words};
use crate::kernels::Kernels;
use crate::parallel::OutPtr;
use crate::pool;

/// Whether products of these elements take rows that were rounded beforehand.
#[must_use]
pub fn takes_rounded(elements: Elements) -> bool {
    Words::of(elements, Kernels::get()) == Words::Bf16Pairs
}

/// Rounds rows of `cols` values to pairs of bfloat16, in place: they take the first half of their
/// row's memory, and whatever multiplies them need not round them again.
///
/// # Panics
/// If there are not whole rows.
pub fn round_rows(values: &mut [f32], cols: usize) {
    assert!(cols > 0 && values.len().is_multiple_of(cols), "rows of {cols}");
    let kernels = Kernels::get();
    crate::for_each_chunk_mut(values, cols, |_, row| {
        let at = row.as_mut_ptr();
        // SAFETY: words are written behind what was read; a row of words is no longer than the row.
        unsafe {
            let (from, out) = ((at.cast_const(), cols), (at.cast::<u32>(), cols));
            kernels.rows_to_words(Words::Bf16Pairs, from, (1, cols), out);
        }
    });
}

/// Rows that a task rounds.
const ROUNDED_ROWS: usize = 64;

/// Rows that are rounded to bfloat16 for several products.
#[derive(Debug)]
pub struct RoundedRows {
    /// Two neighbors to a word, rows `stride` words apart.
    words: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl RoundedRows {
    /// Rounds rows of `cols` values, over the pool.
    ///
    /// # Panics
    /// If there are not whole rows, or the machine has no such products ([`takes_rounded`]).
    #[must_use]
    pub fn new(values: &[f32], cols: usize) -> Self {
        assert!(cols > 0 && values.len().is_multiple_of(cols), "rows of {cols}");
        assert!(takes_rounded(Elements::Bf16), "no products of bfloat16");
        // An odd number of lines per row, so that rows do not all meet the same cache sets.
        let (rows, lines) = (values.len() / cols, cols.div_ceil(2).div_ceil(16));
        let stride = 16 * (lines + 1 - lines % 2);
        let mut words: Vec<f32> = Vec::with_capacity(rows * stride);
        let (kernels, out, used) =
            (Kernels::get(), OutPtr::from(words.as_mut_ptr()), cols.div_ceil(2));
        pool::run(rows.div_ceil(ROUNDED_ROWS), |task| {
            let first = task * ROUNDED_ROWS;
            let shape = (ROUNDED_ROWS.min(rows - first), cols);
            // SAFETY: `shape.0` rows of values lie behind row `first`, and of words as well; tasks
            // write different ones.
            unsafe {
                let (from, out) = (values[first * cols..].as_ptr(), out.at(first * stride));
                let to = (out.cast(), stride);
                kernels.rows_to_words(Words::Bf16Pairs, (from, cols), shape, to);
                for row in 0..shape.0 {
                    out.add(row * stride + used).write_bytes(0, stride - used);
                }
            }
        });
        // SAFETY: the words of every row and those behind them are written.
        unsafe { words.set_len(rows * stride) };
        Self { words, rows, cols, stride }
    }

    /// The rows.
    #[must_use]
    pub fn as_mat(&self) -> MatRef<'_> {
        MatRef::rounded_rows(&self.words, self.stride)
    }

    /// Rows and columns.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::values;
    use super::super::{Write, gemm};
    use super::*;

    #[test]
    fn rounded_rows_multiply_like_the_rows_they_were() {
        let (m, n, k) = (13, 70, 515);
        let (mut a, b) = (values(m * k, 1), values(k * n, 2));
        let mut expected = vec![0.0; m * n];
        let right = MatRef::rows(&b, n);
        let to = Write::Set;
        gemm((m, n, k), (MatRef::rows(&a, k), right), (&mut expected, n), to, Elements::Bf16);
        let square = |a: MatRef<'_>| {
            let mut c = vec![0.0; k * k];
            gemm((k, k, m), (a.t(), a), (&mut c, k), to, Elements::Bf16);
            c
        };
        let expected_square = square(MatRef::rows(&a, k));
        if !takes_rounded(Elements::Bf16) {
            println!("skipped: no instruction for products of bfloat16");
            return;
        }
        let apart = RoundedRows::new(&a, k);
        round_rows(&mut a, k);
        let a = MatRef::rounded_rows(&a, k);
        let mut c = vec![0.0; m * n];
        gemm((m, n, k), (a, right), (&mut c, n), to, Elements::Bf16);
        assert_eq!(c, expected);
        let mut c = vec![0.0; m * n];
        gemm((m, n, k), (apart.as_mat(), right), (&mut c, n), to, Elements::Bf16);
        assert_eq!(c, expected);
        assert_eq!(square(a), expected_square);
        assert_eq!(square(apart.as_mat()), expected_square);
        let mut c = vec![0.0; m * m];
        gemm((m, m, k), (a, a.t()), (&mut c, m), to, Elements::Bf16);
        assert!(c.iter().all(|v| v.is_finite()));
    }
}
