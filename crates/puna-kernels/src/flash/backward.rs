//! Backward of one row and key/value head.

use super::{Flash, FlashSaved, GradientTile, KEYS, QUERIES, SCRATCH, Scratch, Task, Tiles, Words};
use super::{Left, room};
use crate::gemm::MatRef;
use crate::kernels::Kernels;
use crate::parallel::OutPtr;
use std::ops::Range;

/// The gradients that a task writes.
#[derive(Clone, Copy)]
struct To {
    dq: OutPtr,
    /// First value of the task's keys and values.
    dk: OutPtr,
    dv: OutPtr,
}

pub(super) fn run(
    kernels: &Kernels,
    flash: &Flash<'_>,
    task: Task,
    saved: &FlashSaved<'_>,
    (dq, dk, dv): (OutPtr, OutPtr, OutPtr),
) {
    let tiles = Tiles { kernels, words: Words::of(flash.elements, kernels) };
    let (len, dim) = (flash.mask.len, flash.shape.head_dim);
    let kv_stride = flash.shape.kv_heads * dim;
    let first = task.row * len * kv_stride + task.kv_head * dim;
    let (_, k, v) = saved.qkv;
    let (k, v) = (MatRef::rows(&k[first..], kv_stride), MatRef::rows(&v[first..], kv_stride));
    let mut scratch = SCRATCH.take();
    tiles.panels(&k.t(), dim, len, &mut scratch.keys_t);
    tiles.panels(&k, len, dim, &mut scratch.keys);
    tiles.panels(&v.t(), dim, len, &mut scratch.values_t);
    let to = To { dq, dk: OutPtr::from(dk.at(first)), dv: OutPtr::from(dv.at(first)) };
    for head in flash.group(task.kv_head) {
        for start in (0..len).step_by(QUERIES) {
            let queries = start..len.min(start + QUERIES);
            queries_backward(&tiles, flash, (task, head, queries), saved, (&mut scratch, to));
        }
    }
    SCRATCH.replace(scratch);
}

/// A tile of queries against all tiles of keys that it sees.
fn queries_backward(
    tiles: &Tiles<'_>,
    flash: &Flash<'_>,
    (task, head, queries): (Task, usize, Range<usize>),
    saved: &FlashSaved<'_>,
    (scratch, to): (&mut Scratch, To),
) {
    let (len, dim, rows) = (flash.mask.len, flash.shape.head_dim, queries.len());
    let (q_stride, kv_stride) = (flash.shape.heads * dim, flash.shape.kv_heads * dim);
    let at = (task.row * len + queries.start) * q_stride + head * dim;
    let (q, d_out) = (&saved.qkv.0[at..], &saved.d_out[at..]);
    let mut deltas = [0f32; QUERIES];
    for (r, delta) in deltas.iter_mut().enumerate().take(rows) {
        let out = &saved.out[at + r * q_stride..][..dim];
        *delta = out.iter().zip(&d_out[r * q_stride..][..dim]).map(|(a, b)| a * b).sum();
    }
    let logs_at = (task.row * flash.shape.heads + head) * len + queries.start;
    tiles.panels(&MatRef::rows(q, q_stride), rows, dim, &mut scratch.queries);
    tiles.panels(&MatRef::rows(d_out, q_stride), rows, dim, &mut scratch.d_out);
    // SAFETY: `flash_backward` checked the sizes of all slices; tiles lie in their scratch; this
    // task alone writes the gradients of its row's keys and values and of this head's queries.
    unsafe {
        let left_q = tiles.left((q.as_ptr(), q_stride), (rows, dim), &mut scratch.left);
        let left_d = tiles.left((d_out.as_ptr(), q_stride), (rows, dim), &mut scratch.left_d_out);
        let scores = room(&mut scratch.scores, QUERIES * KEYS).cast::<f32>();
        let d_scores = room(&mut scratch.d_scores, QUERIES * KEYS).cast::<f32>();
        let mut visible = [(0, 0); QUERIES];
        for keys in flash.key_tiles(task.row, &queries) {
            let seen = keys.len();
            let right = tiles.right_columns(&scratch.keys_t, dim, keys.start, seen);
            tiles.multiply(left_q, right, (scores, KEYS), false);
            let right = tiles.right_columns(&scratch.values_t, dim, keys.start, seen);
            tiles.multiply(left_d, right, (d_scores, KEYS), false);
            flash.visible(task.row, &queries, &keys, &mut visible);
            tiles.kernels.gradient_tile(&GradientTile {
                scores,
                d_scores,
                width: KEYS,
                visible: &visible[..rows],
                transform: flash.scores,
                logs: &saved.logs[logs_at..logs_at + rows],
                deltas: &deltas[..rows],
            });
            let kv_at = keys.start * kv_stride;
            let transposed = |tile: *mut f32, out: &mut Vec<crate::line::Line>| -> Left {
                tiles.left_transposed((tile.cast_const(), KEYS), (seen, rows), out)
            };
            let p = transposed(scores, &mut scratch.left_scores);
            let right = tiles.right(&scratch.d_out, rows, 0, dim);
            tiles.multiply(p, right, (to.dv.at(kv_at), kv_stride), true);
            let ds = transposed(d_scores, &mut scratch.left_scores);
            let right = tiles.right(&scratch.queries, rows, 0, dim);
            tiles.multiply(ds, right, (to.dk.at(kv_at), kv_stride), true);
            let from = (d_scores.cast_const(), KEYS);
            let ds = tiles.left(from, (rows, seen), &mut scratch.left_scores);
            let right = tiles.right(&scratch.keys, len, keys.start, dim);
            tiles.multiply(ds, right, (to.dq.at(at), q_stride), true);
        }
    }
}
