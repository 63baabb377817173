//! Superblocks of 256 weights: Q2_K to Q6_K (layouts: `ggml-common.h`).
//!
//! An f16 scale of the superblock multiplies small integer scales of its sub-blocks; Q2_K, Q4_K
//! and Q5_K also have minimums, which are subtracted.

use super::{Unpacked, half_at, piece};
use crate::simd::Simd;

/// Shifts each byte to the right by `2 j`.
#[inline(always)]
fn shr_pairs<S: Simd>(s: S, v: S::B, j: usize) -> S::B {
    match j {
        0 => v,
        1 => s.shr_b::<2>(v),
        2 => s.shr_b::<4>(v),
        _ => s.shr_b::<6>(v),
    }
}

/// Bit `j` of each byte.
#[inline(always)]
fn bit<S: Simd>(s: S, v: S::B, j: usize) -> S::B {
    let pair = shr_pairs(s, v, j / 2);
    s.and_b(if j.is_multiple_of(2) { pair } else { s.shr_b::<1>(pair) }, s.splat_b(1))
}

#[inline(always)]
pub(super) fn q2_k<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<84>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    let factors = out.scales.as_chunks_mut::<16>().0.iter_mut();
    let factors = factors.zip(out.bias.as_chunks_mut::<16>().0);
    for ((b, q), (scales, bias)) in blocks.zip(factors) {
        let (d, dmin) = (half_at(s, b, 80), half_at(s, b, 82));
        let packed: [u8; 16] = piece(b, 0);
        for i in 0..16 {
            scales[i] = d * f32::from(packed[i] & 15);
            bias[i] = -(dmin * f32::from(packed[i] >> 4));
        }
        for (i, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let packed = s.load_b(&piece(b, 16 + i / 4 * 32));
            s.store_b(q, s.and_b(shr_pairs(s, packed, i % 4), s.splat_b(3)));
        }
    }
}

#[inline(always)]
pub(super) fn q3_k<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<110>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    for ((b, q), scales) in blocks.zip(out.scales.as_chunks_mut::<16>().0) {
        let d = half_at(s, b, 108);
        let word = |at: usize| u32::from_le_bytes(piece(b, at));
        let (low, middle, high) = (word(96), word(100), word(104));
        let top = |shift: u32| ((high >> shift) & 0x0303_0303) << 4;
        let six = [
            (low & 0x0f0f_0f0f) | top(0),
            (middle & 0x0f0f_0f0f) | top(2),
            ((low >> 4) & 0x0f0f_0f0f) | top(4),
            ((middle >> 4) & 0x0f0f_0f0f) | top(6),
        ];
        for (scales, six) in scales.as_chunks_mut::<4>().0.iter_mut().zip(six) {
            for (scale, six) in scales.iter_mut().zip(six.to_le_bytes()) {
                *scale = d * (i32::from(six) - 32) as f32;
            }
        }
        let high = s.load_b(&piece(b, 0));
        for (i, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let packed = s.load_b(&piece(b, 32 + i / 4 * 32));
            let low = s.and_b(shr_pairs(s, packed, i % 4), s.splat_b(3));
            s.store_b(q, s.or_b(low, s.shl_b::<2>(bit(s, high, i))));
        }
    }
}

/// The eight 6-bit scales and minimums of Q4_K and Q5_K, times `d` and `-dmin`.
#[inline(always)]
fn scales_and_minimums<S: Simd, const N: usize>(
    s: S,
    block: &[u8; N],
    scales: &mut [f32; 8],
    bias: &mut [f32; 8],
) {
    let (d, dmin) = (half_at(s, block, 0), half_at(s, block, 2));
    let word = |at: usize| u32::from_le_bytes(piece(block, at));
    let (low_scales, low_minimums, high) = (word(4), word(8), word(12));
    let top = |word: u32| ((word >> 6) & 0x0303_0303) << 4;
    let join = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
    let six = join(low_scales & 0x3f3f_3f3f, (high & 0x0f0f_0f0f) | top(low_scales));
    let minimums =
        join(low_minimums & 0x3f3f_3f3f, ((high >> 4) & 0x0f0f_0f0f) | top(low_minimums));
    for j in 0..8 {
        scales[j] = d * f32::from(six[j]);
        bias[j] = -(dmin * f32::from(minimums[j]));
    }
}

#[inline(always)]
pub(super) fn q4_k<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<144>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    let factors = out.scales.as_chunks_mut::<8>().0.iter_mut();
    let factors = factors.zip(out.bias.as_chunks_mut::<8>().0);
    for ((b, q), (scales, bias)) in blocks.zip(factors) {
        scales_and_minimums(s, b, scales, bias);
        for (i, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let packed = s.load_b(&piece(b, 16 + i / 2 * 32));
            let nibble = if i.is_multiple_of(2) { packed } else { s.shr_b::<4>(packed) };
            s.store_b(q, s.and_b(nibble, s.splat_b(15)));
        }
    }
}

#[inline(always)]
pub(super) fn q5_k<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<176>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    let factors = out.scales.as_chunks_mut::<8>().0.iter_mut();
    let factors = factors.zip(out.bias.as_chunks_mut::<8>().0);
    for ((b, q), (scales, bias)) in blocks.zip(factors) {
        scales_and_minimums(s, b, scales, bias);
        let high = s.load_b(&piece(b, 16));
        for (i, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let packed = s.load_b(&piece(b, 48 + i / 2 * 32));
            let nibble = if i.is_multiple_of(2) { packed } else { s.shr_b::<4>(packed) };
            let low = s.and_b(nibble, s.splat_b(15));
            s.store_b(q, s.or_b(low, s.shl_b::<4>(bit(s, high, i))));
        }
    }
}

#[inline(always)]
pub(super) fn q6_k<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<210>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    for ((b, q), scales) in blocks.zip(out.scales.as_chunks_mut::<16>().0) {
        let d = half_at(s, b, 208);
        let integers: [u8; 16] = piece(b, 192);
        for (scale, integer) in scales.iter_mut().zip(integers) {
            *scale = d * f32::from(integer.cast_signed());
        }
        for (i, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            // Of each 128 weights the first 64 are low nibbles, the others high ones.
            let (half, j) = (i / 4, i % 4);
            let packed = s.load_b(&piece(b, half * 64 + j % 2 * 32));
            let nibble = if j < 2 { packed } else { s.shr_b::<4>(packed) };
            let low = s.and_b(nibble, s.splat_b(15));
            let pairs = s.load_b(&piece(b, 128 + half * 32));
            let high = s.and_b(shr_pairs(s, pairs, j), s.splat_b(3));
            s.store_b(q, s.or_b(low, s.shl_b::<4>(high)));
        }
    }
}
