//! Attention of new queries over a cache, with an online softmax (Milakov and Gimelshein 2018;
//! FlashAttention's forward pass): no `[T, S]` matrix.
//!
//! One task is a query and a key/value head, with all query heads that share it. Keys are visited
//! in blocks of 64 from the oldest visible one on, whatever slot of the ring they are in:
//! a query's result depends neither on the wrap nor on which other queries come along.

mod head;
pub(crate) use head::{HeadTask, attend};

use crate::kernels::Kernels;
use crate::parallel::{MIN_TASK, OutPtr};
use crate::pool;

/// Keys and values of the past, `[kv_heads, capacity, head_dim]` each; position `p` lies in slot
/// `p % capacity`.
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Slots per head.
    pub capacity: usize,
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

/// Which keys a query sees: those from the oldest one that is present and in the window up to its
/// own position.
#[derive(Debug, Clone, Copy)]
pub struct AttentionMask {
    /// Position of query 0; query `t` is at `first_position + t`.
    pub first_position: usize,
    /// Number of keys a query sees, its own included.
    pub window: Option<usize>,
    /// Oldest position that the cache still holds.
    pub oldest: usize,
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
/// If lengths do not agree, a query sees no key, or it sees more keys than the cache has slots.
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
    fn visible(&self, position: usize) -> std::ops::Range<usize> {
        let in_window = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        self.oldest.max(in_window)..position + 1
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
        let size = kv_heads.checked_mul(kv.capacity).and_then(|n| n.checked_mul(head_dim));
        assert_eq!((Some(kv.k.len()), Some(kv.v.len())), (size, size), "keys and values");
        let tokens = q.len() / row;
        let mut work: usize = 0;
        for t in 0..tokens {
            let visible = mask.visible(mask.first_position + t);
            assert!(!visible.is_empty() && visible.len() <= kv.capacity, "query {t}: {visible:?}");
            work = work.saturating_add(visible.len() * row);
        }
        let group = heads / kv_heads;
        let (at, stride) = (OutPtr::new(out), kv.capacity * head_dim);
        let task = |i: usize| {
            let (t, head) = (i / kv_heads, i % kv_heads);
            let offset = t * row + head * group * head_dim;
            let task = HeadTask {
                q: q[offset..].as_ptr(),
                k: kv.k[head * stride..].as_ptr(),
                v: kv.v[head * stride..].as_ptr(),
                out: at.at(offset),
                group,
                head_dim,
                capacity: kv.capacity,
                visible: mask.visible(mask.first_position + t),
                scores: *scores,
            };
            // SAFETY: the lengths were checked above; each task writes the heads of its own token
            // and key/value head.
            unsafe { self.attend(&task) }
        };
        let tasks = tokens * kv_heads;
        if work < 2 * MIN_TASK {
            (0..tasks).for_each(task);
        } else {
            pool::run(tasks, task);
        }
    }
}
