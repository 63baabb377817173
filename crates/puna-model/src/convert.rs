//! From any checkpoint to Hugging Face, GGUF or Meta files.
//!
//! A conversion is a plan (which tensors the target has, and which slots each is made of) carried
//! out one tensor at a time, so memory stays at the largest tensor. Values pass through puna's row
//! order; where the stored type does not change they are copied bit for bit.

mod cast;
mod plan;
mod portability;
mod sidecar;

pub use sidecar::hf_files;

use std::path::{Path, PathBuf};

use puna_io::GgufWriter;
use puna_io::write::{EmbeddingSplit, HfOptions, MetaOptions, write_hf_folder, write_meta_folder};
use puna_io::{Checkpoint, Dtype, GgufValue, TensorBytes, TensorInfo};

use crate::loader::Loader;
use crate::{ModelError, WeightLayout, read_config};
use plan::Plan;
pub(crate) use plan::hf_dialect;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A Hugging Face folder of safetensors.
    Hf {
        /// Largest shard in bytes; one file where `None`.
        max_shard_bytes: Option<u64>,
    },
    /// One GGUF file.
    Gguf,
    /// Meta's folder.
    Meta {
        /// Number of `consolidated.NN.pth` shards.
        model_parallel: usize,
    },
}

/// Type of the matrices written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutType {
    /// As stored where the target can hold it; F16 for what it cannot.
    Auto,
    /// float32
    F32,
    /// IEEE half
    F16,
    /// bfloat16
    BF16,
    /// 8-bit blocks; GGUF only.
    Q8_0,
    /// 4-bit blocks, embedding and head in 8-bit blocks; GGUF only.
    Q4_0,
}

impl OutType {
    fn dtype(self) -> Option<Dtype> {
        Some(match self {
            OutType::Auto => return None,
            OutType::F32 => Dtype::F32,
            OutType::F16 => Dtype::F16,
            OutType::BF16 => Dtype::BF16,
            OutType::Q8_0 => Dtype::Q8_0,
            OutType::Q4_0 => Dtype::Q4_0,
        })
    }
}

/// What a conversion did.
#[derive(Debug, Clone)]
pub struct ConvertReport {
    /// Files written.
    pub files: Vec<PathBuf>,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensors written.
    pub bytes: u64,
    /// Things a reader should know: tensors kept wider than asked, files not carried over.
    pub notes: Vec<String>,
}

/// Converts a checkpoint; `progress` is told the bytes done and the total.
///
/// # Errors
/// If the source is broken, the target cannot express it, or writing fails; files that stood at
/// the target before are then still there.
pub fn convert(
    source: &Checkpoint,
    target: Target,
    out_type: OutType,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ConvertReport, ModelError> {
    let config = read_config(source)?;
    let loader = Loader::new(source, &config, WeightLayout::AsStored)?;
    let plan = Plan::new(&loader, target, out_type)?;
    let list: Vec<(String, TensorInfo)> =
        plan.tensors.iter().map(|t| (t.name.clone(), t.info.clone())).collect();
    let total: u64 = list.iter().filter_map(|(_, info)| info.byte_len()).map(|n| n as u64).sum();
    let mut done = 0;
    let bytes_of = |name: &str| -> Result<TensorBytes, ModelError> {
        let bytes = plan.make(&loader, name)?;
        done += bytes.len() as u64;
        progress(done, total);
        Ok(bytes)
    };
    let mut notes = plan.notes.clone();
    let files = match target {
        Target::Hf { max_shard_bytes } => {
            let extra_files = sidecar::hf_files(source, &config, &mut notes)?;
            let options = HfOptions { max_shard_bytes, extra_files, ..HfOptions::default() };
            write_hf_folder(out, &list, &options, bytes_of)?
        }
        Target::Meta { model_parallel } => {
            let (params_json, extra_files) = sidecar::meta_files(source, &config, &mut notes)?;
            let embedding = match config.decoder.vocab_size {
                LLAMA3_VOCAB.. => EmbeddingSplit::Vocabulary,
                _ => EmbeddingSplit::Hidden,
            };
            let options =
                MetaOptions { shards: model_parallel, embedding, params_json, extra_files };
            write_meta_folder(out, &list, &options, bytes_of)?
        }
        Target::Gguf => {
            let metadata = sidecar::gguf_metadata(source, &config, plan.dtype, &mut notes)?;
            notes.extend(portability::notes(&config));
            let factors = config.decoder.gguf_rope_tensors();
            write_gguf(out, metadata, list.clone(), &factors, bytes_of)?
        }
    };
    Ok(ConvertReport { files, tensors: list.len(), bytes: total, notes })
}

/// Vocabularies from this size on are Llama 3's, whose embedding is split along the vocabulary.
const LLAMA3_VOCAB: usize = 100_000;

/// Writes a GGUF: first the divisors of rotary frequencies, then the model's tensors.
fn write_gguf(
    out: &Path,
    metadata: Vec<(String, GgufValue)>,
    tensors: Vec<(String, TensorInfo)>,
    factors: &[(String, Vec<f32>)],
    mut bytes_of: impl FnMut(&str) -> Result<TensorBytes, ModelError>,
) -> Result<Vec<PathBuf>, ModelError> {
    let mut list: Vec<(String, TensorInfo)> = factors
        .iter()
        .map(|(name, values)| {
            (name.clone(), TensorInfo { dtype: Dtype::F32, shape: vec![values.len()] })
        })
        .collect();
    list.extend(tensors);
    let bytes_of = |name: &str| match factors.iter().find(|(factor, _)| factor == name) {
        None => bytes_of(name),
        Some((_, values)) => {
            let bytes = values.iter().flat_map(|f| f.to_le_bytes()).collect();
            Ok(TensorBytes::from_vec(bytes))
        }
    };
    GgufWriter::new(metadata).write(out, &list, bytes_of)
}
