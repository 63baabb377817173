//! One token: weights go from memory through registers into its sums.

use super::tokens::FOUR;
use super::{BLOCK, UNIT, factor, fixed, high_bytes, inverse};
use crate::blocks::panel::{Panel, Q8_0, ROWS, Source};
use crate::matmul::FixedPanel;
use crate::simd::{Avx512, Simd};
use std::arch::asm;
use std::arch::x86_64::__m512i;

/// Blocks whose sums fit into 32 bits: 256 products of 16 bits with a byte.
const BLOCKS: usize = 8;

/// Adds the products of words with the high bytes of four columns of the token, and of high bytes, 128
/// more than they are, with the low ones. Written out, since the compiler makes two instructions of each
/// one, against the latency of sums that have others to wait for.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn add_products(
    sums: &mut [__m512i; 3],
    [even, odd]: [__m512i; 2],
    high: __m512i,
    x: *const i32,
) {
    // SAFETY: by contract.
    unsafe {
        asm!(
            "vpdpwssd {a}, {even}, dword ptr [{x}]{{1to16}}",
            "vpdpwssd {b}, {odd}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpbusd {c}, {high}, dword ptr [{x} + 8]{{1to16}}",
            a = inout(zmm_reg) sums[0], b = inout(zmm_reg) sums[1], c = inout(zmm_reg) sums[2],
            even = in(zmm_reg) even, odd = in(zmm_reg) odd, high = in(zmm_reg) high,
            x = in(reg) x,
            options(nostack, readonly, pure, preserves_flags)
        );
    }
}

/// The outputs of a panel for a token of [`super::tokens::words`].
///
/// # Safety
/// The interleaved panel must have so many blocks, the token as many columns; this machine must have
/// AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn one(
    panel: &FixedPanel,
    blocks: usize,
    (x, x_scale): (*const i32, f32),
    out: &mut [f32; ROWS],
) {
    // SAFETY: by contract.
    unsafe {
        let s = Avx512::assume();
        let largest = s.load(panel.largest);
        let inverse = inverse(s, largest);
        let zero = s.splat_i(0);
        // All of it: 65536 `wide[0]` + `wide[1]`.
        let mut wide = [zero; 2];
        let from = Panel::<Q8_0>::new(panel.at);
        let ahead = panel.at.wrapping_add(panel.ahead);
        for first in (0..blocks).step_by(BLOCKS) {
            let mut sums = [zero; 3];
            for index in first..blocks.min(first + BLOCKS) {
                let ahead = ahead.wrapping_add(index * 34 * ROWS);
                s.prefetch(ahead);
                let block = Source::<Avx512>::block(from, index);
                let factor = factor(s, block.half(s, 0), inverse);
                let x = x.add(index * BLOCK);
                for four in 0..BLOCK / 4 {
                    // One at a time: bursts keep loads waiting.
                    s.prefetch(ahead.wrapping_add(64 * (four + 1)));
                    let w = fixed(Source::<Avx512>::dword(block, s, four), factor);
                    let high = high_bytes(w, s.splat_i(0x8080_8080_u32.cast_signed()));
                    add_products(&mut sums, w, high, x.add(FOUR * four));
                }
            }
            let sum = s.add_i(s.add_i(sums[0], sums[1]), sums[2]);
            wide[0] = s.add_i(wide[0], s.sra_i(sum, 16));
            wide[1] = s.add_i(wide[1], s.and_i(sum, s.splat_i(0xffff)));
        }
        let mut parts = [[0i32; ROWS]; 2];
        let mut scales = [0.0; ROWS];
        for (part, wide) in parts.iter_mut().zip(wide) {
            s.store_i(part.as_mut_ptr().cast(), wide);
        }
        s.store(scales.as_mut_ptr(), s.mul(s.mul(largest, s.splat(UNIT)), s.splat(x_scale)));
        let too_much = 128.0 * f64::from(*x.add(blocks * BLOCK));
        let [high, low] = parts.map(|part| part.map(f64::from));
        for (lane, out) in out.iter_mut().enumerate() {
            *out = (high[lane] * 65536.0 + low[lane] - too_much) as f32 * scales[lane];
        }
    }
}
