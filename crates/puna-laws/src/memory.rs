//! What a device must hold, item by item: in training, with adapters, and in inference.
//!
//! Items and not one formula: what a reader changes (a shorter sequence, another optimizer) shows
//! in the item it belongs to. Parameters and caches are counted exactly from the config; the bytes
//! that a training step keeps follow published rules (Korthikanti et al. 2022; Rajbhandari et al.
//! 2020), whose assumptions the items' names carry.

mod activations;
mod format;
mod states;

pub use activations::{ActivationShape, Recompute, llama_block_bytes};
pub use format::WeightFormat;
pub use states::{Optimizer, StateBytes, Zero};

use puna_config::{DecoderConfig, FfnConfig};

use crate::hardware::GIB;
use crate::layout::Layout;

/// What the driver and the libraries' workspace take of each device: half a GiB to one as a rule.
pub const CONTEXT_BYTES: f64 = 0.75 * GIB;
/// Bytes of a cached key or value, and of an activation.
const HALF: usize = 2;

/// One item.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What it is.
    pub what: &'static str,
    /// How it was counted, in words.
    pub rule: String,
    /// Bytes on one device.
    pub bytes: f64,
}

/// All items of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// In the order they are spoken of; without the driver's context.
    pub items: Vec<Item>,
}

impl Need {
    /// Bytes before the driver's context.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// GiB before the driver's context.
    #[must_use]
    pub fn gib(&self) -> f64 {
        self.bytes() / GIB
    }

    /// Whether it fits `memory_bytes` together with the driver's context.
    #[must_use]
    pub fn fits(&self, memory_bytes: f64) -> bool {
        self.bytes() + CONTEXT_BYTES <= memory_bytes
    }
}

/// Settings of a training step that memory depends on, besides the layout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// Tokens per sequence.
    pub seq: usize,
    /// What optimizer and precision keep per parameter.
    pub optimizer: Optimizer,
}

fn item(what: &'static str, rule: String, bytes: f64) -> Item {
    Item { what, rule, bytes }
}

/// Parameters of the first and of the last pipeline stage.
fn stage_params(config: &DecoderConfig, stages: usize) -> (f64, f64) {
    let counts = config.parameters();
    let hidden = config.hidden_size as f64;
    let layers = (counts.non_embedding as f64 - hidden) / stages as f64;
    let embedding = config.vocab_size as f64 * hidden;
    if stages == 1 {
        return (counts.total as f64, counts.total as f64);
    }
    // A tied head is copied to the last stage.
    (embedding + layers, layers + embedding + hidden)
}

/// The largest of a training's devices: full training under a layout.
///
/// Of a pipeline's stages the first holds the most activations and the last the logits; the larger
/// of the two is given.
#[must_use]
pub fn training(config: &DecoderConfig, layout: &Layout, how: Training) -> Need {
    let (first, last) = stage_params(config, layout.pp);
    // 1F1B: the first stage holds the activations of as many micro-batches as there are stages.
    let in_flight = layout.pp.min(layout.accumulation).max(1) as f64;
    let first = stage(config, layout, how, (first, in_flight));
    let mut last = stage(config, layout, how, (last, 1.0));
    let logits = logits(config, layout, how.seq);
    if layout.pp == 1 || last.bytes() + logits.bytes > first.bytes() {
        last.items.push(logits);
        return last;
    }
    first
}

/// A stage without logits.
fn stage(
    config: &DecoderConfig,
    layout: &Layout,
    how: Training,
    (params, in_flight): (f64, f64),
) -> Need {
    let params = params / layout.tp as f64;
    let per_param = how.optimizer.state_bytes();
    let held = layout.zero.shard(per_param, layout.dp);
    let share = |kept: f64, full: f64| {
        let shared = if kept < full { format!(" / {} replicas", layout.dp) } else { String::new() };
        format!("{full} B × {params:.3e} parameters{shared}")
    };
    let layers = config.num_layers as f64 / layout.pp as f64 * in_flight;
    Need {
        items: vec![
            item("weights", share(held.weights, per_param.weights), held.weights * params),
            item("gradients", share(held.gradients, per_param.gradients), held.gradients * params),
            item("optimizer", share(held.optimizer, per_param.optimizer), held.optimizer * params),
            widened(activations(config, layout, how.seq, layers), how.optimizer),
        ],
    }
}

/// Activations in float32, where everything is.
fn widened(activations: Item, optimizer: Optimizer) -> Item {
    match optimizer.activation_factor() {
        1.0 => activations,
        factor => Item {
            bytes: factor * activations.bytes,
            rule: format!("{}, × {factor} in float32", activations.rule),
            ..activations
        },
    }
}

fn activation_shape(config: &DecoderConfig, layout: &Layout, seq: usize) -> ActivationShape {
    ActivationShape {
        seq: seq as f64 / layout.cp as f64,
        micro_batch: layout.micro_batch as f64,
        hidden: config.hidden_size as f64,
        heads: config.attention.num_heads as f64,
        tp: layout.tp as f64,
        sequence_parallel: true,
    }
}

fn activations(config: &DecoderConfig, layout: &Layout, seq: usize, layers: f64) -> Item {
    let shape = activation_shape(config, layout, seq);
    let per_layer = shape.layer_bytes(layout.recompute);
    // Recomputing a layer needs room for all of it once.
    let (rule, extra) = match layout.recompute {
        Recompute::Full => {
            ("2 s b h per layer, and one layer whole", shape.layer_bytes(Recompute::Selective))
        }
        Recompute::Selective => ("34 s b h / t per layer, scores not kept", 0.0),
        Recompute::Nothing => ("s b h (34 + 5 a s/h) / t per layer, scores kept", 0.0),
    };
    let rule = format!("{rule}; {layers:.0} layers' worth");
    item("activations", rule, layers * per_layer + extra)
}

fn logits(config: &DecoderConfig, layout: &Layout, seq: usize) -> Item {
    let positions = seq as f64 / layout.cp as f64 * layout.micro_batch as f64;
    let bytes = 4.0 * positions * config.vocab_size as f64 / layout.tp as f64;
    item("logits", "4 s b v / t, float32".to_owned(), bytes)
}

/// Low-rank adapters on a frozen base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterTraining {
    /// Rank of the adapters, on all seven projections of a layer.
    pub rank: usize,
    /// How the base's matrices in layers are stored; embedding, head and norms are in 16 bits.
    pub base: WeightFormat,
    /// Tokens per sequence.
    pub seq: usize,
}

/// Parameters of rank-`rank` adapters on q, k, v, output, gate, up and down of every layer (of
/// every expert): `rank · (in + out)` each.
#[must_use]
pub fn adapter_params(config: &DecoderConfig, rank: usize) -> f64 {
    let a = &config.attention;
    let hidden = config.hidden_size;
    let (q, kv) = (a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim);
    let (ffn, experts) = match config.ffn {
        FfnConfig::Dense { ffn_size, .. } => (ffn_size, 1),
        FfnConfig::Moe { ffn_size, num_experts, .. } => (ffn_size, num_experts),
    };
    let attention = 2 * (hidden + q) + 2 * (hidden + kv);
    let feed_forward = 3 * (hidden + ffn) * experts;
    (rank * (attention + feed_forward)) as f64 * config.num_layers as f64
}

/// Training of adapters; the base is frozen and has neither gradients nor optimizer states.
///
/// Every data-parallel replica holds the base; tensor and pipeline parallelism divide it.
#[must_use]
pub fn adapter_training(config: &DecoderConfig, layout: &Layout, how: AdapterTraining) -> Need {
    let split = (layout.tp * layout.pp) as f64;
    let counts = config.parameters();
    let head = (config.vocab_size * config.hidden_size) as f64;
    let in_layers = counts.matmul as f64 - head;
    let rest = counts.total as f64 - in_layers;
    let base = (in_layers * how.base.bits() / 8.0 + 2.0 * rest) / split;
    let adapters = adapter_params(config, how.rank);
    let layers = config.num_layers as f64 / layout.pp as f64
        * layout.pp.min(layout.accumulation).max(1) as f64;
    let states = Optimizer::AdamW.state_bytes().total();
    Need {
        items: vec![
            item(
                "frozen weights",
                format!("{} in layers ({:.3} bits), the rest bf16", how.base, how.base.bits()),
                base,
            ),
            item(
                "adapters",
                format!("rank {}: {states} B × {adapters:.3e} parameters", how.rank),
                states * adapters / split,
            ),
            activations(config, layout, how.seq, layers),
            logits(config, layout, how.seq),
        ],
    }
}

/// Inference: weights and the cache of some sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inference {
    /// How the weights are stored.
    pub format: WeightFormat,
    /// Tokens per sequence.
    pub context: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Devices that share the model.
    pub devices: usize,
}

/// Weights and a 16-bit cache; layers with a window hold no more than it.
#[must_use]
pub fn inference(config: &DecoderConfig, how: Inference) -> Need {
    let devices = how.devices as f64;
    let weights = weight_bytes(config.parameters().total as f64, how.format);
    let cache = config.kv_bytes_read(how.context, HALF) as f64 * how.sequences as f64;
    let rule = format!("{} × {} tokens in 16 bits", how.sequences, how.context);
    Need {
        items: vec![
            item("weights", format!("{} bits each", how.format.bits()), weights / devices),
            item("KV cache", rule, cache / devices),
        ],
    }
}

/// `params · bits / 8`.
#[must_use]
pub fn weight_bytes(params: f64, format: WeightFormat) -> f64 {
    params * format.bits() / 8.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_config::preset;

    fn config(name: &str) -> DecoderConfig {
        preset(name).unwrap().unwrap().decoder
    }

    #[test]
    fn adapters_of_rank_16_on_llama_7b_are_40m() {
        // peft prints 39,976,960 trainable parameters for Llama-2-7B, r = 16, all linear layers.
        assert_eq!(adapter_params(&config("llama-2-7b"), 16), 39_976_960.0);
    }

    #[test]
    fn a_pipeline_s_stages_hold_all_parameters_once() {
        let config = config("llama-2-70b");
        let (first, last) = stage_params(&config, 2);
        assert_eq!(first + last, config.parameters().total as f64);
    }

    #[test]
    fn windows_bound_the_cache() {
        let how =
            Inference { format: WeightFormat::Bf16, context: 32_768, sequences: 1, devices: 1 };
        let need = inference(&config("mistral-7b-v0.1"), how);
        assert_eq!(need.items[1].bytes, 131_072.0 * 4096.0);
    }
}
