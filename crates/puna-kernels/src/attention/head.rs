//! One query against one key/value head.

use super::ScoreTransform;
use crate::math::{self, map_lanes, sum_lanes};
use crate::matmul::{F32, dots};
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Keys per step of the online softmax.
const BLOCK: usize = 64;

/// Query heads that are scored together.
const HEADS: usize = 4;

/// One query token with the query heads of one key/value head.
pub(crate) struct HeadTask {
    /// `[group, head_dim]`.
    pub(super) q: *const f32,
    /// `[capacity, head_dim]`.
    pub(super) k: *const f32,
    /// `[capacity, head_dim]`.
    pub(super) v: *const f32,
    /// `[group, head_dim]`.
    pub(super) out: *mut f32,
    pub(super) group: usize,
    pub(super) head_dim: usize,
    pub(super) capacity: usize,
    /// Positions, at least one.
    pub(super) visible: Range<usize>,
    pub(super) scores: ScoreTransform,
}

/// A head's running softmax.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

/// All heads of a task.
///
/// # Safety
/// The pointers must cover the task's shape.
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd>(s: S, task: &HeadTask) {
    let mut head = 0;
    while head < task.group {
        // SAFETY: the heads lie within the group.
        unsafe {
            if head + HEADS <= task.group {
                attend_heads::<S, HEADS>(s, task, head);
                head += HEADS;
            } else {
                attend_heads::<S, 1>(s, task, head);
                head += 1;
            }
        }
    }
}

/// `N` heads from `head` on.
///
/// # Safety
/// The pointers must cover the task's shape, the heads lie in the group.
#[inline(always)]
unsafe fn attend_heads<S: Simd, const N: usize>(s: S, task: &HeadTask, head: usize) {
    let dim = task.head_dim;
    let mut running = [Running { max: f32::NEG_INFINITY, sum: 0.0 }; N];
    let mut scores = [[0.0; BLOCK]; N];
    let mut slots = [0; BLOCK];
    // SAFETY: heads, slots (positions modulo the capacity) and features are in range by contract.
    unsafe {
        let out = task.out.add(head * dim);
        std::slice::from_raw_parts_mut(out, N * dim).fill(0.0);
        let mut first = task.visible.start;
        while first < task.visible.end {
            let n = BLOCK.min(task.visible.end - first);
            let mut slot = first % task.capacity;
            for offset in &mut slots[..n] {
                *offset = slot * dim;
                slot = if slot + 1 == task.capacity { 0 } else { slot + 1 };
            }
            block_scores::<S, N>(s, task, head, &slots[..n], &mut scores);
            for (i, (running, scores)) in running.iter_mut().zip(&mut scores).enumerate() {
                let correction = weights(s, &task.scores, running, &mut scores[..n]);
                let out = out.add(i * dim);
                accumulate(s, (task.v, &slots[..n]), &scores[..n], correction, (out, dim));
            }
            first += n;
        }
        for (i, running) in running.iter().enumerate() {
            let inverse = 1.0 / running.sum;
            for out in std::slice::from_raw_parts_mut(out.add(i * dim), dim) {
                *out *= inverse;
            }
        }
    }
}

/// `q · k` of `N` heads with the keys at `slots` (element offsets).
///
/// # Safety
/// The pointers must cover the task's shape, heads and slots lie in it.
#[inline(always)]
unsafe fn block_scores<S: Simd, const N: usize>(
    s: S,
    task: &HeadTask,
    head: usize,
    slots: &[usize],
    scores: &mut [[f32; BLOCK]; N],
) {
    let dim = task.head_dim;
    // SAFETY: heads and slots are in range by contract.
    unsafe {
        let mut q = [task.q.cast::<u8>(); N];
        for (i, q) in q.iter_mut().enumerate() {
            *q = task.q.add((head + i) * dim).cast();
        }
        let (fours, rest) = slots.as_chunks::<4>();
        for (j, slots) in fours.iter().enumerate() {
            let mut k = [task.k.cast::<u8>(); 4];
            for (k, at) in k.iter_mut().zip(slots) {
                *k = task.k.add(*at).cast();
            }
            let dots = dots::<S, F32, 4, N>(s, k, q, dim, 0);
            for (i, dots) in dots.iter().enumerate() {
                for (scores, &dot) in scores.iter_mut().zip(dots) {
                    scores[4 * j + i] = dot;
                }
            }
        }
        for (j, &at) in rest.iter().enumerate() {
            let [dots] = dots::<S, F32, 1, N>(s, [task.k.add(at).cast()], q, dim, 0);
            for (scores, dot) in scores.iter_mut().zip(dots) {
                scores[4 * fours.len() + j] = dot;
            }
        }
    }
}

/// Turns scores into unnormalized weights relative to the new maximum; returns the factor that
/// brings older sums to it.
#[inline(always)]
fn weights<S: Simd>(
    s: S,
    transform: &ScoreTransform,
    running: &mut Running,
    scores: &mut [f32],
) -> f32 {
    let scale = s.splat(transform.scale);
    match transform.softcap {
        None => map_lanes!(s, scores, 0.0, |x| s.mul(x, scale)),
        Some(cap) => {
            let cap = s.splat(cap);
            map_lanes!(s, scores, 0.0, |x| {
                s.mul(cap, math::tanh(s, s.div(s.mul(x, scale), cap)))
            });
        }
    }
    let block = math::max(scores);
    // A NaN score becomes the maximum and so reaches the output.
    let max = if running.max > block { running.max } else { block };
    let shift = s.splat(max);
    map_lanes!(s, scores, f32::NEG_INFINITY, |x| math::exp(s, s.sub(x, shift)));
    let correction = if running.max == max { 1.0 } else { (running.max - max).exp() };
    running.sum = running.sum * correction + sum_lanes!(s, scores, 0.0, |x| x) as f32;
    running.max = max;
    correction
}

/// `out = correction out + sum_j weights[j] v[slots[j]]`.
///
/// # Safety
/// `dim` features must be readable at every slot and writable at `out`.
#[inline(always)]
unsafe fn accumulate<S: Simd>(
    s: S,
    (v, slots): (*const f32, &[usize]),
    weights: &[f32],
    correction: f32,
    (out, dim): (*mut f32, usize),
) {
    let mut at = 0;
    // SAFETY: features from `at` on are in range by contract.
    unsafe {
        while at + 4 * LANES <= dim {
            accumulate_vectors::<S, 4>(s, (v.add(at), slots), weights, correction, out.add(at));
            at += 4 * LANES;
        }
        while at + LANES <= dim {
            accumulate_vectors::<S, 1>(s, (v.add(at), slots), weights, correction, out.add(at));
            at += LANES;
        }
        while at < dim {
            let out = out.add(at);
            *out *= correction;
            for (&weight, &slot) in weights.iter().zip(slots) {
                *out += weight * *v.add(slot + at);
            }
            at += 1;
        }
    }
}

/// `N` lane vectors of features.
///
/// # Safety
/// `N * LANES` features must be readable at every slot and writable at `out`.
#[inline(always)]
unsafe fn accumulate_vectors<S: Simd, const N: usize>(
    s: S,
    (v, slots): (*const f32, &[usize]),
    weights: &[f32],
    correction: f32,
    out: *mut f32,
) {
    // SAFETY: in range by contract.
    unsafe {
        let mut acc = [s.splat(0.0); N];
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = s.mul(s.load(out.add(i * LANES)), s.splat(correction));
        }
        for (&weight, &slot) in weights.iter().zip(slots) {
            let weight = s.splat(weight);
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = s.fma(weight, s.load(v.add(slot + i * LANES)), *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            s.store(out.add(i * LANES), *acc);
        }
    }
}
