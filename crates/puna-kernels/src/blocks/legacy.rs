//! Blocks of 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and IQ4_NL (layouts: `ggml-common.h`).
//!
//! In the 4- and 5-bit formats byte `j` holds weight `j` in its low and weight `j + 16` in its
//! high nibble.

use super::Unpacked;
use crate::numbers::f16_at;

/// The values of IQ4_NL (`kvalues_iq4nl`) plus 128.
const IQ4_NL: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

#[inline(always)]
fn nibbles(packed: [u8; 16]) -> [u8; 32] {
    let mut out = [0; 32];
    for (j, b) in packed.into_iter().enumerate() {
        out[j] = b & 15;
        out[j + 16] = b >> 4;
    }
    out
}

/// Adds bit `j` of `high` as fifth bit of weight `j`.
#[inline(always)]
fn fifth_bits(high: [u8; 4], mut out: [u8; 32]) -> [u8; 32] {
    let high = u32::from_le_bytes(high);
    for (j, q) in out.iter_mut().enumerate() {
        *q |= if high & (1 << j) == 0 { 0 } else { 16 };
    }
    out
}

/// `N` bytes from `at` on, by value: without a copy the compiler must assume that writing the
/// quants changes the block, and does not vectorize.
#[inline(always)]
fn piece<const M: usize, const N: usize>(block: &[u8; M], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&block[at..at + N]);
    out
}

#[inline(always)]
pub(super) fn q4_0(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<18>().0.iter().zip(out.quants.as_chunks_mut::<32>().0);
    for ((b, q), scale) in blocks.zip(out.scales.iter_mut()) {
        *scale = f16_at(b, 0);
        *q = nibbles(piece(b, 2));
    }
}

#[inline(always)]
pub(super) fn q4_1(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<20>().0.iter().zip(out.quants.as_chunks_mut::<32>().0);
    for ((b, q), (scale, bias)) in blocks.zip(out.scales.iter_mut().zip(out.bias.iter_mut())) {
        *scale = f16_at(b, 0);
        *bias = f16_at(b, 2);
        *q = nibbles(piece(b, 4));
    }
}

#[inline(always)]
pub(super) fn q5_0(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<22>().0.iter().zip(out.quants.as_chunks_mut::<32>().0);
    for ((b, q), scale) in blocks.zip(out.scales.iter_mut()) {
        *scale = f16_at(b, 0);
        *q = fifth_bits(piece(b, 2), nibbles(piece(b, 6)));
    }
}

#[inline(always)]
pub(super) fn q5_1(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<24>().0.iter().zip(out.quants.as_chunks_mut::<32>().0);
    for ((b, q), (scale, bias)) in blocks.zip(out.scales.iter_mut().zip(out.bias.iter_mut())) {
        *scale = f16_at(b, 0);
        *bias = f16_at(b, 2);
        *q = fifth_bits(piece(b, 4), nibbles(piece(b, 8)));
    }
}

#[inline(always)]
pub(super) fn q8_0(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<34>().0.iter().zip(out.quants.as_chunks_mut::<32>().0);
    for ((b, q), scale) in blocks.zip(out.scales.iter_mut()) {
        *scale = f16_at(b, 0);
        let mut bytes: [u8; 32] = piece(b, 2);
        for b in &mut bytes {
            *b ^= 0x80;
        }
        *q = bytes;
    }
}

#[inline(always)]
pub(super) fn iq4_nl(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<18>().0.iter().zip(out.quants.as_chunks_mut::<32>().0);
    for ((b, q), scale) in blocks.zip(out.scales.iter_mut()) {
        *scale = f16_at(b, 0);
        *q = nibbles(piece(b, 2));
        for q in q.iter_mut() {
            *q = IQ4_NL[usize::from(*q)];
        }
    }
}
