//! Backward of one row and key/value head.
//!
//! Tiles of scores have keys down and queries across, so that what is made of them are rows of the left
//! operands of `dV = Pᵀ dO` and `dK = dSᵀ Q` and panels of the right one of `dQᵀ = Kᵀ dSᵀ` as they come,
//! and nothing large is transposed.

use super::{Flash, FlashSaved, GROUP, GradientTile, KEYS, Left, QUERIES, SCRATCH, Scratch, Task};
use super::{Queries, Right, Tiles, Words, room};
use crate::gemm::{MatRef, Steps};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::parallel::OutPtr;
use crate::transpose::turn;
use std::ops::Range;

/// The gradients that a task writes.
#[derive(Clone, Copy)]
struct To {
    dq: OutPtr,
    /// First value of the task's keys and values.
    dk: OutPtr,
    dv: OutPtr,
}

/// Packed once for a task: keys, values, and the transpose of keys.
#[derive(Clone, Copy)]
struct Packed {
    keys: Left,
    values: Left,
    keys_t: Left,
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
    let (k, v) = (&k[first..], &v[first..]);
    let mut scratch = SCRATCH.take();
    // SAFETY: `flash_backward` checked the sizes of all slices: there are `len` keys and values.
    let packed = unsafe {
        let turned = room(&mut scratch.turned, len * dim).cast::<f32>();
        turn(kernels, (k.as_ptr(), kv_stride), (len, dim), turned);
        let shape = (len, dim);
        Packed {
            keys: tiles.left((k.as_ptr(), kv_stride), shape, &mut scratch.left_keys),
            values: tiles.left((v.as_ptr(), kv_stride), shape, &mut scratch.left_values),
            keys_t: tiles.left((turned.cast_const(), len), (dim, len), &mut scratch.left_keys_t),
        }
    };
    let to = To { dq, dk: OutPtr::from(dk.at(first)), dv: OutPtr::from(dv.at(first)) };
    for head in flash.group(task.kv_head) {
        for start in (0..len).step_by(QUERIES) {
            let queries = start..len.min(start + QUERIES);
            let part = (task, head, queries);
            queries_backward(&tiles, flash, part, (saved, packed), (&mut scratch, to));
        }
    }
    SCRATCH.replace(scratch);
}

/// A tile of queries against all tiles of keys that it sees.
fn queries_backward(
    tiles: &Tiles<'_>,
    flash: &Flash<'_>,
    (task, head, queries): (Task, usize, Range<usize>),
    (saved, packed): (&FlashSaved<'_>, Packed),
    (scratch, to): (&mut Scratch, To),
) {
    let (len, dim, rows) = (flash.mask.len, flash.shape.head_dim, queries.len());
    let (q_stride, kv_stride) = (flash.shape.heads * dim, flash.shape.kv_heads * dim);
    let at = (task.row * len + queries.start) * q_stride + head * dim;
    let logs_at = (task.row * flash.shape.heads + head) * len + queries.start;
    let mut of = known(saved, (at, q_stride), (rows, dim));
    of.logs[..rows].copy_from_slice(&saved.logs[logs_at..logs_at + rows]);
    let q = MatRef::rows(&saved.qkv.0[at..], q_stride);
    let d_out = MatRef::rows(&saved.d_out[at..], q_stride);
    tiles.panels(&q, rows, dim, &mut scratch.queries);
    tiles.panels(&d_out, rows, dim, &mut scratch.d_out);
    tiles.panels(&q.t(), dim, rows, &mut scratch.queries_t);
    tiles.panels(&d_out.t(), dim, rows, &mut scratch.d_out_t);
    let columns = |panels: &[Line]| tiles.right_columns(panels, dim, 0, rows);
    let (q_t, d_out_t) = (columns(&scratch.queries_t), columns(&scratch.d_out_t));
    let inner = |panels: &[Line]| tiles.right(panels, rows, 0, dim);
    let (q, d_out) = (inner(&scratch.queries), inner(&scratch.d_out));
    let scores = room(&mut scratch.scores, KEYS * QUERIES).cast::<f32>();
    let d_scores = room(&mut scratch.d_scores, KEYS * QUERIES).cast::<f32>();
    let acc = room(&mut scratch.acc, dim * QUERIES).cast::<f32>();
    let p = tiles.word_rows(KEYS, QUERIES, &mut scratch.left_scores);
    let ds = tiles.word_rows(KEYS, QUERIES, &mut scratch.left_d_scores);
    let panel_words = room(&mut scratch.d_scores_panels, KEYS * QUERIES);
    let mut visible = [(0, 0); QUERIES];
    let mut add = false;
    for keys in flash.key_tiles(task.row, &queries) {
        let seen = keys.len();
        flash.visible(task.row, &queries, &keys, &mut visible);
        for (i, &(first, end)) in visible.iter().enumerate().take(rows) {
            (of.first[i], of.end[i]) = (first as f32, end as f32);
        }
        let panel = tiles.words.steps(seen) * tiles.kernels.gemm_cols;
        let ds_panels = Steps { at: panel_words, width: tiles.kernels.gemm_cols, panel };
        // SAFETY: `flash_backward` checked the sizes of all slices; tiles lie in their scratch; this
        // task alone writes the gradients of its row's keys and values.
        unsafe {
            let (keys_rows, values_rows) =
                (packed.keys.part(keys.start, seen), packed.values.part(keys.start, seen));
            tiles.multiply(keys_rows, q_t, (scores, QUERIES), false);
            tiles.multiply(values_rows, d_out_t, (d_scores, QUERIES), false);
            tiles.kernels.gradient_tile(&GradientTile {
                scores,
                d_scores,
                keys: seen,
                width: QUERIES,
                cols: rows.next_multiple_of(GROUP),
                queries: &of,
                transform: flash.scores,
                words: tiles.words,
                p,
                ds,
                ds_panels,
            });
            let kv_at = keys.start * kv_stride;
            let p = tiles.left_of(p, (seen, rows));
            tiles.multiply(p, d_out, (to.dv.at(kv_at), kv_stride), true);
            let ds = tiles.left_of(ds, (seen, rows));
            tiles.multiply(ds, q, (to.dk.at(kv_at), kv_stride), true);
            let step = keys.start / tiles.words.per_word();
            let keys_t = Left {
                at: packed.keys_t.at.wrapping_add(step),
                steps: tiles.words.steps(seen),
                ..packed.keys_t
            };
            let right = Right { at: panel_words, panel, cols: rows };
            tiles.multiply(keys_t, right, (acc, QUERIES), add);
            add = true;
        }
    }
    // SAFETY: this task alone writes the gradients of this head's queries.
    unsafe {
        let turned = room(&mut scratch.turned, rows * dim).cast::<f32>();
        turn(tiles.kernels, (acc, QUERIES), (dim, rows), turned);
        for row in 0..rows {
            let out = to.dq.at(at + row * q_stride);
            out.copy_from_nonoverlapping(turned.add(row * dim), dim);
        }
    }
}

/// What is known of queries before they meet keys: `sum(d_out * out)`.
fn known(
    saved: &FlashSaved<'_>,
    (at, stride): (usize, usize),
    (rows, dim): (usize, usize),
) -> Queries {
    let none = [0.0; QUERIES];
    let mut of = Queries { first: none, end: none, logs: none, deltas: none };
    for (r, delta) in of.deltas.iter_mut().enumerate().take(rows) {
        let row = at + r * stride..at + r * stride + dim;
        let (out, d_out) = (&saved.out[row.clone()], &saved.d_out[row]);
        let mut lanes = [0f32; 16];
        let (whole, rest) = (out.as_chunks::<16>(), d_out.as_chunks::<16>());
        for (a, b) in whole.0.iter().zip(rest.0) {
            for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *lane += a * b;
            }
        }
        let rest: f32 = whole.1.iter().zip(rest.1).map(|(a, b)| a * b).sum();
        *delta = lanes.iter().sum::<f32>() + rest;
    }
    of
}
