//! What `puna info` reports, gathered from config and tensor headers.

use std::collections::BTreeMap;

use puna_config::{
    ActOrder, BitsAndBytesKind, DecoderConfig, Family, FfnConfig, ModelConfig, Quantization,
};
use puna_io::{Checkpoint, Container, Dtype};
use puna_kernels::{KvLayout, KvType};
use serde::Serialize;

use crate::model_ref::ModelRef;

/// The JSON, a contract that scripts rely on.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pub(super) model: String,
    pub(super) architecture: String,
    pub(super) parameters: u64,
    pub(super) active_parameters: u64,
    /// Bytes of the files that hold tensors.
    pub(super) bytes: u64,
    /// `safetensors`, `pytorch`, `meta` or `gguf`.
    pub(super) format: &'static str,
    pub(super) files: usize,
    /// How the weights are quantized; null where they are not.
    pub(super) quantization: Option<String>,
    /// Tensors of each stored type.
    pub(super) dtypes: BTreeMap<&'static str, DtypeFacts>,
    pub(super) context: usize,
    pub(super) layers: usize,
    pub(super) hidden_size: usize,
    pub(super) ffn_size: usize,
    pub(super) experts: Option<usize>,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab_size: usize,
    /// Bytes that one token takes in puna's cache by default: as f16.
    pub(super) kv_bytes_per_token: u64,
    /// The same with 16-bit values, which is the default.
    pub(super) kv_bytes_per_token_16bit: u64,
    /// The same for each `--kv-type` that the model can have.
    pub(super) kv_bytes_per_token_by_type: BTreeMap<&'static str, u64>,
}

/// Tensors of one stored type.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct DtypeFacts {
    pub(super) tensors: usize,
    pub(super) bytes: u64,
}

impl Facts {
    pub(super) fn new(origin: &ModelRef, checkpoint: &Checkpoint, config: &ModelConfig) -> Self {
        let decoder = &config.decoder;
        let count = decoder.parameters();
        let dtypes = dtypes(checkpoint);
        let (ffn_size, experts) = feed_forward(decoder);
        Self {
            model: origin.to_string(),
            architecture: architecture(config.family).to_string(),
            parameters: count.total,
            active_parameters: count.active,
            bytes: file_bytes(origin, checkpoint),
            format: format(checkpoint.container()),
            files: checkpoint.files().len(),
            quantization: quantization(config.quantization.as_ref(), &dtypes),
            dtypes: dtypes.into_iter().map(|(dtype, facts)| (dtype.name(), facts)).collect(),
            context: decoder.max_seq_len,
            layers: decoder.num_layers,
            hidden_size: decoder.hidden_size,
            ffn_size,
            experts,
            heads: decoder.attention.num_heads,
            kv_heads: decoder.attention.num_kv_heads,
            head_dim: decoder.attention.head_dim,
            vocab_size: decoder.vocab_size,
            kv_bytes_per_token: decoder.kv_bytes_per_token(2),
            kv_bytes_per_token_16bit: decoder.kv_bytes_per_token(2),
            kv_bytes_per_token_by_type: kv_bytes(decoder),
        }
    }
}

fn kv_bytes(decoder: &DecoderConfig) -> BTreeMap<&'static str, u64> {
    let attention = &decoder.attention;
    let possible = |kv_type: &KvType| {
        KvLayout::new(*kv_type, attention.num_kv_heads, attention.head_dim).is_ok()
    };
    let values = decoder.kv_bytes_per_token(1);
    let types = KvType::ALL.iter().filter(|kv_type| possible(kv_type));
    types.map(|kv_type| (kv_type.name(), kv_type.bytes(values))).collect()
}

fn file_bytes(origin: &ModelRef, checkpoint: &Checkpoint) -> u64 {
    match origin {
        ModelRef::BuiltIn(model) => model.size_bytes(),
        ModelRef::Path(_) => checkpoint.bytes_on_disk(),
    }
}

fn dtypes(checkpoint: &Checkpoint) -> BTreeMap<Dtype, DtypeFacts> {
    let mut dtypes: BTreeMap<Dtype, DtypeFacts> = BTreeMap::new();
    for info in checkpoint.names().filter_map(|name| checkpoint.info(name)) {
        let facts = dtypes.entry(info.dtype).or_default();
        facts.tensors += 1;
        facts.bytes += info.byte_len().unwrap_or(0) as u64;
    }
    dtypes
}

fn feed_forward(decoder: &DecoderConfig) -> (usize, Option<usize>) {
    match &decoder.ffn {
        FfnConfig::Dense { ffn_size, .. } => (*ffn_size, None),
        FfnConfig::Moe { ffn_size, num_experts, .. } => (*ffn_size, Some(*num_experts)),
    }
}

/// The container's name.
pub(crate) fn format(container: Container) -> &'static str {
    match container {
        Container::Safetensors => "safetensors",
        Container::PyTorch => "pytorch",
        Container::Meta => "meta",
        Container::Gguf => "gguf",
    }
}

/// transformers' `model_type`.
pub(crate) fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama => "llama",
        Family::Mistral => "mistral",
        Family::Mixtral => "mixtral",
        Family::Gemma => "gemma",
        Family::Gemma2 => "gemma2",
        Family::Gemma3 => "gemma3_text",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Qwen3Moe => "qwen3_moe",
        Family::Olmoe => "olmoe",
        Family::Phi3 => "phi3",
        _ => "unknown",
    }
}

/// What the config says, else the block format that holds most bytes.
fn quantization(
    config: Option<&Quantization>,
    dtypes: &BTreeMap<Dtype, DtypeFacts>,
) -> Option<String> {
    let group = |size: &Option<usize>| match size {
        Some(size) => format!("group {size}"),
        None => "one group per row".to_string(),
    };
    match config {
        Some(Quantization::Gptq { bits, group_size, act_order, .. }) => {
            let order = match act_order {
                ActOrder::Sequential => "",
                ActOrder::Reordered => ", act-order",
            };
            Some(format!("gptq {bits}-bit, {}{order}", group(group_size)))
        }
        Some(Quantization::Awq { group_size }) => Some(format!("awq 4-bit, {}", group(group_size))),
        Some(Quantization::BitsAndBytes { kind: BitsAndBytesKind::FourBit }) => {
            Some("bitsandbytes 4-bit".to_string())
        }
        Some(Quantization::BitsAndBytes { kind: BitsAndBytesKind::Int8 }) => {
            Some("bitsandbytes int8".to_string())
        }
        Some(Quantization::Fp8Block { block: [rows, columns] }) => {
            Some(format!("fp8 e4m3, blocks of {rows}x{columns}"))
        }
        None => {
            let blocks = dtypes.iter().filter(|(dtype, _)| !dtype.is_plain());
            let largest = blocks.max_by_key(|(_, facts)| facts.bytes)?;
            Some(largest.0.name().to_string())
        }
    }
}
