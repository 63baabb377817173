//! Panels of the superblocks of 256 weights; layouts as in the row-wise `blocks/k_quant.rs`.

use super::{Blocks, Source, SuperSink, nibbles};
use crate::simd::Simd;

/// Byte `k` of each lane, unsigned.
#[inline(always)]
fn byte<S: Simd>(s: S, v: S::I, k: usize) -> S::I {
    s.and_i(s.shr_i(v, 8 * k as u32), s.splat_i(255))
}

/// Byte `k` of each lane, signed.
#[inline(always)]
fn signed_byte<S: Simd>(s: S, v: S::I, k: usize) -> S::I {
    s.sra_i(s.shl_i(v, 24 - 8 * k as u32), 24)
}

/// Two bits of each byte from bit `shift` on.
#[inline(always)]
fn pairs<S: Simd>(s: S, v: S::I, shift: usize) -> S::I {
    s.and_i(s.shr_i(v, shift as u32), s.splat_i(0x0303_0303))
}

/// Bit `j` of each byte, moved to bit `to`.
#[inline(always)]
fn bit<S: Simd>(s: S, v: S::I, j: usize, to: u32) -> S::I {
    s.shl_i(s.and_i(s.shr_i(v, j as u32), s.splat_i(0x0101_0101)), to)
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q2_k<S: Simd, R: Source<S>, K: SuperSink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: superblock i exists and has 84 bytes.
        unsafe {
            let b = from.block(i);
            for part in 0..4 {
                blocks.prefetch(s, 84, i, (part, 4));
                // Bytes 16 part .. of the quants: columns 128 n + 32 j + 16 half.
                let packed = b.dwords4(s, 4 + 4 * part);
                let col = 256 * i + part / 2 * 128 + part % 2 * 16;
                for j in 0..4 {
                    out.put(s, col + 32 * j, four!(k => pairs(s, packed[k], 2 * j)));
                }
            }
            let (d, minus) = (b.half(s, 0), s.sub(s.splat(0.0), b.half(s, 1)));
            let (nibble, four) = (s.splat_i(0x0f0f_0f0f), b.dwords4(s, 0));
            for (k, v) in four.into_iter().enumerate() {
                let (scales, minimums) = (s.and_i(v, nibble), s.and_i(s.shr_i(v, 4), nibble));
                for j in 0..4 {
                    out.integer(s, 16 * i + 4 * k + j, byte(s, scales, j));
                }
                out.minimums(s, 4 * i + k, minimums);
            }
            out.superblock(s, i, d, Some(minus));
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q3_k<S: Simd, R: Source<S>, K: SuperSink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: superblock i exists and has 110 bytes.
        unsafe {
            let b = from.block(i);
            for half in 0..2 {
                let high = b.dwords4(s, 4 * half);
                for n in 0..2 {
                    blocks.prefetch(s, 110, i, (2 * half + n, 4));
                    let packed = b.dwords4(s, 8 + 8 * n + 4 * half);
                    for j in 0..4 {
                        let quants = four!(k => {
                                                    s.or_i(pairs(s, packed[k], 2 * j), bit(s, high[k], 4 * n + j, 2))
                        });
                        out.put(s, 256 * i + 128 * n + 32 * j + 16 * half, quants);
                    }
                }
            }
            let d = b.half(s, 0);
            let (low, middle, high) = (b.dword(s, 24), b.dword(s, 25), b.dword(s, 26));
            let nibble = s.splat_i(0x0f0f_0f0f);
            let top = |shift: usize| s.shl_i(pairs(s, high, shift), 4);
            let six = [
                s.or_i(s.and_i(low, nibble), top(0)),
                s.or_i(s.and_i(middle, nibble), top(2)),
                s.or_i(s.and_i(s.shr_i(low, 4), nibble), top(4)),
                s.or_i(s.and_i(s.shr_i(middle, 4), nibble), top(6)),
            ];
            for (k, six) in six.into_iter().enumerate() {
                for j in 0..4 {
                    let integer = s.sub_i(byte(s, six, j), s.splat_i(32));
                    out.integer(s, 16 * i + 4 * k + j, integer);
                }
            }
            out.superblock(s, i, d, None);
        }
    }
}

/// The eight 6-bit scales and minimums of Q4_K and Q5_K, with `d` and `-dmin`.
///
/// # Safety
/// `b` is superblock `i`, for which `out` has room.
#[inline(always)]
unsafe fn scales_and_minimums<S: Simd, R: Source<S>, K: SuperSink<S>>(
    s: S,
    out: &mut K,
    i: usize,
    b: R,
) {
    // SAFETY: by contract; dwords 0 to 2 are the packed integers.
    let (d, dmin, low, minimums, high) =
        unsafe { (b.half(s, 0), b.half(s, 1), b.dword(s, 0), b.dword(s, 1), b.dword(s, 2)) };
    let minus = s.sub(s.splat(0.0), dmin);
    let (six, nibble) = (s.splat_i(0x3f3f_3f3f), s.splat_i(0x0f0f_0f0f));
    let top = |v: S::I| s.shl_i(pairs(s, v, 6), 4);
    let integers = [
        (s.and_i(low, six), s.and_i(minimums, six)),
        (
            s.or_i(s.and_i(high, nibble), top(low)),
            s.or_i(s.and_i(s.shr_i(high, 4), nibble), top(minimums)),
        ),
    ];
    for (k, (scales, minimums)) in integers.into_iter().enumerate() {
        // SAFETY: by contract.
        unsafe {
            for j in 0..4 {
                out.integer(s, 8 * i + 4 * k + j, byte(s, scales, j));
            }
            out.minimums(s, 2 * i + k, minimums);
        }
    }
    // SAFETY: by contract.
    unsafe { out.superblock(s, i, d, Some(minus)) }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q4_k<S: Simd, R: Source<S>, K: SuperSink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: superblock i exists and has 144 bytes.
        unsafe {
            let b = from.block(i);
            for part in 0..8 {
                blocks.prefetch(s, 144, i, (part, 8));
                // Low nibbles are columns 64 n + 16 half, high ones 32 columns further.
                let quants = nibbles(s, b.dwords4(s, 3 + 4 * part));
                let col = 256 * i + part / 2 * 64 + part % 2 * 16;
                out.put(s, col, [quants[0], quants[1], quants[2], quants[3]]);
                out.put(s, col + 32, [quants[4], quants[5], quants[6], quants[7]]);
            }
            scales_and_minimums(s, out, i, b);
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q5_k<S: Simd, R: Source<S>, K: SuperSink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: superblock i exists and has 176 bytes.
        unsafe {
            let b = from.block(i);
            for half in 0..2 {
                let high = b.dwords4(s, 3 + 4 * half);
                for n in 0..4 {
                    blocks.prefetch(s, 176, i, (4 * half + n, 8));
                    let packed = b.dwords4(s, 11 + 8 * n + 4 * half);
                    let low = nibbles(s, packed);
                    for j in 0..2 {
                        let quants = four!(k => {
                                                    s.or_i(low[4 * j + k], bit(s, high[k], 2 * n + j, 4))
                        });
                        out.put(s, 256 * i + 64 * n + 32 * j + 16 * half, quants);
                    }
                }
            }
            scales_and_minimums(s, out, i, b);
        }
    }
}

/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn q6_k<S: Simd, R: Source<S>, K: SuperSink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    for i in 0..blocks.count {
        // SAFETY: superblock i exists and has 210 bytes.
        unsafe {
            let b = from.block(i);
            for part in 0..4 {
                // Bytes 16 half .. of each of the fields of half n.
                let (n, half) = (part / 2, part % 2);
                let high = b.dwords4(s, 32 + 8 * n + 4 * half);
                for j in 0..2 {
                    blocks.prefetch(s, 210, i, (2 * part + j, 8));
                    let packed = b.dwords4(s, 16 * n + 8 * j + 4 * half);
                    let low = nibbles(s, packed);
                    for k in 0..2 {
                        let quants = four!(q => {
                                                    let top = pairs(s, high[q], 2 * j + 4 * k);
                                                    s.or_i(low[4 * k + q], s.shl_i(top, 4))
                        });
                        out.put(s, 256 * i + 128 * n + 32 * j + 64 * k + 16 * half, quants);
                    }
                }
            }
            let d = b.half(s, 0);
            for (k, integers) in b.dwords4(s, 48).into_iter().enumerate() {
                for j in 0..4 {
                    out.integer(s, 16 * i + 4 * k + j, signed_byte(s, integers, j));
                }
            }
            out.superblock(s, i, d, None);
        }
    }
}
