//! Blocks of 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and IQ4_NL (layouts: `ggml-common.h`).
//!
//! In the 4- and 5-bit formats byte `j` holds weight `j` in its low and weight `j + 16` in its
//! high nibble.

use super::{Unpacked, half_at, piece};
use crate::simd::Simd;

/// The values of IQ4_NL (`kvalues_iq4nl`) plus 128.
pub(super) const IQ4_NL: [u8; 16] =
    [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Bits of `high` as fifth bits of 32 weights.
#[inline(always)]
fn fifth_bits<S: Simd>(s: S, high: [u8; 4], low: S::B) -> S::B {
    s.or_b(low, s.and_b(s.mask_b(u32::from_le_bytes(high)), s.splat_b(16)))
}

/// Blocks of `N` bytes that start with a scale; `quants` makes the 32 bytes.
#[inline(always)]
fn scaled<S: Simd, const N: usize>(
    s: S,
    bytes: &[u8],
    out: &mut Unpacked,
    quants: impl Fn(&[u8; N]) -> S::B,
) {
    let blocks = bytes.as_chunks::<N>().0.iter().zip(out.quants.as_chunks_mut::<32>().0);
    for ((b, q), scale) in blocks.zip(out.scales.iter_mut()) {
        *scale = half_at(s, b, 0);
        s.store_b(q, quants(b));
    }
}

/// The minimums of blocks of `N` bytes, behind the scale.
#[inline(always)]
fn minimums<S: Simd, const N: usize>(s: S, bytes: &[u8], out: &mut Unpacked) {
    for (b, bias) in bytes.as_chunks::<N>().0.iter().zip(out.bias.iter_mut()) {
        *bias = half_at(s, b, 2);
    }
}

#[inline(always)]
pub(super) fn q4_0<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    scaled::<S, 18>(s, bytes, out, |b| s.nibbles(piece(b, 2)));
}

#[inline(always)]
pub(super) fn q4_1<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    scaled::<S, 20>(s, bytes, out, |b| s.nibbles(piece(b, 4)));
    minimums::<S, 20>(s, bytes, out);
}

#[inline(always)]
pub(super) fn q5_0<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    scaled::<S, 22>(s, bytes, out, |b| fifth_bits(s, piece(b, 2), s.nibbles(piece(b, 6))));
}

#[inline(always)]
pub(super) fn q5_1<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    scaled::<S, 24>(s, bytes, out, |b| fifth_bits(s, piece(b, 4), s.nibbles(piece(b, 8))));
    minimums::<S, 24>(s, bytes, out);
}

#[inline(always)]
pub(super) fn q8_0<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    scaled::<S, 34>(s, bytes, out, |b| s.xor_b(s.load_b(&piece(b, 2)), s.splat_b(0x80)));
}

#[inline(always)]
pub(super) fn iq4_nl<S: Simd>(s: S, bytes: &[u8], out: &mut Unpacked) {
    scaled::<S, 18>(s, bytes, out, |b| s.lookup(&IQ4_NL, s.nibbles(piece(b, 2))));
}
