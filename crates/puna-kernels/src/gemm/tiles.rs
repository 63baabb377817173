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

/// Columns of a panel: two tiles.
const WIDTH: usize = 32;

/// Panels of the columns that are packed together in a [`super::PackedMatrix`].
const CHUNK: usize = COLS / WIDTH;

/// Elements along the inner dimension of a piece: even parts of whole tiles, and of the blocks of
/// operands that pack themselves.
pub(super) fn piece(k: usize) -> usize {
    even_piece(k, 32)
}

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
    /// Which product, round and columns the panels are of.
    of: (u64, usize, usize),
    rows: Vec<Line>,
}

thread_local! {
    static OWN: RefCell<Own> = RefCell::default();
}

/// Pieces of a sum of products that are multiplied one after another for the same outputs.
struct Round<'a> {
    kernels: &'a Kernels,
    /// Number of the product, of 1 and more, and of the round.
    id: (u64, usize),
    parts: &'a [Part<'a>],
    /// Panels that a thread keeps at a time.
    blocks: &'a [Range<usize>],
    /// Columns.
    n: usize,
    to: Place,
}

/// `C = A B` or `C += A B`, or the sum of several such products, for operands that are multiplied as
/// bfloat16.
pub(super) fn product(kernels: &Kernels, (m, n): (usize, usize), terms: &[Term<'_>], to: Place) {
    if m == 0 || n == 0 {
        return;
    }
    static PRODUCTS: AtomicU64 = AtomicU64::new(1);
    let product = PRODUCTS.fetch_add(1, Ordering::Relaxed);
    let k: usize = terms.iter().map(|term| term.k).sum();
    let threads = if m * n * k < MIN_PARALLEL { 1 } else { pool::threads() };
    let parts: Vec<Part<'_>> = terms
        .iter()
        .flat_map(|term| {
            let whole = if matches!(term.right, Operand::Made(_)) { MADE } else { 32 };
            let step = even_piece(term.k, whole);
            let pieces = (0..term.k).step_by(step);
            pieces.map(move |first| Part { term, inner: first..term.k.min(first + step) })
        })
        .collect();
    let rounds = rounds(&parts);
    let steps = |round: &Range<usize>| parts[round.clone()].iter().map(Part::steps).sum();
    let most: usize = rounds.iter().map(steps).max().unwrap_or(1);
    let longest = terms.iter().max_by_key(|term| term.k);
    let lies = |a: &MatRef<'_>| a.order == Order::Rows && a.stored == Stored::Bf16Pairs;
    let in_place = longest.is_some_and(|t| t.lefts.iter().all(lies));
    // Rows that must be packed are packed for each block of columns.
    let least = if in_place || n > m { threads } else { 1 };
    let blocks = blocks(n.div_ceil(WIDTH), (PANELS / WIDTH / most).max(1), least);
    let most = (OUTPUTS / (WIDTH * blocks[0].len())).clamp(2 * WIDTH, 512);
    let row_tasks =
        m.div_ceil(most).max((4 * threads).div_ceil(blocks.len()).min(m.div_ceil(WIDTH)));
    let rows = m.div_ceil(row_tasks).next_multiple_of(WIDTH);
    let row_tasks = m.div_ceil(rows);
    for (number, round) in rounds.into_iter().enumerate() {
        let round = Round {
            kernels,
            id: (product, number),
            parts: &parts[round],
            blocks: &blocks,
            n,
            to: Place { write: if number == 0 { to.write } else { Write::Add }, ..to },
        };
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
    /// Some rows against a block of panels.
    fn multiply(&self, block: usize, rows: Range<usize>) {
        let panels = self.blocks[block].clone();
        let cols = panels.start * WIDTH..self.n.min(panels.end * WIDTH);
        OWN.with_borrow_mut(|own| {
            self.pack(block, &cols, own);
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
                        c: self.to.at.at(rows.start * self.to.stride + cols.start),
                        c_stride: self.to.stride,
                        add: self.to.write == Write::Add || number + left > 0,
                    };
                    // SAFETY: both operands are packed for this shape, and `gemm` checked that C
                    // has it; no other task has these rows and columns.
                    unsafe { self.kernels.gemm_block(&block) }
                }
            }
        });
    }

    /// Packs this thread's panels of a block, if it does not have them yet.
    fn pack(&self, block: usize, cols: &Range<usize>, own: &mut Own) {
        let of = (self.id.0, self.id.1, block);
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
