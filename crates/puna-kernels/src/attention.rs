//! Attention of new queries over a paged cache, with an online softmax (Milakov and Gimelshein
//! 2018; FlashAttention's forward pass, arXiv:2205.14135): no `[T, S]` matrix.
//!
//! A task is a tile of rows (query tokens and the query heads that share a key/value head) of one
//! key/value head. Pages are visited from the oldest visible one on, whole and at absolute
//! positions, and those that no row of the tile sees are not: a query's result depends neither on
//! which other queries come along nor on the number of threads.

mod head;
mod page;
mod tile;

pub use page::{KV_PAGE, KvLayout, KvPage, KvType};
pub(crate) use {
    head::{Expanded, HeadTask, PageKernel, Scratch, attend, attend_by, expand},
    page::{PageWrite, write_page},
    tile::{Halfs, HeadPage, Rows, Singles, Values, maxima},
};

use crate::kernels::Kernels;
use crate::parallel::{MIN_TASK, OutPtr};
use crate::pool;
use head::{SPLIT, Step, TILE_ROWS, partial_width};
use std::ops::Range;
use std::sync::Arc;

/// Keys and values of the past.
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a> {
    /// What every page looks like.
    pub layout: KvLayout,
    /// Page `p` holds the positions from `64 p` on; those that no query sees may be absent.
    pub pages: &'a [Option<Arc<KvPage>>],
}

/// Heads of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`. Query head `h` uses `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Features per head.
    pub head_dim: usize,
}

/// Which keys a query sees: those in the window, up to its own position.
#[derive(Debug, Clone, Copy)]
pub struct AttentionMask {
    /// Position of query 0; query `t` is at `first_position + t`.
    pub first_position: usize,
    /// Number of keys a query sees, its own included.
    pub window: Option<usize>,
}

/// What happens to a score before the softmax.
#[derive(Debug, Clone, Copy)]
pub struct ScoreTransform {
    /// Factor of `q · k`.
    pub scale: f32,
    /// `cap tanh(score / cap)` after scaling.
    pub softcap: Option<f32>,
}

/// `out[t, h] = softmax(transform(q[t, h] · K)) V` over the keys that `mask` shows.
///
/// # Shapes
/// `q`, `out`: `[T, heads, head_dim]`; the keys of the new queries are in the cache already.
///
/// # Panics
/// If lengths do not agree, a query sees no key, or a page that it sees is absent or of another
/// layout.
pub fn attention(
    q: &[f32],
    kv: &KvView,
    shape: &AttentionShape,
    mask: &AttentionMask,
    scores: &ScoreTransform,
    out: &mut [f32],
) {
    Kernels::get().attention((q, out), kv, shape, mask, scores);
}

impl AttentionMask {
    /// Positions that the query at `position` sees.
    fn visible(&self, position: usize) -> Range<usize> {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
    }
}

impl KvView<'_> {
    /// Checks that the pages of some positions are there and look alike.
    fn check(&self, positions: Range<usize>) {
        for index in positions.start / KV_PAGE..positions.end.div_ceil(KV_PAGE) {
            let page = self.pages.get(index).and_then(Option::as_ref);
            assert!(page.is_some_and(|page| page.layout() == self.layout), "page {index}");
        }
    }
}

impl Kernels {
    /// [`attention`] with this instruction set; `(q, out)` as there.
    ///
    /// # Panics
    /// As there.
    pub fn attention(
        &self,
        (q, out): (&[f32], &mut [f32]),
        kv: &KvView,
        shape: &AttentionShape,
        mask: &AttentionMask,
        scores: &ScoreTransform,
    ) {
        let AttentionShape { heads, kv_heads, head_dim } = *shape;
        assert_eq!(q.len(), out.len(), "queries and output");
        if q.is_empty() {
            return;
        }
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads}");
        let row = heads * head_dim;
        assert!(row > 0 && q.len().is_multiple_of(row), "queries of {heads} heads x {head_dim}");
        let layout = (kv.layout.kv_heads, kv.layout.head_dim);
        assert_eq!(layout, (kv_heads, head_dim), "heads of the cache");
        assert!(mask.window != Some(0), "a query sees at least itself");
        let tokens = q.len() / row;
        let last = mask.first_position + tokens - 1;
        let seen = mask.visible(mask.first_position).start..last + 1;
        kv.check(seen.clone());
        let rows = tokens * (heads / kv_heads);
        let plan = Plan { rows, kv_heads, splits: seen.start / SPLIT..seen.end.div_ceil(SPLIT) };
        let out = OutPtr::new(out);
        let (kv, shape, mask, scores) = (*kv, *shape, *mask, *scores);
        let run = |head, rows, step| {
            let task = HeadTask { q, out, kv, shape, mask, scores, head, rows, step };
            // SAFETY: lengths and pages were checked above; no two tasks that may run at the same
            // time write the same rows.
            unsafe { self.attend(&task) }
        };
        let work = mask.visible(last).len().saturating_mul(tokens * row);
        plan.run(work, partial_width(&kv), run);
    }
}

/// Rows of a task, if there are so many: whole groups, however rows are taken together.
const LEAST_ROWS: usize = 64;

/// How the rows of a call become tasks.
struct Plan {
    rows: usize,
    kv_heads: usize,
    /// Splits that some row sees.
    splits: Range<usize>,
}

impl Plan {
    /// Runs `run(head, rows, step)` for every row and head. Where there are too few tiles to occupy
    /// the threads, splits are tasks, and merging them is another round.
    fn run(&self, work: usize, width: usize, run: impl Fn(usize, Range<usize>, Step) + Sync) {
        let Self { rows, kv_heads, .. } = *self;
        let (splits, threads) = (self.splits.len(), pool::threads());
        // Many rows share what a page costs to be made ready, if that leaves tasks for every thread.
        let tile_rows = rows * kv_heads / (4 * threads) / LEAST_ROWS * LEAST_ROWS;
        let tile_rows = tile_rows.clamp(LEAST_ROWS, TILE_ROWS);
        let tiles = rows.div_ceil(tile_rows);
        let tile = |i: usize| {
            // The newest rows first: they see most, and the tasks that end last should be short.
            let first = (tiles - 1 - i / kv_heads) * tile_rows;
            (i % kv_heads, first..rows.min(first + tile_rows))
        };
        let tasks = tiles * kv_heads;
        if threads == 1 || work < 2 * MIN_TASK {
            for i in 0..tasks {
                let (head, rows) = tile(i);
                run(head, rows, Step::Whole);
            }
        } else if splits == 1 || tasks >= 4 * threads {
            pool::run(tasks, |i| {
                let (head, rows) = tile(i);
                run(head, rows, Step::Whole);
            });
        } else {
            let mut partials = vec![0f32; kv_heads * splits * rows * width];
            let partials = OutPtr::new(&mut partials);
            // `[tiles][kv_heads][splits][rows of the tile][width]`
            let place = |head: usize, rows: &Range<usize>, split: usize| {
                let before = rows.start * kv_heads + head * rows.len();
                OutPtr::from(partials.at((before * splits + split * rows.len()) * width))
            };
            pool::run(tasks * splits, |i| {
                let (head, rows) = tile(i / splits);
                let split = i % splits;
                let to = place(head, &rows, split);
                run(head, rows, Step::Split(self.splits.start + split, to));
            });
            pool::run(tasks, |i| {
                let (head, rows) = tile(i);
                let from = place(head, &rows, 0);
                run(head, rows, Step::Merge(self.splits.start, from));
            });
        }
    }
}
