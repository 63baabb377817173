//! The walk of a product whose blocks are multiplied in tiles (AMX): moving data takes the time.
//!
//! A core reads what another has just written more slowly than its own cache. So each thread packs
//! the panels of B that it multiplies itself and keeps them in its second-level cache, where they meet
//! a few rows of A after another. Threads begin with different columns and help each other out when
//! theirs are done. Nothing of this shows in the results: every output is summed over the same pieces
//! in the same order.

use super::panels::{pack_panels_here, pack_rows};
use super::product::{COLS, Place};
use super::{Block, MIN_PARALLEL, MatRef, Order, Right, Stored, Words, Write};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::parallel::OutPtr;
use crate::pool;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Most elements along the inner dimension that are multiplied before C is written, and whose panels
/// are packed at a time.
const PIECE: usize = 2304;

/// Words of panels that a thread keeps: half of a second-level cache of 2 MiB.
const PANELS: usize = 256 * 1024;

/// Outputs that a thread takes at a time: half a MiB that stays in its cache from piece to piece.
const OUTPUTS: usize = 128 * 1024;

/// The same for outputs that are rounded, which wait in another memory until then.
const ROUNDED_OUTPUTS: usize = 64 * 1024;

/// Columns of a panel: two tiles.
const WIDTH: usize = 32;

/// Panels of the columns that are packed together in a [`super::PackedMatrix`].
const CHUNK: usize = COLS / WIDTH;

/// Elements along the inner dimension of a piece: even parts of whole tiles.
pub(super) fn piece(k: usize) -> usize {
    even_piece(k, 32)
}

/// The same in whole blocks of an operand that packs itself.
fn even_piece(k: usize, whole: usize) -> usize {
    k.div_ceil(k.div_ceil(PIECE).max(1)).next_multiple_of(whole)
}

/// The right operand of a term.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    Stored(Right<'a>),
    Made(&'a dyn MakePanels),
}

/// A right operand that packs itself.
pub(crate) trait MakePanels: Sync {
    /// Packs a corner (along the inner dimension, columns) on the calling thread: panels of 32 columns of
    /// pairs of bfloat16. Along the inner dimension it begins at a multiple of [`MADE`], its columns
    /// begin with a panel's.
    ///
    /// # Safety
    /// The corner must lie in the operand, and there must be room for its panels at `out`.
    unsafe fn pack(&self, kernels: &Kernels, corner: (Range<usize>, Range<usize>), out: *mut u32);
}

/// Elements of the largest block of a format.
const MADE: usize = 256;

/// A term of a sum of products: `A` `[m, k]`, or several of this shape that are added up, and `B` `[k, n]`.
#[derive(Clone, Copy)]
pub(super) struct Term<'a> {
    pub(super) lefts: &'a [MatRef<'a>],
    pub(super) right: Operand<'a>,
    pub(super) k: usize,
}

impl Term<'_> {
    /// Whether its panels are there.
    fn is_packed(&self) -> bool {
        matches!(self.right, Operand::Stored(Right::Packed(_)))
    }
}

/// A piece of the inner dimension of a term.
struct Part<'a> {
    term: &'a Term<'a>,
    inner: Range<usize>,
}

impl Part<'_> {
    fn steps(&self) -> usize {
        Words::Bf16Pairs.steps(self.inner.len())
    }
}

/// Packed operands of one thread.
#[derive(Default)]
struct Own {
    panels: Vec<Line>,
    /// Which round and columns the panels are of.
    of: (u64, usize),
    rows: Vec<Line>,
    /// Outputs before they are rounded.
    outputs: Vec<Line>,
}

thread_local! {
    static OWN: RefCell<Own> = RefCell::default();
}

/// Pieces of a sum of products that are multiplied one after another for the same outputs.
struct Round<'a> {
    kernels: &'a Kernels,
    /// Its number, of 1 and more.
    id: u64,
    parts: &'a [Part<'a>],
    /// Panels that a thread keeps at a time.
    blocks: &'a [Range<usize>],
    /// Columns.
    n: usize,
    to: To,
}

/// Where outputs go.
#[derive(Clone, Copy)]
enum To {
    Floats(Place),
    /// Words of pairs, rows so many words apart; their sums end in one round.
    Rounded(OutPtr<u32>, usize),
}

/// `C = A B` or `C += A B`, or the sum of several such products, for operands that are multiplied as
/// bfloat16.
pub(super) fn product(kernels: &Kernels, (m, n): (usize, usize), terms: &[Term<'_>], to: Place) {
    let parts = parts(terms);
    let rounds = rounds(&parts);
    for (number, round) in rounds.iter().enumerate() {
        let write = if number == 0 { to.write } else { Write::Add };
        let to = To::Floats(Place { write, ..to });
        Round::run(kernels, (m, n), (terms, &parts[round.clone()]), to);
    }
}

/// Whether all terms are summed up at once, their inner dimensions being short enough for that.
pub(super) fn is_summed_at_once(terms: &[Term<'_>]) -> bool {
    rounds(&parts(terms)).len() == 1
}

/// [`product`] of terms that [`is_summed_at_once`] says yes to as words of pairs, rows `stride` apart.
pub(super) fn product_rounded(
    kernels: &Kernels,
    (m, n): (usize, usize),
    terms: &[Term<'_>],
    (out, stride): (OutPtr<u32>, usize),
) {
    Round::run(kernels, (m, n), (terms, &parts(terms)), To::Rounded(out, stride));
}

fn parts<'a>(terms: &'a [Term<'a>]) -> Vec<Part<'a>> {
    terms
        .iter()
        .flat_map(|term| {
            let whole = if matches!(term.right, Operand::Made(_)) { MADE } else { 32 };
            let step = even_piece(term.k, whole);
            let pieces = (0..term.k).step_by(step);
            pieces.map(move |first| Part { term, inner: first..term.k.min(first + step) })
        })
        .collect()
}

/// Neighboring parts that are packed together.
fn rounds(parts: &[Part<'_>]) -> Vec<Range<usize>> {
    let mut rounds: Vec<Range<usize>> = Vec::new();
    let mut room = 0;
    for (i, part) in parts.iter().enumerate() {
        match rounds.last_mut() {
            Some(round) if part.steps() <= room => round.end = i + 1,
            _ => {
                rounds.push(i..i + 1);
                room = Words::Bf16Pairs.steps(PIECE);
            }
        }
        room -= part.steps();
    }
    rounds
}

/// Even blocks of at most so many panels, none across columns that are packed together, at least
/// `least` of them where there are as many panels.
fn blocks(panels: usize, most: usize, least: usize) -> Vec<Range<usize>> {
    let most = most.min(panels.div_ceil(least)).max(1);
    let mut blocks = Vec::new();
    for first in (0..panels).step_by(CHUNK) {
        let len = CHUNK.min(panels - first);
        let step = len.div_ceil(len.div_ceil(most));
        blocks.extend((0..len).step_by(step).map(|at| first + at..first + len.min(at + step)));
    }
    blocks
}

impl Round<'_> {
    /// Multiplies all rows with all columns, over the pool.
    fn run(
        kernels: &Kernels,
        (m, n): (usize, usize),
        (terms, parts): (&[Term<'_>], &[Part<'_>]),
        to: To,
    ) {
        if m == 0 || n == 0 {
            return;
        }
        static ROUNDS: AtomicU64 = AtomicU64::new(1);
        let id = ROUNDS.fetch_add(1, Ordering::Relaxed);
        let k: usize = terms.iter().map(|term| term.k).sum();
        let threads = if m * n * k < MIN_PARALLEL { 1 } else { pool::threads() };
        let steps: usize = parts.iter().map(Part::steps).sum();
        let longest = terms.iter().max_by_key(|term| term.k);
        let lies = |a: &MatRef<'_>| a.order == Order::Rows && a.stored == Stored::Bf16Pairs;
        let in_place = longest.is_some_and(|t| t.lefts.iter().all(lies));
        // Rows that must be packed are packed for each block of columns.
        let least = if in_place || n > m { threads } else { 1 };
        let blocks = blocks(n.div_ceil(WIDTH), (PANELS / WIDTH / steps).max(1), least);
        let outputs = match to {
            To::Floats(_) => OUTPUTS,
            To::Rounded(..) => ROUNDED_OUTPUTS,
        };
        let most = (outputs / (WIDTH * blocks[0].len())).clamp(2 * WIDTH, 512);
        let row_tasks =
            m.div_ceil(most).max((4 * threads).div_ceil(blocks.len()).min(m.div_ceil(WIDTH)));
        let rows = m.div_ceil(row_tasks).next_multiple_of(WIDTH);
        let row_tasks = m.div_ceil(rows);
        let round = Round { kernels, id, parts, blocks: &blocks, n, to };
        let next: Vec<AtomicUsize> = blocks.iter().map(|_| AtomicUsize::new(0)).collect();
        let work = |worker: usize| {
            for turn in 0..blocks.len() {
                let block = (worker * blocks.len() / threads + turn) % blocks.len();
                loop {
                    let task = next[block].fetch_add(1, Ordering::Relaxed);
                    if task >= row_tasks {
                        break;
                    }
                    round.multiply(block, task * rows..m.min((task + 1) * rows));
                }
            }
        };
        if threads == 1 {
            work(0);
        } else {
            pool::run(threads, work);
        }
    }

    /// Some rows against a block of panels.
    fn multiply(&self, block: usize, rows: Range<usize>) {
        let panels = self.blocks[block].clone();
        let cols = panels.start * WIDTH..self.n.min(panels.end * WIDTH);
        OWN.with_borrow_mut(|own| {
            self.pack(block, &cols, own);
            // An odd number of lines per row.
            let width = panels.len() * WIDTH + 16;
            let (c, c_stride, adds) = match self.to {
                To::Floats(to) => {
                    let c = to.at.at(rows.start * to.stride + cols.start);
                    (c, to.stride, to.write == Write::Add)
                }
                To::Rounded(..) => {
                    (super::room(&mut own.outputs, rows.len() * width).cast(), width, false)
                }
            };
            let mut packed = own.panels.as_ptr().cast::<u32>();
            for (number, part) in self.parts.iter().enumerate() {
                let (term, steps) = (part.term, part.steps());
                let b = match term.right {
                    Operand::Stored(Right::Packed(matrix)) => {
                        matrix.panels(part.inner.start, cols.start).0
                    }
                    _ => {
                        let own = packed;
                        packed = packed.wrapping_add(panels.len() * WIDTH * steps);
                        own
                    }
                };
                for (left, a) in term.lefts.iter().enumerate() {
                    let corner = (rows.clone(), part.inner.clone());
                    let (a, a_row, a_step) =
                        pack_rows(self.kernels, Words::Bf16Pairs, a, corner, &mut own.rows);
                    let block = Block {
                        words: Words::Bf16Pairs,
                        a,
                        a_row,
                        a_step,
                        rows: rows.len(),
                        b,
                        b_panel: steps * WIDTH,
                        cols: cols.len(),
                        steps,
                        c,
                        c_stride,
                        add: adds || number + left > 0,
                    };
                    // SAFETY: both operands are packed for this shape, and `gemm` checked that C
                    // has it; no other task has these rows and columns.
                    unsafe { self.kernels.gemm_block(&block) }
                }
            }
            if let To::Rounded(out, stride) = self.to {
                let from = (c.cast_const(), c_stride);
                let out = out.at(rows.start * stride + cols.start / 2);
                let shape = (rows.len(), cols.len());
                // SAFETY: the outputs that were just written, and the same rows and columns of words.
                unsafe {
                    self.kernels.rows_to_words(Words::Bf16Pairs, from, shape, (out, stride));
                }
            }
        });
    }

    /// Packs this thread's panels of a block, if it does not have them yet.
    fn pack(&self, block: usize, cols: &Range<usize>, own: &mut Own) {
        let of = (self.id, block);
        if own.of == of {
            return;
        }
        own.of = of;
        let panels = cols.len().div_ceil(WIDTH);
        let operands = self.parts.iter().filter(|p| !p.term.is_packed());
        let all: usize = operands.clone().map(Part::steps).sum();
        let mut at = super::room(&mut own.panels, panels * WIDTH * all);
        for part in operands {
            let corner = (part.inner.clone(), cols.clone());
            // SAFETY: there is room for the panels of all parts.
            at = unsafe {
                match &part.term.right {
                    Operand::Stored(Right::Matrix(b)) => {
                        pack_panels_here(self.kernels, Words::Bf16Pairs, b, corner, at);
                    }
                    Operand::Stored(Right::PackedTransposed(b)) => {
                        b.pack_transposed(self.kernels, corner, at);
                    }
                    Operand::Made(b) => b.pack(self.kernels, corner, at),
                    Operand::Stored(Right::Packed(_)) => {}
                }
                at.add(panels * WIDTH * part.steps())
            };
        }
    }
}
