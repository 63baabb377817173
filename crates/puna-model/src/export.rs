//! Weights in memory to a Hugging Face folder: random ones to begin a training with, and trained
//! ones.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use puna_config::{DecoderConfig, Family, ModelConfig, WeightDtype};
use puna_io::write::{ExtraFile, HfOptions, write_hf_folder};
use puna_io::{Dtype, IoError, TensorBytes, TensorInfo};
use puna_nn::Parameter;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::convert::hf_dialect;
use crate::{LayerSlot, ModelError, Part, Slot, Trainable, matrix_shape, slots};

/// A tensor of the folder, and the slots whose rows make it.
struct Tensor {
    name: String,
    info: TensorInfo,
    slots: Vec<Slot>,
}

/// The tensors of a model in its family's names; fused projections are one tensor.
fn plan(config: &DecoderConfig, family: Family, dtype: Dtype) -> Vec<Tensor> {
    let dialect = hf_dialect(family);
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for slot in slots(config) {
        let location = dialect.locate(config, slot);
        if let Some(&at) = index.get(&location.tensor) {
            tensors[at].slots.push(slot);
            continue;
        }
        let shape = matrix_shape(config, slot);
        let shape = match location.part {
            Part::Whole => shape,
            Part::Rows { total, .. } => vec![total, shape[1]],
            Part::Expert { count, .. } => vec![count, shape[0], shape[1]],
        };
        index.insert(location.tensor.clone(), tensors.len());
        let info = TensorInfo { dtype, shape };
        tensors.push(Tensor { name: location.tensor, info, slots: vec![slot] });
    }
    tensors
}

/// Writes a Hugging Face folder whose tensors' values `values_of` gives slot by slot: a norm's factor
/// itself, rotary rows in Hugging Face's order.
///
/// # Errors
/// Those of `values_of`; if the family's config cannot express the model, or the disk fails: the
/// folder then keeps what it had.
pub fn write_values<E: From<ModelError> + From<IoError>>(
    dir: &Path,
    config: &ModelConfig,
    (dtype, mut extra_files): (WeightDtype, Vec<ExtraFile>),
    mut values_of: impl FnMut(Slot) -> Result<Vec<f32>, E>,
) -> Result<Vec<PathBuf>, E> {
    let config = ModelConfig { dtype: Some(dtype), quantization: None, ..config.clone() };
    let json = config.to_hf_json().map_err(|source| ModelError::Inexpressible {
        target: "config.json",
        source: Box::new(source),
    })?;
    extra_files.retain(|(name, _)| name != "config.json");
    extra_files.push(("config.json".to_owned(), format!("{json:#}\n").into_bytes()));
    let stored = match dtype {
        WeightDtype::F32 => Dtype::F32,
        WeightDtype::F16 => Dtype::F16,
        WeightDtype::BF16 => Dtype::BF16,
    };
    let tensors = plan(&config.decoder, config.family, stored);
    let list: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.info.clone())).collect();
    let minus_one = hf_dialect(config.family).stores_norms_minus_one();
    let options = HfOptions { extra_files, ..HfOptions::default() };
    write_hf_folder(dir, &list, &options, |name| {
        let mut bytes = Vec::new();
        let slots = tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.slots);
        for &slot in slots.into_iter().flatten() {
            let mut values = values_of(slot)?;
            if minus_one && slot.is_norm() {
                values.iter_mut().for_each(|v| *v -= 1.0);
            }
            match stored {
                Dtype::F16 => {
                    bytes.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
                }
                Dtype::BF16 => {
                    bytes.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()));
                }
                _ => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            }
        }
        Ok(TensorBytes::from_vec(bytes))
    })
}

/// Writes trained weights as a Hugging Face folder, with `extra_files` (a tokenizer's, say) beside
/// them.
///
/// # Errors
/// If the family's config cannot express the model, or the disk fails; the folder then keeps what
/// it had.
pub fn write_trained(
    dir: &Path,
    config: &ModelConfig,
    trained: &Trainable,
    (dtype, extra_files): (WeightDtype, Vec<ExtraFile>),
) -> Result<Vec<PathBuf>, ModelError> {
    let by_slot: HashMap<Slot, &Arc<Parameter>> =
        trained.parameters.iter().map(|(slot, parameter)| (*slot, parameter)).collect();
    write_values(dir, config, (dtype, extra_files), |slot| match by_slot.get(&slot) {
        Some(parameter) => Ok(parameter.values().clone()),
        None => {
            Err(ModelError::MissingTensor { path: dir.to_path_buf(), tensor: slot.to_string() })
        }
    })
}

/// How weights are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomInit {
    /// Seed of everything.
    pub seed: u64,
    /// Standard deviation of the matrices; norms begin at 1, biases at 0.
    pub std: f64,
    /// Whether the matrices that write to the residual stream are divided by `sqrt(2 layers)`
    /// (GPT-2, section 2.3).
    pub scale_residual: bool,
}

/// Writes a model with random weights in float32 as a Hugging Face folder.
///
/// # Errors
/// As [`write_trained`].
pub fn write_random(
    dir: &Path,
    config: &ModelConfig,
    init: &RandomInit,
    extra_files: Vec<ExtraFile>,
) -> Result<Vec<PathBuf>, ModelError> {
    let decoder = &config.decoder;
    let residual = (2.0 * decoder.num_layers as f64).sqrt();
    let order: HashMap<Slot, u64> = slots(decoder).into_iter().zip(0..).collect();
    write_values(dir, config, (WeightDtype::F32, extra_files), |slot| {
        let shape = matrix_shape(decoder, slot);
        let len = shape.iter().product();
        if slot.is_norm() {
            return Ok(vec![1.0; len]);
        }
        if shape.len() == 1 {
            return Ok(vec![0.0; len]);
        }
        let writes = matches!(slot, Slot::Layer(_, LayerSlot::Output | LayerSlot::Down(_)));
        let std = if init.scale_residual && writes { init.std / residual } else { init.std };
        // A stream per slot: a tensor's values do not depend on what stands before it.
        let mut rng = ChaCha8Rng::seed_from_u64(init.seed);
        rng.set_stream(order.get(&slot).copied().unwrap_or(0));
        let normals = StandardNormal.sample_iter(&mut rng).take(len);
        Ok(normals.map(|x: f64| (x * std) as f32).collect())
    })
}
