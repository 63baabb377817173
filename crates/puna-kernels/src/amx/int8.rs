//! Products of bytes: a panel of weights against 16 tokens at a time.
//!
//! A sub-block of a panel is a tile as it lies, four columns of 16 rows to a line, and so are its
//! columns of 16 tokens. Tiles sum the integers of a sub-block, vectors scale the sums and add them
//! up in the order of [`crate::matmul::panel_tile`]: integers are exact, so the results are its to
//! the bit.
//!
//! A core with tiles at work has one vector unit less for floats, so this is quicker than products by
//! vectors only where a sub-block has 32 columns and no bias (docs/performance.md). Superblocks have
//! their own way ([`super::superblock`]).

use super::{Config, ROWS, Tiles, WORDS};
use crate::blocks::{Scales, Zero};
use crate::kernels::Kernels;
use crate::matmul::{PANEL_SCALES, PANEL_STRIDE, PanelTile};
use crate::simd::{Avx512Bf16, Simd};
use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::mem::MaybeUninit;

/// Columns of a sub-block.
const SUB: usize = 32;

/// Sub-blocks whose sums lie between tiles and vectors, so that neither waits for the other.
const SLOTS: usize = 4;

/// Sums of sub-blocks, 16 tokens x 16 rows each.
#[repr(C, align(64))]
struct Sums([[i32; ROWS * WORDS]; SLOTS]);

/// Sums, tokens and weights.
static SUB_BLOCKS: Config = {
    let (sums, tokens, weights) = ((16, 64), (16, SUB as u16), (SUB as u8 / 4, 64));
    Config::new([sums, tokens, weights, sums, tokens, weights, (0, 0), (0, 0)])
};

/// [`crate::matmul::panel_tile`], in tiles where these are quicker; the rest by `avx512`.
///
/// # Safety
/// The tile's pointers must cover its shape; this machine must have AMX, and `avx512` be its table.
pub(crate) unsafe fn panel_tile(avx512: &Kernels, tile: &PanelTile) {
    if tile.layout.scales == Scales::Integers {
        // SAFETY: by contract.
        return unsafe { super::superblock::panel_tile(avx512, tile) };
    }
    let whole = match (tile.layout.zero, tile.layout.sub) {
        (Zero::Constant(_), SUB) => tile.tokens / ROWS * ROWS,
        _ => 0,
    };
    // SAFETY: by contract; the tokens lie within the tile.
    unsafe {
        if whole < tile.tokens {
            avx512.panel_tile(&tile.part(whole..tile.tokens));
        }
        if let Zero::Constant(zero) = tile.layout.zero
            && whole > 0
        {
            around_zero(tile, zero);
            let _tiles = Tiles::configure(&SUB_BLOCKS);
            for token in (0..whole).step_by(ROWS) {
                for panel in 0..tile.panels {
                    sixteen(tile, (token, panel));
                }
            }
        }
    }
}

/// Subtracts a constant zero from the weights, which then are signed bytes.
///
/// # Safety
/// The tile's weights must be its own; this machine must have AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn around_zero(tile: &PanelTile, zero: u8) {
    for panel in 0..tile.panels {
        // SAFETY: the integers of a panel's sub-blocks, by contract.
        let quants = unsafe {
            let at = tile.weights.quants.add(panel * PANEL_STRIDE);
            std::slice::from_raw_parts_mut(at, tile.subs * SUB * ROWS)
        };
        quants.iter_mut().for_each(|q| *q = q.wrapping_sub(zero));
    }
}

/// 16 tokens and a panel.
///
/// # Safety
/// The tile's pointers must cover its shape, its weights be signed, and tiles be configured.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn sixteen(tile: &PanelTile, (token, panel): (usize, usize)) {
    let mut sums = MaybeUninit::<Sums>::uninit();
    // SAFETY: all indices lie within the shape by contract.
    unsafe {
        let s = Avx512Bf16::assume();
        let w = tile.weights.quants.add(panel * PANEL_STRIDE).cast_const();
        let w_scales = tile.weights.scales.add(panel * PANEL_SCALES);
        let x = tile.x.x.add(token * tile.cols);
        let x_blocks = tile.cols / SUB;
        let x_scales = tile.x.by_sixteen.add(token * x_blocks);
        let (acc_at, acc_step) =
            (tile.acc.add((token * tile.panels + panel) * WORDS), tile.panels * WORDS);
        let mut acc = [s.splat(0.0); ROWS];
        for (t, acc) in acc.iter_mut().enumerate() {
            *acc = s.load(acc_at.add(t * acc_step));
        }
        let slots = sums.as_mut_ptr().cast::<[i32; ROWS * WORDS]>();
        let slot = |sub: usize| slots.add(sub % SLOTS).cast::<i32>();
        let multiply = |sub: usize| {
            product(((x.add(sub * SUB), tile.cols), w.add(sub * SUB * WORDS)), slot(sub), sub);
        };
        (0..tile.subs.min(SLOTS - 1)).for_each(multiply);
        for sub in 0..tile.subs {
            if sub + SLOTS - 1 < tile.subs {
                multiply(sub + SLOTS - 1);
            }
            // The tokens that come next, spread over the panels.
            for row in 0..4 {
                let row = ROWS + sub % 2 * 8 + panel % 2 * 4 + row;
                _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(row * tile.cols + sub / 2 * 64));
            }
            let sums = slot(sub).cast_const();
            let w_scale = s.load(w_scales.add(sub * WORDS));
            for (t, acc) in acc.iter_mut().enumerate() {
                let scale = s.mul(w_scale, s.splat(*x_scales.add(sub * ROWS + t)));
                *acc = s.fma(s.to_f(s.load_i(sums.add(t * WORDS).cast())), scale, *acc);
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            s.store(acc_at.add(t * acc_step), *acc);
        }
    }
}

/// One sub-block in three of the tiles.
macro_rules! sub_block {
    ($sums:tt, $x:tt, $w:tt, $tokens:ident, $weights:ident, $out:ident) => {
        asm!(
            concat!("tileloadd ", $x, ", [{x} + 1*{stride}]"),
            concat!("tileloadd ", $w, ", [{w} + 1*{line}]"),
            concat!("tilezero ", $sums),
            concat!("tdpbssd ", $sums, ", ", $x, ", ", $w),
            concat!("tilestored [{out} + 1*{line}], ", $sums),
            x = in(reg) $tokens.0, stride = in(reg) $tokens.1, w = in(reg) $weights,
            line = in(reg) 64usize, out = in(reg) $out,
            out($sums) _, out($x) _, out($w) _,
            options(nostack, preserves_flags)
        )
    };
}

/// The integer products of a sub-block of 16 tokens, `stride` bytes apart, and a panel. Those of
/// neighbors use other tiles.
///
/// # Safety
/// Both must be readable, 16 x 16 sums writable at `out`, and tiles configured.
#[inline(always)]
unsafe fn product((x, w): ((*const i8, usize), *const u8), out: *mut i32, number: usize) {
    // SAFETY: by contract.
    unsafe {
        match number % 2 {
            0 => sub_block!("tmm0", "tmm1", "tmm2", x, w, out),
            _ => sub_block!("tmm3", "tmm4", "tmm5", x, w, out),
        }
    }
}
