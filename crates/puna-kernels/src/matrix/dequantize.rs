//! Rows of any matrix as f32, in the arithmetic of the reference dequantizers.

use super::{Absmax, CodebookMatrix, Fp8Matrix, GroupMatrix, GroupPanels, GroupQuants, GroupZeros};
use super::{Matrix, MatrixData, nibble_place, nibble_row_bytes};
use crate::blocks::panel::ROWS;
use crate::blocks::{CHUNK, Layout, Unpacked, Zero, layout};
use crate::numbers::e4m3_to_f32;
use crate::panels::row_blocks;
use crate::simd::{LANES, Simd};
use crate::{BlockFormat, Kernels};
use std::ops::Range;

/// Room for one chunk of unpacked weights.
pub(crate) struct DequantizeScratch {
    quants: [u8; CHUNK],
    scales: [f32; CHUNK / 16],
    bias: [f32; CHUNK / 16],
}

impl DequantizeScratch {
    pub(crate) fn new() -> Self {
        Self { quants: [0; CHUNK], scales: [0.0; CHUNK / 16], bias: [0.0; CHUNK / 16] }
    }
}

impl Matrix<'_> {
    /// One row in f32, in the order of the input features.
    ///
    /// For block formats the result is bitwise that of ggml's reference dequantizers.
    ///
    /// # Shapes
    /// `out`: `[cols]`.
    ///
    /// # Panics
    /// If the buffers do not fit the shape, `row` is not a row or `out` has another length.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        Kernels::get().dequantize_row(self, row, out);
    }
}

impl Kernels {
    /// [`Matrix::dequantize_row`] with this instruction set.
    ///
    /// # Panics
    /// As there.
    pub fn dequantize_row(&self, w: &Matrix, row: usize, out: &mut [f32]) {
        if let Err(error) = w.check_sizes() {
            panic!("dequantize_row: {error}");
        }
        assert!(row < w.rows, "row {row} of {}", w.rows);
        assert_eq!(out.len(), w.cols, "columns");
        let mut scratch = DequantizeScratch::new();
        if let Some(order) = w.input_order() {
            let mut stored = vec![0.0; w.cols];
            dequantize_cols(self, w, row, 0..w.cols, (&mut stored, &mut scratch));
            for (&source, value) in order.iter().zip(stored) {
                out[source as usize] = value;
            }
        } else {
            dequantize_cols(self, w, row, 0..w.cols, (out, &mut scratch));
        }
    }
}

/// Columns `cols` of a row in stored order. Sizes are checked by the caller; for block formats
/// the range starts and ends at a block.
pub(crate) fn dequantize_cols(
    kernels: &Kernels,
    w: &Matrix,
    row: usize,
    cols: Range<usize>,
    (out, scratch): (&mut [f32], &mut DequantizeScratch),
) {
    match w.data {
        MatrixData::Block { format, bytes, .. } => {
            let stride = bytes.len() / w.rows;
            let at = |col: usize| row * stride + col / format.block_len() * format.block_bytes();
            let bytes = &bytes[at(cols.start)..at(cols.end)];
            let Some(layout) = layout(format) else {
                kernels.widen(format, bytes, out);
                return;
            };
            let chunk_bytes = CHUNK / format.block_len() * format.block_bytes();
            for (source, out) in bytes.chunks(chunk_bytes).zip(out.chunks_mut(CHUNK)) {
                unpack_chunk(kernels, (format, layout), source, (out, scratch));
            }
        }
        MatrixData::Panels { format, bytes } => {
            let Some(layout) = layout(format) else { return };
            let (len, block_bytes) = (format.block_len(), format.block_bytes());
            let mut chunk = [0; CHUNK_BYTES];
            for (i, out) in out.chunks_mut(CHUNK).enumerate() {
                let blocks = &mut chunk[..out.len() / len * block_bytes];
                let first = (cols.start + i * CHUNK) / len;
                row_blocks(format, (bytes, w.cols / len), (row, first), blocks);
                unpack_chunk(kernels, (format, layout), blocks, (out, scratch));
            }
        }
        MatrixData::Group(group) => group_cols(&group, (row, w.cols), cols, out),
        MatrixData::GroupPanels(panels) => group_panel_cols(&panels, (row, w.cols), cols, out),
        MatrixData::Codebook(book) => {
            codebook_cols(&book, row * w.cols + cols.start, out);
        }
        MatrixData::Fp8(fp8) => fp8_cols(&fp8, (row, w.cols), cols, out),
    }
}

/// Bytes of a chunk in the widest format.
const CHUNK_BYTES: usize = CHUNK / 32 * BlockFormat::Q8_0.block_bytes();

/// At most a chunk of whole blocks.
fn unpack_chunk(
    kernels: &Kernels,
    (format, layout): (BlockFormat, Layout),
    source: &[u8],
    (out, scratch): (&mut [f32], &mut DequantizeScratch),
) {
    let subs = out.len() / layout.sub;
    let mut unpacked = Unpacked {
        quants: &mut scratch.quants[..out.len()],
        scales: &mut scratch.scales[..subs],
        bias: &mut scratch.bias[..subs],
    };
    kernels.unpack(format, source, &mut unpacked);
    kernels.expand(layout, &unpacked, out);
}

/// `out = scale (q - z)` or `scale q + bias`; rounding steps as in ggml.
#[inline(always)]
pub(crate) fn expand<S: Simd>(s: S, layout: Layout, from: &Unpacked, out: &mut [f32]) {
    let per_scale = layout.sub / LANES;
    let vectors = from.quants.as_chunks::<LANES>().0.iter().zip(out.as_chunks_mut::<LANES>().0);
    for (i, (q, y)) in vectors.enumerate() {
        let scale = s.splat(from.scales[i / per_scale]);
        let value = match layout.zero {
            Zero::Constant(zero) => {
                let q = s.sub_i(s.widen_b(q), s.splat_i(i32::from(zero)));
                s.mul(scale, s.to_f(q))
            }
            Zero::Bias => {
                let bias = s.splat(from.bias[i / per_scale]);
                s.add(s.mul(scale, s.to_f(s.widen_b(q))), bias)
            }
        };
        // SAFETY: a whole array of 16 f32.
        unsafe { s.store(y.as_mut_ptr(), value) }
    }
}

fn group_cols(
    group: &GroupMatrix,
    (row, width): (usize, usize),
    cols: Range<usize>,
    out: &mut [f32],
) {
    let groups = width.div_ceil(group.group_size);
    let mut col = cols.start;
    let mut rest = out;
    while col < cols.end {
        let g = col / group.group_size;
        let n = cols.end.min((g + 1).saturating_mul(group.group_size)) - col;
        let (part, tail) = rest.split_at_mut(n);
        let scale = group.scales[row * groups + g];
        let zero = match group.zeros {
            GroupZeros::PerGroup(zeros) => i32::from(zeros[row * groups + g]),
            GroupZeros::Zero => 0,
        };
        match group.quants {
            GroupQuants::Nibbles(q) => {
                let q = &q[row * nibble_row_bytes(width)..];
                for (i, y) in part.iter_mut().enumerate() {
                    let (byte, shift) = nibble_place(col + i);
                    *y = scale * (i32::from((q[byte] >> shift) & 15) - zero) as f32;
                }
            }
            GroupQuants::Bytes(q) => {
                for (y, &q) in part.iter_mut().zip(&q[row * width + col..]) {
                    *y = scale * (i32::from(q) - zero) as f32;
                }
            }
            GroupQuants::Signed(q) => {
                for (y, &q) in part.iter_mut().zip(&q[row * width + col..]) {
                    *y = scale * (i32::from(q) - zero) as f32;
                }
            }
        }
        col += n;
        rest = tail;
    }
}

fn group_panel_cols(
    panels: &GroupPanels,
    (row, width): (usize, usize),
    cols: Range<usize>,
    out: &mut [f32],
) {
    let (layout, lane) = (panels.layout(), row % ROWS);
    let panel_bytes = layout.panel_bytes(width).unwrap_or(0);
    let panel = &panels.bytes[row / ROWS * panel_bytes..][..panel_bytes];
    for (col, y) in cols.zip(out) {
        let group = col / panels.group_size;
        let within = if panels.bits == 4 { col % 16 } else { col % 32 };
        let block = &panel[layout.integers_at(col / 32, group)..];
        let byte = block[(within / 4 * ROWS + lane) * 4 + within % 4];
        let q = match (panels.bits, col % 32 < 16) {
            (4, true) => byte & 15,
            (4, false) => byte >> 4,
            _ => byte,
        };
        let zero = panel[layout.zeros_at(group) + lane];
        *y = layout.scale(panel, group, lane) * (i32::from(q) - i32::from(zero)) as f32;
    }
}

impl Absmax<'_> {
    fn at(&self, index: usize) -> f32 {
        match *self {
            Absmax::Single(absmax) => absmax[index],
            Absmax::Nested { quants, code, absmax, block, offset } => {
                code[usize::from(quants[index])] * absmax[index / block] + offset
            }
        }
    }
}

/// Elements from flat index `start` on.
fn codebook_cols(book: &CodebookMatrix, start: usize, out: &mut [f32]) {
    let mut n = start;
    let end = start + out.len();
    let mut rest = out;
    while n < end {
        let index = n / book.block;
        let count = end.min((index + 1).saturating_mul(book.block)) - n;
        let (part, tail) = rest.split_at_mut(count);
        let scale = book.absmax.at(index);
        for (i, y) in part.iter_mut().enumerate() {
            let byte = book.nibbles[(n + i) / 2];
            let nibble = if (n + i).is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            *y = book.codebook[usize::from(nibble)] * scale;
        }
        n += count;
        rest = tail;
    }
}

fn fp8_cols(fp8: &Fp8Matrix, (row, width): (usize, usize), cols: Range<usize>, out: &mut [f32]) {
    let per_row = width.div_ceil(fp8.block[1]);
    let scales = &fp8.scales[row / fp8.block[0] * per_row..][..per_row];
    let bytes = &fp8.bytes[row * width + cols.start..row * width + cols.end];
    for ((c, y), &byte) in cols.zip(out).zip(bytes) {
        *y = e4m3_to_f32(byte) * scales[c / fp8.block[1]];
    }
}
