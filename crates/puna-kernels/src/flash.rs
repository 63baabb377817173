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
use crate::gemm::{Block, Elements, MatRef, RoundedRows, Words, pack_panels, room};
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
    let out = Out::Floats(OutPtr::new(out), flash.widths().0);
    flash.forward(flash.floats((q, k, v)), out, OutPtr::new(logs));
}

/// [`flash_forward`] on rows of bfloat16; returns outputs and logarithms.
///
/// # Panics
/// As there, or if features are an odd number.
#[must_use]
pub fn flash_forward_rounded(qkv: [&RoundedRows; 3], flash: &Flash<'_>) -> (RoundedRows, Vec<f32>) {
    let (tokens, (width, _)) = (flash.check_rows(qkv), flash.widths());
    let mut logs = crate::zeros(tokens * flash.shape.heads);
    let at = OutPtr::new(&mut logs);
    let out = RoundedRows::written((tokens, width), |out, stride| {
        flash.forward(qkv.map(RoundedRows::as_mat), Out::Words(out, stride), at);
    });
    (out, logs)
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
    assert_eq!((dq.len(), dk.len(), dv.len()), (q.len(), k.len(), v.len()), "gradients");
    let (q_width, kv_width) = flash.widths();
    let of = Saved {
        qkv: flash.floats(saved.qkv),
        out: MatRef::rows(saved.out, q_width),
        d_out: MatRef::rows(saved.d_out, q_width),
        logs: saved.logs,
    };
    let to = [(dq, q_width), (dk, kv_width), (dv, kv_width)];
    flash.backward(&of, to.map(|(to, width)| Out::Floats(OutPtr::new(to), width)));
}

/// [`flash_backward`] on rows of bfloat16: of queries, keys and values, outputs, logarithms and the
/// gradient of the outputs.
///
/// # Panics
/// As there, or if features are an odd number.
#[must_use]
pub fn flash_backward_rounded(
    qkv: [&RoundedRows; 3],
    (out, logs, d_out): (&RoundedRows, &[f32], &RoundedRows),
    flash: &Flash<'_>,
) -> [RoundedRows; 3] {
    let (tokens, (q_width, kv_width)) = (flash.check_rows(qkv), flash.widths());
    assert_eq!((out.shape(), d_out.shape()), (qkv[0].shape(), qkv[0].shape()), "outputs");
    let [mut dq, mut dk] = [const { None }; 2];
    let dv = RoundedRows::written((tokens, kv_width), |v_at, v_stride| {
        dk = Some(RoundedRows::written((tokens, kv_width), |k_at, k_stride| {
            dq = Some(RoundedRows::written((tokens, q_width), |q_at, q_stride| {
                let to = [(q_at, q_stride), (k_at, k_stride), (v_at, v_stride)];
                let of = Saved {
                    qkv: qkv.map(RoundedRows::as_mat),
                    out: out.as_mat(),
                    d_out: d_out.as_mat(),
                    logs,
                };
                flash.backward(&of, to.map(|(at, stride)| Out::Words(at, stride)));
            }));
        }));
    });
    let (Some(dq), Some(dk)) = (dq, dk) else { unreachable!("written above") };
    [dq, dk, dv]
}

/// What backward reads, in either form.
struct Saved<'a> {
    qkv: [MatRef<'a>; 3],
    out: MatRef<'a>,
    d_out: MatRef<'a>,
    logs: &'a [f32],
}

/// Where rows of results go.
#[derive(Clone, Copy)]
enum Out {
    /// Rows so many values apart.
    Floats(OutPtr, usize),
    /// Pairs of bfloat16, rows so many words apart.
    Words(OutPtr<u32>, usize),
}

impl Out {
    /// Writes part of a row.
    ///
    /// # Safety
    /// It must be there, and nobody else's.
    unsafe fn put(self, kernels: &Kernels, (row, col): (usize, usize), values: &[f32]) {
        // SAFETY: by contract.
        unsafe {
            match self {
                Out::Floats(to, stride) => {
                    let at = row * stride + col;
                    to.slice(at..at + values.len()).copy_from_slice(values);
                }
                Out::Words(to, stride) => {
                    let (from, shape) = ((values.as_ptr(), values.len()), (1, values.len()));
                    let to = (to.at(row * stride + col / 2), stride);
                    kernels.rows_to_words(Words::Bf16Pairs, from, shape, to);
                }
            }
        }
    }
}

/// One row and one key/value head.
#[derive(Clone, Copy)]
struct Task {
    row: usize,
    kv_head: usize,
}

impl Flash<'_> {
    /// Values of a token's queries, and of its keys.
    fn widths(&self) -> (usize, usize) {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        (heads * head_dim, kv_heads * head_dim)
    }

    fn floats<'a>(&self, (q, k, v): (&'a [f32], &'a [f32], &'a [f32])) -> [MatRef<'a>; 3] {
        let (q_width, kv_width) = self.widths();
        [MatRef::rows(q, q_width), MatRef::rows(k, kv_width), MatRef::rows(v, kv_width)]
    }

    /// Number of tokens.
    fn check_rows(&self, [q, k, v]: [&RoundedRows; 3]) -> usize {
        let count = |x: &RoundedRows| x.shape().0 * x.shape().1;
        self.check(count(q), count(k), count(v));
        assert_eq!((q.shape().1, k.shape().1), self.widths(), "widths");
        assert!(self.shape.head_dim.is_multiple_of(2), "features in pairs");
        let rounded = Words::of(self.elements, Kernels::get()) == Words::Bf16Pairs;
        assert!(rounded, "rounded rows, float32 products");
        q.shape().0
    }

    fn forward(&self, qkv: [MatRef<'_>; 3], out: Out, logs: OutPtr) {
        let kernels = Kernels::get();
        self.for_each_task(|task| forward::run(kernels, self, task, qkv, (out, logs)));
    }

    fn backward(&self, saved: &Saved<'_>, to: [Out; 3]) {
        let tokens = self.mask.visible_from.len();
        assert_eq!(saved.logs.len(), tokens * self.shape.heads, "logarithms");
        let kernels = Kernels::get();
        self.for_each_task(|task| backward::run(kernels, self, task, saved, to));
    }

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
    /// Backward: keys as floats and their transpose, gradients of keys and values.
    floats: Vec<Line>,
    turned: Vec<Line>,
    d_keys: Vec<Line>,
    d_values: Vec<Line>,
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

    /// Packs rows `[rows, inner]`, if they are not words already.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn left(&self, of: MatRef<'_>, shape: (usize, usize), out: &mut Vec<Line>) -> Left {
        if let Some((at, row)) = of.words() {
            return self.left_of(WordRows { at: at.cast_mut(), row }, shape);
        }
        // SAFETY: by contract.
        unsafe { self.left_floats(of.floats().unwrap_or((std::ptr::null(), 0)), shape, out) }
    }

    /// [`Self::left`] of float32 rows, `stride` apart.
    ///
    /// # Safety
    /// As there.
    unsafe fn left_floats(
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
