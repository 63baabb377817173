//! Panels of the blocks of 32 weights; layouts as in the row-wise `blocks/legacy.rs`.

use super::{Blocks, Sink, Source, nibbles};
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
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q4_0<S: Simd, R: Source<S>, K: Sink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: block i exists; a block has 18 bytes.
        unsafe {
            blocks.prefetch(s, 18, i, (0, 1));
            let b = from.block(i);
            out.put(s, 32 * i, nibbles(s, b.dwords4(s, 0)));
            out.scale(s, i, b.half(s, 0));
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn iq4_nl<S: Simd, R: Source<S>, K: Sink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: block i exists; a block has 18 bytes.
        unsafe {
            blocks.prefetch(s, 18, i, (0, 1));
            let b = from.block(i);
            let mut quants = nibbles(s, b.dwords4(s, 0));
            for quants in &mut quants {
                *quants = s.lookup_i(&IQ4_NL, *quants);
            }
            out.put(s, 32 * i, quants);
            out.scale(s, i, b.half(s, 0));
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q4_1<S: Simd, R: Source<S>, K: Sink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: block i exists; a block has 20 bytes.
        unsafe {
            blocks.prefetch(s, 20, i, (0, 1));
            let b = from.block(i);
            out.put(s, 32 * i, nibbles(s, b.dwords4(s, 0)));
            out.scale(s, i, b.half(s, 0));
            out.bias(s, i, b.half(s, 1));
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q5_0<S: Simd, R: Source<S>, K: Sink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: block i exists; a block has 22 bytes.
        unsafe {
            blocks.prefetch(s, 22, i, (0, 1));
            let b = from.block(i);
            let high = b.dword(s, 0);
            let low = nibbles(s, b.dwords4(s, 1));
            for (j, low) in low.into_iter().enumerate() {
                out.put(s, 32 * i + 4 * j, [s.or_i(low, fifth_bits(s, high, j))]);
            }
            out.scale(s, i, b.half(s, 0));
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q5_1<S: Simd, R: Source<S>, K: Sink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: block i exists; a block has 24 bytes.
        unsafe {
            blocks.prefetch(s, 24, i, (0, 1));
            let b = from.block(i);
            let high = b.dword(s, 0);
            let low = nibbles(s, b.dwords4(s, 1));
            for (j, low) in low.into_iter().enumerate() {
                out.put(s, 32 * i + 4 * j, [s.or_i(low, fifth_bits(s, high, j))]);
            }
            out.scale(s, i, b.half(s, 0));
            out.bias(s, i, b.half(s, 1));
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q8_0<S: Simd, R: Source<S>, K: Sink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    let flip = s.splat_i(0x8080_8080_u32.cast_signed());
    for i in 0..blocks.count {
        // SAFETY: block i exists; a block has 34 bytes.
        unsafe {
            blocks.prefetch(s, 34, i, (0, 1));
            let b = from.block(i);
            unrolled!(half in [0 1] {
                let signed = b.dwords4(s, 4 * half);
                out.put(s, 32 * i + 16 * half, four!(k => s.xor_i(signed[k], flip)));
            });
            out.scale(s, i, b.half(s, 0));
        }
    }
}
