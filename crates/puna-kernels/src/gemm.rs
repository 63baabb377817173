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
mod product;
mod rounded;
mod tile;
mod tiles;

pub(crate) use pack::{
    Steps, columns_to_words, rounded_columns_to_words, rows_to_words, transpose_words, turn_pairs,
};
pub(crate) use panels::{pack_panels, room};
pub use rounded::{RoundedRows, round_rows, rounds_products, takes_rounded};
pub(crate) use tile::{Block, block};
pub(crate) use tiles::{MakePanels, Operand};

use crate::kernels::{Isa, Kernels};
use crate::line::Line;
use crate::parallel::OutPtr;
use product::{COLS, Place, Span, product};
use std::ops::Range;
use std::slice::from_ref;
use tiles::Term;

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

/// Products below this many multiplications are not worth waking threads for.
const MIN_PARALLEL: usize = 64 * 1024;

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
    gemm_sum((m, n), &[(a, b.into(), k)], (c, stride), write, elements);
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
    gemm_sum_new((m, n), &[(a, b.into(), k)], elements)
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// In memory as it comes.
    Matrix(MatRef<'a>),
    /// Packed before.
    Packed(&'a PackedMatrix),
    /// The transpose of what was packed before as bfloat16.
    PackedTransposed(&'a PackedMatrix),
}

impl<'a> From<MatRef<'a>> for Right<'a> {
    fn from(matrix: MatRef<'a>) -> Self {
        Right::Matrix(matrix)
    }
}

impl Right<'_> {
    /// # Panics
    /// If it is not `[k, n]` of these words.
    fn check(&self, (k, n): (usize, usize), words: Words) {
        match self {
            Right::Matrix(b) => {
                b.check(k, n);
                let fits = b.stored == Stored::F32 || words == Words::Bf16Pairs;
                assert!(fits, "rounded rows, float32 product");
            }
            Right::Packed(b) => {
                assert_eq!((b.shape, b.words), ((k, n), words), "packed operand");
            }
            Right::PackedTransposed(b) => {
                assert_eq!((b.shape, b.words), ((n, k), words), "packed operand, transposed");
                assert!(words == Words::Bf16Pairs, "the transpose of packed float32");
            }
        }
    }
}

/// A term of a sum of products: `A` `[m, k]`, `B` `[k, n]` and `k`.
pub type Factors<'a> = (MatRef<'a>, Right<'a>, usize);

/// `C = A₁ B₁ + A₂ B₂ + …`, or what is added to `C`, whose memory is gone through once where tiles
/// are multiplied; rows of `C` are `stride` apart.
///
/// # Panics
/// If an operand or `c` is too small for its shape.
pub fn gemm_sum(
    (m, n): (usize, usize),
    terms: &[Factors<'_>],
    (c, stride): (&mut [f32], usize),
    write: Write,
    elements: Elements,
) {
    gemm_sum_with(Kernels::get(), (m, n), terms, (c, stride), (write, elements));
}

/// [`gemm_sum`] with the kernels of an instruction set.
fn gemm_sum_with(
    kernels: &Kernels,
    (m, n): (usize, usize),
    terms: &[Factors<'_>],
    (c, stride): (&mut [f32], usize),
    (write, elements): (Write, Elements),
) {
    let terms: Vec<Factors<'_>> = terms.iter().copied().filter(|term| term.2 > 0).collect();
    let k = terms.iter().map(|term| term.2).sum();
    if let Some(to) = place((m, n, k), c, stride, write) {
        multiply_sum(kernels, (m, n), &terms, to, elements);
    }
}

/// [`gemm_sum`] as a new matrix `[m, n]`, whose memory nothing writes to before.
///
/// # Panics
/// If an operand is too small for its shape.
#[must_use]
pub fn gemm_sum_new((m, n): (usize, usize), terms: &[Factors<'_>], elements: Elements) -> Vec<f32> {
    let terms: Vec<Factors<'_>> = terms.iter().copied().filter(|term| term.2 > 0).collect();
    if terms.is_empty() {
        return crate::zeros(m * n);
    }
    let mut c = Vec::with_capacity(m * n);
    let to = Place { at: OutPtr::from(c.as_mut_ptr()), stride: n, write: Write::Set };
    multiply_sum(Kernels::get(), (m, n), &terms, to, elements);
    // SAFETY: the product has set all of its elements.
    unsafe { c.set_len(m * n) };
    c
}

/// A right operand `[k, n]` packed once for several products.
pub struct PackedMatrix {
    shape: (usize, usize),
    words: Words,
    /// Elements along the inner dimension of a piece.
    step: usize,
    /// The panels of every piece, in the order in which a product meets them.
    pieces: Vec<Vec<Line>>,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({:?} {:?})", self.words, self.shape)
    }
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
        let pack = |Span { cols, inner }| {
            let mut panels = Vec::new();
            pack_panels(kernels, words, &b, (inner, cols), &mut panels);
            panels
        };
        let step = if in_tiles(words, kernels) { tiles::piece(k) } else { product::piece(words) };
        let pieces = product::spans((k, n), step).map(pack).collect();
        Self { shape: (k, n), words, step, pieces }
    }

    /// Bytes that a packed matrix of this shape takes.
    #[must_use]
    pub fn bytes((k, n): (usize, usize), elements: Elements) -> usize {
        4 * Words::of(elements, Kernels::get()).steps(k) * n
    }

    /// The panels from a column on, a multiple of a panel's, in the piece of the inner dimension that has
    /// `inner`; and the steps of that piece.
    fn panels(&self, inner: usize, col: usize) -> (*const u32, usize) {
        let (k, piece, chunk) = (self.shape.0, inner / self.step, col / COLS);
        let steps = self.words.steps(self.step.min(k - piece * self.step));
        let panels = &self.pieces[chunk * k.div_ceil(self.step) + piece];
        (panels.as_ptr().cast::<u32>().wrapping_add((col - chunk * COLS) * steps), steps)
    }

    /// Packs a corner of the transpose `[n, k]`, whose rows and columns begin with a panel's.
    ///
    /// # Safety
    /// There must be room for its panels at `out`.
    unsafe fn pack_transposed(
        &self,
        kernels: &Kernels,
        (inner, cols): (Range<usize>, Range<usize>),
        out: *mut u32,
    ) {
        let steps = self.words.steps(inner.len());
        // In the order of what is read, which comes from memory.
        for row in inner.clone().step_by(TURNED) {
            let at = (row - inner.start) / 2;
            let to_rows = (steps - at).min(TURNED / 2);
            for (panel, col) in cols.clone().step_by(TURNED).enumerate() {
                let (stored, rows) = self.panels(col, row);
                let skip = col % self.step / 2;
                let from_rows = (rows - skip).min(TURNED / 2);
                // SAFETY: rows of a stored panel, and of one that there is room for.
                unsafe {
                    let from = stored.add(skip * TURNED);
                    let to = out.add((panel * steps + at) * TURNED);
                    kernels.turn_pairs(
                        std::slice::from_raw_parts(from, from_rows * TURNED),
                        std::slice::from_raw_parts_mut(to, to_rows * TURNED),
                    );
                }
            }
        }
    }
}

/// Columns of a panel of pairs: as many elements as [`turn_pairs`] turns.
const TURNED: usize = 32;

/// Whether products are made of tiles.
fn in_tiles(words: Words, kernels: &Kernels) -> bool {
    words == Words::Bf16Pairs && kernels.isa() == Isa::Amx
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

/// `C = (A₁ + A₂ + …) B`, or what is added to `C`, in tiles, for operands that are bfloat16 already and
/// outputs that the caller vouches for.
///
/// # Panics
/// If a left operand is too small for its shape, or these kernels have no tiles.
pub(crate) fn gemm_in_tiles(
    kernels: &Kernels,
    (m, n, k): (usize, usize, usize),
    (lefts, right): (&[MatRef<'_>], Operand<'_>),
    (at, stride): (OutPtr, usize),
    write: Write,
) {
    assert!(in_tiles(Words::Bf16Pairs, kernels), "tiles");
    lefts.iter().for_each(|a| a.check(m, k));
    tiles::product(kernels, (m, n), &[Term { lefts, right, k }], Place { at, stride, write });
}

fn multiply_sum<'a>(
    kernels: &Kernels,
    (m, n): (usize, usize),
    terms: &'a [Factors<'a>],
    to: Place,
    elements: Elements,
) {
    let words = Words::of(elements, kernels);
    for (a, b, k) in terms {
        a.check(m, *k);
        b.check((*k, n), words);
    }
    if in_tiles(words, kernels) {
        let term = |(a, right, k): &'a Factors<'a>| Term {
            lefts: from_ref(a),
            right: Operand::Stored(*right),
            k: *k,
        };
        let terms: Vec<Term<'_>> = terms.iter().map(term).collect();
        return tiles::product(kernels, (m, n), &terms, to);
    }
    for (number, &(a, b, k)) in terms.iter().enumerate() {
        let to = if number == 0 { to } else { Place { write: Write::Add, ..to } };
        product(kernels, (m, n, k), a, to, words, |Span { cols, inner }, panels| match b {
            Right::Matrix(b) => {
                pack_panels(kernels, words, &b, (inner, cols), panels);
                panels.as_ptr().cast()
            }
            Right::Packed(b) => b.panels(inner.start, cols.start).0,
            Right::PackedTransposed(b) => {
                let len = cols.len().next_multiple_of(TURNED) * words.steps(inner.len());
                let out = room(panels, len);
                // SAFETY: there is room.
                unsafe { b.pack_transposed(kernels, (inner, cols), out) }
                out.cast_const()
            }
        });
    }
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
            (Elements::Bf16, Isa::Avx512Bf16 | Isa::Amx) => Words::Bf16Pairs,
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
                        let term = (*left, (*right).into(), k);
                        gemm_sum_with(kernels, (m, n), &[term], (&mut c, n), how);
                        assert!(c == expected, "{:?} {m} {n} {k} {elements:?}", kernels.isa());
                    }
                }
            }
        }
    }

    /// Terms of several rounds, of one that ends within a tile, and of nothing.
    #[test]
    fn a_sum_of_products_is_the_products_one_after_another() {
        let (m, n) = (45, 70);
        let ks = [16, 0, 2304, 33, 2600, 2];
        let operands: Vec<(Vec<f32>, Vec<f32>)> =
            ks.iter().map(|&k| (values(m * k, k), values(k * n, k + 1))).collect();
        for kernels in Isa::ALL.iter().filter_map(|&isa| Kernels::for_isa(isa)) {
            for elements in [Elements::F32, Elements::Bf16] {
                let terms: Vec<Factors<'_>> = (operands.iter().zip(ks))
                    .map(|((a, b), k)| (MatRef::rows(a, k), MatRef::rows(b, k).t().into(), k))
                    .collect();
                let mut expected = vec![0.5; m * n];
                for term in &terms {
                    let how = (Write::Add, elements);
                    gemm_sum_with(kernels, (m, n), &[*term], (&mut expected, n), how);
                }
                for (write, before) in [(Write::Add, 0.5), (Write::Set, 0.0)] {
                    let mut c = vec![0.5; m * n];
                    gemm_sum_with(kernels, (m, n), &terms, (&mut c, n), (write, elements));
                    let close = c.iter().zip(&expected).all(|(c, e)| c - before == e - 0.5);
                    assert!(close, "{:?} {elements:?} {write:?}", kernels.isa());
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
            let term = (a, Right::Packed(&packed), k);
            gemm_sum((m, n), &[term], (&mut c, n), Write::Set, elements);
            assert!(c == expected, "{elements:?}");
        }
    }

    /// Pieces that end within a tile, several columns' chunks, and panels that are not full.
    #[test]
    fn what_was_packed_multiplies_transposed_too() {
        if !takes_rounded(Elements::Bf16) {
            println!("skipped: no products of bfloat16");
            return;
        }
        for (m, n, k) in [(29, 2100, 530), (7, 33, 2400), (40, 70, 2305), (5, 31, 1), (3, 1, 64)] {
            let (a, b) = (values(m * n, 1), values(k * n, 2));
            let (a, stored) = (MatRef::rows(&a, n), MatRef::rows(&b, k));
            let packed = PackedMatrix::new(stored.t(), (k, n), Elements::Bf16);
            let expected = gemm_new((m, k, n), (a, stored), Elements::Bf16);
            let term = (a, Right::PackedTransposed(&packed), n);
            assert!(gemm_sum_new((m, k), &[term], Elements::Bf16) == expected, "{m} {n} {k}");
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
    fn products_of_nothing_are_empty_or_zero() {
        let none = MatRef::rows(&[], 0);
        for elements in [Elements::F32, Elements::Bf16] {
            for (m, n, k) in [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)] {
                let (a, b) = (values(m * k, 1), values(k * n, 2));
                let of = |x| if k == 0 { none } else { x };
                let operands = (of(MatRef::rows(&a, k)), of(MatRef::rows(&b, n)));
                assert_eq!(gemm_new((m, n, k), operands, elements), vec![0.0; m * n]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn an_operand_that_is_too_small_is_refused() {
        let mut c = [0.0; 4];
        let a = MatRef::rows(&[0.0; 3], 2);
        gemm((2, 2, 2), (a, a), (&mut c, 2), Write::Set, Elements::F32);
    }
}
