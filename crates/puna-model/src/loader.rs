//! From a checkpoint's tensors to the layers of a decoder.
//!
//! One loader for every container and every way of storing a matrix: it asks the dialect where a
//! slot's tensor is, checks its shape against the config, and wraps the bytes without copying
//! where the format allows. Rows of interleaved rotary projections are the one thing copied, when they
//! are first needed.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use puna_config::{ModelConfig, NormWeight};
use puna_io::{Checkpoint, Dtype, StoredTensor, TensorBytes, TensorInfo};
use puna_kernels::{BlockFormat, StreamBytes, available_memory, pack_panels, panel_bytes};
use puna_nn::{BlockWeight, Linear, NnError, RmsNorm, SharedBytes, StoredBytes, Vector, Weight};

use crate::{
    Dialect, LayerSlot, Location, ModelError, Part, RowOrder, Slot, WeightLayout, float,
    matrix_shape, quantized,
};

/// Reads the slots of one checkpoint.
pub(crate) struct Loader<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) config: &'a ModelConfig,
    layout: WeightLayout,
    /// Device and type of the layers' tensors; `None`: weights stay as they are stored.
    pub(crate) tensors: Option<(Device, DType)>,
    dialect: Dialect,
    used: RefCell<HashSet<String>>,
    fused: RefCell<HashMap<String, Weight>>,
    /// The last act-order.
    order: RefCell<Option<Arc<[u32]>>>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        config: &'a ModelConfig,
        layout: WeightLayout,
    ) -> Result<Self, ModelError> {
        let dialect = Dialect::of(checkpoint, config.family)?;
        Ok(Self {
            checkpoint,
            config,
            layout,
            tensors: None,
            dialect,
            used: RefCell::default(),
            fused: RefCell::default(),
            order: RefCell::default(),
        })
    }

    fn path(&self) -> PathBuf {
        self.checkpoint.root().to_path_buf()
    }

    /// A stored tensor, marked as used.
    pub(crate) fn stored(&self, name: &str) -> Result<StoredTensor, ModelError> {
        if self.checkpoint.info(name).is_none() {
            return Err(ModelError::MissingTensor { path: self.path(), tensor: name.to_owned() });
        }
        self.used.borrow_mut().insert(name.to_owned());
        Ok(self.checkpoint.tensor(name)?)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.info(name).is_some()
    }

    pub(crate) fn dtype_error(&self, name: &str, dtype: Dtype, role: &'static str) -> ModelError {
        let (path, tensor) = (self.path(), name.to_owned());
        ModelError::Dtype { path, tensor, dtype: dtype.name(), role }
    }

    pub(crate) fn quantized_error(&self, name: &str, problem: &'static str) -> ModelError {
        ModelError::Quantized { path: self.path(), tensor: name.to_owned(), problem }
    }

    pub(crate) fn expect_shape(
        &self,
        name: &str,
        got: &[usize],
        expected: &[usize],
    ) -> Result<(), ModelError> {
        if got == expected {
            return Ok(());
        }
        Err(ModelError::Shape {
            path: self.path(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
            got: got.to_vec(),
        })
    }

    /// Float values of a stored tensor.
    pub(crate) fn floats(&self, name: &str, role: &'static str) -> Result<Vec<f32>, ModelError> {
        let stored = self.stored(name)?;
        float::to_f32(&stored).ok_or_else(|| self.dtype_error(name, stored.info.dtype, role))
    }

    /// A vector slot: a bias or a norm.
    fn vector(&self, slot: Slot, role: &'static str) -> Result<Vec<f32>, ModelError> {
        let location = self.dialect.locate(&self.config.decoder, slot);
        let expected = matrix_shape(&self.config.decoder, slot);
        let name = &location.tensor;
        let stored = self.stored(name)?;
        let values = float::to_f32(&stored)
            .ok_or_else(|| self.dtype_error(name, stored.info.dtype, role))?;
        self.expect_shape(name, &stored.info.shape, &expected)?;
        if location.order == RowOrder::Natural {
            return Ok(values);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let natural = location.order.to_natural(&bytes, values.len());
        Ok(natural.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// A norm with the factor itself, whatever the file stores.
    pub(crate) fn norm(&self, slot: Slot) -> Result<RmsNorm, ModelError> {
        let mut values = self.vector(slot, "a norm's weight")?;
        if self.config.decoder.norm.weight == NormWeight::OnePlus {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        Ok(RmsNorm::new(Vector::Fixed(self.tensor(values)?), self.config.decoder.norm.eps))
    }

    /// A bias, if the config has it.
    pub(crate) fn bias(&self, slot: Option<Slot>) -> Result<Option<Vector>, ModelError> {
        slot.map(|slot| Ok(Vector::Fixed(self.tensor(self.vector(slot, "a bias")?)?))).transpose()
    }

    /// Float32 values on the layers' device.
    fn tensor(&self, values: Vec<f32>) -> Result<Tensor, ModelError> {
        let (len, device) = (values.len(), self.tensors.as_ref().map_or(&Device::Cpu, |t| &t.0));
        Ok(Tensor::from_vec(values, len, device).map_err(NnError::from)?)
    }

    /// A weight as it is stored, or on the layers' device.
    pub(crate) fn placed(&self, weight: Weight) -> Result<Weight, ModelError> {
        match &self.tensors {
            None => Ok(weight),
            Some((device, dtype)) => Ok(weight.to_device(device, *dtype)?),
        }
    }

    /// A linear layer.
    pub(crate) fn linear(&self, slot: Slot, bias: Option<Slot>) -> Result<Linear, ModelError> {
        let weight = match (slot, &self.tensors) {
            // A rounded logit of the router can pick another expert.
            (Slot::Layer(_, LayerSlot::Router), Some((device, _))) => {
                self.matrix(slot)?.to_device(device, DType::F32)?
            }
            _ => self.placed(self.matrix(slot)?)?,
        };
        Ok(self.for_products(slot, Arc::new(weight), self.bias(bias)?)?.at(slot))
    }

    /// A layer whose weight gets memory of its own for products where the layout says so, interleaved if
    /// it is quantized: packed integers at once, since their memory is puna's anyway, blocks when they
    /// are first needed, after which their file's pages are given back.
    pub(crate) fn for_products(
        &self,
        slot: Slot,
        weight: Arc<Weight>,
        bias: Option<Vector>,
    ) -> Result<Linear, ModelError> {
        let Location { tensor: name, part, order } =
            self.dialect.locate(&self.config.decoder, slot);
        match (&*weight, self.layout) {
            (Weight::Group(group), WeightLayout::Panels) => {
                let Some(panels) = group.to_panels() else { return Ok(Linear::new(weight, bias)) };
                let base = name.strip_suffix(".weight").unwrap_or(&name);
                for part in [".qweight", ".weight"].map(|part| format!("{base}{part}")) {
                    if self.has(&part) {
                        self.checkpoint.tensor(&part)?.bytes.release();
                    }
                }
                Ok(Linear::new(Arc::new(Weight::GroupPanels(panels)), bias))
            }
            (Weight::Block(block), WeightLayout::Panels) => {
                let StoredTensor { info, bytes: stored } = self.stored(&name)?;
                let is_whole =
                    part == Part::Whole && block_format(info.dtype) == Some(block.format());
                if order != RowOrder::Natural && stored.is_mapped() && is_whole {
                    let make = move |weight: &Weight| streamed(weight, Some(&stored), order);
                    return Ok(Linear::new(weight, bias).made_by(Box::new(make)));
                }
                let Some(pages) = part_of(&stored, block.bytes()) else {
                    stored.release();
                    return Ok(Linear::new(in_place_of_copy(weight), bias));
                };
                let stream = move |weight: &Weight| streamed(weight, Some(&pages), order);
                Ok(Linear::new(weight, bias).streamed_by(Box::new(stream)))
            }
            _ => Ok(Linear::new(weight, bias)),
        }
    }

    /// The stored matrix of a slot, in puna's row order.
    pub(crate) fn matrix(&self, slot: Slot) -> Result<Weight, ModelError> {
        let location = self.dialect.locate(&self.config.decoder, slot);
        let shape = matrix_shape(&self.config.decoder, slot);
        let (rows, cols) = (shape[0], shape[1]);
        let name = &location.tensor;
        match location.part {
            Part::Whole => {
                let weight = self.whole_matrix(name, rows, cols)?;
                self.natural_rows(name, weight, location.order)
            }
            Part::Rows { range, total } => {
                let known = self.fused.borrow().get(name).cloned();
                let weight = match known {
                    Some(weight) => weight,
                    None => {
                        let weight = self.whole_matrix(name, total, cols)?;
                        self.fused.borrow_mut().insert(name.clone(), weight.clone());
                        weight
                    }
                };
                Ok(weight.slice_rows(range)?)
            }
            Part::Expert { index, count } => {
                let stored = self.stored(name)?;
                self.expect_shape(name, &stored.info.shape, &[count, rows, cols])?;
                let bytes = stored.bytes.len() / count;
                let slice = stored
                    .bytes
                    .slice(index * bytes..(index + 1) * bytes)
                    .ok_or_else(|| self.quantized_error(name, "experts of uneven size"))?;
                self.block(name, stored.info.dtype, rows, cols, slice)
            }
        }
    }

    /// A slot's tensor as it is stored, in puna's row order; matrices that several tensors hold
    /// (GPTQ, AWQ, bitsandbytes, FP8) come dequantized to float32.
    pub(crate) fn canonical(&self, slot: Slot) -> Result<StoredTensor, ModelError> {
        let location = self.dialect.locate(&self.config.decoder, slot);
        let shape = matrix_shape(&self.config.decoder, slot);
        let name = &location.tensor;
        if shape.len() == 2 && self.is_quantized(name) {
            let dense = self.matrix(slot)?.dequantize()?;
            let bytes = puna_nn::ops::with_f32(&dense, |values| {
                values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()
            })?;
            let info = TensorInfo { dtype: Dtype::F32, shape };
            return Ok(StoredTensor { info, bytes: TensorBytes::from_vec(bytes) });
        }
        let stored = self.stored(name)?;
        let info = TensorInfo { dtype: stored.info.dtype, shape };
        let (pieces, piece, stored_shape) = match location.part {
            Part::Whole => (1, 0..1, info.shape.clone()),
            Part::Rows { range, total } => (total, range, vec![total, info.shape[1]]),
            Part::Expert { index, count } => {
                (count, index..index + 1, vec![count, info.shape[0], info.shape[1]])
            }
        };
        self.expect_shape(name, &stored.info.shape, &stored_shape)?;
        let step = stored.bytes.len() / pieces.max(1);
        let bytes = stored
            .bytes
            .slice(piece.start * step..piece.end * step)
            .ok_or_else(|| self.quantized_error(name, "parts of uneven size"))?;
        let bytes = match location.order {
            RowOrder::Natural => bytes,
            order => TensorBytes::from_vec(order.to_natural(&bytes, info.shape[0])),
        };
        Ok(StoredTensor { info, bytes })
    }

    /// The type in which [`Self::canonical`] gives a slot.
    pub(crate) fn canonical_dtype(&self, slot: Slot) -> Result<Dtype, ModelError> {
        let name = self.dialect.locate(&self.config.decoder, slot).tensor;
        if self.is_quantized(&name) {
            return Ok(Dtype::F32);
        }
        let missing = || ModelError::MissingTensor { path: self.path(), tensor: name.clone() };
        Ok(self.checkpoint.info(&name).ok_or_else(missing)?.dtype)
    }

    /// Whether norm tensors of these files hold the factor minus one.
    pub(crate) fn stores_norms_minus_one(&self) -> bool {
        self.dialect.stores_norms_minus_one()
    }

    fn is_quantized(&self, name: &str) -> bool {
        let base = name.strip_suffix(".weight").unwrap_or(name);
        let parts = [".qweight", ".weight.absmax", ".SCB", ".weight_scale_inv"];
        parts.iter().any(|part| self.has(&format!("{base}{part}")))
    }

    fn whole_matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, ModelError> {
        if let Some(weight) = quantized::load(self, name, rows, cols)? {
            weight.validate().map_err(ModelError::from)?;
            return Ok(weight);
        }
        let stored = self.stored(name)?;
        self.expect_shape(name, &stored.info.shape, &[rows, cols])?;
        self.block(name, stored.info.dtype, rows, cols, stored.bytes)
    }

    fn block(
        &self,
        name: &str,
        dtype: Dtype,
        rows: usize,
        cols: usize,
        bytes: TensorBytes,
    ) -> Result<Weight, ModelError> {
        if dtype == Dtype::F64 {
            let info = puna_io::TensorInfo { dtype, shape: vec![rows, cols] };
            let values = float::to_f32(&StoredTensor { info, bytes }).unwrap_or_default();
            let owned: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let block = BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(owned))?;
            return Ok(Weight::Block(block));
        }
        let format =
            block_format(dtype).ok_or_else(|| self.dtype_error(name, dtype, "a matrix"))?;
        let bytes: SharedBytes = Arc::new(Shared(bytes));
        Ok(Weight::Block(BlockWeight::new(format, rows, cols, bytes)?))
    }

    fn natural_rows(
        &self,
        name: &str,
        weight: Weight,
        order: RowOrder,
    ) -> Result<Weight, ModelError> {
        match (&weight, order) {
            (_, RowOrder::Natural) => Ok(weight),
            (Weight::Block(block), order) => {
                let (rows, cols) = (weight.rows(), weight.cols());
                let stored = block.clone();
                let natural = Reordered { stored, rows, order, natural: OnceLock::new() };
                Ok(Weight::Block(BlockWeight::new(block.format(), rows, cols, Arc::new(natural))?))
            }
            _ => Err(self.quantized_error(name, "rotary pairs of this format cannot be reordered")),
        }
    }

    /// Slots of a layer's biases, where the config has them.
    pub(crate) fn bias_slot(&self, layer: usize, slot: LayerSlot) -> Option<Slot> {
        use puna_config::{AttentionBias, FfnBias, FfnConfig};
        let attention = self.config.decoder.attention.bias;
        let present = match slot {
            LayerSlot::QueryBias | LayerSlot::KeyBias | LayerSlot::ValueBias => {
                attention != AttentionBias::None
            }
            LayerSlot::OutputBias => attention == AttentionBias::QkvOutput,
            _ => matches!(self.config.decoder.ffn, FfnConfig::Dense { bias: FfnBias::All, .. }),
        };
        present.then_some(Slot::Layer(layer, slot))
    }

    /// Early GPTQ packers write a bias of zeros for every module.
    fn is_zero_bias(&self, name: &str) -> bool {
        name.ends_with(".bias")
            && self.checkpoint.tensor(name).is_ok_and(|t| t.bytes.iter().all(|b| *b == 0))
    }

    /// An act-order, shared with the matrix before if it is the same: those of one input are.
    pub(crate) fn shared_order(&self, order: Vec<u32>) -> Arc<[u32]> {
        let mut last = self.order.borrow_mut();
        match &*last {
            Some(known) if **known == *order => Arc::clone(known),
            _ => Arc::clone(last.insert(order.into())),
        }
    }

    /// Names of tensors that no slot asked for and that are not known to be redundant.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        self.checkpoint
            .names()
            .filter(|name| !used.contains(*name) && !is_redundant(name) && !self.is_zero_bias(name))
            .map(str::to_owned)
            .collect()
    }
}

/// Blocks on huge pages, where they stream faster than from a file's small ones: quantized ones
/// interleaved, floats as they are. They leave the pages of their file, if they lie in some; `None`
/// where there is no memory for them (the file's pages do, more slowly, and the system may drop them).
/// Where the pages have rows in another order, they are read from there.
fn streamed(weight: &Weight, pages: Option<&TensorBytes>, order: RowOrder) -> Option<Weight> {
    let Weight::Block(block) = weight else { return None };
    let (format, rows, cols) = (block.format(), weight.rows(), weight.cols());
    let row_bytes = format.row_bytes(cols)?;
    let in_panels = panel_bytes(format, rows, cols);
    let other = pages.filter(|_| order != RowOrder::Natural);
    let bytes: &[u8] = match other {
        Some(stored) => stored,
        None => block.bytes(),
    };
    let size = in_panels.unwrap_or(bytes.len());
    if available_memory().is_some_and(|free| free < size + SPARE_BYTES) {
        return None;
    }
    let mut copy = StreamBytes::zeros(size)?;
    // Piece by piece, so that file and copy are hardly ever both in memory.
    let panels = (PIECE_BYTES / (16 * row_bytes).max(1)).max(1);
    let (piece, copied) = match panel_bytes(format, 16, cols) {
        Some(panel) => (panels * 16 * row_bytes, panels * panel),
        None => (panels * 16 * row_bytes, panels * 16 * row_bytes),
    };
    let packed = AtomicBool::new(true);
    puna_kernels::for_each_chunk_mut(&mut copy, copied, |start, to| {
        let start = start / copied * piece;
        let end = bytes.len().min(start + piece);
        let natural =
            other.map(|all| order.some_to_natural(all, rows, start / row_bytes..end / row_bytes));
        let from = natural.as_deref().unwrap_or(&bytes[start..end]);
        match in_panels {
            Some(_) => {
                let shape = (from.len() / row_bytes, cols);
                if pack_panels(format, shape, from, to).is_err() {
                    packed.store(false, Ordering::Relaxed);
                }
            }
            None => to.copy_from_slice(from),
        }
        // A piece of other rows is not a piece of the file.
        let pages = pages.filter(|_| other.is_none());
        if let Some(pages) = pages.and_then(|pages| pages.slice(start..end)) {
            pages.release();
        }
    });
    if let Some(pages) = other {
        pages.release();
    }
    if !packed.into_inner() {
        return None;
    }
    let copy: SharedBytes = Arc::new(copy);
    Some(Weight::Block(match in_panels {
        Some(_) => block.with_panels(copy).ok()?,
        None => BlockWeight::new(format, rows, cols, copy).ok()?,
    }))
}

/// A weight whose bytes are a copy already, since its rows lie otherwise in the file: it gets the form
/// that streams at once, as it would else be in memory twice.
fn in_place_of_copy(weight: Arc<Weight>) -> Arc<Weight> {
    match &*weight {
        Weight::Block(block) if block.format().block_len() > 1 => {
            streamed(&weight, None, RowOrder::Natural).map_or(weight, Arc::new)
        }
        _ => weight,
    }
}

/// Bytes that are copied before their file's pages are given back.
const PIECE_BYTES: usize = 4 << 20;

/// Memory that is left to others when weights get their own.
const SPARE_BYTES: usize = 256 << 20;

/// The part of a stored tensor that a weight's bytes are; `None` where they are a copy.
fn part_of(stored: &TensorBytes, bytes: &[u8]) -> Option<TensorBytes> {
    let offset = (bytes.as_ptr() as usize).checked_sub(stored.as_ptr() as usize)?;
    stored.slice(offset..offset.checked_add(bytes.len())?)
}

/// Tensors that files hold although they follow from the config: rotary tables, causal masks,
/// tied heads, packing scratch.
fn is_redundant(name: &str) -> bool {
    ["rotary_emb.inv_freq", "rope.freqs", "masked_bias", "attn.bias", ".weight_format"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
        || name.starts_with("rope_f")
        || name.ends_with("lm_head.weight")
}

/// Rows in puna's order, copied when somebody wants all of them.
struct Reordered {
    stored: BlockWeight,
    rows: usize,
    order: RowOrder,
    natural: OnceLock<SharedBytes>,
}

impl AsRef<[u8]> for Reordered {
    fn as_ref(&self) -> &[u8] {
        let make = || -> SharedBytes {
            let stored = self.stored.bytes();
            let Some(mut copy) = StreamBytes::zeros(stored.len()) else {
                return Arc::new(self.order.to_natural(stored, self.rows));
            };
            self.order.to_natural_into(stored, self.rows, &mut copy);
            Arc::new(copy)
        };
        (**self.natural.get_or_init(make)).as_ref()
    }
}

impl StoredBytes for Reordered {
    fn size(&self) -> usize {
        self.stored.bytes().len()
    }

    fn is_made(&self) -> bool {
        self.natural.get().is_some()
    }
}

/// A tensor's bytes as the layers share them.
pub(crate) struct Shared(pub(crate) TensorBytes);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl StoredBytes for Shared {
    fn release(&self, part: Range<usize>) {
        if let Some(pages) = self.0.slice(part) {
            pages.release();
        }
    }
}

/// The block format of a stored type.
#[must_use]
pub(crate) fn block_format(dtype: Dtype) -> Option<BlockFormat> {
    Some(match dtype {
        Dtype::F32 => BlockFormat::F32,
        Dtype::F16 => BlockFormat::F16,
        Dtype::BF16 => BlockFormat::BF16,
        Dtype::Q4_0 => BlockFormat::Q4_0,
        Dtype::Q4_1 => BlockFormat::Q4_1,
        Dtype::Q5_0 => BlockFormat::Q5_0,
        Dtype::Q5_1 => BlockFormat::Q5_1,
        Dtype::Q8_0 => BlockFormat::Q8_0,
        Dtype::Q2K => BlockFormat::Q2K,
        Dtype::Q3K => BlockFormat::Q3K,
        Dtype::Q4K => BlockFormat::Q4K,
        Dtype::Q5K => BlockFormat::Q5K,
        Dtype::Q6K => BlockFormat::Q6K,
        Dtype::Iq4Nl => BlockFormat::Iq4Nl,
        _ => return None,
    })
}
