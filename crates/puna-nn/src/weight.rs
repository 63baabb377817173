//! How a matrix is stored: the closed set of forms that `Linear` multiplies, and nothing else.
//!
//! Frozen weights stay as they are on disk (usually in the memory map), and training may keep a packed
//! copy in their place; only a trained weight is a [`Parameter`]. The alternative, a separate quantized linear layer as in candle, doubles
//! every model file.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use puna_kernels::{
    Absmax, BlockFormat, CodebookMatrix, Fp8Matrix, GroupMatrix, GroupPanels, GroupQuants,
    GroupZeros, Matrix, MatrixData, PackedGroups, RowScales,
};

use crate::packed::PackedWeight;
use crate::{NnError, Parameter};

/// Bytes of weights.
pub trait StoredBytes: AsRef<[u8]> + Send + Sync {
    /// How many there are, without a need for them.
    fn size(&self) -> usize {
        self.as_ref().len()
    }

    /// Whether they are there, and nothing has to be made when somebody reads them.
    fn is_made(&self) -> bool {
        true
    }

    /// Gives the memory of a part back that will not be read for some time, where that is a file's and
    /// comes back from there.
    fn release(&self, part: Range<usize>) {
        let _ = part;
    }
}

impl StoredBytes for Vec<u8> {}
impl StoredBytes for puna_kernels::StreamBytes {}

/// Bytes that are mapped from a file or owned, shared between weights.
pub type SharedBytes = Arc<dyn StoredBytes>;

/// A matrix `[out, in]`.
#[derive(Clone, Debug)]
pub enum Weight {
    /// A float tensor on the device of the layers.
    Dense(Tensor),
    /// Trained: float32 on the CPU, with a gradient.
    Trained(Arc<Parameter>),
    /// Rows of blocks as GGUF and safetensors hold them; F32, F16 and BF16 count as blocks of one.
    Block(BlockWeight),
    /// Integers with a scale and a zero per group: GPTQ, AWQ, LLM.int8().
    Group(GroupWeight),
    /// The same, interleaved by 16 rows for products.
    GroupPanels(GroupPanelWeight),
    /// bitsandbytes NF4 and FP4.
    Codebook(CodebookWeight),
    /// F8_E4M3 with block scales.
    Fp8(Fp8Weight),
    /// Any of these, which training has also packed for its products.
    Packed(PackedWeight),
}

/// Rows of blocks.
#[derive(Clone)]
pub struct BlockWeight {
    format: BlockFormat,
    rows: usize,
    cols: usize,
    order: BlockOrder,
    bytes: SharedBytes,
    span: Range<usize>,
    scales: Arc<RowScales>,
}

/// In which order the blocks of a [`BlockWeight`] lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockOrder {
    /// Row after row, as files have them.
    Rows,
    /// Interleaved by 16 rows ([`puna_kernels::pack_panels`]).
    Panels,
}

impl std::fmt::Debug for BlockWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockWeight({} [{}, {}])", self.format.name(), self.rows, self.cols)
    }
}

impl BlockWeight {
    /// Rows of `format` in `bytes`.
    ///
    /// # Errors
    /// If the number of bytes is not that of `rows` × `cols` values of the format.
    pub fn new(
        format: BlockFormat,
        rows: usize,
        cols: usize,
        bytes: SharedBytes,
    ) -> Result<Self, NnError> {
        let got = bytes.size();
        let order = BlockOrder::Rows;
        let weight =
            Self { format, rows, cols, order, bytes, span: 0..got, scales: Arc::default() };
        // Bytes of the right size need not be made to be looked at.
        if format.row_bytes(cols).and_then(|row| row.checked_mul(rows)) != Some(got) {
            weight.matrix().validate()?;
        }
        Ok(weight)
    }

    /// The same weights in another order, in `bytes`.
    ///
    /// # Errors
    /// If these do not have the size of the panels.
    pub fn with_panels(&self, bytes: SharedBytes) -> Result<Self, NnError> {
        let span = 0..bytes.as_ref().as_ref().len();
        let scales = Arc::default();
        let weight = Self { order: BlockOrder::Panels, bytes, span, scales, ..*self };
        weight.matrix().validate()?;
        Ok(weight)
    }

    /// Gives the memory of these weights back until they are read again ([`StoredBytes::release`]).
    pub(crate) fn release(&self) {
        self.bytes.release(self.span.clone());
    }

    /// Whether the bytes are there, and nothing has to be made when somebody reads them.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.bytes.is_made()
    }

    /// The order of the blocks.
    #[must_use]
    pub fn order(&self) -> BlockOrder {
        self.order
    }

    /// The block format.
    #[must_use]
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// The blocks' bytes, in their order.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.span.clone()]
    }

    fn matrix(&self) -> Matrix<'_> {
        let (format, bytes) = (self.format, self.bytes());
        let data = match self.order {
            BlockOrder::Rows => MatrixData::Block { format, bytes, scales: Some(&self.scales) },
            BlockOrder::Panels => MatrixData::Panels { format, bytes },
        };
        Matrix { rows: self.rows, cols: self.cols, data }
    }

    fn slice(&self, rows: Range<usize>) -> Self {
        let row_bytes = self.span.len() / self.rows.max(1);
        let start = self.span.start + rows.start * row_bytes;
        let span = start..start + rows.len() * row_bytes;
        Self {
            rows: rows.len(),
            span,
            bytes: Arc::clone(&self.bytes),
            scales: Arc::default(),
            ..*self
        }
    }
}

/// Integers with group scales: `w[o, i] = scale[o, g] * (q[o, i] - zero[o, g])`.
#[derive(Clone, Debug)]
pub struct GroupWeight {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The integers, `[rows, cols]`.
    pub quants: GroupWeightQuants,
    /// `[rows, groups]`.
    pub scales: Vec<f32>,
    /// `[rows, groups]`; empty where the integers are signed.
    pub zeros: Vec<u8>,
    /// Inputs per group.
    pub group_size: usize,
    /// Act-order: stored column `j` multiplies input `input_order[j]`. Weights of one input mostly
    /// have one order.
    pub input_order: Option<Arc<[u32]>>,
}

/// The integers of a [`GroupWeight`].
#[derive(Clone, Debug)]
pub enum GroupWeightQuants {
    /// Two per byte, in the order of [`puna_kernels::nibble_place`].
    Nibbles(Vec<u8>),
    /// One byte each.
    Bytes(Vec<u8>),
    /// One signed byte each, without zero points.
    Signed(Vec<i8>),
}

/// A [`GroupWeight`] interleaved by 16 rows ([`puna_kernels::pack_groups`]).
#[derive(Clone, Debug)]
pub struct GroupPanelWeight {
    rows: usize,
    cols: usize,
    packed: Arc<PackedGroups>,
    group_size: usize,
    input_order: Option<Arc<[u32]>>,
}

impl GroupPanelWeight {
    fn matrix(&self) -> Matrix<'_> {
        let data = MatrixData::GroupPanels(GroupPanels {
            bits: self.packed.bits,
            scales: self.packed.scales,
            bytes: &self.packed.bytes,
            group_size: self.group_size,
            input_order: self.input_order.as_deref(),
        });
        Matrix { rows: self.rows, cols: self.cols, data }
    }
}

impl GroupWeight {
    /// The same weights interleaved; `None` where blocks of 32 columns straddle groups.
    #[must_use]
    pub fn to_panels(&self) -> Option<GroupPanelWeight> {
        let MatrixData::Group(group) = self.matrix().data else { return None };
        Some(GroupPanelWeight {
            rows: self.rows,
            cols: self.cols,
            packed: Arc::new(puna_kernels::pack_groups((self.rows, self.cols), &group)?),
            group_size: self.group_size,
            input_order: self.input_order.clone(),
        })
    }

    fn matrix(&self) -> Matrix<'_> {
        let quants = match &self.quants {
            GroupWeightQuants::Nibbles(q) => GroupQuants::Nibbles(q),
            GroupWeightQuants::Bytes(q) => GroupQuants::Bytes(q),
            GroupWeightQuants::Signed(q) => GroupQuants::Signed(q),
        };
        let zeros = match &self.quants {
            GroupWeightQuants::Signed(_) => GroupZeros::Zero,
            _ => GroupZeros::PerGroup(&self.zeros),
        };
        let data = MatrixData::Group(GroupMatrix {
            quants,
            scales: &self.scales,
            zeros,
            group_size: self.group_size,
            input_order: self.input_order.as_deref(),
        });
        Matrix { rows: self.rows, cols: self.cols, data }
    }

    fn slice(&self, rows: Range<usize>) -> Self {
        let groups = self.scales.len() / self.rows.max(1);
        let stride = puna_kernels::nibble_row_bytes(self.cols);
        let quants = match &self.quants {
            GroupWeightQuants::Nibbles(q) => {
                GroupWeightQuants::Nibbles(q[rows.start * stride..rows.end * stride].to_vec())
            }
            GroupWeightQuants::Bytes(q) => {
                GroupWeightQuants::Bytes(q[rows.start * self.cols..rows.end * self.cols].to_vec())
            }
            GroupWeightQuants::Signed(q) => {
                GroupWeightQuants::Signed(q[rows.start * self.cols..rows.end * self.cols].to_vec())
            }
        };
        let zeros = if self.zeros.is_empty() {
            Vec::new()
        } else {
            self.zeros[rows.start * groups..rows.end * groups].to_vec()
        };
        Self {
            rows: rows.len(),
            cols: self.cols,
            quants,
            scales: self.scales[rows.start * groups..rows.end * groups].to_vec(),
            zeros,
            group_size: self.group_size,
            input_order: self.input_order.clone(),
        }
    }
}

/// bitsandbytes 4-bit: flat element `n` is `codebook[nibble n] * absmax[n / block]`.
#[derive(Clone)]
pub struct CodebookWeight {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Two per byte, the first in the high nibble.
    pub nibbles: SharedBytes,
    /// Values of the sixteen codes.
    pub codebook: [f32; 16],
    /// Scales of the blocks.
    pub scales: CodebookScales,
    /// Values per scale.
    pub block: usize,
}

/// Scales of a [`CodebookWeight`].
#[derive(Clone, Debug)]
pub enum CodebookScales {
    /// As floats.
    Single(Vec<f32>),
    /// Quantized once more (double quantization): `code[q] * absmax[n / block] + offset`.
    Nested {
        /// One code per scale.
        quants: Vec<u8>,
        /// Values of the 256 codes.
        code: Vec<f32>,
        /// One scale per `block` scales.
        absmax: Vec<f32>,
        /// Scales per outer scale.
        block: usize,
        /// Mean that was subtracted.
        offset: f32,
    },
}

impl std::fmt::Debug for CodebookWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CodebookWeight([{}, {}])", self.rows, self.cols)
    }
}

impl CodebookWeight {
    fn matrix(&self) -> Matrix<'_> {
        let absmax = match &self.scales {
            CodebookScales::Single(absmax) => Absmax::Single(absmax),
            CodebookScales::Nested { quants, code, absmax, block, offset } => {
                Absmax::Nested { quants, code, absmax, block: *block, offset: *offset }
            }
        };
        let data = MatrixData::Codebook(CodebookMatrix {
            nibbles: (*self.nibbles).as_ref(),
            codebook: &self.codebook,
            absmax,
            block: self.block,
        });
        Matrix { rows: self.rows, cols: self.cols, data }
    }
}

/// F8_E4M3 bytes with one scale per block of rows and columns.
#[derive(Clone)]
pub struct Fp8Weight {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `[rows, cols]`.
    pub bytes: SharedBytes,
    /// `[ceil(rows / block[0]), ceil(cols / block[1])]`.
    pub scales: Vec<f32>,
    /// Rows and columns of a block.
    pub block: [usize; 2],
}

impl std::fmt::Debug for Fp8Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fp8Weight([{}, {}])", self.rows, self.cols)
    }
}

impl Fp8Weight {
    fn matrix(&self) -> Matrix<'_> {
        let data = MatrixData::Fp8(Fp8Matrix {
            bytes: (*self.bytes).as_ref(),
            scales: &self.scales,
            block: self.block,
        });
        Matrix { rows: self.rows, cols: self.cols, data }
    }
}

impl Weight {
    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self {
            Weight::Dense(t) => t.dims().first().copied().unwrap_or(0),
            Weight::Trained(p) => p.shape().first().copied().unwrap_or(0),
            Weight::Block(w) => w.rows,
            Weight::Group(w) => w.rows,
            Weight::GroupPanels(w) => w.rows,
            Weight::Codebook(w) => w.rows,
            Weight::Fp8(w) => w.rows,
            Weight::Packed(w) => w.of().rows(),
        }
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        match self {
            Weight::Dense(t) => t.dims().get(1).copied().unwrap_or(0),
            Weight::Trained(p) => p.shape().get(1).copied().unwrap_or(0),
            Weight::Block(w) => w.cols,
            Weight::Group(w) => w.cols,
            Weight::GroupPanels(w) => w.cols,
            Weight::Codebook(w) => w.cols,
            Weight::Fp8(w) => w.cols,
            Weight::Packed(w) => w.of().cols(),
        }
    }

    /// Type of a tensor; float32 for the other forms, which multiply float32 activations.
    pub(crate) fn tensor_dtype(&self) -> DType {
        match self {
            Weight::Dense(t) => t.dtype(),
            _ => DType::F32,
        }
    }

    /// The stored form as the kernels see it; `None` for a tensor.
    #[must_use]
    pub fn matrix(&self) -> Option<Matrix<'_>> {
        match self {
            Weight::Dense(_) | Weight::Trained(_) => None,
            Weight::Block(w) => Some(w.matrix()),
            Weight::Group(w) => Some(w.matrix()),
            Weight::GroupPanels(w) => Some(w.matrix()),
            Weight::Codebook(w) => Some(w.matrix()),
            Weight::Fp8(w) => Some(w.matrix()),
            Weight::Packed(w) => w.of().matrix(),
        }
    }

    /// Bytes that a product reads: the stored values with their scales and zeros.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        match self {
            Weight::Dense(t) => t.elem_count() * t.dtype().size_in_bytes(),
            Weight::Trained(p) => p.len() * size_of::<f32>(),
            Weight::Block(w) => w.span.len(),
            Weight::Group(w) => {
                let quants = match &w.quants {
                    GroupWeightQuants::Nibbles(q) | GroupWeightQuants::Bytes(q) => q.len(),
                    GroupWeightQuants::Signed(q) => q.len(),
                };
                quants + size_of_val(&*w.scales) + w.zeros.len()
            }
            Weight::GroupPanels(w) => w.packed.bytes.len(),
            Weight::Codebook(w) => {
                let scales = match &w.scales {
                    CodebookScales::Single(absmax) => size_of_val(&**absmax),
                    CodebookScales::Nested { quants, absmax, .. } => {
                        quants.len() + size_of_val(&**absmax)
                    }
                };
                (*w.nibbles).as_ref().len() + scales
            }
            Weight::Fp8(w) => w.rows * w.cols + size_of_val(&*w.scales),
            Weight::Packed(w) => PackedWeight::bytes(w.of()),
        }
    }

    /// Checks sizes that come from a file.
    ///
    /// # Errors
    /// If the parts' lengths do not belong together.
    pub fn validate(&self) -> Result<(), NnError> {
        self.matrix().map_or(Ok(()), |m| m.validate().map_err(NnError::from))
    }

    /// Name of the storage: `BF16`, `Q4_K`, `int4`, `codebook4`, `F8_E4M3`, …
    #[must_use]
    pub fn format_name(&self) -> &'static str {
        match self {
            Weight::Dense(_) => "dense",
            Weight::Trained(_) => "trained",
            Weight::Block(w) => w.format.name(),
            Weight::GroupPanels(w) if w.packed.bits == 4 => "int4",
            Weight::GroupPanels(_) => "int8",
            Weight::Group(w) => match w.quants {
                GroupWeightQuants::Nibbles(_) => "int4",
                GroupWeightQuants::Bytes(_) | GroupWeightQuants::Signed(_) => "int8",
            },
            Weight::Codebook(_) => "codebook4",
            Weight::Fp8(_) => "F8_E4M3",
            Weight::Packed(w) => w.of().format_name(),
        }
    }

    /// The rows `rows` as a weight of their own: without a copy where rows are stored apart, else
    /// dequantized.
    ///
    /// # Errors
    /// If the range is outside.
    pub fn slice_rows(&self, rows: Range<usize>) -> Result<Self, NnError> {
        if rows.end > self.rows() || rows.start > rows.end {
            return Err(NnError::Shape {
                what: "end of a row range",
                expected: self.rows(),
                got: rows.end,
            });
        }
        Ok(match self {
            Weight::Dense(t) => Weight::Dense(t.narrow(0, rows.start, rows.len())?),
            Weight::Packed(w) => w.of().slice_rows(rows)?,
            Weight::Block(w) if w.order == BlockOrder::Rows => Weight::Block(w.slice(rows)),
            Weight::Group(w) => Weight::Group(w.slice(rows)),
            Weight::Trained(_) => {
                self.dequantize()?.narrow(0, rows.start, rows.len()).map(Weight::Dense)?
            }
            Weight::Block(_) | Weight::GroupPanels(_) | Weight::Codebook(_) | Weight::Fp8(_) => {
                let (cols, mut values) = (self.cols(), Vec::new());
                let mut row = vec![0f32; cols];
                for index in rows.clone() {
                    if let Some(matrix) = self.matrix() {
                        matrix.dequantize_row(index, &mut row);
                    }
                    values.extend(row.iter().flat_map(|v| v.to_le_bytes()));
                }
                let bytes: SharedBytes = Arc::new(values);
                Weight::Block(BlockWeight::new(BlockFormat::F32, rows.len(), cols, bytes)?)
            }
        })
    }

    /// The matrix as a tensor of some type on a device.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn to_device(&self, device: &Device, dtype: DType) -> Result<Self, NnError> {
        let as_stored = match self {
            Weight::Block(w) if w.order == BlockOrder::Rows => match w.format {
                BlockFormat::F32 => Some((w.bytes(), DType::F32)),
                BlockFormat::F16 => Some((w.bytes(), DType::F16)),
                BlockFormat::BF16 => Some((w.bytes(), DType::BF16)),
                _ => None,
            },
            _ => None,
        };
        let tensor = match as_stored {
            Some((bytes, stored)) => {
                let shape = [self.rows(), self.cols()];
                Tensor::from_raw_buffer(bytes, stored, &shape, device)?.to_dtype(dtype)?
            }
            None => self.dequantize()?.to_dtype(dtype)?.to_device(device)?,
        };
        Ok(Weight::Dense(tensor))
    }

    /// The matrix in float32 on the CPU, `[out, in]`.
    ///
    /// # Errors
    /// If a dense tensor cannot be converted.
    pub fn dequantize(&self) -> Result<Tensor, NnError> {
        match (self, self.matrix()) {
            (Weight::Dense(t), _) => Ok(t.to_dtype(DType::F32)?.to_device(&Device::Cpu)?),
            (Weight::Trained(p), _) => {
                p.download()?;
                Ok(Tensor::from_slice(&p.values(), p.shape(), &Device::Cpu)?)
            }
            (_, Some(matrix)) => {
                let mut values = vec![0f32; matrix.rows * matrix.cols];
                let cols = matrix.cols.max(1);
                puna_kernels::for_each_chunk_mut(&mut values, cols, |first, out| {
                    matrix.dequantize_row(first / cols, out);
                });
                Ok(Tensor::from_vec(values, (matrix.rows, matrix.cols), &Device::Cpu)?)
            }
            (_, None) => Err(NnError::Shape { what: "stored matrix", expected: 1, got: 0 }),
        }
    }
}
