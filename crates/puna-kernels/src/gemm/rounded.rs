//! Rows that are rounded to bfloat16 once, for several products.

use super::tiles::{self, Operand, Term};
use super::{Elements, Factors, MatRef, Order, Stored, Words, gemm_sum_new, in_tiles};
use crate::BlockFormat;
use crate::kernels::Kernels;
use crate::parallel::OutPtr;
use crate::pool;
use std::mem::MaybeUninit;
use std::slice::from_ref;

/// Whether products of these elements take rows that were rounded beforehand.
#[must_use]
pub fn takes_rounded(elements: Elements) -> bool {
    Words::of(elements, Kernels::get()) == Words::Bf16Pairs
}

/// Whether products of these elements are rounded where they end, so that their rows are written once
/// ([`RoundedRows::product`]).
#[must_use]
pub fn rounds_products(elements: Elements) -> bool {
    let kernels = Kernels::get();
    in_tiles(Words::of(elements, kernels), kernels)
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

impl<'a> MatRef<'a> {
    /// The rows from a corner on whose column is even.
    pub(crate) fn corner(self, row: usize, col: usize) -> Self {
        debug_assert!(self.order == Order::Rows && col.is_multiple_of(2), "a corner of rows");
        let col = if self.stored == Stored::F32 { col } else { col / 2 };
        Self { values: &self.values[row * self.stride + col..], ..self }
    }

    /// The first word and words between rows, of rounded rows.
    pub(crate) fn words(&self) -> Option<(*const u32, usize)> {
        let rounded = self.order == Order::Rows && self.stored == Stored::Bf16Pairs;
        rounded.then(|| (self.values.as_ptr().cast(), self.stride))
    }

    /// The first value and values between rows, of float32.
    pub(crate) fn floats(&self) -> Option<(*const f32, usize)> {
        let floats = self.order == Order::Rows && self.stored == Stored::F32;
        floats.then_some((self.values.as_ptr(), self.stride))
    }

    /// Copies the beginning of a row, of an even number of columns, as float32.
    pub(crate) fn copy_row(&self, kernels: &Kernels, row: usize, out: &mut [f32]) {
        let from = &self.values[row * self.stride..];
        match self.stored {
            Stored::F32 => out.copy_from_slice(&from[..out.len()]),
            Stored::Bf16Pairs => widen(kernels, &from[..out.len() / 2], out),
        }
    }
}

/// Words of pairs to float32.
fn widen(kernels: &Kernels, words: &[f32], out: &mut [f32]) {
    // SAFETY: floats are plain bytes.
    let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) };
    kernels.widen(BlockFormat::BF16, bytes, out);
}

/// Rows that a task rounds.
const ROUNDED_ROWS: usize = 64;

/// Words that a task of [`RoundedRows::made`] takes, a multiple of 16 as rows are.
const MADE_WORDS: usize = 4096;

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
        let kernels = Kernels::get();
        Self::written((values.len() / cols, cols), |out, stride| {
            let rows = values.len() / cols;
            pool::run(rows.div_ceil(ROUNDED_ROWS), |task| {
                let first = task * ROUNDED_ROWS;
                let shape = (ROUNDED_ROWS.min(rows - first), cols);
                // SAFETY: `shape.0` rows of values lie behind row `first`, and of words as well; tasks
                // write different ones.
                unsafe {
                    let (from, out) = (values[first * cols..].as_ptr(), out.at(first * stride));
                    kernels.rows_to_words(Words::Bf16Pairs, (from, cols), shape, (out, stride));
                }
            });
        })
    }

    /// Rows `[m, n]` of `A₁ B₁ + A₂ B₂ + …`, rounded where the sums end.
    ///
    /// # Panics
    /// If an operand is too small for its shape, or the machine has no such products.
    #[must_use]
    pub fn product((m, n): (usize, usize), terms: &[Factors<'_>]) -> Self {
        let kernels = Kernels::get();
        let parts = terms.iter().filter(|term| term.2 > 0).map(|(a, b, k)| {
            a.check(m, *k);
            b.check((*k, n), Words::of(Elements::Bf16, kernels));
            Term { lefts: from_ref(a), right: Operand::Stored(*b), k: *k }
        });
        let parts: Vec<Term<'_>> = parts.collect();
        if n > 0 && rounds_products(Elements::Bf16) && tiles::is_summed_at_once(&parts) {
            return Self::written((m, n), |out, stride| {
                tiles::product_rounded(kernels, (m, n), &parts, (out, stride));
            });
        }
        Self::new(&gemm_sum_new((m, n), terms, Elements::Bf16), n)
    }

    /// Rows whose values `write(words, stride)` writes, all of them.
    pub(crate) fn written(
        (rows, cols): (usize, usize),
        write: impl FnOnce(OutPtr<u32>, usize),
    ) -> Self {
        assert!(takes_rounded(Elements::Bf16), "no products of bfloat16");
        // An odd number of lines per row, so that rows do not all meet the same cache sets.
        let lines = cols.div_ceil(2).div_ceil(16);
        let stride = 16 * (lines + 1 - lines % 2);
        let mut words: Vec<f32> = Vec::with_capacity(rows * stride);
        let used = cols.div_ceil(2);
        for row in words.spare_capacity_mut()[..rows * stride].chunks_exact_mut(stride) {
            row[used..].fill(MaybeUninit::new(0.0));
        }
        write(OutPtr::from(words.as_mut_ptr().cast()), stride);
        // SAFETY: the words of every row and those behind them are written.
        unsafe { words.set_len(rows * stride) };
        Self { words, rows, cols, stride }
    }

    /// As many rows made of the words of others, a chunk at a time: `make(others, out)`.
    ///
    /// # Panics
    /// If the others have not all the same shape.
    pub(crate) fn made<const N: usize, const M: usize>(
        of: [&Self; N],
        make: impl Fn([&[u32]; N], [*mut u32; M]) + Sync,
    ) -> [Self; M] {
        let [first, ..] = &of[..] else { unreachable!("some rows") };
        assert!(of.iter().all(|rows| rows.shape() == first.shape()), "rows of one shape");
        let len = first.words.len();
        let mut outs = [(); M].map(|()| Vec::<f32>::with_capacity(len));
        let at = outs.each_mut().map(|out| OutPtr::<u32>::from(out.as_mut_ptr().cast()));
        pool::run(len.div_ceil(MADE_WORDS), |task| {
            let first = task * MADE_WORDS;
            let range = first..len.min(first + MADE_WORDS);
            make(of.map(|rows| rows.part(range.clone())), at.map(|out| out.at(first)));
        });
        outs.map(|mut words| {
            // SAFETY: `make` has written every chunk.
            unsafe { words.set_len(len) };
            Self { words, ..**first }
        })
    }

    /// The same rows, each changed as float32: `change(row, values)`.
    pub(crate) fn changed(mut self, change: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let (kernels, cols, stride) = (Kernels::get(), self.cols, self.stride);
        crate::for_each_chunk_mut(&mut self.words, ROUNDED_ROWS * stride, |first, words| {
            let mut values = vec![0f32; cols.next_multiple_of(2)];
            for (row, words) in (first / stride..).zip(words.chunks_exact_mut(stride)) {
                let words = &mut words[..cols.div_ceil(2)];
                widen(kernels, words, &mut values);
                change(row, &mut values[..cols]);
                let (from, to) = ((values.as_ptr(), cols), (words.as_mut_ptr().cast(), stride));
                // SAFETY: the values and the words of a row.
                unsafe { kernels.rows_to_words(Words::Bf16Pairs, from, (1, cols), to) }
            }
        });
        self
    }

    fn part(&self, range: std::ops::Range<usize>) -> &[u32] {
        let words = &self.words[range];
        // SAFETY: a float has the size and alignment of a word, and every pattern of bits is one.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    /// The rows.
    #[must_use]
    pub fn as_mat(&self) -> MatRef<'_> {
        MatRef::rounded_rows(&self.words, self.stride)
    }

    /// The values of a row, and zeros behind them.
    #[cfg(test)]
    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let words = self.part(row * self.stride..(row + 1) * self.stride);
        words.iter().flat_map(|w| [w << 16, w & 0xffff_0000].map(f32::from_bits)).collect()
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

    /// Terms that are summed up at once and terms that are not, odd and narrow shapes, and nothing.
    #[test]
    fn a_product_is_rounded_where_it_ends_as_it_would_be_behind() {
        if !takes_rounded(Elements::Bf16) {
            println!("skipped: no instruction for products of bfloat16");
            return;
        }
        for (m, n, k, rank) in
            [(70, 96, 300, 16), (33, 45, 2400, 8), (5, 7, 64, 0), (1, 2000, 40, 3)]
        {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (thin, wide) = (values(m * rank, 3), values(n * rank, 4));
            let terms = [
                (MatRef::rows(&a, k), MatRef::rows(&b, n).into(), k),
                (MatRef::rows(&thin, rank), MatRef::rows(&wide, rank).t().into(), rank),
            ];
            let expected = RoundedRows::new(&gemm_sum_new((m, n), &terms, Elements::Bf16), n);
            let rows = RoundedRows::product((m, n), &terms);
            assert_eq!(rows.shape(), (m, n));
            assert!((0..m).all(|i| rows.row(i) == expected.row(i)), "{m} {n} {k}");
        }
    }
}
