//! Products of integers of 16 bits: Q8_0 weights with one scale per row, tokens with one each.
//!
//! A weight of Q8_0 is `d q`, with a `d` per 32 columns. As `q (d / D)` in 16 bits, `D` the largest `d` of
//! its row, it is off by at most 1/250 of a step of the row's coarsest block ([`fixed`]), and a token by
//! 1/65,000 of its largest value: far less than activations of 8 bits are. Then a whole row is one sum
//! of integers, and nothing has to be scaled on the way.
//!
//! Both are split into signed bytes, `w = 256 w1 + w0` and `x = 256 x1 + x0`. Tiles sum up `w1 x1` and
//! `w0 x1 + w1 x0`; `w0 x0`, at most 1/65,000 of a product of the largest ones, is left out everywhere.
//! Sums are exact, so tokens in tiles get the bits of a single one by vectors ([`few`]).

mod few;
mod tokens;

use super::{FULL, ROWS, Tiles};
use crate::BlockFormat;
use crate::blocks::panel::{Panel, Q8_0, Rows, Source};
use crate::matmul::{
    FIXED_PANELS, FIXED_SUM_BYTES, FIXED_WEIGHT_BYTES, FixedKernels, FixedPanel, FixedTile,
};
use crate::simd::{Avx512Bf16, Simd};
use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi16,
    _mm512_and_si512, _mm512_castps256_ps512, _mm512_castsi512_si256, _mm512_cvtepi32_pd,
    _mm512_cvtpd_ps, _mm512_cvtps_epi32, _mm512_extracti32x8_epi32, _mm512_fmadd_pd,
    _mm512_insertf32x8, _mm512_mask_i32gather_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_mulhrs_epi16, _mm512_mullo_epi32, _mm512_set1_epi32, _mm512_set1_pd, _mm512_slli_epi16,
    _mm512_slli_epi32, _mm512_srli_epi16, _mm512_ternarylogic_epi32,
};

/// The entry points.
pub(crate) static KERNELS: FixedKernels =
    FixedKernels { digits: tokens::digits, words: tokens::words, few: few::few, multiply };

/// Columns of a row of a tile of bytes.
const STEP: usize = 64;

/// Bytes of a tile.
const TILE: usize = 64 * ROWS;

/// Steps of weights that are unpacked at a time.
const STEPS: usize = FIXED_WEIGHT_BYTES / (2 * TILE);

/// Columns of a block.
const BLOCK: usize = 32;

/// Bytes of a block.
const BLOCK_BYTES: usize = BlockFormat::Q8_0.block_bytes();

/// `F` of a block whose scale is its row's largest: so that quants of -128 leave room to round the high
/// byte up.
const FACTOR: f32 = 32639.0;

/// What weights are multiples of in units of their row's largest scale, times 256: a weight is
/// `256 q F / 2^15`, and sums of products are in units of 256.
const UNIT: f32 = 32768.0 / FACTOR;

/// Weights as words: those of even columns and of odd ones. `factor` holds `F` in both words of each
/// row.
#[inline(always)]
unsafe fn fixed(q: __m512i, factor: __m512i) -> [__m512i; 2] {
    // SAFETY: whoever calls it has AVX-512; registers only.
    unsafe {
        let odd = _mm512_set1_epi32(0xff00_ff00_u32.cast_signed());
        [
            _mm512_mulhrs_epi16(_mm512_slli_epi16::<8>(q), factor),
            _mm512_mulhrs_epi16(_mm512_and_si512(q, odd), factor),
        ]
    }
}

/// The high bytes of words of even and of odd columns, rounded, in the order of the columns.
/// `half` is half of a unit of theirs, and what else is to be added.
#[inline(always)]
unsafe fn high_bytes([a, b]: [__m512i; 2], half: __m512i) -> __m512i {
    // SAFETY: as for `fixed`.
    unsafe {
        let even = _mm512_set1_epi32(0x00ff_00ff);
        let a = _mm512_srli_epi16::<8>(_mm512_add_epi16(a, half));
        _mm512_ternarylogic_epi32::<0xca>(even, a, _mm512_add_epi16(b, half))
    }
}

/// `F` of a block, twice in each row.
#[inline(always)]
unsafe fn factor(s: Avx512Bf16, scale: __m512, inverse: __m512) -> __m512i {
    // SAFETY: as for `fixed`.
    unsafe {
        let whole = _mm512_cvtps_epi32(s.mul(scale, inverse));
        let low = _mm512_set1_epi32(0xffff);
        // (whole << 16) | (whole & 0xffff)
        _mm512_ternarylogic_epi32::<0xf8>(_mm512_slli_epi32::<16>(whole), whole, low)
    }
}

/// [`FACTOR`]` / D`, or zero for rows of zeros.
#[inline(always)]
fn inverse(s: Avx512Bf16, largest: __m512) -> __m512 {
    let zero = s.splat(0.0);
    s.select_lt(zero, largest, s.div(s.splat(FACTOR), largest), zero)
}

/// The largest scales of 16 rows.
///
/// # Safety
/// The panel must have so many blocks.
#[inline(always)]
unsafe fn largest(s: Avx512Bf16, panel: &FixedPanel, blocks: usize) -> __m512 {
    // SAFETY: by contract.
    unsafe {
        let Some(stride) = panel.stride.filter(|_| panel.largest.is_null()) else {
            return s.load(panel.largest);
        };
        // Bits of |scale| order like the values, with NaN above infinity.
        let mut most = [0u16; ROWS];
        let offsets = _mm512_mullo_epi32(s.load_i(LANES_AT.as_ptr().cast()), s.splat_i(34));
        for (row, most) in most.iter_mut().enumerate() {
            let row = panel.at.add(row * stride);
            let mut bits = s.splat_i(0);
            for first in (0..blocks).step_by(16) {
                // A block has more than the four bytes that are read of it.
                let mask = (0xffff_u32 >> 16usize.saturating_sub(blocks - first)) as u16;
                let scales = _mm512_mask_i32gather_epi32::<1>(
                    s.splat_i(0),
                    mask,
                    offsets,
                    row.add(34 * first).cast(),
                );
                bits = s.max_i(bits, s.and_i(scales, s.splat_i(0x7fff)));
            }
            *most = s.reduce_max_i(bits) as u16;
        }
        s.load_f16(most.as_ptr().cast())
    }
}

/// The numbers of lanes.
static LANES_AT: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// All tokens of a tile.
///
/// # Safety
/// Its pointers must cover its shape; this machine must have AMX.
unsafe fn multiply(tile: &FixedTile) {
    // SAFETY: by contract.
    unsafe { in_pieces(tile) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn in_pieces(tile: &FixedTile) {
    // SAFETY: by contract.
    unsafe {
        let s = Avx512Bf16::assume();
        let _tiles = Tiles::configure(&FULL);
        let mut scales = [s.splat(0.0); FIXED_PANELS];
        for (scale, panel) in scales.iter_mut().zip(tile.panels) {
            *scale = largest(s, panel, tile.blocks);
        }
        let steps = tile.blocks.div_ceil(2);
        for first in (0..steps).step_by(STEPS) {
            let part = Part { first, steps: STEPS.min(steps - first), of: steps };
            let blocks = (2 * first, (2 * part.steps).min(tile.blocks - 2 * first));
            for pair in (0..tile.panels.len()).step_by(2) {
                let (two, ask) = (pair..tile.panels.len().min(pair + 2), tile.panels.len() <= 2);
                for panel in two.clone() {
                    let to = tile.weights.add((panel - pair) * FIXED_WEIGHT_BYTES);
                    let inverse = inverse(s, scales[panel]);
                    unpack(s, &tile.panels[panel], (blocks, ask), inverse, to);
                }
                let mut ahead = Ahead::new(tile, pair, part);
                for token in (0..tile.tokens).step_by(ROWS) {
                    sixteen(s, tile, (pair, token), part, &mut ahead);
                    if part.is_last() {
                        for panel in two.clone() {
                            finish(s, tile, (panel, token), scales[panel]);
                        }
                    }
                }
            }
        }
    }
}

/// Some of the steps of a row.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    steps: usize,
    /// All of them.
    of: usize,
}

impl Part {
    fn is_last(self) -> bool {
        self.first + self.steps == self.of
    }
}

/// The weights that are unpacked next, which are asked for a few lines at a time: they come from memory.
struct Ahead {
    /// The first lines of 16 rows each, how many, and the bytes from row to row.
    panels: [*const u8; 2],
    row: usize,
    lines: usize,
    /// Lines asked for so far, and at a time.
    next: usize,
    each: usize,
}

impl Ahead {
    #[inline(always)]
    fn new(tile: &FixedTile, pair: usize, part: Part) -> Self {
        // The next panels at these columns, then the first ones at the next.
        let same = pair + 2 < tile.panels.len();
        let panel = if same { pair + 2 } else { 0 };
        let block = 2 * (part.first + if same { 0 } else { part.steps });
        let blocks =
            if same { 2 * part.steps } else { 2 * STEPS }.min(tile.blocks.saturating_sub(block));
        let at = |index: usize| {
            let panel = &tile.panels[(panel + index).min(tile.panels.len() - 1)];
            let bytes = block * BLOCK_BYTES;
            panel.at.wrapping_add(if panel.stride.is_some() { bytes } else { ROWS * bytes })
        };
        let row = tile.panels[panel].stride.unwrap_or(blocks * BLOCK_BYTES);
        let lines = (blocks * BLOCK_BYTES).div_ceil(64);
        // Few tokens leave no time for it, and find their rows in the cache where scales were looked for.
        let slots = part.steps * tile.tokens.div_ceil(ROWS);
        let few = tile.panels.len() <= 2;
        let each = if few { 0 } else { (2 * ROWS * lines).div_ceil(slots) };
        Self { panels: [at(0), at(1)], row, lines, next: 0, each }
    }

    /// Asks for the next ones.
    #[inline(always)]
    fn ask(&mut self, s: Avx512Bf16) {
        for _ in 0..self.each {
            let (row, line) = (self.next / self.lines, self.next % self.lines);
            if row < 2 * ROWS {
                let at = self.panels[row / ROWS].wrapping_add(row % ROWS * self.row + 64 * line);
                s.prefetch(at);
            }
            self.next += 1;
        }
    }
}

/// Some blocks of a panel, the first and how many, as tiles of high and low bytes, step after step. Those
/// two panels further are asked for meanwhile, if they come next.
///
/// # Safety
/// The panel must have them, and `to` room for them.
#[inline(always)]
unsafe fn unpack(
    s: Avx512Bf16,
    panel: &FixedPanel,
    (blocks, ask): ((usize, usize), bool),
    inverse: __m512,
    to: *mut u8,
) {
    // SAFETY: by contract.
    unsafe {
        match panel.stride {
            Some(stride) => {
                let from = Rows::<Q8_0>::new(panel.at, stride);
                let at = 2 * ROWS * stride + blocks.0 * BLOCK_BYTES;
                let ahead = ask.then_some((panel.at.wrapping_add(at), stride));
                unpack_from(s, from, blocks, ahead, inverse, to);
            }
            None => {
                let from = Panel::<Q8_0>::new(panel.at);
                let at = 2 * panel.bytes + blocks.0 * BLOCK_BYTES * ROWS;
                let ahead = ask.then_some((panel.at.wrapping_add(at), BLOCK_BYTES * ROWS));
                unpack_from(s, from, blocks, ahead, inverse, to);
            }
        }
    }
}

/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn unpack_from<R: Source<Avx512Bf16>>(
    s: Avx512Bf16,
    from: R,
    (first, count): (usize, usize),
    ahead: Option<(*const u8, usize)>,
    inverse: __m512,
    to: *mut u8,
) {
    // SAFETY: by contract; a step has 16 rows of four columns in each digit.
    unsafe {
        let even = s.splat_i(0x00ff_00ff);
        for index in 0..count {
            let block = from.block(first + index);
            let factor = factor(s, block.half(s, 0), inverse);
            let to = to.add(index / 2 * 2 * TILE + index % 2 * TILE / 2);
            if let Some((at, stride)) = ahead {
                // Sixteen rows have as much in sixteen blocks as one block has of all.
                for line in 0..9 {
                    s.prefetch(at.wrapping_add(index * stride + 64 * line));
                }
            }
            for four in 0..2 {
                let dwords = block.dwords4(s, 4 * four);
                for (line, q) in dwords.into_iter().enumerate() {
                    let [a, b] = fixed(q, factor);
                    let to = to.add(64 * (4 * four + line));
                    let low = _mm512_ternarylogic_epi32::<0xca>(even, a, _mm512_slli_epi16::<8>(b));
                    s.store_i(to, high_bytes([a, b], s.splat_i(0x0080_0080)));
                    s.store_i(to.add(TILE), low);
                }
            }
        }
        if count % 2 == 1 {
            let to = to.add(count / 2 * 2 * TILE + TILE / 2);
            to.write_bytes(0, TILE / 2);
            to.add(TILE).write_bytes(0, TILE / 2);
        }
    }
}

/// 16 tokens and two panels, or one twice, along some steps of all.
///
/// # Safety
/// The tile's pointers must cover its shape, its weights be unpacked, and tiles be configured.
#[inline(always)]
unsafe fn sixteen(
    s: Avx512Bf16,
    tile: &FixedTile,
    (pair, token): (usize, usize),
    part: Part,
    ahead: &mut Ahead,
) {
    let second = (tile.panels.len() - 1).min(pair + 1);
    // SAFETY: by contract. Nothing else touches tiles from one block of instructions to the next.
    unsafe {
        let [to0, to1] = [pair, second].map(|panel| tile.sums_at(panel, token));
        if part.first == 0 {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem, preserves_flags)
            );
        } else {
            asm!(
                "tileloadd tmm0, [{a} + 1*{line}]",
                "tileloadd tmm1, [{a} + 1*{line} + 1024]",
                "tileloadd tmm2, [{b} + 1*{line}]",
                "tileloadd tmm3, [{b} + 1*{line} + 1024]",
                a = in(reg) to0, b = in(reg) to1, line = in(reg) STEP,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, preserves_flags, readonly)
            );
        }
        let [w0, w1] = [0, second - pair].map(|panel| tile.weights.add(panel * FIXED_WEIGHT_BYTES));
        let x = tile.x.add((token / ROWS * part.of + part.first) * 2 * TILE);
        // What these tokens have for the next steps, a share with each pair: the third-level cache is too
        // slow for tiles.
        let lines = 2 * TILE / 64 / tile.panels.len().div_ceil(2);
        let lines = if part.is_last() { 0 } else { lines };
        let next = x.wrapping_add(part.steps * (2 * TILE + pair / 2 * 64 * lines));
        for step in 0..part.steps {
            let at = step * 2 * TILE;
            ahead.ask(s);
            for line in 0..lines {
                s.prefetch(next.wrapping_add(64 * (step * lines + line)));
            }
            if part.is_last() {
                // Where their outputs go.
                for t in 0..ROWS / STEPS {
                    let t = token + t + ROWS / STEPS * step;
                    let y = tile.to.y.wrapping_add(t * tile.to.stride);
                    _mm_prefetch::<_MM_HINT_ET0>(y.wrapping_add(tile.panels[pair].row).cast());
                    _mm_prefetch::<_MM_HINT_ET0>(y.wrapping_add(tile.panels[second].row).cast());
                }
            }
            // The sums of the next tokens.
            for line in 0..FIXED_SUM_BYTES / 64 / STEPS {
                let line = FIXED_SUM_BYTES + 64 * (FIXED_SUM_BYTES / 64 / STEPS * step + line);
                _mm_prefetch::<_MM_HINT_T0>(to0.wrapping_add(line).cast());
                _mm_prefetch::<_MM_HINT_T0>(to1.wrapping_add(line).cast());
            }
            multiply_step(x.add(at), w0.add(at), w1.add(at));
        }
        asm!(
            "tilestored [{a} + 1*{line}], tmm0",
            "tilestored [{a} + 1*{line} + 1024], tmm1",
            "tilestored [{b} + 1*{line}], tmm2",
            "tilestored [{b} + 1*{line} + 1024], tmm3",
            a = in(reg) to0, b = in(reg) to1, line = in(reg) STEP,
            options(nostack, preserves_flags)
        );
    }
}

/// 64 columns of 16 tokens with those of two panels, each in two digits.
///
/// # Safety
/// As for [`sixteen`].
#[inline(always)]
unsafe fn multiply_step(x: *const u8, w0: *const u8, w1: *const u8) {
    // SAFETY: by contract.
    unsafe {
        asm!(
            "tileloaddt1 tmm4, [{x} + 1*{line}]",
            "tileloadd tmm6, [{a} + 1*{line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{a} + 1*{line} + 1024]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tileloaddt1 tmm5, [{x} + 1*{line} + 1024]",
            "tileloadd tmm7, [{b} + 1*{line}]",
            "tdpbssd tmm2, tmm4, tmm7",
            "tdpbssd tmm1, tmm5, tmm6",
            "tileloadd tmm6, [{b} + 1*{line} + 1024]",
            "tdpbssd tmm3, tmm4, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            x = in(reg) x, a = in(reg) w0, b = in(reg) w1, line = in(reg) STEP,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// `float(256 high + unlike)`: integers below 2^53, so rounded once.
#[inline(always)]
unsafe fn float(high: __m512i, unlike: __m512i) -> __m512 {
    // SAFETY: as for `fixed`.
    unsafe {
        let half = |high, unlike| {
            let (high, unlike) = (_mm512_cvtepi32_pd(high), _mm512_cvtepi32_pd(unlike));
            _mm512_cvtpd_ps(_mm512_fmadd_pd(high, _mm512_set1_pd(256.0), unlike))
        };
        let second = |v| _mm512_extracti32x8_epi32::<1>(v);
        let a = half(_mm512_castsi512_si256(high), _mm512_castsi512_si256(unlike));
        let b = half(second(high), second(unlike));
        _mm512_insertf32x8::<1>(_mm512_castps256_ps512(a), b)
    }
}

/// Writes the outputs of 16 tokens, or as many as there are, and a panel.
///
/// # Safety
/// As for [`sixteen`], whose sums are complete.
#[inline(always)]
unsafe fn finish(s: Avx512Bf16, tile: &FixedTile, (panel, token): (usize, usize), largest: __m512) {
    let FixedPanel { lanes, row, .. } = tile.panels[panel];
    let mask: __mmask16 = lanes;
    // SAFETY: by contract.
    unsafe {
        let scale = s.mul(largest, s.splat(UNIT));
        let sums = tile.sums_at(panel, token).cast::<u8>();
        for t in 0..ROWS.min(tile.tokens - token) {
            let at = sums.add(64 * t);
            let sum = float(s.load_i(at), s.load_i(at.add(TILE)));
            let y = s.mul(sum, s.mul(scale, s.splat(*tile.x_scales.add(token + t))));
            let to = tile.to.y.wrapping_add((token + t) * tile.to.stride).wrapping_add(row);
            let y = if tile.to.add { s.add(_mm512_maskz_loadu_ps(mask, to), y) } else { y };
            _mm512_mask_storeu_ps(to, mask, y);
        }
    }
}
