//! Backward of one row and key/value head.
//!
//! Tiles of scores have keys down and queries across, so that what is made of them are rows of the left
//! operands of `dV = Pᵀ dO` and `dK = dSᵀ Q` and panels of the right one of `dQᵀ = Kᵀ dSᵀ` as they come,
//! and nothing large is transposed.

use super::{Flash, GROUP, GradientTile, KEYS, Left, Out, QUERIES, Queries, Right, SCRATCH};
use super::{Saved, Scratch, Task, Tiles, Words, room};
use crate::gemm::{MatRef, Steps};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::transpose::turn;
use std::ops::Range;

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
    saved: &Saved<'_>,
    [dq, dk, dv]: [Out; 3],
) {
    let tiles = Tiles { kernels, words: Words::of(flash.elements, kernels) };
    let (len, dim) = (flash.mask.len, flash.shape.head_dim);
    let (row, col) = (task.row * len, task.kv_head * dim);
    let (k, v) = (saved.qkv[1].corner(row, col), saved.qkv[2].corner(row, col));
    let mut scratch = SCRATCH.take();
    // SAFETY: the sizes of all operands were checked: there are `len` keys and values.
    let packed = unsafe {
        let shape = (len, dim);
        let turned = room(&mut scratch.turned, len * dim).cast::<f32>();
        let keys = floats(kernels, (k, shape), &mut scratch.floats);
        turn(kernels, keys, shape, turned);
        let turned = (turned.cast_const(), len);
        Packed {
            keys: tiles.left(k, shape, &mut scratch.left_keys),
            values: tiles.left(v, shape, &mut scratch.left_values),
            keys_t: tiles.left_floats(turned, (dim, len), &mut scratch.left_keys_t),
        }
    };
    let sums = [&mut scratch.d_keys, &mut scratch.d_values].map(|lines| {
        let sums = room(lines, len * dim).cast::<f32>();
        // SAFETY: there is room.
        unsafe { sums.write_bytes(0, len * dim) };
        sums
    });
    for head in flash.group(task.kv_head) {
        for start in (0..len).step_by(QUERIES) {
            let queries = start..len.min(start + QUERIES);
            let part = (task, head, queries);
            queries_backward(&tiles, flash, part, (saved, packed), (&mut scratch, sums, dq));
        }
    }
    for (to, sums) in [dk, dv].into_iter().zip(sums) {
        // SAFETY: the sums of this task, which alone writes the gradients of its row's keys and
        // values.
        unsafe {
            let sums = std::slice::from_raw_parts(sums, len * dim);
            for (i, sums) in sums.chunks_exact(dim).enumerate() {
                to.put(kernels, (row + i, col), sums);
            }
        }
    }
    SCRATCH.replace(scratch);
}

/// Rows as float32: the first value, and values between rows.
fn floats(
    kernels: &Kernels,
    (of, (rows, cols)): (MatRef<'_>, (usize, usize)),
    out: &mut Vec<Line>,
) -> (*const f32, usize) {
    if let Some(floats) = of.floats() {
        return floats;
    }
    let out = room(out, rows * cols).cast::<f32>();
    for row in 0..rows {
        // SAFETY: there is room.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * cols), cols) };
        of.copy_row(kernels, row, out);
    }
    (out.cast_const(), cols)
}

/// A tile of queries against all tiles of keys that it sees.
fn queries_backward(
    tiles: &Tiles<'_>,
    flash: &Flash<'_>,
    (task, head, queries): (Task, usize, Range<usize>),
    (saved, packed): (&Saved<'_>, Packed),
    (scratch, [dk, dv], dq): (&mut Scratch, [*mut f32; 2], Out),
) {
    let (len, dim, rows) = (flash.mask.len, flash.shape.head_dim, queries.len());
    let (row, col) = (task.row * len + queries.start, head * dim);
    let (q, d_out) = (saved.qkv[0].corner(row, col), saved.d_out.corner(row, col));
    let logs_at = (task.row * flash.shape.heads + head) * len + queries.start;
    let mut of = known(tiles.kernels, (saved.out.corner(row, col), d_out), (rows, dim));
    of.logs[..rows].copy_from_slice(&saved.logs[logs_at..logs_at + rows]);
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
        // SAFETY: the sizes of all operands were checked; tiles and sums lie in their scratch.
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
            let sums_at = keys.start * dim;
            let p = tiles.left_of(p, (seen, rows));
            tiles.multiply(p, d_out, (dv.add(sums_at), dim), true);
            let ds = tiles.left_of(ds, (seen, rows));
            tiles.multiply(ds, q, (dk.add(sums_at), dim), true);
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
        let turned = std::slice::from_raw_parts(turned, rows * dim);
        for (i, values) in turned.chunks_exact(dim).enumerate() {
            dq.put(tiles.kernels, (row + i, col), values);
        }
    }
}

/// What is known of queries before they meet keys: `sum(d_out * out)`.
fn known(
    kernels: &Kernels,
    (out, d_out): (MatRef<'_>, MatRef<'_>),
    (rows, dim): (usize, usize),
) -> Queries {
    let none = [0.0; QUERIES];
    let mut of = Queries { first: none, end: none, logs: none, deltas: none };
    let [mut a, mut b] = [vec![0.0; dim.next_multiple_of(16)], vec![0.0; dim.next_multiple_of(16)]];
    for (row, delta) in of.deltas.iter_mut().enumerate().take(rows) {
        out.copy_row(kernels, row, &mut a[..dim]);
        d_out.copy_row(kernels, row, &mut b[..dim]);
        let mut lanes = [0f32; 16];
        for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
            for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *lane += a * b;
            }
        }
        *delta = lanes.iter().sum();
    }
    of
}
