//! General products `C = A B` of float matrices, any of them transposed: what training multiplies.
//!
//! Inference has one orientation and weights in many formats (`matmul.rs`); a backward pass needs
//! all orientations of plain floats. As in Goto and van de Geijn (2008, ACM TOMS 34-3), B is packed
//! into panels of columns that meet blocks of packed rows of A in the caches; tiles of C stay in
//! registers. What is packed is a word per element, or per pair of neighbors along the inner
//! dimension as bfloat16 ([`Elements::Bf16`]): rounding happens on the way, so tensors stay float32
//! and the sums are float32 in both modes.
//!
//! Every output is summed in one order over pieces of the inner dimension, whatever the number of
//! threads.

mod pack;
mod panels;
mod rounded;
mod tile;

pub(crate) use pack::{columns_to_words, rounded_columns_to_words, rows_to_words, transpose_words};
pub(crate) use panels::{pack_panels, room};
pub use rounded::{RoundedRows, round_rows, takes_rounded};
pub(crate) use tile::{Block, block};

use crate::kernels::{Isa, Kernels};
use crate::line::Line;
use crate::parallel::OutPtr;
use crate::pool;
use panels::pack_rows;
use std::cell::RefCell;
use std::ops::Range;

/// What the operands are rounded to before they are multiplied; sums are float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements {
    /// Nothing: float32.
    F32,
    /// bfloat16 where the machine multiplies these faster; float32 elsewhere.
    Bf16,
}

/// Whether a product replaces what is there or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// `C = A B`
    Set,
    /// `C += A B`
    Add,
}

/// A matrix in memory.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a> {
    values: &'a [f32],
    stride: usize,
    order: Order,
    stored: Stored,
}

/// What the values of a matrix in memory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    F32,
    /// Words of two bfloat16 that are neighbors in a row.
    Bf16Pairs,
}

/// Where the element of row `r` and column `c` lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// At `r * stride + c`.
    Rows,
    /// At `c * stride + r`.
    Columns,
}

impl<'a> MatRef<'a> {
    /// Rows behind one another, `stride` elements apart.
    #[must_use]
    pub fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, stride, order: Order::Rows, stored: Stored::F32 }
    }

    /// Rows that [`round_rows`] has rounded, `stride` words apart.
    #[must_use]
    pub fn rounded_rows(values: &'a [f32], stride: usize) -> Self {
        Self { stored: Stored::Bf16Pairs, ..Self::rows(values, stride) }
    }

    /// Rows of `cols` bfloat16 as files hold them, for machines that multiply these
    /// ([`takes_rounded`]); `None` where pairs of them are no words: an odd number, or bytes that do
    /// not lie on a multiple of four.
    #[must_use]
    pub fn bf16_rows(bytes: &'a [u8], cols: usize) -> Option<Self> {
        // SAFETY: every pattern of bits is a float.
        let (before, words, behind) = unsafe { bytes.align_to::<f32>() };
        let whole = cols > 0 && cols.is_multiple_of(2) && before.is_empty() && behind.is_empty();
        whole.then(|| Self::rounded_rows(words, cols / 2))
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        let order = match self.order {
            Order::Rows => Order::Columns,
            Order::Columns => Order::Rows,
        };
        Self { order, ..self }
    }

    /// # Panics
    /// If the values do not hold `rows` x `cols` elements.
    fn check(&self, rows: usize, cols: usize) {
        let (outer, inner) = match self.order {
            Order::Rows => (rows, cols),
            Order::Columns => (cols, rows),
        };
        let inner = match self.stored {
            Stored::F32 => inner,
            Stored::Bf16Pairs => inner.div_ceil(2),
        };
        let needed = if outer == 0 || inner == 0 { 0 } else { (outer - 1) * self.stride + inner };
        assert!(
            self.values.len() >= needed && (outer <= 1 || self.stride >= inner),
            "a matrix of {rows} x {cols} does not fit into {} values",
            self.values.len()
        );
    }
}

/// Words along the inner dimension that are multiplied before C is written: a panel of B of this
/// length stays in the first-level cache.
pub(crate) const STEPS: usize = 256;

/// Rows of A that a task packs: with [`STEPS`] words each they stay in the second-level cache.
const ROWS: usize = 96;

/// The least and the most such rows with AMX, whose tiles are so quick that panels of B must meet many
/// rows once they are in the first-level cache, and no row be packed twice.
const AMX_ROWS: (usize, usize) = (32, 192);

/// Columns of B that are packed at a time.
const COLS: usize = 2048;

/// Products below this many multiplications are not worth waking threads for.
const MIN_PARALLEL: usize = 64 * 1024;

thread_local! {
    /// A thread's packed rows of A.
    static ROWS_OF_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// The packed panels of B of the product that a thread has called for.
    static PANELS_OF_B: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// `C = A B` or `C += A B` for `A` `[m, k]`, `B` `[k, n]` and `C` `[m, n]` with rows `stride` apart.
///
/// # Panics
/// If an operand or `c` is too small for its shape.
pub fn gemm(
    (m, n, k): (usize, usize, usize),
    (a, b): (MatRef<'_>, MatRef<'_>),
    (c, stride): (&mut [f32], usize),
    write: Write,
    elements: Elements,
) {
    gemm_with(Kernels::get(), (m, n, k), (a, b), (c, stride), (write, elements));
}

/// `A B` as a new matrix `[m, n]`, whose memory nothing writes to before.
///
/// # Panics
/// If an operand is too small for its shape.
#[must_use]
pub fn gemm_new(
    (m, n, k): (usize, usize, usize),
    (a, b): (MatRef<'_>, MatRef<'_>),
    elements: Elements,
) -> Vec<f32> {
    if k == 0 {
        return crate::zeros(m * n);
    }
    let mut c = Vec::with_capacity(m * n);
    let to = Place { at: OutPtr::from(c.as_mut_ptr()), stride: n, write: Write::Set };
    multiply(Kernels::get(), (m, n, k), (a, b), to, elements);
    // SAFETY: the product has set all of its elements.
    unsafe { c.set_len(m * n) };
    c
}

/// A right operand `[k, n]` packed once for several products.
pub struct PackedMatrix {
    shape: (usize, usize),
    elements: Elements,
    /// The panels of every piece, in the order in which a product meets them.
    pieces: Vec<Vec<Line>>,
}

impl PackedMatrix {
    /// Packs `b` `[k, n]`.
    ///
    /// # Panics
    /// If it is too small for the shape.
    #[must_use]
    pub fn new(b: MatRef<'_>, (k, n): (usize, usize), elements: Elements) -> Self {
        b.check(k, n);
        let kernels = Kernels::get();
        let words = Words::of(elements, kernels);
        let pack = |(cols, inner): (Range<usize>, Range<usize>)| {
            let mut panels = Vec::new();
            pack_panels(kernels, words, &b, (inner, cols), &mut panels);
            panels
        };
        Self { shape: (k, n), elements, pieces: pieces(words, (k, n)).map(pack).collect() }
    }

    /// Bytes that a packed matrix of this shape takes.
    #[must_use]
    pub fn bytes((k, n): (usize, usize), elements: Elements) -> usize {
        4 * Words::of(elements, Kernels::get()).steps(k) * n
    }
}

/// Columns and inner range of the pieces in which a product goes through its right operand.
fn pieces(
    words: Words,
    (k, n): (usize, usize),
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let step = STEPS * words.per_word();
    (0..n).step_by(COLS).flat_map(move |col| {
        let cols = col..n.min(col + COLS);
        (0..k).step_by(step).map(move |first| (cols.clone(), first..k.min(first + step)))
    })
}

/// [`gemm`] with a right operand that was packed before.
///
/// # Panics
/// If an operand or `c` is too small for its shape, or `b` has another one.
pub fn gemm_packed(
    (m, n, k): (usize, usize, usize),
    (a, b): (MatRef<'_>, &PackedMatrix),
    (c, stride): (&mut [f32], usize),
    write: Write,
) {
    assert_eq!(b.shape, (k, n), "shape of the packed operand");
    let kernels = Kernels::get();
    let mut packed = b.pieces.iter();
    let next = |_, _: &mut Vec<Line>| packed.next().map_or(std::ptr::null(), |p| p.as_ptr().cast());
    if let Some(to) = place((m, n, k), c, stride, write) {
        product(kernels, (m, n, k), a, to, b.elements, next);
    }
}

/// [`gemm`] with the kernels of an instruction set.
fn gemm_with(
    kernels: &Kernels,
    (m, n, k): (usize, usize, usize),
    operands: (MatRef<'_>, MatRef<'_>),
    (c, stride): (&mut [f32], usize),
    (write, elements): (Write, Elements),
) {
    if let Some(to) = place((m, n, k), c, stride, write) {
        multiply(kernels, (m, n, k), operands, to, elements);
    }
}

/// Where a product goes.
#[derive(Clone, Copy)]
struct Place {
    at: OutPtr,
    stride: usize,
    write: Write,
}

/// `c`, if there is something to multiply.
///
/// # Panics
/// If it is too small.
fn place(
    (m, n, k): (usize, usize, usize),
    c: &mut [f32],
    stride: usize,
    write: Write,
) -> Option<Place> {
    MatRef::rows(c, stride).check(m, n);
    if k == 0 && write == Write::Set && n > 0 {
        c.chunks_mut(stride.max(1)).take(m).for_each(|row| row[..n].fill(0.0));
    }
    (m > 0 && n > 0 && k > 0).then(|| Place { at: OutPtr::new(c), stride, write })
}

/// A product of operands that are not packed.
fn multiply(
    kernels: &Kernels,
    (m, n, k): (usize, usize, usize),
    (a, b): (MatRef<'_>, MatRef<'_>),
    to: Place,
    elements: Elements,
) {
    b.check(k, n);
    let words = Words::of(elements, kernels);
    assert!(b.stored == Stored::F32 || words == Words::Bf16Pairs, "rounded rows, float32 product");
    let pack = |(cols, inner): (Range<usize>, Range<usize>), panels: &mut Vec<Line>| {
        pack_panels(kernels, words, &b, (inner, cols), panels);
        panels.as_ptr().cast()
    };
    product(kernels, (m, n, k), a, to, elements, pack);
}

/// A product whose panels `panels_of` gives, piece by piece.
fn product(
    kernels: &Kernels,
    (m, n, k): (usize, usize, usize),
    a: MatRef<'_>,
    to: Place,
    elements: Elements,
    mut panels_of: impl FnMut((Range<usize>, Range<usize>), &mut Vec<Line>) -> *const u32,
) {
    a.check(m, k);
    let words = Words::of(elements, kernels);
    assert!(a.stored == Stored::F32 || words == Words::Bf16Pairs, "rounded rows, float32 product");
    let mut room = PANELS_OF_B.take();
    for (cols, inner) in pieces(words, (k, n)) {
        let part = Part {
            words,
            a: &a,
            panels: panels_of((cols.clone(), inner.clone()), &mut room),
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

/// Rows of a task with AMX: even parts, some for each thread.
fn amx_rows(m: usize, threads: usize) -> usize {
    let (least, most) = AMX_ROWS;
    let rounds = m.div_ceil(threads * most).max(4);
    (m.div_ceil(threads * rounds) / least * least).clamp(least, most)
}

/// How elements become words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// One float32 each.
    F32,
    /// Two bfloat16, the earlier one in the low half.
    Bf16Pairs,
}

impl Words {
    pub(crate) fn of(elements: Elements, kernels: &Kernels) -> Self {
        match (elements, kernels.isa()) {
            (Elements::Bf16, Isa::Avx512 | Isa::Amx) => Words::Bf16Pairs,
            _ => Words::F32,
        }
    }

    pub(crate) fn per_word(self) -> usize {
        match self {
            Words::F32 => 1,
            Words::Bf16Pairs => 2,
        }
    }

    /// Words of so many elements along the inner dimension.
    pub(crate) fn steps(self, elements: usize) -> usize {
        elements.div_ceil(self.per_word())
    }
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
        let panels = self.cols.len().div_ceil(kernels.gemm_cols);
        let threads =
            if m * self.cols.len() * self.inner.len() < MIN_PARALLEL { 1 } else { pool::threads() };
        let rows_at_once = match self.words {
            Words::Bf16Pairs if kernels.isa() == Isa::Amx => amx_rows(m, threads),
            _ => ROWS,
        };
        let row_tasks = m.div_ceil(rows_at_once);
        // A few tasks per thread even out their speeds.
        let tasks = if rows_at_once == ROWS { 8 * threads } else { 3 * threads };
        let split = if threads == 1 { 1 } else { tasks.div_ceil(row_tasks).min(panels) };
        let step = panels.div_ceil(split);
        let run = |task: usize| {
            let (first, part) = (task / split * rows_at_once, task % split * step);
            let rows = first..m.min(first + rows_at_once);
            self.multiply_rows(kernels, rows, part..panels.min(part + step));
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 61) as f32 - 30.0).collect()
    }

    fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    }

    #[test]
    fn a_two_by_two_product_is_the_one_by_hand() {
        let mut c = [0.0; 4];
        let a = MatRef::rows(&[1.0, 2.0, 3.0, 4.0], 2);
        let b = MatRef::rows(&[5.0, 6.0, 7.0, 8.0], 2);
        gemm((2, 2, 2), (a, b), (&mut c, 2), Write::Set, Elements::F32);
        assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
        gemm((2, 2, 2), (a, b.t()), (&mut c, 2), Write::Add, Elements::F32);
        assert_eq!(c, [19.0 + 17.0, 22.0 + 23.0, 43.0 + 39.0, 50.0 + 53.0]);
    }

    /// Small integers: every product and sum is exact in both modes, so every instruction set,
    /// order and split must agree to the bit.
    #[test]
    fn every_instruction_set_orientation_and_type_multiplies_odd_shapes_exactly() {
        for (m, n, k) in [(1, 1, 1), (13, 33, 7), (12, 32, 16), (97, 70, 513), (5, 2050, 3)] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            let expected: Vec<f32> = (0..m * n)
                .map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum::<f32>() + 1.0)
                .collect();
            let lefts = [MatRef::rows(&a, k), MatRef::rows(&at, m).t()];
            let rights = [MatRef::rows(&b, n), MatRef::rows(&bt, k).t()];
            for kernels in Isa::ALL.iter().filter_map(|&isa| Kernels::for_isa(isa)) {
                for elements in [Elements::F32, Elements::Bf16] {
                    for (left, right) in
                        lefts.iter().flat_map(|l| rights.iter().map(move |r| (l, r)))
                    {
                        let mut c = vec![1.0; m * n];
                        let how = (Write::Add, elements);
                        gemm_with(kernels, (m, n, k), (*left, *right), (&mut c, n), how);
                        assert!(c == expected, "{:?} {m} {n} {k} {elements:?}", kernels.isa());
                    }
                }
            }
        }
    }

    #[test]
    fn an_operand_packed_before_gives_the_same_product() {
        let (m, n, k) = (29, 2100, 530);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        for elements in [Elements::F32, Elements::Bf16] {
            let (a, b) = (MatRef::rows(&a, k), MatRef::rows(&b, k).t());
            let (mut c, mut expected) = (vec![0.0; m * n], vec![0.0; m * n]);
            gemm((m, n, k), (a, b), (&mut expected, n), Write::Set, elements);
            let packed = PackedMatrix::new(b, (k, n), elements);
            gemm_packed((m, n, k), (a, &packed), (&mut c, n), Write::Set);
            assert!(c == expected, "{elements:?}");
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_product() {
        let (m, n, k) = (200, 300, 700);
        let scale = |x: Vec<f32>| x.into_iter().map(|v| v * 0.013).collect::<Vec<_>>();
        let (a, b) = (scale(values(m * k, 3)), scale(values(k * n, 4)));
        let product = |threads| {
            let mut c = vec![0.0; m * n];
            crate::with_threads(threads, || {
                let operands = (MatRef::rows(&a, k), MatRef::rows(&b, n));
                gemm((m, n, k), operands, (&mut c, n), Write::Set, Elements::Bf16);
            });
            c
        };
        assert_eq!(product(1), product(3));
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn an_operand_that_is_too_small_is_refused() {
        let mut c = [0.0; 4];
        let a = MatRef::rows(&[0.0; 3], 2);
        gemm((2, 2, 2), (a, a), (&mut c, 2), Write::Set, Elements::F32);
    }
}
