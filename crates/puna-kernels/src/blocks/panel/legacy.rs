//! Panels of the blocks of 32 weights; layouts as in the row-wise `blocks/legacy.rs`.

use super::{PanelTask, nibbles};
use crate::blocks::legacy::IQ4_NL;
use crate::simd::Simd;

/// Bits `4 j` to `4 j + 3` of each lane as fifth bits of its four bytes.
#[inline(always)]
fn fifth_bits<S: Simd>(s: S, high: S::I, j: usize) -> S::I {
    let four = s.and_i(s.shr_i(high, 4 * j as u32), s.splat_i(15));
    // The products of bit k with 1, 2^7, 2^14 and 2^21 do not meet; the one at 8 k stays.
    s.and_i(s.mul_i(four, s.splat_i(0x0020_4081 << 4)), s.splat_i(0x1010_1010))
}

/// # Safety
/// The task's pointers must cover its shape.
#[inline(always)]
pub(super) unsafe fn q4_0<S: Simd>(s: S, task: &PanelTask) {
    for i in 0..task.blocks {
        // SAFETY: block i lies in the task; a block has 18 bytes.
        unsafe {
            let b = task.block::<S, 18>(s, i);
            task.put(s, 32 * i, nibbles(s, s.rows16(b.add(2), task.stride)));
            task.put_scale(s, i, s.low_halfs(s.rows4(b, task.stride)));
        }
    }
}

/// # Safety
/// The task's pointers must cover its shape.
#[inline(always)]
pub(super) unsafe fn iq4_nl<S: Simd>(s: S, task: &PanelTask) {
    for i in 0..task.blocks {
        // SAFETY: block i lies in the task; a block has 18 bytes.
        unsafe {
            let b = task.block::<S, 18>(s, i);
            let quants = nibbles(s, s.rows16(b.add(2), task.stride));
            task.put(s, 32 * i, quants.map(|q| s.lookup_i(&IQ4_NL, q)));
            task.put_scale(s, i, s.low_halfs(s.rows4(b, task.stride)));
        }
    }
}

/// # Safety
/// The task's pointers must cover its shape.
#[inline(always)]
pub(super) unsafe fn q4_1<S: Simd>(s: S, task: &PanelTask) {
    for i in 0..task.blocks {
        // SAFETY: block i lies in the task; a block has 20 bytes.
        unsafe {
            let b = task.block::<S, 20>(s, i);
            task.put(s, 32 * i, nibbles(s, s.rows16(b.add(4), task.stride)));
            scale_and_minimum(s, task, i, b);
        }
    }
}

/// # Safety
/// The task's pointers must cover its shape.
#[inline(always)]
pub(super) unsafe fn q5_0<S: Simd>(s: S, task: &PanelTask) {
    for i in 0..task.blocks {
        // SAFETY: block i lies in the task; a block has 22 bytes.
        unsafe {
            let b = task.block::<S, 22>(s, i);
            let high = s.rows4(b.add(2), task.stride);
            let low = nibbles(s, s.rows16(b.add(6), task.stride));
            for (j, low) in low.into_iter().enumerate() {
                task.put(s, 32 * i + 4 * j, [s.or_i(low, fifth_bits(s, high, j))]);
            }
            task.put_scale(s, i, s.low_halfs(s.rows4(b, task.stride)));
        }
    }
}

/// # Safety
/// The task's pointers must cover its shape.
#[inline(always)]
pub(super) unsafe fn q5_1<S: Simd>(s: S, task: &PanelTask) {
    for i in 0..task.blocks {
        // SAFETY: block i lies in the task; a block has 24 bytes.
        unsafe {
            let b = task.block::<S, 24>(s, i);
            let high = s.rows4(b.add(4), task.stride);
            let low = nibbles(s, s.rows16(b.add(8), task.stride));
            for (j, low) in low.into_iter().enumerate() {
                task.put(s, 32 * i + 4 * j, [s.or_i(low, fifth_bits(s, high, j))]);
            }
            scale_and_minimum(s, task, i, b);
        }
    }
}

/// # Safety
/// The task's pointers must cover its shape.
#[inline(always)]
pub(super) unsafe fn q8_0<S: Simd>(s: S, task: &PanelTask) {
    let flip = s.splat_i(0x8080_8080_u32.cast_signed());
    for i in 0..task.blocks {
        // SAFETY: block i lies in the task; a block has 34 bytes.
        unsafe {
            let b = task.block::<S, 34>(s, i);
            for half in 0..2 {
                let signed = s.rows16(b.add(2 + 16 * half), task.stride);
                task.put(s, 32 * i + 16 * half, signed.map(|q| s.xor_i(q, flip)));
            }
            task.put_scale(s, i, s.low_halfs(s.rows4(b, task.stride)));
        }
    }
}

/// The two halfs at the start of block `i`.
///
/// # Safety
/// 4 bytes of 16 rows must be readable at `b`; the block lies in the task.
#[inline(always)]
unsafe fn scale_and_minimum<S: Simd>(s: S, task: &PanelTask, i: usize, b: *const u8) {
    // SAFETY: by contract.
    unsafe {
        let both = s.rows4(b, task.stride);
        task.put_scale(s, i, s.low_halfs(both));
        task.put_bias(s, i, s.low_halfs(s.shr_i(both, 16)));
    }
}
