//! Few tokens: weights go from memory through registers into their sums.

use super::tokens::FOUR;
use super::{BLOCK, BLOCK_BYTES, UNIT, factor, fixed, high_bytes, inverse, largest};
use crate::blocks::panel::{Panel, Q8_0, ROWS, Rows, Source};
use crate::matmul::{FewTokens, FixedPanel};
use crate::simd::{Avx512Bf16, Simd};
use std::arch::asm;
use std::arch::x86_64::{__m512, __m512i};

/// Blocks whose sums fit into 32 bits: 256 products of 16 bits with a byte.
const BLOCKS: usize = 8;

/// Adds the products of words with the high bytes of four columns of a token, and of high bytes, 128 more
/// than they are, with the low ones. Written out, since the compiler makes two instructions of each one,
/// against the latency of sums that have others to wait for.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn add_products(sum: &mut __m512i, [even, odd]: [__m512i; 2], high: __m512i, x: *const i32) {
    // SAFETY: by contract.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {even}, dword ptr [{x}]{{1to16}}",
            "vpdpwssd {sum}, {odd}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpbusd {sum}, {high}, dword ptr [{x} + 8]{{1to16}}",
            sum = inout(zmm_reg) *sum,
            even = in(zmm_reg) even, odd = in(zmm_reg) odd, high = in(zmm_reg) high,
            x = in(reg) x,
            options(nostack, readonly, pure, preserves_flags)
        );
    }
}

/// The outputs of a panel, `[tokens, 16]`, for tokens of [`super::tokens::words`].
///
/// # Safety
/// The panel must have so many blocks, the tokens as many columns; this machine must have AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn few(panel: &FixedPanel, blocks: usize, x: &FewTokens, out: *mut f32) {
    // SAFETY: by contract.
    unsafe {
        let s = Avx512Bf16::assume();
        let largest = largest(s, panel, blocks);
        match panel.stride {
            Some(stride) => {
                // The rows that come next lie behind one another.
                let ahead = (panel.at.wrapping_add(ROWS * stride), BLOCK_BYTES * ROWS);
                let from = Rows::<Q8_0>::new(panel.at, stride);
                all_tokens(s, (from, ahead), (largest, blocks), x, out);
            }
            None => {
                let ahead = (panel.at.wrapping_add(panel.ahead), BLOCK_BYTES * ROWS);
                all_tokens(s, (Panel::<Q8_0>::new(panel.at), ahead), (largest, blocks), x, out);
            }
        }
    }
}

/// Eight, four, two tokens at a time, and one.
///
/// # Safety
/// As for [`few`].
#[inline(always)]
unsafe fn all_tokens<R: Source<Avx512Bf16>>(
    s: Avx512Bf16,
    from: (R, (*const u8, usize)),
    weights: (__m512, usize),
    x: &FewTokens,
    out: *mut f32,
) {
    let mut token = 0;
    // SAFETY: the tokens exist.
    unsafe {
        while token < x.count {
            token += match x.count - token {
                8.. => some_tokens::<R, 8, 1>(s, from, weights, (x, token), out),
                4.. => some_tokens::<R, 4, 2>(s, from, weights, (x, token), out),
                2.. => some_tokens::<R, 2, 2>(s, from, weights, (x, token), out),
                _ => some_tokens::<R, 1, 4>(s, from, weights, (x, token), out),
            };
        }
    }
}

/// `T` tokens, each with `SUMS` sums that do not wait for each other; returns `T`.
///
/// # Safety
/// As for [`few`].
#[inline(always)]
unsafe fn some_tokens<R: Source<Avx512Bf16>, const T: usize, const SUMS: usize>(
    s: Avx512Bf16,
    (from, (ahead, step)): (R, (*const u8, usize)),
    (largest, blocks): (__m512, usize),
    (x, token): (&FewTokens, usize),
    out: *mut f32,
) -> usize {
    // SAFETY: by contract.
    unsafe {
        let inverse = inverse(s, largest);
        let zero = s.splat_i(0);
        let words = x.words.add(token * x.stride);
        // All of a token's: 65536 `wide[0]` + `wide[1]`.
        let mut wide = [[zero; 2]; T];
        for first in (0..blocks).step_by(BLOCKS) {
            let mut sums = [[zero; SUMS]; T];
            for index in first..blocks.min(first + BLOCKS) {
                let ahead = ahead.wrapping_add(index * step);
                s.prefetch(ahead);
                let block = from.block(index);
                let factor = factor(s, block.half(s, 0), inverse);
                let words = words.add(index * BLOCK);
                for quad in 0..2 {
                    let dwords = block.dwords4(s, 4 * quad);
                    for (four, q) in dwords.into_iter().enumerate() {
                        let four = 4 * quad + four;
                        // One at a time: bursts keep loads waiting.
                        s.prefetch(ahead.wrapping_add(64 * (four + 1)));
                        let w = fixed(q, factor);
                        let high = high_bytes(w, s.splat_i(0x8080_8080_u32.cast_signed()));
                        for (t, sums) in sums.iter_mut().enumerate() {
                            let x = words.add(t * x.stride + FOUR * four);
                            add_products(&mut sums[four % SUMS], w, high, x);
                        }
                    }
                }
            }
            for (wide, sums) in wide.iter_mut().zip(sums) {
                let mut sum = sums[0];
                for &further in &sums[1..] {
                    sum = s.add_i(sum, further);
                }
                wide[0] = s.add_i(wide[0], s.sra_i(sum, 16));
                wide[1] = s.add_i(wide[1], s.and_i(sum, s.splat_i(0xffff)));
            }
        }
        for (t, wide) in wide.iter().enumerate() {
            let mut parts = [[0i32; ROWS]; 2];
            let mut scales = [0.0; ROWS];
            for (part, wide) in parts.iter_mut().zip(wide) {
                s.store_i(part.as_mut_ptr().cast(), *wide);
            }
            let x_scale = s.splat(*x.scales.add(token + t));
            s.store(scales.as_mut_ptr(), s.mul(s.mul(largest, s.splat(UNIT)), x_scale));
            let too_much = 128.0 * f64::from(*words.add(t * x.stride + blocks * BLOCK));
            let [high, low] = parts.map(|part| part.map(f64::from));
            for lane in 0..ROWS {
                let sum = high[lane] * 65536.0 + low[lane] - too_much;
                *out.add((token + t) * ROWS + lane) = sum as f32 * scales[lane];
            }
        }
    }
    T
}
