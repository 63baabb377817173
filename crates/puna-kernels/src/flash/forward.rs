//! Forward of one row and key/value head.

use super::{Flash, KEYS, QUERIES, SCRATCH, Scratch, SoftmaxTile, Task, Tiles, Words, room};
use crate::gemm::MatRef;
use crate::kernels::Kernels;
use crate::parallel::OutPtr;

pub(super) fn run(
    kernels: &Kernels,
    flash: &Flash<'_>,
    task: Task,
    (q, k, v): (&[f32], &[f32], &[f32]),
    (out, logs): (OutPtr, OutPtr),
) {
    let tiles = Tiles { kernels, words: Words::of(flash.elements, kernels) };
    let (len, dim) = (flash.mask.len, flash.shape.head_dim);
    let (q_stride, kv_stride) = (flash.shape.heads * dim, flash.shape.kv_heads * dim);
    let first = task.row * len * kv_stride + task.kv_head * dim;
    let (k, v) = (MatRef::rows(&k[first..], kv_stride), MatRef::rows(&v[first..], kv_stride));
    let mut scratch = SCRATCH.take();
    tiles.panels(&k.t(), dim, len, &mut scratch.keys_t);
    tiles.panels(&v, len, dim, &mut scratch.values);
    for head in flash.group(task.kv_head) {
        for start in (0..len).step_by(QUERIES) {
            let queries = start..len.min(start + QUERIES);
            let at = (task.row * len + start) * q_stride + head * dim;
            let logs_at = (task.row * flash.shape.heads + head) * len + start;
            let rows = queries.len();
            let mut max = [f32::NEG_INFINITY; QUERIES];
            let mut sum = [0f32; QUERIES];
            attend(&tiles, flash, (task, queries), &q[at..], &mut scratch, (&mut max, &mut sum));
            // SAFETY: this task alone writes the outputs of this head and row.
            unsafe {
                let acc =
                    std::slice::from_raw_parts(scratch.acc.as_ptr().cast::<f32>(), rows * dim);
                for (r, acc) in acc.chunks_exact(dim).enumerate() {
                    let to = at + r * q_stride;
                    let inverse = 1.0 / sum[r];
                    let out = out.slice(to..to + dim);
                    out.iter_mut().zip(acc).for_each(|(out, acc)| *out = acc * inverse);
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
    q: &[f32],
    scratch: &mut Scratch,
    (max, sum): (&mut [f32; QUERIES], &mut [f32; QUERIES]),
) {
    let (len, dim, rows) = (flash.mask.len, flash.shape.head_dim, queries.len());
    let q_stride = flash.shape.heads * dim;
    // SAFETY: `flash_forward` checked the sizes of all slices; tiles lie in their scratch.
    unsafe {
        let left = tiles.left((q.as_ptr(), q_stride), (rows, dim), &mut scratch.left);
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
