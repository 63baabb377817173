//! Tokens as integers of 16 bits, in the two orders that products take.

use super::{STEP, TILE};
use crate::simd::{Avx512Bf16, LANES, Simd};
use std::arch::x86_64::{
    __m512, __m512i, _mm512_castsi128_si512, _mm512_cvtepi32_epi8, _mm512_cvtepi32_epi16,
    _mm512_cvtps_epi32, _mm512_inserti64x4, _mm512_loadu_si512, _mm512_permutexvar_epi16,
    _mm512_shuffle_i64x2,
};

/// Dwords of four columns in [`words`].
pub(super) const FOUR: usize = 4;

/// Of four columns the high bytes of even ones as words, those of odd ones, and four low bytes: from 16
/// words of high bytes and 16 low bytes behind them.
static ORDER: [u16; 32] = {
    let mut order = [0; 32];
    let mut four = 0;
    while four < 4 {
        let mut i = 0;
        while i < 4 {
            order[8 * four + i] = (4 * four + i % 2 * 2 + i / 2) as u16;
            i += 1;
        }
        order[8 * four + 4] = 16 + 2 * four as u16;
        order[8 * four + 5] = 17 + 2 * four as u16;
        four += 1;
    }
    order
};

/// The largest integer, whose high byte can be rounded up.
const LARGEST: f32 = 32512.0;

/// [`LARGEST`]` / max |x|`, and what an integer then stands for. A token with a NaN or an infinity stands for
/// NaN.
#[inline(always)]
fn scale(s: Avx512Bf16, x: &[f32]) -> (__m512, f32) {
    // Bits of |x| order like the values, with NaN above infinity.
    let mut largest = s.splat_i(0);
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        // SAFETY: 16 values.
        let bits = s.bits(unsafe { s.load(x.as_ptr()) });
        largest = s.max_i(largest, s.and_i(bits, s.splat_i(0x7fff_ffff)));
    }
    debug_assert!(rest.is_empty(), "whole blocks");
    let largest = f32::from_bits(s.reduce_max_i(largest).cast_unsigned());
    if !largest.is_finite() {
        return (s.splat(0.0), f32::NAN);
    }
    let inverse = LARGEST / largest;
    // Below 1e-34 it overflows; such a token is zero for all purposes.
    (s.splat(if inverse.is_finite() { inverse } else { 0.0 }), largest / LARGEST)
}

/// 16 values as integers.
#[inline(always)]
unsafe fn round(s: Avx512Bf16, x: &[f32; LANES], inverse: __m512) -> __m512i {
    // SAFETY: 16 values; whoever calls it has AVX-512.
    unsafe { _mm512_cvtps_epi32(s.mul(s.load(x.as_ptr()), inverse)) }
}

/// A token as a row of tiles: of each 64 columns the high bytes and, a tile further, the low ones.
/// Returns its scale.
///
/// # Safety
/// `out` must be a row of so many pairs of tiles; this machine must have AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn digits(x: &[f32], out: *mut u8) -> f32 {
    // SAFETY: by contract.
    unsafe {
        let s = Avx512Bf16::assume();
        let (inverse, scale) = scale(s, x);
        for (index, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
            let v = round(s, x, inverse);
            let col = index * LANES;
            let to = out.add(col / STEP * 2 * TILE + col % STEP);
            s.store_low_bytes(to, s.sra_i(s.add_i(v, s.splat_i(128)), 8));
            s.store_low_bytes(to.add(TILE), v);
        }
        scale
    }
}

/// A token as words, in the order in which [`super::few`] takes them, and behind them the sum of its
/// low bytes. Returns its scale.
///
/// # Safety
/// `out` must have room for a dword more than the token has values; this machine must have AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn words(x: &[f32], out: *mut i32) -> f32 {
    // SAFETY: by contract.
    unsafe {
        let s = Avx512Bf16::assume();
        let (inverse, scale) = scale(s, x);
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        let mut sums = s.splat_i(0);
        for (index, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
            let v = round(s, x, inverse);
            let high = s.sra_i(s.add_i(v, s.splat_i(128)), 8);
            sums = s.add_i(sums, s.sub_i(v, s.shl_i(high, 8)));
            let low = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(v));
            let both = _mm512_inserti64x4::<0>(
                _mm512_shuffle_i64x2::<0x00>(low, low),
                _mm512_cvtepi32_epi16(high),
            );
            let to = out.add(index * FOUR * LANES / 4).cast();
            s.store_i(to, _mm512_permutexvar_epi16(order, both));
        }
        *out.add(x.len()) = s.reduce_add_i(sums);
        scale
    }
}
