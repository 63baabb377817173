//! Products of superblocks: a panel of weights against 16 tokens at a time.
//!
//! A weight times the integer scale of its sub-block is an integer of up to 13 bits. Split into two bytes
//! it goes through tiles of bytes, whose sums run over the whole superblock: 256 columns and not 16 or
//! 32 lie between two roundings. Minimums times sums of tokens are integers, too, below 2^24, and
//! tiles of bfloat16 are exact for these. So the results are those of [`crate::matmul::panel_tile`] to
//! the bit.

use super::{FULL, ROWS, Tiles, WORDS};
use crate::blocks::panel::add_minimums;
use crate::blocks::{CHUNK, SUPERBLOCK, Zero};
use crate::kernels::Kernels;
use crate::matmul::{PANEL_SCALES, PANEL_STRIDE, PANEL_SUPERS, PanelTile};
use crate::simd::{Avx512Bf16, Simd};
use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::mem::MaybeUninit;

/// Columns of a row of a tile of bytes.
const STEP: usize = 64;

/// Bytes of a tile.
const TILE: usize = 64 * ROWS;

/// Superblocks of a chunk.
const SUPERS: usize = CHUNK / SUPERBLOCK;

/// Panels at a time.
const PANELS: usize = 2;

/// Superblocks whose sums lie between tiles and vectors, so that neither waits for the other.
const SLOTS: usize = 2;

/// Weights of a chunk of a panel, times their sub-blocks' scales, as tiles.
#[repr(C, align(64))]
struct Weights {
    /// Low bytes, `[cols / 4, 16, 4]`.
    low: [u8; CHUNK * ROWS],
    /// High bytes, signed.
    high: [u8; CHUNK * ROWS],
    /// Of each superblock pairs of minimums as bfloat16, `[16 rows of a tile, 16]`: those that meet the
    /// high digits of sums and once more those that meet the low ones, then zeros.
    minimums: [[u32; ROWS * WORDS]; SUPERS],
}

/// Sums of a superblock, 16 tokens x 16 rows each.
#[repr(C, align(64))]
struct Sums {
    low: [i32; ROWS * WORDS],
    high: [i32; ROWS * WORDS],
    minimums: [f32; ROWS * WORDS],
}

/// The tokens of a tile in whole sixteens, the rest by `avx512`.
///
/// # Safety
/// The tile's pointers must cover its shape; its weights have superblocks; this machine must have AMX,
/// and `avx512` be its table.
pub(super) unsafe fn panel_tile(avx512: &Kernels, tile: &PanelTile) {
    let whole = tile.tokens / ROWS * ROWS;
    // SAFETY: by contract; the tokens lie within the tile.
    unsafe {
        if whole < tile.tokens {
            avx512.panel_tile(&tile.part(whole..tile.tokens));
        }
        if whole == 0 {
            return;
        }
        let mut weights = MaybeUninit::<[Weights; PANELS]>::uninit();
        let mut sums = MaybeUninit::<[[Sums; PANELS]; SLOTS]>::uninit();
        let (weights, sums) = (weights.as_mut_ptr().cast(), sums.as_mut_ptr().cast());
        let _tiles = Tiles::configure(&FULL);
        match (tile.layout.zero, tile.layout.sub) {
            (Zero::Constant(zero), _) => {
                scale::<16, false>(tile, zero, weights);
                tokens::<16, false>(tile, whole, weights, sums);
            }
            (Zero::Bias, 16) => {
                scale::<16, true>(tile, 0, weights);
                tokens::<16, true>(tile, whole, weights, sums);
            }
            (Zero::Bias, _) => {
                scale::<32, true>(tile, 0, weights);
                tokens::<32, true>(tile, whole, weights, sums);
            }
        }
    }
}

/// Weights times scales, in two bytes each.
///
/// # Safety
/// The tile's weights must be readable in this form and `out` writable; this machine must have AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn scale<const SUB: usize, const BIAS: bool>(tile: &PanelTile, zero: u8, out: *mut Weights) {
    for panel in 0..tile.panels {
        // SAFETY: by contract.
        unsafe { scale_panel::<SUB, BIAS>(tile, (panel, zero), out.add(panel)) }
    }
}

/// # Safety
/// As for [`scale`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn scale_panel<const SUB: usize, const BIAS: bool>(
    tile: &PanelTile,
    (panel, zero): (usize, u8),
    out: *mut Weights,
) {
    let subs = SUPERBLOCK / SUB;
    let zeros = i32::from(zero) << 16 | i32::from(zero);
    // SAFETY: all indices lie within a chunk by contract.
    unsafe {
        let s = Avx512Bf16::assume();
        let quants = tile.weights.quants.add(panel * PANEL_STRIDE).cast_const();
        let scales = tile.weights.scales.add(panel * PANEL_SCALES).cast_const();
        let (low, high) = (&raw mut (*out).low, &raw mut (*out).high);
        let (low, high) = (low.cast::<u8>(), high.cast::<u8>());
        let (even, zeros) = (s.splat_i(0x00ff_00ff), s.splat_i(zeros));
        for sub in 0..tile.subs {
            let word = s.and_i(s.load_i(scales.add(sub * ROWS).cast()), s.splat_i(0xffff));
            let factor = s.or_i(word, s.shl_i(word, 16));
            for four in sub * SUB / 4..(sub + 1) * SUB / 4 {
                let q = s.load_i(quants.add(64 * four));
                let times = |q| {
                    let q = if BIAS { q } else { s.sub_words(q, zeros) };
                    s.mul_words(q, factor)
                };
                let a = times(s.and_i(q, even));
                let b = times(s.and_i(s.shr_i(q, 8), even));
                // Bytes of words: a's are even columns, b's odd ones.
                let odd = s.splat_i(0xff00_ff00_u32.cast_signed());
                let shifted = s.and_i(s.shl_i(b, 8), odd);
                s.store_i(low.add(64 * four), s.or_i(s.and_i(a, even), shifted));
                let shifted = s.and_i(s.shr_i(a, 8), even);
                s.store_i(high.add(64 * four), s.or_i(shifted, s.and_i(b, odd)));
            }
        }
        if !BIAS {
            return;
        }
        let packed = tile.weights.bias.add(panel * PANEL_SCALES).cast_const();
        for index in 0..tile.subs / subs {
            let to = (&raw mut (*out).minimums).cast::<u8>().add(index * TILE);
            for row in 0..ROWS {
                // Two digits of `subs` minimums, two to a row.
                let pair = if row < subs { Some(row % (subs / 2)) } else { None };
                let words = pair.map_or(s.splat_i(0), |pair| {
                    let four = packed.add((index * subs / 4 + pair / 2) * ROWS).cast();
                    let two = s.shr_i(s.load_i(four), 16 * (pair % 2) as u32);
                    let byte = |shift| s.to_f(s.and_i(s.shr_i(two, shift), s.splat_i(0xff)));
                    s.pair_bf16(byte(0), byte(8))
                });
                s.store_i(to.add(64 * row), words);
            }
        }
    }
}

/// All tokens of the panels, 16 at a time, superblock after superblock.
///
/// # Safety
/// The tile's pointers must cover its shape, `weights` be its own, and tiles be configured.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn tokens<const SUB: usize, const BIAS: bool>(
    tile: &PanelTile,
    whole: usize,
    weights: *const Weights,
    sums: *mut [Sums; PANELS],
) {
    let count = whole / ROWS;
    let slot = |number: usize| sums.wrapping_add(number % SLOTS).cast::<Sums>();
    // SAFETY: all indices lie within the shape by contract.
    unsafe {
        for index in 0..tile.subs * SUB / SUPERBLOCK {
            let product = Product::<SUB, BIAS> { tile, index, weights };
            for number in 0..=count {
                if number < count {
                    product.multiply(number * ROWS, slot(number));
                }
                if let Some(before) = number.checked_sub(1) {
                    product.add(before * ROWS, slot(before));
                }
            }
        }
    }
}

/// A superblock of one or two panels against the tokens of a tile.
struct Product<'a, const SUB: usize, const BIAS: bool> {
    tile: &'a PanelTile,
    index: usize,
    weights: *const Weights,
}

impl<const SUB: usize, const BIAS: bool> Product<'_, SUB, BIAS> {
    /// The first panel and the last, which may be the same.
    #[inline(always)]
    fn panels(&self) -> [*const Weights; PANELS] {
        [self.weights, self.weights.wrapping_add(self.tile.panels - 1)]
    }

    /// The integers of 16 tokens.
    ///
    /// # Safety
    /// As for [`tokens`].
    #[inline(always)]
    unsafe fn multiply(&self, token: usize, sums: *mut Sums) {
        // SAFETY: by contract. Nothing else touches tiles from one to the next.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem, preserves_flags)
            );
            for step in 0..SUPERBLOCK / STEP {
                self.multiply_step(token, step);
            }
            asm!(
                "tilestored [{to0} + 1*{line}], tmm0",
                "tilestored [{to0} + 1*{line} + 1024], tmm1",
                "tilestored [{to1} + 1*{line}], tmm2",
                "tilestored [{to1} + 1*{line} + 1024], tmm3",
                line = in(reg) STEP, to0 = in(reg) sums, to1 = in(reg) sums.add(1),
                options(nostack, preserves_flags)
            );
            if BIAS {
                self.multiply_minimums(token, sums);
            }
        }
    }

    /// 64 columns of 16 tokens with those of both panels.
    ///
    /// # Safety
    /// As for [`tokens`].
    #[inline(always)]
    unsafe fn multiply_step(&self, token: usize, step: usize) {
        let [first, second] = self.panels();
        let x = token * self.tile.cols + self.index * SUPERBLOCK + STEP * step;
        let at = self.index * SUPERBLOCK * ROWS + TILE * step;
        // SAFETY: by contract.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + 1*{stride}]",
                "tileloadd tmm5, [{low0} + 1*{line}]",
                "tdpbsud tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{high0} + 1*{line}]",
                "tdpbssd tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{low1} + 1*{line}]",
                "tdpbsud tmm2, tmm4, tmm7",
                "tileloadd tmm5, [{high1} + 1*{line}]",
                "tdpbssd tmm3, tmm4, tmm5",
                x = in(reg) self.tile.x.x.add(x), stride = in(reg) self.tile.cols,
                line = in(reg) STEP,
                low0 = in(reg) (&raw const (*first).low).cast::<u8>().add(at),
                high0 = in(reg) (&raw const (*first).high).cast::<u8>().add(at),
                low1 = in(reg) (&raw const (*second).low).cast::<u8>().add(at),
                high1 = in(reg) (&raw const (*second).high).cast::<u8>().add(at),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags)
            );
        }
    }

    /// The minimums of both panels times the digits of 16 tokens' sums.
    ///
    /// # Safety
    /// As for [`tokens`].
    #[inline(always)]
    unsafe fn multiply_minimums(&self, token: usize, sums: *mut Sums) {
        let x_subs = self.tile.cols / SUB;
        let at = 2 * (token * x_subs + self.index * (SUPERBLOCK / SUB));
        let [first, second] = self.panels();
        // SAFETY: by contract.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{x} + 1*{stride}]",
                "tileloadd tmm5, [{w0} + 1*{line}]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{w1} + 1*{line}]",
                "tdpbf16ps tmm1, tmm4, tmm6",
                "tilestored [{to0} + 1*{line}], tmm0",
                "tilestored [{to1} + 1*{line}], tmm1",
                x = in(reg) self.tile.x.words.add(at), stride = in(reg) 4 * x_subs,
                line = in(reg) STEP,
                w0 = in(reg) (&raw const (*first).minimums).cast::<u8>().add(self.index * TILE),
                w1 = in(reg) (&raw const (*second).minimums).cast::<u8>().add(self.index * TILE),
                to0 = in(reg) &raw mut (*sums).minimums,
                to1 = in(reg) &raw mut (*sums.add(1)).minimums,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack, preserves_flags)
            );
        }
    }

    /// Adds the integers of 16 tokens, as floats, to their sums.
    ///
    /// # Safety
    /// As for [`tokens`].
    #[inline(always)]
    unsafe fn add(&self, token: usize, sums: *const Sums) {
        let Self { tile, index, .. } = *self;
        let supers = tile.cols / SUPERBLOCK;
        // SAFETY: by contract.
        unsafe {
            let s = Avx512Bf16::assume();
            let step = tile.panels * WORDS;
            for panel in 0..tile.panels {
                let at = tile.weights.supers.add(panel * PANEL_SUPERS + 2 * index * ROWS);
                let d = s.load(at);
                let minus = if BIAS { s.load(at.add(ROWS)) } else { s.splat(0.0) };
                let low = (&raw const (*sums.add(panel)).low).cast::<u8>();
                let high = (&raw const (*sums.add(panel)).high).cast::<u8>();
                let minimums = (&raw const (*sums.add(panel)).minimums).cast::<f32>();
                let x_scales = tile.x.by_sixteen.add(token * supers + index * ROWS);
                let acc = tile.acc.add(token * step + panel * WORDS);
                // Of the tokens behind those that are being multiplied.
                let x = (token + 2 * ROWS) * tile.cols + index * SUPERBLOCK;
                let ahead = tile.x.x.wrapping_add(x + panel * SUPERBLOCK / PANELS);
                for t in 0..ROWS {
                    let ahead = ahead.wrapping_add(t * tile.cols);
                    _mm_prefetch::<_MM_HINT_T0>(ahead);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(STEP));
                    let high = s.shl_i(s.load_i(high.add(64 * t)), 8);
                    let sum = s.add_i(high, s.load_i(low.add(64 * t)));
                    let minus =
                        if BIAS { Some((minus, s.load(minimums.add(WORDS * t)))) } else { None };
                    let acc = acc.add(t * step);
                    let to = (s.splat(*x_scales.add(t)), s.load(acc));
                    s.store(acc, add_minimums(s, (d, sum), minus, to));
                }
            }
        }
    }
}
