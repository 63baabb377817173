//! Weight matrices as they are stored, and the check that their buffers fit their shape.
//!
//! A closed enum on borrowed slices: the matrix may lie in a memory map, in a tensor or in a
//! vector, and no kernel owns a weight.

mod dequantize;
pub(crate) use dequantize::{DequantizeScratch, dequantize_cols, expand};

use crate::blocks::layout;
use crate::blocks::panel::ROWS;
use crate::panels::{GroupLayout, GroupScales, largest_scale};
use crate::parallel::for_each_chunk_mut;
use crate::{BlockFormat, KernelError};
use std::sync::OnceLock;

/// A matrix `[rows, cols]` whose rows are output features, as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The stored weights.
    pub data: MatrixData<'a>,
}

/// The storage of a [`Matrix`].
#[derive(Debug, Clone, Copy)]
pub enum MatrixData<'a> {
    /// Rows of blocks one after the other; any alignment.
    Block {
        /// The format of a block.
        format: BlockFormat,
        /// `rows * format.row_bytes(cols)` bytes.
        bytes: &'a [u8],
        /// Where products keep the rows' largest scales, if there is such a place.
        scales: Option<&'a RowScales>,
    },
    /// Quantized blocks of 16 rows at a time, interleaved for the integer products
    /// ([`pack_panels`](crate::pack_panels)); rows past the last are zero.
    Panels {
        /// The format of a block.
        format: BlockFormat,
        /// [`panel_bytes`] bytes.
        bytes: &'a [u8],
    },
    /// Integers with a scale and a zero per group of columns (GPTQ, AWQ, int8).
    Group(GroupMatrix<'a>),
    /// The same, interleaved by 16 rows ([`pack_groups`](crate::pack_groups)).
    GroupPanels(GroupPanels<'a>),
    /// Four-bit indices into a table of 16 values (bitsandbytes NF4 and FP4).
    Codebook(CodebookMatrix<'a>),
    /// FP8 E4M3 with a scale per two-dimensional block.
    Fp8(Fp8Matrix<'a>),
}

/// The largest scale of each row of Q8_0, which products in integers of 16 bits take before its quants:
/// computed by the first one of many tokens.
#[derive(Debug, Default)]
pub struct RowScales(OnceLock<Box<[f32]>>);

impl RowScales {
    /// Those of rows of so many bytes, computed on the thread pool if they are not there.
    pub(crate) fn of_rows(&self, bytes: &[u8], row_bytes: usize) -> &[f32] {
        self.0.get_or_init(|| {
            let mut scales = vec![0.0; bytes.len() / row_bytes.max(1)];
            for_each_chunk_mut(&mut scales, SCALES_TASK, |first, scales| {
                let rows = bytes[first * row_bytes..].chunks_exact(row_bytes);
                for (row, scale) in rows.zip(scales) {
                    *scale = largest_scale(row, BlockFormat::Q8_0.block_bytes());
                }
            });
            scales.into()
        })
    }
}

/// Rows of a task.
const SCALES_TASK: usize = 64;

/// `w[o, i] = scales[o, g] (q[o, i] - zeros[o, g])` with `g = i / group_size`, `i` in stored order.
#[derive(Debug, Clone, Copy)]
pub struct GroupMatrix<'a> {
    /// The integers.
    pub quants: GroupQuants<'a>,
    /// `[rows, groups]`, groups = ceil(cols / group_size).
    pub scales: &'a [f32],
    /// Zero points.
    pub zeros: GroupZeros<'a>,
    /// Columns per group.
    pub group_size: usize,
    /// Act-order: stored column `j` multiplies `x[input_order[j]]`; a permutation of the columns.
    pub input_order: Option<&'a [u32]>,
}

/// A [`GroupMatrix`] whose rows are interleaved 16 at a time; blocks of 32 columns do not straddle
/// groups, and rows past the last have scale 0.
#[derive(Debug, Clone, Copy)]
pub struct GroupPanels<'a> {
    /// Bits of an integer: 4, in the order of [`nibble_place`], or 8.
    pub bits: u8,
    /// How the scales are stored.
    pub scales: GroupScales,
    /// Integers, scales and zeros ([`pack_groups`](crate::pack_groups)).
    pub bytes: &'a [u8],
    /// Columns per group.
    pub group_size: usize,
    /// As in [`GroupMatrix`].
    pub input_order: Option<&'a [u32]>,
}

impl GroupPanels<'_> {
    pub(crate) fn layout(&self) -> GroupLayout {
        let GroupPanels { bits, scales, group_size, .. } = *self;
        GroupLayout { bits, scales, group_size }
    }
}

/// The integers of a [`GroupMatrix`].
#[derive(Debug, Clone, Copy)]
pub enum GroupQuants<'a> {
    /// Two per byte, where [`nibble_place`] says; rows have [`nibble_row_bytes`].
    Nibbles(&'a [u8]),
    /// One unsigned byte per weight, `[rows, cols]`.
    Bytes(&'a [u8]),
    /// One signed byte per weight, `[rows, cols]`.
    Signed(&'a [i8]),
}

/// Bytes before the blocks of a panel: the largest scale of each row, where products need it.
pub(crate) const fn panel_head(format: BlockFormat) -> usize {
    match format {
        BlockFormat::Q8_0 => size_of::<[f32; ROWS]>(),
        _ => 0,
    }
}

/// Bytes of `rows` x `cols` weights in panels of 16 rows; `None` for floats, partial blocks and
/// sizes beyond the address space.
pub fn panel_bytes(format: BlockFormat, rows: usize, cols: usize) -> Option<usize> {
    layout(format)?;
    let panel = format.row_bytes(cols)?.checked_mul(ROWS)?.checked_add(panel_head(format))?;
    panel.checked_mul(rows.div_ceil(ROWS))
}

/// Bytes of a row of nibbles: 16 per 32 columns or part of them.
pub const fn nibble_row_bytes(cols: usize) -> usize {
    cols.div_ceil(32) * 16
}

/// Where a column of a row of nibbles lies: the byte, and the bit in it. Of 32 columns the first 16
/// are low nibbles and the others high ones, as in Q4_0, so that one load gives either half.
pub const fn nibble_place(col: usize) -> (usize, u32) {
    (col / 32 * 16 + col % 16, if col % 32 < 16 { 0 } else { 4 })
}

/// The zero points of a [`GroupMatrix`].
#[derive(Debug, Clone, Copy)]
pub enum GroupZeros<'a> {
    /// `[rows, groups]`.
    PerGroup(&'a [u8]),
    /// All zero.
    Zero,
}

/// `w[n] = codebook[nibble(n)] absmax[n / block]` with `n = row * cols + col`, high nibble first.
#[derive(Debug, Clone, Copy)]
pub struct CodebookMatrix<'a> {
    /// ceil(rows * cols / 2) bytes.
    pub nibbles: &'a [u8],
    /// The 16 values.
    pub codebook: &'a [f32; 16],
    /// One scale per block.
    pub absmax: Absmax<'a>,
    /// Weights per scale, over the flattened matrix.
    pub block: usize,
}

/// The scales of a [`CodebookMatrix`].
#[derive(Debug, Clone, Copy)]
pub enum Absmax<'a> {
    /// One f32 per block.
    Single(&'a [f32]),
    /// Double quantization: `absmax[b] = code[quants[b]] * absmax[b / block] + offset`.
    Nested {
        /// One byte per block of weights.
        quants: &'a [u8],
        /// The 256 values of the byte.
        code: &'a [f32],
        /// One f32 per block of bytes.
        absmax: &'a [f32],
        /// Bytes per second-level scale.
        block: usize,
        /// Added to every scale.
        offset: f32,
    },
}

/// `w = e4m3(byte) * scales[row / block[0], col / block[1]]`.
#[derive(Debug, Clone, Copy)]
pub struct Fp8Matrix<'a> {
    /// `[rows, cols]`.
    pub bytes: &'a [u8],
    /// `[ceil(rows / block[0]), ceil(cols / block[1])]` (`weight_scale_inv` of DeepSeek files).
    pub scales: &'a [f32],
    /// Rows and columns that share a scale.
    pub block: [usize; 2],
}

fn size(what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Size { what, expected, got }) }
}

fn nonzero(what: &'static str, value: usize) -> Result<(), KernelError> {
    if value == 0 { Err(KernelError::ZeroSize { what }) } else { Ok(()) }
}

impl<'a> Matrix<'a> {
    /// Checks that every buffer has the size its shape asks for and that `input_order` is a
    /// permutation.
    ///
    /// # Errors
    /// [`KernelError`] names the first buffer that does not fit.
    pub fn validate(&self) -> Result<(), KernelError> {
        self.check_sizes()?;
        if let Some(order) = self.input_order() {
            let mut seen = vec![false; self.cols];
            for (index, &value) in order.iter().enumerate() {
                match seen.get_mut(value as usize) {
                    Some(slot) if !*slot => *slot = true,
                    _ => return Err(KernelError::NotPermutation { index, value }),
                }
            }
        }
        Ok(())
    }

    /// Act-order: stored column `j` multiplies input `order[j]`.
    pub(crate) fn input_order(&self) -> Option<&'a [u32]> {
        match self.data {
            MatrixData::Group(GroupMatrix { input_order, .. })
            | MatrixData::GroupPanels(GroupPanels { input_order, .. }) => input_order,
            _ => None,
        }
    }

    /// The part of [`Matrix::validate`] that memory safety of the kernels rests on; cheap.
    pub(crate) fn check_sizes(&self) -> Result<(), KernelError> {
        let too_large = KernelError::TooLarge { rows: self.rows, cols: self.cols };
        let weights = self.rows.checked_mul(self.cols).ok_or(too_large.clone())?;
        match self.data {
            MatrixData::Block { format, bytes, .. } => {
                let row = format.row_bytes(self.cols).ok_or(KernelError::PartialBlock {
                    format,
                    cols: self.cols,
                    block: format.block_len(),
                })?;
                size("block bytes", row.checked_mul(self.rows).ok_or(too_large)?, bytes.len())
            }
            MatrixData::Panels { format, bytes } => {
                let expected =
                    panel_bytes(format, self.rows, self.cols).ok_or(KernelError::PartialBlock {
                        format,
                        cols: self.cols,
                        block: format.block_len(),
                    })?;
                size("panel bytes", expected, bytes.len())
            }
            MatrixData::Group(group) => {
                nonzero("group_size", group.group_size)?;
                match group.quants {
                    GroupQuants::Nibbles(q) => {
                        size("group nibbles", self.rows * nibble_row_bytes(self.cols), q.len())?
                    }
                    GroupQuants::Bytes(q) => size("group bytes", weights, q.len())?,
                    GroupQuants::Signed(q) => size("group integers", weights, q.len())?,
                }
                let groups = self.rows * self.cols.div_ceil(group.group_size);
                size("group scales", groups, group.scales.len())?;
                if let GroupZeros::PerGroup(zeros) = group.zeros {
                    size("group zeros", groups, zeros.len())?;
                }
                group.input_order.map_or(Ok(()), |o| size("input_order", self.cols, o.len()))
            }
            MatrixData::GroupPanels(panels) => {
                nonzero("group_size", panels.group_size)?;
                size("group panel columns", self.cols / 32 * 32, self.cols)?;
                if panels.group_size < self.cols {
                    let whole = panels.group_size / 32 * 32;
                    size("columns of a group", whole, panels.group_size)?;
                }
                let panel = panels.layout().panel_bytes(self.cols).ok_or(too_large.clone())?;
                let expected = panel.checked_mul(self.rows.div_ceil(ROWS)).ok_or(too_large)?;
                size("group panel bytes", expected, panels.bytes.len())?;
                panels.input_order.map_or(Ok(()), |o| size("input_order", self.cols, o.len()))
            }
            MatrixData::Codebook(book) => {
                nonzero("codebook block", book.block)?;
                size("codebook nibbles", weights.div_ceil(2), book.nibbles.len())?;
                let blocks = weights.div_ceil(book.block);
                match book.absmax {
                    Absmax::Single(absmax) => size("absmax", blocks, absmax.len()),
                    Absmax::Nested { quants, code, absmax, block, .. } => {
                        nonzero("nested absmax block", block)?;
                        size("nested absmax quants", blocks, quants.len())?;
                        size("nested absmax code", 256, code.len())?;
                        size("nested absmax", blocks.div_ceil(block), absmax.len())
                    }
                }
            }
            MatrixData::Fp8(fp8) => {
                nonzero("fp8 block rows", fp8.block[0])?;
                nonzero("fp8 block columns", fp8.block[1])?;
                size("fp8 bytes", weights, fp8.bytes.len())?;
                let scales = self.rows.div_ceil(fp8.block[0]) * self.cols.div_ceil(fp8.block[1]);
                size("fp8 scales", scales, fp8.scales.len())
            }
        }
    }
}
