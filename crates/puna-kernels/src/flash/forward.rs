//! Forward of one row and key/value head.

use super::{Flash, KEYS, Out, QUERIES, SCRATCH, Scratch, SoftmaxTile, Task, Tiles, Words, room};
use crate::gemm::MatRef;
use crate::kernels::Kernels;
use crate::parallel::OutPtr;

pub(super) fn run(
    kernels: &Kernels,
    flash: &Flash<'_>,
    task: Task,
    [q, k, v]: [MatRef<'_>; 3],
    (out, logs): (Out, OutPtr),
) {
    let tiles = Tiles { kernels, words: Words::of(flash.elements, kernels) };
    let (len, dim) = (flash.mask.len, flash.shape.head_dim);
    let corner = (task.row * len, task.kv_head * dim);
    let (k, v) = (k.corner(corner.0, corner.1), v.corner(corner.0, corner.1));
    let mut scratch = SCRATCH.take();
    tiles.panels(&k.t(), dim, len, &mut scratch.keys_t);
    tiles.panels(&v, len, dim, &mut scratch.values);
    for head in flash.group(task.kv_head) {
        for start in (0..len).step_by(QUERIES) {
            let queries = start..len.min(start + QUERIES);
            let (row, col) = (task.row * len + start, head * dim);
            let logs_at = (task.row * flash.shape.heads + head) * len + start;
            let rows = queries.len();
            let mut max = [f32::NEG_INFINITY; QUERIES];
            let mut sum = [0f32; QUERIES];
            let q = q.corner(row, col);
            attend(&tiles, flash, (task, queries), q, &mut scratch, (&mut max, &mut sum));
            // SAFETY: this task alone writes the outputs of this head and row.
            unsafe {
                let acc = scratch.acc.as_mut_ptr().cast::<f32>();
                let acc = std::slice::from_raw_parts_mut(acc, rows * dim);
                for (r, acc) in acc.chunks_exact_mut(dim).enumerate() {
                    let inverse = 1.0 / sum[r];
                    acc.iter_mut().for_each(|acc| *acc *= inverse);
                    out.put(kernels, (row + r, col), acc);
                }
                for (r, log) in logs.slice(logs_at..logs_at + rows).iter_mut().enumerate() {
                    *log = max[r] + sum[r].ln();
                }
            }
        }
    }
    SCRATCH.replace(scratch);
}

/// Sums a tile of queries up in `scratch.acc`.
fn attend(
    tiles: &Tiles<'_>,
    flash: &Flash<'_>,
    (task, queries): (Task, std::ops::Range<usize>),
    q: MatRef<'_>,
    scratch: &mut Scratch,
    (max, sum): (&mut [f32; QUERIES], &mut [f32; QUERIES]),
) {
    let (len, dim, rows) = (flash.mask.len, flash.shape.head_dim, queries.len());
    // SAFETY: `flash_forward` checked the sizes of all slices; tiles lie in their scratch.
    unsafe {
        let left = tiles.left(q, (rows, dim), &mut scratch.left);
        let scores = room(&mut scratch.scores, QUERIES * KEYS).cast::<f32>();
        let probabilities = tiles.word_rows(QUERIES, KEYS, &mut scratch.left_scores);
        let acc = room(&mut scratch.acc, QUERIES * dim).cast::<f32>();
        std::slice::from_raw_parts_mut(acc, rows * dim).fill(0.0);
        let mut visible = [(0, 0); QUERIES];
        for keys in flash.key_tiles(task.row, &queries) {
            flash.visible(task.row, &queries, &keys, &mut visible);
            let right = tiles.right_columns(&scratch.keys_t, dim, keys.start, keys.len());
            tiles.multiply(left, right, (scores, KEYS), false);
            tiles.kernels.softmax_tile(&SoftmaxTile {
                scores,
                width: KEYS,
                visible: &visible[..rows],
                transform: flash.scores,
                max: max.as_mut_ptr(),
                sum: sum.as_mut_ptr(),
                acc,
                dim,
                words: tiles.words,
                out: probabilities,
            });
            let left = tiles.left_of(probabilities, (rows, keys.len()));
            let right = tiles.right(&scratch.values, len, keys.start, dim);
            tiles.multiply(left, right, (acc, dim), true);
        }
    }
}
