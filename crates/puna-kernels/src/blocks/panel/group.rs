//! Panels of group matrices: integers with a scale and a zero per group (GPTQ, AWQ, int8).
//!
//! The zeros become biases, `-scale * zero`: they differ from group to group, so they cannot be
//! folded into the integers' sums as a constant zero is.

use super::{Blocks, ROWS, Sink, nibbles};
use crate::simd::Simd;

/// How the integers of a row are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Integers {
    /// 16 bytes per 32 columns: low nibbles, then high ones.
    Nibbles,
    /// Unsigned bytes.
    Bytes,
    /// Signed bytes.
    Signed,
}

/// Blocks of 32 columns of 16 rows, none of which straddles groups.
#[derive(Clone, Copy)]
pub(crate) struct GroupRows {
    /// The integers of row 0 at column `col`.
    pub(crate) integers_at: *const u8,
    /// Bytes between rows.
    pub(crate) stride: usize,
    pub(crate) integers: Integers,
    /// Scales of row 0, all groups.
    pub(crate) scales: *const f32,
    /// Zeros of row 0, all groups; null where they are zero.
    pub(crate) zeros: *const u8,
    /// Groups per row: the distance of rows in `scales` and `zeros`.
    pub(crate) groups: usize,
    pub(crate) group_size: usize,
    /// First column of the panel in its row.
    pub(crate) col: usize,
}

/// Unpacks blocks of 32 columns.
///
/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, K: Sink<S>>(
    s: S,
    task: &GroupRows,
    blocks: &Blocks,
    out: &mut K,
) {
    let stride = task.stride;
    let mut factors = (s.splat(0.0), s.splat(0.0));
    let mut held = usize::MAX;
    for i in 0..blocks.count {
        let group = (task.col + 32 * i) / task.group_size;
        // SAFETY: block i and its group lie in the task.
        unsafe {
            if group != held {
                factors = scale_and_bias(s, task, group);
                held = group;
            }
            match task.integers {
                Integers::Nibbles => {
                    blocks.prefetch(s, 16, i, (0, 1));
                    let packed = s.rows16(task.integers_at.add(16 * i), stride);
                    out.put(s, 32 * i, nibbles(s, packed));
                }
                Integers::Bytes | Integers::Signed => {
                    let signed = matches!(task.integers, Integers::Signed);
                    let flip = s.splat_i(if signed { 0x8080_8080_u32.cast_signed() } else { 0 });
                    blocks.prefetch(s, 32, i, (0, 1));
                    for half in 0..2 {
                        let bytes = s.rows16(task.integers_at.add(32 * i + 16 * half), stride);
                        out.put(s, 32 * i + 16 * half, bytes.map(|q| s.xor_i(q, flip)));
                    }
                }
            }
            out.scale(s, i, factors.0);
            out.bias(s, i, factors.1);
        }
    }
}

/// The scales of a group in 16 rows, and `-scale * zero`.
///
/// # Safety
/// The group lies in the task.
#[inline(always)]
unsafe fn scale_and_bias<S: Simd>(s: S, task: &GroupRows, group: usize) -> (S::F, S::F) {
    let offset = if matches!(task.integers, Integers::Signed) { 128.0 } else { 0.0 };
    let mut zeros = [offset; ROWS];
    if !task.zeros.is_null() {
        for (row, zero) in zeros.iter_mut().enumerate() {
            // SAFETY: by contract.
            *zero += f32::from(unsafe { *task.zeros.add(row * task.groups + group) });
        }
    }
    // SAFETY: scales by contract, zeros because of the array's size.
    unsafe {
        let scale = s.of_bits(s.rows4(task.scales.add(group).cast(), 4 * task.groups));
        let zero = s.load(zeros.as_ptr());
        (scale, s.mul(s.sub(s.splat(0.0), scale), zero))
    }
}
