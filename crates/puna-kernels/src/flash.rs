//! Attention over whole rows of a batch, forward and backward, without a `[T, T]` matrix
//! (FlashAttention, arXiv:2205.14135; the backward recomputes the probabilities from the
//! logarithms of the softmax's sums, arXiv:2307.08691 algorithm 2).
//!
//! What inference computes query by query over pages is here made of the general products of
//! `gemm.rs`: a task has one row and key/value head, packs its keys and values once, and walks over
//! tiles of queries and keys. A task writes keys' and values' gradients alone and in one order, so
//! that the number of threads changes nothing.

mod backward;
mod forward;
mod rows;

use rows::{GROUP, Queries, WordRows};
pub(crate) use rows::{GradientTile, SoftmaxTile, gradient_tile, softmax_tile};

use crate::attention::ScoreTransform;
use crate::gemm::{Block, Elements, MatRef, Words, pack_panels, room};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::pool;
use crate::{AttentionShape, parallel::OutPtr};
use std::cell::RefCell;
use std::ops::Range;

/// Queries of a tile.
const QUERIES: usize = 96;

const _: () = assert!(QUERIES.is_multiple_of(GROUP) && KEYS.is_multiple_of(GROUP));

/// Keys of a tile; a multiple of the columns of every instruction set's products.
const KEYS: usize = 128;

/// Which keys each token of a batch sees: those of its own row, from the first one shown up to
/// itself.
#[derive(Debug, Clone, Copy)]
pub struct RowMask<'a> {
    /// Tokens of a row (`T`).
    pub len: usize,
    /// Index in its row of the first key each token sees, `[rows, T]`; never decreases along a row
    /// and is at most the token's own index.
    pub visible_from: &'a [u32],
    /// Number of keys a token sees at most, its own included.
    pub window: Option<usize>,
}

impl RowMask<'_> {
    /// Keys that token `query` of row `row` sees.
    fn keys(&self, row: usize, query: usize) -> Range<usize> {
        let first = self.visible_from[row * self.len + query] as usize;
        let first =
            self.window.map_or(first, |window| first.max((query + 1).saturating_sub(window)));
        first..query + 1
    }
}

/// What forward and backward are told alike.
#[derive(Debug, Clone, Copy)]
pub struct Flash<'a> {
    /// Heads.
    pub shape: AttentionShape,
    /// Which keys are seen.
    pub mask: RowMask<'a>,
    /// What happens to a score before the softmax.
    pub scores: ScoreTransform,
    /// How products are computed.
    pub elements: Elements,
}

/// `out[t, h] = softmax(transform(q[t, h] · K)) V`; `logs[row, h, t]` becomes the logarithm of the
/// sum of the exponentials of the transformed scores, which [`flash_backward`] wants.
///
/// # Shapes
/// `q`, `out` `[rows·T, H·D]`, `k`, `v` `[rows·T, K·D]`, `logs` `[rows, H, T]`.
///
/// # Panics
/// If lengths do not agree or a token does not see itself.
pub fn flash_forward(
    (q, k, v): (&[f32], &[f32], &[f32]),
    flash: &Flash<'_>,
    out: &mut [f32],
    logs: &mut [f32],
) {
    flash.check(q.len(), k.len(), v.len());
    assert_eq!(out.len(), q.len(), "queries and outputs");
    assert_eq!(logs.len() * flash.shape.head_dim, q.len(), "logarithms");
    let kernels = Kernels::get();
    let (out, logs) = (OutPtr::new(out), OutPtr::new(logs));
    flash.for_each_task(|task| forward::run(kernels, flash, task, (q, k, v), (out, logs)));
}

/// What backward reads.
#[derive(Debug, Clone, Copy)]
pub struct FlashSaved<'a> {
    /// Queries, keys and values.
    pub qkv: (&'a [f32], &'a [f32], &'a [f32]),
    /// The outputs of [`flash_forward`].
    pub out: &'a [f32],
    /// Its logarithms.
    pub logs: &'a [f32],
    /// The gradient of the outputs.
    pub d_out: &'a [f32],
}

/// The gradients of queries, keys and values; what is in the slices is replaced.
///
/// # Panics
/// If lengths do not agree.
pub fn flash_backward(
    saved: &FlashSaved<'_>,
    flash: &Flash<'_>,
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
) {
    let (q, k, v) = saved.qkv;
    flash.check(q.len(), k.len(), v.len());
    assert_eq!((saved.out.len(), saved.d_out.len()), (q.len(), q.len()), "outputs");
    assert_eq!(saved.logs.len() * flash.shape.head_dim, q.len(), "logarithms");
    assert_eq!((dq.len(), dk.len(), dv.len()), (q.len(), k.len(), v.len()), "gradients");
    for gradient in [&mut *dk, &mut *dv] {
        crate::for_each_chunk_mut(gradient, 1 << 16, |_, part| part.fill(0.0));
    }
    let kernels = Kernels::get();
    let to = (OutPtr::new(dq), OutPtr::new(dk), OutPtr::new(dv));
    flash.for_each_task(|task| backward::run(kernels, flash, task, saved, to));
}

/// One row and one key/value head.
#[derive(Clone, Copy)]
struct Task {
    row: usize,
    kv_head: usize,
}

impl Flash<'_> {
    fn check(&self, q: usize, k: usize, v: usize) {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let tokens = self.mask.visible_from.len();
        assert!(self.mask.len > 0 && tokens.is_multiple_of(self.mask.len), "rows of tokens");
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "heads");
        assert_eq!(q, tokens * heads * head_dim, "queries");
        assert_eq!((k, v), (tokens * kv_heads * head_dim, k), "keys and values");
        let mut at = self.mask.visible_from.chunks_exact(self.mask.len);
        let ordered = at.all(|row| {
            row.is_sorted() && row.iter().enumerate().all(|(i, &first)| first as usize <= i)
        });
        assert!(ordered, "a token sees itself, and what is visible moves forward");
    }

    fn rows(&self) -> usize {
        self.mask.visible_from.len() / self.mask.len
    }

    fn for_each_task(&self, run: impl Fn(Task) + Sync) {
        let kv_heads = self.shape.kv_heads;
        pool::run(self.rows() * kv_heads, |i| {
            run(Task { row: i / kv_heads, kv_head: i % kv_heads });
        });
    }

    /// Query heads that share a key/value head.
    fn group(&self, kv_head: usize) -> Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        kv_head * group..(kv_head + 1) * group
    }

    /// Tiles of keys that the queries of a tile see.
    fn key_tiles(&self, row: usize, queries: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.mask.keys(row, queries.start).start / KEYS * KEYS;
        let end = queries.end;
        (first..end).step_by(KEYS).map(move |first| first..end.min(first + KEYS))
    }

    /// For each query of a tile, the keys of a tile that it sees, counted from the tile's first.
    fn visible(&self, row: usize, queries: &Range<usize>, keys: &Range<usize>, out: &mut Visible) {
        for (out, query) in out.iter_mut().zip(queries.clone()) {
            let seen = self.mask.keys(row, query);
            let clamp = |at: usize| at.clamp(keys.start, keys.end) - keys.start;
            *out = (clamp(seen.start) as u32, clamp(seen.end) as u32);
        }
    }
}

/// First key and end, per query of a tile.
type Visible = [(u32, u32); QUERIES];

/// Packed operands and tiles of one thread.
#[derive(Default)]
struct Scratch {
    /// Forward: panels with keys as columns (`Kᵀ`).
    keys_t: Vec<Line>,
    /// Forward: panels of values with features as columns.
    values: Vec<Line>,
    /// Backward: rows of keys and of values, and of keys' transpose.
    left_keys: Vec<Line>,
    left_values: Vec<Line>,
    left_keys_t: Vec<Line>,
    /// Backward: panels of a tile of queries and of its output gradients, with features as columns
    /// and with queries as columns.
    queries: Vec<Line>,
    d_out: Vec<Line>,
    queries_t: Vec<Line>,
    d_out_t: Vec<Line>,
    /// Rows of queries (forward).
    left: Vec<Line>,
    /// Rows made of scores and, backward, of their gradients.
    left_scores: Vec<Line>,
    left_d_scores: Vec<Line>,
    /// Panels of the gradients of scores.
    d_scores_panels: Vec<Line>,
    /// `[queries, KEYS]`, backward `[KEYS, queries]`
    scores: Vec<Line>,
    d_scores: Vec<Line>,
    /// `[queries, D]`, backward `[D, queries]`
    acc: Vec<Line>,
    /// Backward: a transpose of floats.
    turned: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A packed left operand.
#[derive(Clone, Copy)]
struct Left {
    at: *const u32,
    row: usize,
    step: usize,
    rows: usize,
    steps: usize,
}

impl Left {
    /// Some of the rows.
    fn part(self, row: usize, rows: usize) -> Self {
        Self { at: self.at.wrapping_add(row * self.row), rows, ..self }
    }
}

/// Packed panels of a right operand, from some step on.
#[derive(Clone, Copy)]
struct Right {
    at: *const u32,
    panel: usize,
    cols: usize,
}

/// What packs and multiplies the tiles of a task.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    kernels: &'a Kernels,
    words: Words,
}

impl Tiles<'_> {
    /// Packs `[inner, cols]` as panels.
    fn panels(&self, b: &MatRef<'_>, inner: usize, cols: usize, out: &mut Vec<Line>) {
        pack_panels(self.kernels, self.words, b, (0..inner, 0..cols), out);
    }

    /// Packed panels of an inner dimension of `inner`, from element `from` of it on.
    fn right(&self, panels: &[Line], inner: usize, from: usize, cols: usize) -> Right {
        let (width, per_word) = (self.kernels.gemm_cols, self.words.per_word());
        debug_assert!(from.is_multiple_of(per_word));
        let at = panels.as_ptr().cast::<u32>().wrapping_add(from / per_word * width);
        Right { at, panel: self.words.steps(inner) * width, cols }
    }

    /// Packed panels of the columns from `first`, a multiple of a panel's, on.
    fn right_columns(&self, panels: &[Line], inner: usize, first: usize, cols: usize) -> Right {
        let whole = self.right(panels, inner, 0, cols);
        debug_assert!(first.is_multiple_of(self.kernels.gemm_cols));
        Right { at: whole.at.wrapping_add(first / self.kernels.gemm_cols * whole.panel), ..whole }
    }

    /// Packs rows `[rows, inner]`, `stride` apart.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn left(
        &self,
        (from, stride): (*const f32, usize),
        (rows, inner): (usize, usize),
        out: &mut Vec<Line>,
    ) -> Left {
        let words = self.word_rows(rows, inner, out);
        // SAFETY: readable by contract; there is room.
        unsafe {
            let to = (words.at, words.row);
            self.kernels.rows_to_words(self.words, (from, stride), (rows, inner), to);
        }
        self.left_of(words, (rows, inner))
    }

    /// Room for rows of words that are made otherwise.
    fn word_rows(&self, rows: usize, inner: usize, out: &mut Vec<Line>) -> WordRows {
        // Another line per row, so that rows do not all meet the same cache sets.
        let row = self.words.steps(inner).next_multiple_of(16) + 16;
        WordRows { at: room(out, rows * row), row }
    }

    /// What these hold, or the first of it.
    fn left_of(&self, words: WordRows, (rows, inner): (usize, usize)) -> Left {
        let WordRows { at, row } = words;
        Left { at, row, step: 1, rows, steps: self.words.steps(inner) }
    }

    /// `C = A B` or `C += A B`.
    ///
    /// # Safety
    /// C must have the shape, with rows `stride` apart, and be nobody else's; the panels must have
    /// the steps of `a`.
    unsafe fn multiply(&self, a: Left, b: Right, (c, stride): (*mut f32, usize), add: bool) {
        let block = Block {
            words: self.words,
            a: a.at,
            a_row: a.row,
            a_step: a.step,
            rows: a.rows,
            b: b.at,
            b_panel: b.panel,
            cols: b.cols,
            steps: a.steps,
            c,
            c_stride: stride,
            add,
        };
        // SAFETY: by contract.
        unsafe { self.kernels.gemm_block(&block) }
    }
}
