//! Integer products: panels of 16 interleaved rows against 8-bit activations.
//!
//! Weights of 16 rows are unpacked to bytes and transposed so that a vector holds four columns of
//! all 16 rows; a lane then is an output. Activations are broadcast, so there is no horizontal
//! sum, and one unpacking serves all tokens. Each output is, over its sub-blocks from left to
//! right, `acc += float(sum q x) * (scale_w * scale_x)`, then `acc += bias_w * sum_x`: the same
//! for one token as for many. The alternative, a dot product per row as ggml has it, needs a
//! reduction per block and about three times the instructions per product in prefill.

use super::activations::QuantizedActivations;
use crate::BlockFormat;
use crate::blocks::{CHUNK, Layout, Unpacked, Width, Zero};
use crate::kernels::Kernels;
use crate::matrix::{GroupMatrix, GroupQuants, GroupZeros, Matrix};
use crate::parallel::OutPtr;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Sub-blocks of a chunk, at most.
const SUBS: usize = CHUNK / 16;

/// Weights that become panels.
pub(super) enum PanelSource<'a> {
    Block { format: BlockFormat, layout: Layout, bytes: &'a [u8] },
    Group(GroupMatrix<'a>),
}

/// One chunk of 16 rows, as stored rows and interleaved.
#[repr(align(64))]
struct Scratch {
    rows: [[u8; CHUNK]; LANES],
    row_scales: [[f32; SUBS]; LANES],
    row_bias: [[f32; SUBS]; LANES],
    /// `[cols / 4, row, 4]`.
    quants: [[u8; CHUNK]; LANES],
    /// `[sub, row]`.
    scales: [[f32; LANES]; SUBS],
    /// `[sub, row]`.
    bias: [[f32; LANES]; SUBS],
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self {
            rows: [[0; CHUNK]; LANES],
            row_scales: [[0.0; SUBS]; LANES],
            row_bias: [[0.0; SUBS]; LANES],
            quants: [[0; CHUNK]; LANES],
            scales: [[0.0; LANES]; SUBS],
            bias: [[0.0; LANES]; SUBS],
        })
    }
}

/// A chunk of 16 rows against some tokens; `acc[t, row] += ...`.
pub(crate) struct PanelTile {
    quants: *const u8,
    scales: *const f32,
    bias: *const f32,
    /// Sub-blocks in the chunk, and the form of the weights.
    subs: usize,
    layout: Layout,
    /// Activations of the first token at the chunk's first column.
    x: *const i8,
    x_scales: *const f32,
    x_sums: *const f32,
    /// Columns of the whole matrix: the distance of tokens.
    cols: usize,
    tokens: usize,
    acc: *mut f32,
}

/// Transposes rows of dwords; see [`Kernels::interleave`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn interleave<S: Simd>(
    s: S,
    src: *const u8,
    stride: usize,
    dst: *mut u8,
    n: usize,
) {
    for i in 0..n {
        // SAFETY: 64 n bytes per row and 1024 n bytes of dst are valid by contract.
        unsafe { s.transpose(src.add(64 * i), stride, dst.add(1024 * i)) }
    }
}

/// Integer dot products of `SUB` columns of 16 rows with `T` tokens that are `stride` apart.
///
/// # Safety
/// The columns must be readable at `w` (interleaved) and at each token.
#[inline(always)]
unsafe fn dot_sub<S: Simd, const SUB: usize, const T: usize>(
    s: S,
    w: *const u8,
    x: *const i8,
    stride: usize,
    width: Width,
) -> [S::I; T] {
    let mut dot = [s.splat_i(0); T];
    // Integer sums are exact in any order: one token alone is spread over four chains to hide the
    // latency of the instruction.
    let mut chains = [s.splat_i(0); 4];
    for i in 0..SUB / 4 {
        // SAFETY: column 4 i of the rows and of each token is in range by contract.
        unsafe {
            let w = s.load_i(w.add(64 * i));
            for (t, dot) in dot.iter_mut().enumerate() {
                let x = s.splat_i(x.add(t * stride + 4 * i).cast::<i32>().read_unaligned());
                let chain = if T == 1 { &mut chains[i % 4] } else { dot };
                *chain = s.dot4(*chain, w, x, width);
            }
        }
    }
    if T == 1 {
        let [a, b, c, d] = chains;
        dot[0] = s.add_i(s.add_i(a, b), s.add_i(c, d));
    }
    dot
}

/// `T` tokens against a chunk.
///
/// # Safety
/// The tile's pointers must cover its shape from `token` on.
#[inline(always)]
unsafe fn tokens<S: Simd, const SUB: usize, const T: usize>(
    s: S,
    tile: &PanelTile,
    width: Width,
    token: usize,
) {
    // SAFETY: all indices lie within the shape by contract.
    unsafe {
        let x = tile.x.add(token * tile.cols);
        let x_scales = tile.x_scales.add(token * (tile.cols / 32));
        let x_sums = tile.x_sums.add(token * (tile.cols / 16));
        let acc_at = tile.acc.add(token * LANES);
        let mut acc = [s.splat(0.0); T];
        for (t, acc) in acc.iter_mut().enumerate() {
            *acc = s.load(acc_at.add(t * LANES));
        }
        for sub in 0..tile.subs {
            let w = tile.quants.add(sub * SUB * LANES);
            let dot = dot_sub::<S, SUB, T>(s, w, x.add(sub * SUB), tile.cols, width);
            let scale = s.load(tile.scales.add(sub * LANES));
            let bias = s.load(tile.bias.add(sub * LANES));
            for (t, (acc, dot)) in acc.iter_mut().zip(dot).enumerate() {
                let x_scale = *x_scales.add(t * (tile.cols / 32) + sub * SUB / 32);
                let sums = x_sums.add(t * (tile.cols / 16) + sub * SUB / 16);
                let x_sum = if SUB == 16 { *sums } else { *sums + *sums.add(1) };
                *acc = s.fma(s.to_f(dot), s.mul(scale, s.splat(x_scale)), *acc);
                *acc = s.fma(bias, s.splat(x_sum), *acc);
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            s.store(acc_at.add(t * LANES), *acc);
        }
    }
}

/// All tokens of a tile, `T` at a time.
///
/// # Safety
/// The tile's pointers must cover its shape.
#[inline(always)]
pub(crate) unsafe fn panel_tile<S: Simd, const T: usize>(s: S, tile: &PanelTile) {
    let mut token = 0;
    while token < tile.tokens {
        let wide = token + T <= tile.tokens;
        // SAFETY: the tokens lie within the tile.
        unsafe {
            use Width::{Eight, Seven};
            match (tile.layout.sub, tile.layout.width, wide) {
                (16, _, true) => tokens::<S, 16, T>(s, tile, Seven, token),
                (16, _, false) => tokens::<S, 16, 1>(s, tile, Seven, token),
                (_, Seven, true) => tokens::<S, 32, T>(s, tile, Seven, token),
                (_, Seven, false) => tokens::<S, 32, 1>(s, tile, Seven, token),
                (_, Eight, true) => tokens::<S, 32, T>(s, tile, Eight, token),
                (_, Eight, false) => tokens::<S, 32, 1>(s, tile, Eight, token),
            }
        }
        token += if wide { T } else { 1 };
    }
}

impl PanelSource<'_> {
    fn layout(&self) -> Layout {
        match self {
            PanelSource::Block { layout, .. } => *layout,
            PanelSource::Group(group) => {
                let width = if group.quants.is_nibbles() { Width::Seven } else { Width::Eight };
                Layout { sub: 32, zero: Zero::Bias, width }
            }
        }
    }

    /// Unpacks columns of a row into uniform form, bias included.
    fn unpack(&self, kernels: &Kernels, w: &Matrix, at: (usize, Range<usize>), out: &mut Unpacked) {
        let (row, cols) = at;
        match *self {
            PanelSource::Block { format, layout, bytes } => {
                let stride = bytes.len() / w.rows;
                let at = |col: usize| col / format.block_len() * format.block_bytes();
                let bytes = &bytes[row * stride..(row + 1) * stride];
                kernels.unpack(format, &bytes[at(cols.start)..at(cols.end)], LANES * stride, out);
                if let Zero::Constant(zero) = layout.zero {
                    for (bias, scale) in out.bias.iter_mut().zip(out.scales.iter()) {
                        *bias = -f32::from(zero) * scale;
                    }
                }
            }
            PanelSource::Group(group) => unpack_group(&group, (row, w.cols), cols, out),
        }
    }
}

/// Columns of a row of a group matrix; sub-blocks of 32 never straddle groups.
fn unpack_group(
    group: &GroupMatrix,
    (row, width): (usize, usize),
    cols: Range<usize>,
    out: &mut Unpacked,
) {
    let mut offset = 0.0;
    match group.quants {
        GroupQuants::Nibbles(q) => {
            let q = &q[row * (width / 2)..][cols.start / 2..cols.end / 2];
            for (pair, &byte) in out.quants.as_chunks_mut::<2>().0.iter_mut().zip(q) {
                *pair = [byte & 15, byte >> 4];
            }
        }
        GroupQuants::Bytes(q) => out.quants.copy_from_slice(&q[row * width..][cols.clone()]),
        GroupQuants::Signed(q) => {
            offset = 128.0;
            for (out, &q) in out.quants.iter_mut().zip(&q[row * width..][cols.clone()]) {
                *out = q.cast_unsigned() ^ 0x80;
            }
        }
    }
    let groups = width.div_ceil(group.group_size);
    let factors = out.scales.iter_mut().zip(out.bias.iter_mut());
    for (col, (scale, bias)) in cols.step_by(32).zip(factors) {
        let g = row * groups + col / group.group_size;
        let zero = match group.zeros {
            GroupZeros::PerGroup(zeros) => f32::from(zeros[g]),
            GroupZeros::Zero => 0.0,
        };
        *scale = group.scales[g];
        *bias = -group.scales[g] * (zero + offset);
    }
}

/// Unpacks and interleaves columns of up to 16 rows; rows past the end keep whatever finite or
/// stale values are there, their outputs are dropped.
fn fill(
    kernels: &Kernels,
    (source, w): (&PanelSource, &Matrix),
    rows: Range<usize>,
    cols: Range<usize>,
    scratch: &mut Scratch,
) {
    let layout = source.layout();
    let (n, subs) = (cols.len(), cols.len() / layout.sub);
    for (i, row) in rows.enumerate() {
        let mut out = Unpacked {
            quants: &mut scratch.rows[i][..n],
            scales: &mut scratch.row_scales[i][..subs],
            bias: &mut scratch.row_bias[i][..subs],
        };
        source.unpack(kernels, w, (row, cols.clone()), &mut out);
    }
    let scales = (scratch.row_scales.as_ptr(), scratch.scales.as_mut_ptr());
    let bias = (scratch.row_bias.as_ptr(), scratch.bias.as_mut_ptr());
    let quants = (scratch.rows.as_ptr().cast::<u8>(), scratch.quants.as_mut_ptr());
    // SAFETY: the buffers hold 16 rows of a whole chunk, a multiple of 64 bytes each, and the
    // transposed ones are as large.
    unsafe {
        kernels.interleave(quants.0, CHUNK, quants.1.cast(), n.div_ceil(64));
        for (from, to) in [scales, bias] {
            kernels.interleave(from.cast(), 4 * SUBS, to.cast(), subs.div_ceil(LANES));
        }
    }
}

/// The outputs of a cell of the grid; row ranges start at multiples of 16.
pub(super) fn product(
    kernels: &Kernels,
    weights: (&PanelSource, &Matrix),
    x: &QuantizedActivations,
    (rows, tokens): (Range<usize>, Range<usize>),
    y: OutPtr,
) {
    let (source, w) = weights;
    let layout = source.layout();
    let mut scratch = Scratch::new();
    let mut acc = vec![0.0f32; tokens.len() * LANES];
    for first in rows.clone().step_by(LANES) {
        let count = LANES.min(rows.end - first);
        acc.fill(0.0);
        for col in (0..w.cols).step_by(CHUNK) {
            let cols = col..w.cols.min(col + CHUNK);
            let subs = cols.len() / layout.sub;
            fill(kernels, weights, first..first + count, cols, &mut scratch);
            let tile = PanelTile {
                quants: scratch.quants.as_ptr().cast(),
                scales: scratch.scales.as_ptr().cast(),
                bias: scratch.bias.as_ptr().cast(),
                subs,
                layout,
                x: x.quants[tokens.start * w.cols + col..].as_ptr(),
                x_scales: x.scales[(tokens.start * w.cols + col) / 32..].as_ptr(),
                x_sums: x.sums[(tokens.start * w.cols + col) / 16..].as_ptr(),
                cols: w.cols,
                tokens: tokens.len(),
                acc: acc.as_mut_ptr(),
            };
            // SAFETY: a chunk of weights lies in the scratch, the tokens lie in the activations,
            // and acc has 16 outputs per token.
            unsafe { kernels.panel_tile(&tile) }
        }
        for (token, acc) in tokens.clone().zip(acc.chunks_exact(LANES)) {
            let out = y.at(token * w.rows + first);
            // SAFETY: `count` outputs of this row range and token; no other task writes them.
            unsafe { std::ptr::copy_nonoverlapping(acc.as_ptr(), out, count) }
        }
    }
}
