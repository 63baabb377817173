//! Superblocks of 256 weights: Q2_K to Q6_K (layouts: `ggml-common.h`).
//!
//! An f16 scale of the superblock multiplies small integer scales of its sub-blocks; Q2_K, Q4_K
//! and Q5_K also have minimums, which are subtracted.

use super::Unpacked;
use crate::numbers::f16_at;

#[inline(always)]
pub(super) fn q2_k(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<84>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    let factors = out.scales.as_chunks_mut::<16>().0.iter_mut();
    let factors = factors.zip(out.bias.as_chunks_mut::<16>().0);
    for ((b, q), (scales, bias)) in blocks.zip(factors) {
        let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
        for i in 0..16 {
            scales[i] = d * f32::from(b[i] & 15);
            bias[i] = -(dmin * f32::from(b[i] >> 4));
        }
        for half in 0..2 {
            for j in 0..4 {
                for l in 0..32 {
                    q[half * 128 + j * 32 + l] = (b[16 + half * 32 + l] >> (2 * j)) & 3;
                }
            }
        }
    }
}

#[inline(always)]
pub(super) fn q3_k(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<110>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    for ((b, q), scales) in blocks.zip(out.scales.as_chunks_mut::<16>().0) {
        let d = f16_at(b, 108);
        let s = &b[96..108];
        for i in 0..4 {
            let high = s[8 + i];
            let six = [
                (s[i] & 15) | ((high & 3) << 4),
                (s[4 + i] & 15) | (((high >> 2) & 3) << 4),
                (s[i] >> 4) | (((high >> 4) & 3) << 4),
                (s[4 + i] >> 4) | ((high >> 6) << 4),
            ];
            for (j, &six) in six.iter().enumerate() {
                scales[4 * j + i] = d * (i32::from(six) - 32) as f32;
            }
        }
        for half in 0..2 {
            for j in 0..4 {
                for l in 0..32 {
                    let low = (b[32 + half * 32 + l] >> (2 * j)) & 3;
                    let high = (b[l] >> (half * 4 + j)) & 1;
                    q[half * 128 + j * 32 + l] = low | (high << 2);
                }
            }
        }
    }
}

/// The eight 6-bit scales and minimums of Q4_K and Q5_K, times `d` and `-dmin`.
#[inline(always)]
fn scales_and_minimums(header: &[u8; 16], scales: &mut [f32; 8], bias: &mut [f32; 8]) {
    let (d, dmin) = (f16_at(header, 0), f16_at(header, 2));
    let s = &header[4..16];
    for j in 0..4 {
        scales[j] = d * f32::from(s[j] & 63);
        bias[j] = -(dmin * f32::from(s[j + 4] & 63));
        scales[j + 4] = d * f32::from((s[j + 8] & 15) | ((s[j] >> 6) << 4));
        bias[j + 4] = -(dmin * f32::from((s[j + 8] >> 4) | ((s[j + 4] >> 6) << 4)));
    }
}

#[inline(always)]
pub(super) fn q4_k(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<144>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    let factors = out.scales.as_chunks_mut::<8>().0.iter_mut();
    let factors = factors.zip(out.bias.as_chunks_mut::<8>().0);
    for ((b, q), (scales, bias)) in blocks.zip(factors) {
        let Some((header, packed)) = b.split_first_chunk::<16>() else { continue };
        scales_and_minimums(header, scales, bias);
        for (packed, q) in packed.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<64>().0) {
            // By value, see legacy.rs.
            let (packed, mut out) = (*packed, [0; 64]);
            for l in 0..32 {
                out[l] = packed[l] & 15;
                out[l + 32] = packed[l] >> 4;
            }
            *q = out;
        }
    }
}

#[inline(always)]
pub(super) fn q5_k(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<176>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    let factors = out.scales.as_chunks_mut::<8>().0.iter_mut();
    let factors = factors.zip(out.bias.as_chunks_mut::<8>().0);
    for ((b, q), (scales, bias)) in blocks.zip(factors) {
        let Some((header, rest)) = b.split_first_chunk::<16>() else { continue };
        scales_and_minimums(header, scales, bias);
        let Some((&high, packed)) = rest.split_first_chunk::<32>() else { continue };
        let pieces = packed.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<64>().0);
        for (j, (packed, q)) in pieces.enumerate() {
            let (packed, mut out) = (*packed, [0; 64]);
            for l in 0..32 {
                out[l] = (packed[l] & 15) | (((high[l] >> (2 * j)) & 1) << 4);
                out[l + 32] = (packed[l] >> 4) | (((high[l] >> (2 * j + 1)) & 1) << 4);
            }
            *q = out;
        }
    }
}

#[inline(always)]
pub(super) fn q6_k(bytes: &[u8], out: &mut Unpacked) {
    let blocks = bytes.as_chunks::<210>().0.iter().zip(out.quants.as_chunks_mut::<256>().0);
    for ((b, q), scales) in blocks.zip(out.scales.as_chunks_mut::<16>().0) {
        let d = f16_at(b, 208);
        for (scale, &s) in scales.iter_mut().zip(&b[192..208]) {
            *scale = d * f32::from(s.cast_signed());
        }
        for (half, q) in q.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let low = &b[half * 64..half * 64 + 64];
            let high = &b[128 + half * 32..128 + half * 32 + 32];
            for l in 0..32 {
                q[l] = (low[l] & 15) | ((high[l] & 3) << 4);
                q[l + 32] = (low[l + 32] & 15) | (((high[l] >> 2) & 3) << 4);
                q[l + 64] = (low[l] >> 4) | (((high[l] >> 4) & 3) << 4);
                q[l + 96] = (low[l + 32] >> 4) | ((high[l] >> 6) << 4);
            }
        }
    }
}
