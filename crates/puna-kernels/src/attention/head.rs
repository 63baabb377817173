//! A task of attention: a tile of query rows of one key/value head over some of the pages.
//!
//! A row is a query token and one of the query heads that share the key/value head. Pages are
//! visited from the oldest on. Every [`SPLIT_PAGES`] pages, at absolute positions, a row's sums are
//! set aside and the next begin from nothing; finished, they are merged in the same order. So the
//! splits of one long row may be computed by several tasks, or by one, with the same bits.

use super::page::{KV_BLOCK, KV_PAGE, KvPage, KvType};
use super::tile::{Halfs, HeadPage, PACK, Rows, Singles, attend_page};
use super::{AttentionMask, AttentionShape, KvView, ScoreTransform};
use crate::line::Line;
use crate::math;
use crate::parallel::OutPtr;
use crate::simd::{LANES, Simd};
use std::cell::Cell;
use std::ops::Range;

/// Pages that are summed before sums are set aside: enough that merging costs nothing beside them,
/// few enough that a context of some thousand tokens occupies every thread.
pub(super) const SPLIT_PAGES: usize = 8;

/// Positions of a split.
pub(super) const SPLIT: usize = SPLIT_PAGES * KV_PAGE;

/// Most rows of a task: what one pass over a page serves.
pub(super) const TILE_ROWS: usize = 256;

/// Most rows that a [`PageKernel`] takes at a time.
const MOST_TOGETHER: usize = 32;

/// A tile of rows over one key/value head.
pub(crate) struct HeadTask<'a> {
    /// `[T, heads, D]`
    pub(super) q: &'a [f32],
    /// `[T, heads, D]`
    pub(super) out: OutPtr,
    pub(super) kv: KvView<'a>,
    pub(super) shape: AttentionShape,
    pub(super) mask: AttentionMask,
    pub(super) scores: ScoreTransform,
    pub(super) head: usize,
    /// Row `t * group + h` is token `t` and query head `h` of the group.
    pub(super) rows: Range<usize>,
    pub(super) step: Step,
}

/// What of the rows is computed.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Everything.
    Whole,
    /// The sums of one split, into `[rows][partial_width]`.
    Split(usize, OutPtr),
    /// The result, of the sums of all splits from one on, `[splits][rows][partial_width]`.
    Merge(usize, OutPtr),
}

/// Floats of a row's sums: the output and a lane vector that holds maximum and sum of weights.
pub(super) fn partial_width(kv: &KvView<'_>) -> usize {
    kv.layout.padded_dim() + LANES
}

impl HeadTask<'_> {
    /// Query rows.
    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    /// How pages store values.
    pub(crate) fn kv_type(&self) -> KvType {
        self.kv.layout.kv_type
    }

    /// Features of a head, and those of a row of V.
    pub(crate) fn dims(&self) -> (usize, usize) {
        (self.shape.head_dim, self.kv.layout.padded_dim())
    }

    /// A head's query of a row of the task, not scaled.
    pub(crate) fn query(&self, r: usize) -> &[f32] {
        &self.q[self.offset(self.rows.start + r)..][..self.shape.head_dim]
    }

    /// What happens to scores.
    pub(crate) fn scores(&self) -> &ScoreTransform {
        &self.scores
    }

    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Positions that a row sees.
    fn visible(&self, row: usize) -> Range<usize> {
        self.mask.visible(self.mask.first_position + row / self.group())
    }

    /// Index of a row's first feature in queries and output.
    fn offset(&self, row: usize) -> usize {
        let (token, head) = (row / self.group(), self.head * self.group() + row % self.group());
        (token * self.shape.heads + head) * self.shape.head_dim
    }

    /// Splits that rows see keys of.
    pub(super) fn splits(&self) -> Range<usize> {
        let (first, last) = (self.visible(self.rows.start), self.visible(self.rows.end - 1));
        first.start / SPLIT..last.end.div_ceil(SPLIT)
    }
}

/// How the rows of a task meet the keys and values of a page.
pub(crate) trait PageKernel<S: Simd> {
    /// Floats of what it makes of the queries, of a page, and of what else it needs.
    fn sizes(task: &HeadTask<'_>) -> [usize; 3];

    /// Floats from row to row of the sums, at least those of a row of V.
    fn row(task: &HeadTask<'_>) -> usize;

    /// Lays the queries out in the scratch, scaled.
    ///
    /// # Safety
    /// The scratch must be the task's.
    unsafe fn pack(s: S, task: &HeadTask<'_>, scratch: &Scratch);

    /// Adds what the rows see of a page to their sums; `visible` holds the slots of each, `next` the
    /// page that comes then.
    ///
    /// # Safety
    /// The scratch must be the task's, with packed queries; the pages of its layout.
    unsafe fn attend(
        s: S,
        task: &HeadTask<'_>,
        scratch: &Scratch,
        pages: (&KvPage, &KvPage),
        visible: &[Range<usize>],
    );
}

/// Buffers of a task, parts of one allocation that each thread keeps.
pub(crate) struct Scratch {
    /// Of the [`PageKernel`]: queries, a page, and what else it needs.
    pub(crate) q: *mut f32,
    pub(crate) page: *mut f32,
    pub(crate) more: *mut f32,
    /// `[rows][row]` of the split.
    pub(crate) out: *mut f32,
    /// `[rows]`
    pub(crate) max: *mut f32,
    /// `[rows][16]`
    pub(crate) sum: *mut f32,
    /// `[rows][partial_width]` of all splits so far.
    total: *mut f32,
}

/// Floats of a line.
const LINE_FLOATS: usize = size_of::<Line>() / size_of::<f32>();

thread_local! {
    static BUFFER: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

impl Scratch {
    /// Lays the parts out in a buffer, which is enlarged as needed.
    fn new<S: Simd, K: PageKernel<S>>(task: &HeadTask<'_>, buffer: &mut Vec<Line>) -> Self {
        // Rows are taken in groups, of which the last may be short.
        let rows = task.rows.len().next_multiple_of(MOST_TOGETHER);
        let [q, page, more] = K::sizes(task);
        let total = rows * partial_width(&task.kv);
        let sizes = [q, page, more, rows * K::row(task), rows, rows * LANES, total];
        let lines = sizes.map(|floats| floats.div_ceil(LINE_FLOATS));
        let needed: usize = lines.iter().sum();
        if buffer.len() < needed {
            buffer.resize(needed, Line::ZERO);
        }
        let base = buffer.as_mut_ptr();
        let mut at = 0;
        let [q, page, more, out, max, sum, total] = lines.map(|lines| {
            at += lines;
            base.wrapping_add(at - lines).cast::<f32>()
        });
        Self { q, page, more, out, max, sum, total }
    }
}

/// Runs a task by lane vectors.
///
/// # Safety
/// Its lengths must agree, its pages be there, and nobody else use its rows of the output.
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd>(s: S, task: &HeadTask<'_>) {
    // SAFETY: by contract.
    unsafe { attend_by::<S, ByLanes>(s, task) }
}

/// Runs a task.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
pub(crate) unsafe fn attend_by<S: Simd, K: PageKernel<S>>(s: S, task: &HeadTask<'_>) {
    let mut buffer = BUFFER.take();
    let scratch = Scratch::new::<S, K>(task, &mut buffer);
    let (rows, row, width) = (task.rows.len(), K::row(task), partial_width(&task.kv));
    // SAFETY: the scratch covers the task; the rest by contract.
    unsafe {
        match task.step {
            Step::Whole => {
                K::pack(s, task, &scratch);
                for split in task.splits() {
                    attend_split::<S, K>(s, task, &scratch, split);
                    for r in 0..rows {
                        if task.sees(r, split) {
                            let sums = scratch.sums(s, r, row);
                            task.gather(s, r, split, scratch.total.add(r * width), sums);
                        }
                    }
                }
                for r in 0..rows {
                    task.finish(r, scratch.total.add(r * width));
                }
            }
            Step::Split(split, to) => {
                K::pack(s, task, &scratch);
                attend_split::<S, K>(s, task, &scratch, split);
                for r in 0..rows {
                    let (sums, to) = (scratch.sums(s, r, row), to.at(r * width));
                    std::ptr::copy_nonoverlapping(sums.0, to, width - LANES);
                    *to.add(width - LANES) = sums.1;
                    *to.add(width - LANES + 1) = sums.2;
                }
            }
            Step::Merge(first, from) => {
                for r in 0..rows {
                    let total = scratch.total.add(r * width);
                    for split in task.splits().filter(|&split| task.sees(r, split)) {
                        let from = from.at(((split - first) * rows + r) * width).cast_const();
                        let (max, sum) = (from.add(width - LANES), from.add(width - LANES + 1));
                        task.gather(s, r, split, total, (from, *max, *sum));
                    }
                    task.finish(r, total);
                }
            }
        }
    }
    BUFFER.set(buffer);
}

impl Scratch {
    /// Output, maximum and sum of weights of a row in this split.
    ///
    /// # Safety
    /// The row must be in the scratch.
    #[inline(always)]
    unsafe fn sums<S: Simd>(&self, s: S, r: usize, row: usize) -> (*const f32, f32, f32) {
        // SAFETY: by contract.
        unsafe {
            let sum = s.sum(s.load(self.sum.add(r * LANES)));
            (self.out.add(r * row).cast_const(), *self.max.add(r), sum)
        }
    }
}

impl HeadTask<'_> {
    /// Whether row `r` of the task sees a key of a split.
    fn sees(&self, r: usize, split: usize) -> bool {
        let visible = self.visible(self.rows.start + r);
        visible.start < (split + 1) * SPLIT && visible.end > split * SPLIT
    }

    /// Adds a split's sums of row `r` to `total`, which the row's first split begins.
    ///
    /// # Safety
    /// `total` must be writable for a row's sums, `out` readable for its features.
    #[inline(always)]
    unsafe fn gather<S: Simd>(
        &self,
        s: S,
        r: usize,
        split: usize,
        total: *mut f32,
        (out, max, sum): (*const f32, f32, f32),
    ) {
        let padded = self.kv.layout.padded_dim();
        // SAFETY: by contract.
        unsafe {
            let (total_max, total_sum) = (total.add(padded), total.add(padded + 1));
            if self.visible(self.rows.start + r).start / SPLIT == split {
                std::ptr::copy_nonoverlapping(out, total, padded);
                (*total_max, *total_sum) = (max, sum);
                return;
            }
            let new = if *total_max > max { *total_max } else { max };
            let mut factors = [0f32; LANES];
            (factors[0], factors[1]) = (*total_max - new, max - new);
            s.store(factors.as_mut_ptr(), math::exp(s, s.load(factors.as_ptr())));
            let (old, added) = (s.splat(factors[0]), s.splat(factors[1]));
            for at in (0..padded).step_by(LANES) {
                let sum = s.mul(s.load(total.add(at)), old);
                s.store(total.add(at), s.fma(s.load(out.add(at)), added, sum));
            }
            *total_sum = *total_sum * factors[0] + sum * factors[1];
            *total_max = new;
        }
    }

    /// Writes row `r` of the output.
    ///
    /// # Safety
    /// `total` must hold the row's sums; nobody else uses its output.
    #[inline(always)]
    unsafe fn finish(&self, r: usize, total: *const f32) {
        // SAFETY: by contract.
        unsafe {
            let inverse = 1.0 / *total.add(self.kv.layout.padded_dim() + 1);
            let out = self.out.at(self.offset(self.rows.start + r));
            for d in 0..self.shape.head_dim {
                *out.add(d) = *total.add(d) * inverse;
            }
        }
    }
}

/// The sums of one split, from nothing.
///
/// # Safety
/// The scratch must be the task's, with packed queries.
#[inline(always)]
unsafe fn attend_split<S: Simd, K: PageKernel<S>>(
    s: S,
    task: &HeadTask<'_>,
    scratch: &Scratch,
    split: usize,
) {
    let count = task.rows.len();
    let mut seen = [const { 0..0 }; TILE_ROWS];
    for (row, seen) in task.rows.clone().zip(&mut seen) {
        *seen = task.visible(row);
    }
    let (oldest, newest) = (seen[0].start, seen[count - 1].end);
    let pages =
        oldest.max(split * SPLIT) / KV_PAGE..newest.min((split + 1) * SPLIT).div_ceil(KV_PAGE);
    // SAFETY: the scratch covers rows and features.
    unsafe {
        std::slice::from_raw_parts_mut(scratch.out, count * K::row(task)).fill(0.0);
        std::slice::from_raw_parts_mut(scratch.sum, count * LANES).fill(0.0);
        std::slice::from_raw_parts_mut(scratch.max, count).fill(f32::NEG_INFINITY);
        for index in pages {
            let Some(Some(page)) = task.kv.pages.get(index) else { continue };
            let next = task.kv.pages.get(index + 1).and_then(Option::as_ref).unwrap_or(page);
            let first = index * KV_PAGE;
            // Every row sees all of most pages.
            let all = seen[count - 1].start <= first && first + KV_PAGE <= seen[0].end;
            let mut visible = [const { 0..KV_PAGE }; TILE_ROWS];
            if !all {
                for (seen, visible) in seen[..count].iter().zip(&mut visible) {
                    let end = seen.end.saturating_sub(first).min(KV_PAGE);
                    *visible = seen.start.saturating_sub(first).min(end)..end;
                }
            }
            K::attend(s, task, scratch, (page, next), &visible[..count]);
        }
    }
}

/// [`PACK`] rows side by side against lanes of f32.
struct ByLanes;

impl<S: Simd> PageKernel<S> for ByLanes {
    /// `[rows / PACK][D][PACK]`; `[D][64]` and `[64][padded D]`, a page as f32; `[PACK][64]` scores.
    #[inline(always)]
    fn sizes(task: &HeadTask<'_>) -> [usize; 3] {
        let (dim, padded) = (task.shape.head_dim, task.kv.layout.padded_dim());
        let rows = task.rows.len().next_multiple_of(PACK);
        [rows * dim, KV_PAGE * (dim + padded), PACK * KV_PAGE]
    }

    #[inline(always)]
    fn row(task: &HeadTask<'_>) -> usize {
        task.kv.layout.padded_dim()
    }

    #[inline(always)]
    unsafe fn pack(_: S, task: &HeadTask<'_>, scratch: &Scratch) {
        let dim = task.shape.head_dim;
        for r in 0..task.rows.len() {
            let first = r / PACK * PACK * dim + r % PACK;
            for (d, &q) in task.query(r).iter().enumerate() {
                // SAFETY: rows of the task, features of a head.
                unsafe { *scratch.q.add(first + d * PACK) = q * task.scores.scale };
            }
        }
    }

    #[inline(always)]
    unsafe fn attend(
        s: S,
        task: &HeadTask<'_>,
        scratch: &Scratch,
        pages: (&KvPage, &KvPage),
        visible: &[Range<usize>],
    ) {
        let (dim, padded) = (task.shape.head_dim, task.kv.layout.padded_dim());
        // SAFETY: by contract.
        unsafe {
            // Few rows read halves as they lie, and wait for memory; many find the next page in the cache.
            let few = task.rows.len() <= PACK;
            let expanded = expand(s, task, pages, scratch.page, (few, few));
            for (index, visible) in visible.chunks(PACK).enumerate() {
                let at = index * PACK;
                let rows = Rows {
                    q: scratch.q.add(at * dim),
                    weights: scratch.more,
                    out: scratch.out.add(at * padded),
                    max: scratch.max.add(at),
                    sum: scratch.sum.add(at * LANES),
                    visible,
                };
                match expanded {
                    Expanded::Singles(page) => {
                        attend_page::<S, Singles>(s, page, rows, &task.scores);
                    }
                    Expanded::Halfs(page) => {
                        attend_page::<S, Halfs>(s, page, rows, &task.scores);
                    }
                }
            }
        }
    }
}

/// A head's page as the products read it.
#[derive(Clone, Copy)]
pub(crate) enum Expanded {
    Singles(HeadPage),
    Halfs(HeadPage),
}

/// Makes a head's page readable: f32 and, if they are to stay so, f16 as they lie, else in `to`. The next
/// page is asked for on request.
///
/// # Safety
/// The pages must be the task's, with room for one of f32 in `to`.
#[inline(always)]
pub(crate) unsafe fn expand<S: Simd>(
    s: S,
    task: &HeadTask<'_>,
    (page, next): (&KvPage, &KvPage),
    to: *mut f32,
    (keep_halfs, ask): (bool, bool),
) -> Expanded {
    let (layout, from) = (task.kv.layout, page.head(task.head));
    let (dim, padded_dim, parts) = (layout.head_dim, layout.padded_dim(), layout.parts());
    let ahead = next.head(task.head);
    let ahead_bytes = if ask { layout.kv_type.value_bytes() } else { 0 };
    let ahead = (ahead, ahead.wrapping_add(parts.v), ahead_bytes);
    let v = from.wrapping_add(parts.v);
    let as_stored = HeadPage { k: from, v, ahead, dim, padded_dim };
    let (k, v) = (to, to.wrapping_add(dim * KV_PAGE));
    // SAFETY: a head's share of the page; `to` holds a page.
    unsafe {
        match layout.kv_type {
            KvType::F32 => return Expanded::Singles(as_stored),
            KvType::F16 if keep_halfs => return Expanded::Halfs(as_stored),
            KvType::F16 => {
                for at in (0..dim * KV_PAGE).step_by(LANES) {
                    s.store(k.add(at), s.load_f16(from.add(2 * at)));
                }
                for at in (0..KV_PAGE * padded_dim).step_by(LANES) {
                    s.store(v.add(at), s.load_f16(as_stored.v.add(2 * at)));
                }
            }
            KvType::Q8_0 => {
                for block in 0..dim / KV_BLOCK {
                    expand_keys(s, from, from.add(parts.k_scales), block, k);
                    expand_values(s, &as_stored, from.add(parts.v_scales), block, v);
                }
            }
        }
    }
    let (k, v) = (k.cast_const().cast(), v.cast_const().cast());
    Expanded::Singles(HeadPage { k, v, ahead, dim, padded_dim })
}

/// 32 rows of K^T times the scales of their keys.
///
/// # Safety
/// A head of a page must be readable at `from`, its scales at `scales`; `to` writable.
#[inline(always)]
unsafe fn expand_keys<S: Simd>(
    s: S,
    from: *const u8,
    scales: *const u8,
    block: usize,
    to: *mut f32,
) {
    // SAFETY: by contract.
    unsafe {
        for at in (0..KV_PAGE).step_by(LANES) {
            let scale = s.load_f16(scales.add(2 * (block * KV_PAGE + at)));
            for d in block * KV_BLOCK..(block + 1) * KV_BLOCK {
                let quants = s.load_i8(from.add(d * KV_PAGE + at).cast());
                s.store(to.add(d * KV_PAGE + at), s.mul(quants, scale));
            }
        }
    }
}

/// 32 features of every value times its scale.
///
/// # Safety
/// As [`expand_keys`].
#[inline(always)]
unsafe fn expand_values<S: Simd>(
    s: S,
    page: &HeadPage,
    scales: *const u8,
    block: usize,
    to: *mut f32,
) {
    // SAFETY: by contract.
    unsafe {
        for key in 0..KV_PAGE {
            let scale = scales.cast::<u16>().add(block * KV_PAGE + key).read();
            let (scale, at) = (s.splat(s.half(scale)), key * page.padded_dim + block * KV_BLOCK);
            for at in (at..at + KV_BLOCK).step_by(LANES) {
                s.store(to.add(at), s.mul(s.load_i8(page.v.add(at).cast()), scale));
            }
        }
    }
}
