//! A checkpoint on disk made into a running decoder.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use puna_config::{
    DecoderConfig, EmbeddingScale, FfnConfig, HeadWeight, MetaFacts, ModelConfig, NormPlacement,
    QkNorm, Quantization,
};
use puna_io::{Checkpoint, Container};
use puna_kernels::{KvLayout, KvType, available_memory};
use puna_nn::{
    Attention, AttentionParts, Embedding, FeedForward, Mlp, Moe, NnError, Precision, Rotary, Weight,
};

use crate::decoder::Block;
use crate::gguf_meta::GgufView;
use crate::loader::Loader;
use crate::{Decoder, Expert, LayerSlot, ModelError, Slot};

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Arithmetic of the matrix products.
    pub precision: Precision,
    /// In which order quantized weights lie in memory.
    pub layout: WeightLayout,
    /// How the KV cache stores keys and values. `None`: f32 where the decoder computes exactly,
    /// else f16.
    pub kv_type: Option<KvType>,
    /// Where the layers run as tensors: with weights, keys and values in float32 where the decoder
    /// computes exactly, else in bfloat16, whatever the files store. `None`: on the CPU, with
    /// puna's kernels on the weights as they are stored.
    pub device: Option<Device>,
}

/// In which order quantized weights lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// As the file has them, in its memory map: pages shared between processes, no work at the
    /// start, slower steps.
    AsStored,
    /// Blocks on huge pages of their own, quantized ones interleaved by 16 rows, for decoding at the speed
    /// of memory, from the first pass of few tokens on. Exact arithmetic reads single rows and has no use
    /// for it.
    Panels,
}

impl LoadOptions {
    /// What suits a precision.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        let layout = match precision {
            Precision::Exact => WeightLayout::AsStored,
            Precision::Fast => WeightLayout::Panels,
        };
        Self { precision, layout, kv_type: None, device: None }
    }

    /// The same on a device.
    #[must_use]
    pub fn on_device(self, device: Device) -> Self {
        Self { device: Some(device), ..self }
    }
}

/// A loaded model.
pub struct Model {
    /// The decoder.
    pub decoder: Decoder,
    /// What the checkpoint's config says.
    pub config: ModelConfig,
    /// The checkpoint it came from.
    pub checkpoint: Checkpoint,
    /// Tensors in the files that the decoder has no place for.
    pub unused_tensors: Vec<String>,
}

impl Model {
    /// Loads a folder or a file in any container; weights stay in the memory map.
    ///
    /// # Errors
    /// Names the file and the tensor or key that is wrong.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        Self::from_checkpoint(Checkpoint::open(path)?, options)
    }

    /// Makes a decoder of an open checkpoint.
    ///
    /// # Errors
    /// Names the file and the tensor or key that is wrong.
    pub fn from_checkpoint(
        checkpoint: Checkpoint,
        options: &LoadOptions,
    ) -> Result<Self, ModelError> {
        let config = read_config(&checkpoint)?;
        let mut loader = Loader::new(&checkpoint, &config, options.layout)?;
        // More than fits would push out what was read first. What is packed at once leaves its pages, which
        // must not come back.
        let whole = config.quantization.is_none()
            && available_memory().is_none_or(|free| checkpoint.bytes_on_disk() < free as u64);
        let later = options.layout == WeightLayout::Panels;
        if whole && !later {
            checkpoint.read_ahead();
        }
        let decoder = build(&mut loader, options)?;
        // Layers that are made when they are needed compute while those behind them are read.
        if whole && later {
            checkpoint.read_ahead();
        }
        let unused_tensors = loader.unused();
        Ok(Self { decoder, config, checkpoint, unused_tensors })
    }
}

/// The config that belongs to a checkpoint.
///
/// # Errors
/// If it is missing or says something that puna does not run.
pub fn read_config(checkpoint: &Checkpoint) -> Result<ModelConfig, ModelError> {
    let root = checkpoint.root();
    if let Some(gguf) = checkpoint.gguf() {
        let path = checkpoint.files().into_iter().next().unwrap_or_else(|| root.to_path_buf());
        return ModelConfig::from_gguf(&GgufView(gguf))
            .map_err(|source| ModelError::Config { path, source: Box::new(source) });
    }
    if checkpoint.container() == Container::Meta {
        let path = root.join("params.json");
        let vocab_size = checkpoint
            .info("tok_embeddings.weight")
            .and_then(|info| info.shape.first().copied())
            .ok_or_else(|| ModelError::NoEmbedding { path: root.to_path_buf() })?;
        let head = match checkpoint.info("output.weight") {
            Some(_) => HeadWeight::Separate,
            None => HeadWeight::Tied,
        };
        let text = read_text(&path)?;
        return ModelConfig::from_meta_json(&text, &MetaFacts { vocab_size, head })
            .map_err(|source| ModelError::Config { path, source: Box::new(source) });
    }
    let path = root.join("config.json");
    let text = read_text(&path)?;
    let mut config = ModelConfig::from_hf_json(&text)
        .map_err(|source| ModelError::Config { path, source: Box::new(source) })?;
    let separate = root.join("quantize_config.json");
    if config.quantization.is_none() && separate.exists() {
        let text = read_text(&separate)?;
        let found = Quantization::from_quantize_config_json(&text)
            .map_err(|source| ModelError::Config { path: separate, source: Box::new(source) })?;
        config.quantization = Some(found);
    }
    Ok(config)
}

fn read_text(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path)
        .map_err(|source| ModelError::ConfigFile { path: path.to_path_buf(), source })
}

fn build(loader: &mut Loader<'_>, options: &LoadOptions) -> Result<Decoder, ModelError> {
    let config = &loader.config.decoder;
    let stored = loader.matrix(Slot::Embedding)?;
    let precision = decoder_precision(config, options.precision, &stored);
    loader.tensors = options.device.clone().map(|device| match precision {
        Precision::Exact => (device, DType::F32),
        Precision::Fast => (device, DType::BF16),
    });
    let loader = &*loader;
    let embedding = Arc::new(loader.placed(stored)?);
    let head = match config.embedding.head {
        HeadWeight::Tied => {
            loader.for_products(Slot::Embedding, Arc::clone(&embedding), None)?.at(Slot::Head)
        }
        HeadWeight::Separate => loader.linear(Slot::Head, None)?,
    };
    let scale = match config.embedding.scale {
        EmbeddingScale::One => 1.0,
        EmbeddingScale::SqrtHidden => (config.hidden_size as f64).sqrt() as f32,
    };
    let blocks =
        (0..config.num_layers).map(|layer| block(loader, layer)).collect::<Result<_, _>>()?;
    Ok(Decoder {
        config: config.clone(),
        precision,
        kv_layout: kv_layout(config, precision, options.kv_type)?,
        device: options.device.clone(),
        embedding: Embedding::new(embedding, scale),
        blocks,
        final_norm: loader.norm(Slot::FinalNorm)?,
        head,
        global_rotary: Rotary::new(&config.layers.global_rope),
        local_rotary: config.layers.local.as_ref().map(|local| Rotary::new(&local.rope)),
        adapters: None,
        workspaces: std::sync::Mutex::default(),
    })
}

/// A mixture of experts over float weights computes exactly in both modes: activations rounded to
/// bf16 move router logits enough to pick other experts (OLMoE's golden case: rms/std 0.07). What
/// that costs in speed has not been measured.
fn decoder_precision(config: &DecoderConfig, wanted: Precision, embedding: &Weight) -> Precision {
    let floats = matches!(embedding.format_name(), "F32" | "F16" | "BF16");
    match config.ffn {
        FfnConfig::Moe { .. } if floats => Precision::Exact,
        _ => wanted,
    }
}

/// The cache's pages; rounding keys and values to f16 is within what the fast mode may do.
fn kv_layout(
    config: &DecoderConfig,
    precision: Precision,
    wanted: Option<KvType>,
) -> Result<KvLayout, ModelError> {
    let kv_type = wanted.unwrap_or(match precision {
        Precision::Exact => KvType::F32,
        Precision::Fast => KvType::F16,
    });
    let attention = &config.attention;
    let layout = KvLayout::new(kv_type, attention.num_kv_heads, attention.head_dim);
    Ok(layout.map_err(NnError::from)?)
}

fn block(loader: &Loader<'_>, layer: usize) -> Result<Block, ModelError> {
    let config = &loader.config.decoder;
    let norm = |slot| loader.norm(Slot::Layer(layer, slot));
    let post_norm = |slot| match config.placement {
        NormPlacement::Pre => Ok(None),
        NormPlacement::Sandwich => norm(slot).map(Some),
    };
    let head_norm = |slot| match config.attention.qk_norm {
        QkNorm::None => Ok(None),
        QkNorm::PerHead | QkNorm::WholeProjection => norm(slot).map(Some),
    };
    let linear =
        |slot, bias| loader.linear(Slot::Layer(layer, slot), loader.bias_slot(layer, bias));
    let parts = AttentionParts {
        query: linear(LayerSlot::Query, LayerSlot::QueryBias)?,
        key: linear(LayerSlot::Key, LayerSlot::KeyBias)?,
        value: linear(LayerSlot::Value, LayerSlot::ValueBias)?,
        output: linear(LayerSlot::Output, LayerSlot::OutputBias)?,
        query_norm: head_norm(LayerSlot::QueryNorm)?,
        key_norm: head_norm(LayerSlot::KeyNorm)?,
    };
    let kind = config.layers.kind(layer);
    Ok(Block {
        attn_pre_norm: norm(LayerSlot::AttnPreNorm)?,
        attention: Attention::new(&config.attention, layer, kind, parts),
        attn_post_norm: post_norm(LayerSlot::AttnPostNorm)?,
        ffn_pre_norm: norm(LayerSlot::FfnPreNorm)?,
        ffn: feed_forward(loader, layer)?,
        ffn_post_norm: post_norm(LayerSlot::FfnPostNorm)?,
    })
}

fn feed_forward(loader: &Loader<'_>, layer: usize) -> Result<FeedForward, ModelError> {
    let slot = |slot| Slot::Layer(layer, slot);
    match &loader.config.decoder.ffn {
        FfnConfig::Dense { activation, .. } => {
            let linear = |weight, bias| loader.linear(slot(weight), loader.bias_slot(layer, bias));
            Ok(FeedForward::Dense(Mlp {
                gate: linear(LayerSlot::Gate(Expert::Dense), LayerSlot::GateBias)?,
                up: linear(LayerSlot::Up(Expert::Dense), LayerSlot::UpBias)?,
                down: linear(LayerSlot::Down(Expert::Dense), LayerSlot::DownBias)?,
                activation: *activation,
            }))
        }
        FfnConfig::Moe { activation, num_experts, experts_per_token, routing, .. } => {
            let experts = (0..*num_experts)
                .map(|index| {
                    let expert = Expert::Index(index);
                    Ok(Mlp {
                        gate: loader.linear(slot(LayerSlot::Gate(expert)), None)?,
                        up: loader.linear(slot(LayerSlot::Up(expert)), None)?,
                        down: loader.linear(slot(LayerSlot::Down(expert)), None)?,
                        activation: *activation,
                    })
                })
                .collect::<Result<_, ModelError>>()?;
            Ok(FeedForward::Moe(Moe {
                router: loader.linear(slot(LayerSlot::Router), None)?,
                experts,
                experts_per_token: *experts_per_token,
                routing: *routing,
            }))
        }
    }
}
