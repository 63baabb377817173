//! What checkpoints call the decoder's tensors: the only place that knows.
//!
//! Three dialects: Hugging Face's (with its families' differences), GGUF's and Meta's. A slot maps
//! to a [`Location`]: a tensor's name, the part of it that is meant (fused projections, stacked
//! experts), and the order of its rows (Meta and llama-arch GGUF files keep the rows of q and k in
//! interleaved rotary pairs).

use std::ops::Range;

use puna_config::{DecoderConfig, Family, FfnConfig, NormPlacement};
use puna_io::{Checkpoint, Container};

use crate::{Expert, LayerSlot, ModelError, Slot};

/// Whose names a checkpoint uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// Hugging Face; everything but the head under `prefix` (usually `model.`).
    Hf {
        /// Family of the names.
        family: Family,
        /// Before `embed_tokens`, `layers` and `norm`.
        prefix: String,
        /// Before `lm_head`.
        head_prefix: String,
    },
    /// GGUF.
    Gguf {
        /// Family of the architecture.
        family: Family,
        /// How experts are stored.
        experts: GgufExperts,
    },
    /// Meta's `consolidated.*.pth`.
    Meta,
}

/// What Hugging Face's classes call the module that holds a slot's tensor (`model.layers.0.mlp.up_proj`);
/// `None` if the family keeps it in a module with others, as fused projections are.
#[must_use]
pub fn module_path(config: &DecoderConfig, family: Family, slot: Slot) -> Option<String> {
    if slot == Slot::Head {
        return Some("lm_head".to_owned());
    }
    let location = hf(config, family, "model.", "", slot);
    let name = location.tensor;
    let module = name.strip_suffix(".weight").or(name.strip_suffix(".bias"))?;
    (location.part == Part::Whole).then(|| module.to_owned())
}

/// How a GGUF stores experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufExperts {
    /// One tensor `[E, F, C]`.
    Stacked,
    /// One tensor each, as files of early 2024 do.
    Separate,
}

/// Where a slot's tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Name of the tensor in the files, `.weight` or `.bias` included.
    pub tensor: String,
    /// Which part of it.
    pub part: Part,
    /// Order of its rows.
    pub order: RowOrder,
}

/// Part of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Rows of a fused projection; the tensor has `total` rows.
    Rows {
        /// The rows meant.
        range: Range<usize>,
        /// Rows of the stored tensor.
        total: usize,
    },
    /// One expert of a stacked tensor of `count`.
    Expert {
        /// The expert meant.
        index: usize,
        /// Experts in the stored tensor.
        count: usize,
    },
}

/// Order of the rows of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As puna uses them: rotary halves.
    Natural,
    /// Rotary pairs interleaved within each of `heads` heads.
    InterleavedPairs {
        /// Heads of the projection.
        heads: usize,
    },
}

/// Prefixes under which Hugging Face files keep the decoder: alone, and inside vision models.
const HF_PREFIXES: [(&str, &str); 4] = [
    ("model.", ""),
    ("", ""),
    ("language_model.model.", "language_model."),
    ("model.language_model.", ""),
];

impl Dialect {
    /// The dialect of a checkpoint, from its container and the names in it.
    ///
    /// # Errors
    /// If no embedding is found under any known name.
    pub fn of(checkpoint: &Checkpoint, family: Family) -> Result<Self, ModelError> {
        match checkpoint.container() {
            Container::Meta => Ok(Dialect::Meta),
            Container::Gguf => {
                let separate = checkpoint.info("blk.0.ffn_gate.0.weight").is_some();
                let experts = if separate { GgufExperts::Separate } else { GgufExperts::Stacked };
                Ok(Dialect::Gguf { family, experts })
            }
            _ => HF_PREFIXES
                .iter()
                .find(|(prefix, _)| {
                    checkpoint.info(&format!("{prefix}embed_tokens.weight")).is_some()
                })
                .map(|(prefix, head)| Dialect::Hf {
                    family,
                    prefix: (*prefix).to_owned(),
                    head_prefix: (*head).to_owned(),
                })
                .ok_or_else(|| ModelError::NoEmbedding { path: checkpoint.root().to_path_buf() }),
        }
    }

    /// Where a slot's tensor is.
    #[must_use]
    pub fn locate(&self, config: &DecoderConfig, slot: Slot) -> Location {
        match self {
            Dialect::Hf { family, prefix, head_prefix } => {
                hf(config, *family, prefix, head_prefix, slot)
            }
            Dialect::Gguf { family, experts } => gguf(config, *family, *experts, slot),
            Dialect::Meta => meta(config, slot),
        }
    }

    /// Whether norm tensors hold the factor minus one (Gemma's Hugging Face files).
    #[must_use]
    pub fn stores_norms_minus_one(&self) -> bool {
        matches!(self, Dialect::Hf { family: Family::Gemma | Family::Gemma2 | Family::Gemma3, .. })
    }
}

fn whole(tensor: String) -> Location {
    Location { tensor, part: Part::Whole, order: RowOrder::Natural }
}

fn rows(tensor: String, range: Range<usize>, total: usize) -> Location {
    Location { tensor, part: Part::Rows { range, total }, order: RowOrder::Natural }
}

/// Rows of q, k and v in a fused projection.
fn qkv_rows(config: &DecoderConfig, slot: LayerSlot) -> Option<(Range<usize>, usize)> {
    let a = &config.attention;
    let (q, kv) = (a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim);
    let range = match slot {
        LayerSlot::Query => 0..q,
        LayerSlot::Key => q..q + kv,
        LayerSlot::Value => q + kv..q + 2 * kv,
        _ => return None,
    };
    Some((range, q + 2 * kv))
}

/// Rows of gate and up in a fused projection.
fn gate_up_rows(config: &DecoderConfig, slot: LayerSlot) -> Option<(Range<usize>, usize)> {
    let FfnConfig::Dense { ffn_size, .. } = config.ffn else { return None };
    match slot {
        LayerSlot::Gate(_) => Some((0..ffn_size, 2 * ffn_size)),
        LayerSlot::Up(_) => Some((ffn_size..2 * ffn_size, 2 * ffn_size)),
        _ => None,
    }
}

fn hf(
    config: &DecoderConfig,
    family: Family,
    prefix: &str,
    head_prefix: &str,
    slot: Slot,
) -> Location {
    let (layer, slot) = match slot {
        Slot::Embedding => return whole(format!("{prefix}embed_tokens.weight")),
        Slot::FinalNorm => return whole(format!("{prefix}norm.weight")),
        Slot::Head => return whole(format!("{head_prefix}lm_head.weight")),
        Slot::Layer(layer, slot) => (layer, slot),
    };
    let base = format!("{prefix}layers.{layer}.");
    if family == Family::Phi3 {
        if let Some((range, total)) = qkv_rows(config, slot) {
            return rows(format!("{base}self_attn.qkv_proj.weight"), range, total);
        }
        if let Some((range, total)) = gate_up_rows(config, slot) {
            return rows(format!("{base}mlp.gate_up_proj.weight"), range, total);
        }
    }
    let sandwich = config.placement == NormPlacement::Sandwich;
    let name = match slot {
        LayerSlot::AttnPreNorm => "input_layernorm.weight",
        LayerSlot::AttnPostNorm => "post_attention_layernorm.weight",
        LayerSlot::FfnPreNorm if sandwich => "pre_feedforward_layernorm.weight",
        LayerSlot::FfnPreNorm => "post_attention_layernorm.weight",
        LayerSlot::FfnPostNorm => "post_feedforward_layernorm.weight",
        LayerSlot::Query => "self_attn.q_proj.weight",
        LayerSlot::Key => "self_attn.k_proj.weight",
        LayerSlot::Value => "self_attn.v_proj.weight",
        LayerSlot::Output => "self_attn.o_proj.weight",
        LayerSlot::QueryBias => "self_attn.q_proj.bias",
        LayerSlot::KeyBias => "self_attn.k_proj.bias",
        LayerSlot::ValueBias => "self_attn.v_proj.bias",
        LayerSlot::OutputBias => "self_attn.o_proj.bias",
        LayerSlot::QueryNorm => "self_attn.q_norm.weight",
        LayerSlot::KeyNorm => "self_attn.k_norm.weight",
        LayerSlot::GateBias => "mlp.gate_proj.bias",
        LayerSlot::UpBias => "mlp.up_proj.bias",
        LayerSlot::DownBias => "mlp.down_proj.bias",
        LayerSlot::Router if family == Family::Mixtral => "block_sparse_moe.gate.weight",
        LayerSlot::Router => "mlp.gate.weight",
        LayerSlot::Gate(expert) | LayerSlot::Up(expert) | LayerSlot::Down(expert) => {
            return whole(format!("{base}{}", hf_mlp(family, slot, expert)));
        }
    };
    whole(format!("{base}{name}"))
}

fn hf_mlp(family: Family, slot: LayerSlot, expert: Expert) -> String {
    let (name, mixtral) = match slot {
        LayerSlot::Gate(_) => ("gate_proj", "w1"),
        LayerSlot::Down(_) => ("down_proj", "w2"),
        _ => ("up_proj", "w3"),
    };
    match expert {
        Expert::Dense => format!("mlp.{name}.weight"),
        Expert::Index(i) if family == Family::Mixtral => {
            format!("block_sparse_moe.experts.{i}.{mixtral}.weight")
        }
        Expert::Index(i) => format!("mlp.experts.{i}.{name}.weight"),
    }
}

fn gguf(config: &DecoderConfig, family: Family, experts: GgufExperts, slot: Slot) -> Location {
    let (layer, slot) = match slot {
        Slot::Embedding => return whole("token_embd.weight".into()),
        Slot::FinalNorm => return whole("output_norm.weight".into()),
        Slot::Head => return whole("output.weight".into()),
        Slot::Layer(layer, slot) => (layer, slot),
    };
    let base = format!("blk.{layer}.");
    if family == Family::Phi3 {
        if let Some((range, total)) = qkv_rows(config, slot) {
            return rows(format!("{base}attn_qkv.weight"), range, total);
        }
        if let Some((range, total)) = gate_up_rows(config, slot) {
            return rows(format!("{base}ffn_up.weight"), range, total);
        }
    }
    let name = match slot {
        LayerSlot::AttnPreNorm => "attn_norm.weight",
        LayerSlot::AttnPostNorm => "post_attention_norm.weight",
        LayerSlot::FfnPreNorm => "ffn_norm.weight",
        LayerSlot::FfnPostNorm => "post_ffw_norm.weight",
        LayerSlot::Query => "attn_q.weight",
        LayerSlot::Key => "attn_k.weight",
        LayerSlot::Value => "attn_v.weight",
        LayerSlot::Output => "attn_output.weight",
        LayerSlot::QueryBias => "attn_q.bias",
        LayerSlot::KeyBias => "attn_k.bias",
        LayerSlot::ValueBias => "attn_v.bias",
        LayerSlot::OutputBias => "attn_output.bias",
        LayerSlot::QueryNorm => "attn_q_norm.weight",
        LayerSlot::KeyNorm => "attn_k_norm.weight",
        LayerSlot::GateBias => "ffn_gate.bias",
        LayerSlot::UpBias => "ffn_up.bias",
        LayerSlot::DownBias => "ffn_down.bias",
        LayerSlot::Router => "ffn_gate_inp.weight",
        LayerSlot::Gate(expert) => return gguf_mlp(config, &base, "ffn_gate", expert, experts),
        LayerSlot::Up(expert) => return gguf_mlp(config, &base, "ffn_up", expert, experts),
        LayerSlot::Down(expert) => return gguf_mlp(config, &base, "ffn_down", expert, experts),
    };
    let order = match family {
        // Everything that llama.cpp calls `llama`; other architectures keep the hub's order.
        Family::Llama | Family::Mistral | Family::Mixtral => rotary_order(config, slot),
        _ => RowOrder::Natural,
    };
    Location { tensor: format!("{base}{name}"), part: Part::Whole, order }
}

fn gguf_mlp(
    config: &DecoderConfig,
    base: &str,
    name: &str,
    expert: Expert,
    experts: GgufExperts,
) -> Location {
    match (expert, experts) {
        (Expert::Dense, _) => whole(format!("{base}{name}.weight")),
        (Expert::Index(i), GgufExperts::Separate) => whole(format!("{base}{name}.{i}.weight")),
        (Expert::Index(index), GgufExperts::Stacked) => {
            let count = match config.ffn {
                FfnConfig::Moe { num_experts, .. } => num_experts,
                FfnConfig::Dense { .. } => 1,
            };
            Location {
                tensor: format!("{base}{name}_exps.weight"),
                part: Part::Expert { index, count },
                order: RowOrder::Natural,
            }
        }
    }
}

fn meta(config: &DecoderConfig, slot: Slot) -> Location {
    let (layer, slot) = match slot {
        Slot::Embedding => return whole("tok_embeddings.weight".into()),
        Slot::FinalNorm => return whole("norm.weight".into()),
        Slot::Head => return whole("output.weight".into()),
        Slot::Layer(layer, slot) => (layer, slot),
    };
    let name = match slot {
        LayerSlot::AttnPreNorm => "attention_norm.weight",
        LayerSlot::AttnPostNorm => "attention_post_norm.weight",
        LayerSlot::FfnPreNorm => "ffn_norm.weight",
        LayerSlot::FfnPostNorm => "ffn_post_norm.weight",
        LayerSlot::Query => "attention.wq.weight",
        LayerSlot::Key => "attention.wk.weight",
        LayerSlot::Value => "attention.wv.weight",
        LayerSlot::Output => "attention.wo.weight",
        LayerSlot::QueryBias => "attention.wq.bias",
        LayerSlot::KeyBias => "attention.wk.bias",
        LayerSlot::ValueBias => "attention.wv.bias",
        LayerSlot::OutputBias => "attention.wo.bias",
        LayerSlot::QueryNorm => "attention.q_norm.weight",
        LayerSlot::KeyNorm => "attention.k_norm.weight",
        LayerSlot::Router => "feed_forward.gate.weight",
        LayerSlot::Gate(_) => "feed_forward.w1.weight",
        LayerSlot::Up(_) => "feed_forward.w3.weight",
        LayerSlot::Down(_) => "feed_forward.w2.weight",
        LayerSlot::GateBias => "feed_forward.w1.bias",
        LayerSlot::UpBias => "feed_forward.w3.bias",
        LayerSlot::DownBias => "feed_forward.w2.bias",
    };
    let tensor = format!("layers.{layer}.{name}");
    Location { tensor, part: Part::Whole, order: rotary_order(config, slot) }
}

fn rotary_order(config: &DecoderConfig, slot: LayerSlot) -> RowOrder {
    match slot {
        LayerSlot::Query | LayerSlot::QueryBias => {
            RowOrder::InterleavedPairs { heads: config.attention.num_heads }
        }
        LayerSlot::Key | LayerSlot::KeyBias => {
            RowOrder::InterleavedPairs { heads: config.attention.num_kv_heads }
        }
        _ => RowOrder::Natural,
    }
}

impl RowOrder {
    /// Copies rows from the stored order into puna's.
    #[must_use]
    pub fn to_natural(self, bytes: &[u8], rows: usize) -> Vec<u8> {
        let mut out = vec![0; bytes.len()];
        self.to_natural_into(bytes, rows, &mut out);
        out
    }

    /// [`RowOrder::to_natural`] into memory of as many bytes.
    pub fn to_natural_into(self, bytes: &[u8], rows: usize, out: &mut [u8]) {
        self.permute(bytes, rows, |natural, stored| (natural, stored), out);
    }

    /// Copies rows from puna's order into the stored one.
    #[must_use]
    pub fn from_natural(self, bytes: &[u8], rows: usize) -> Vec<u8> {
        let mut out = vec![0; bytes.len()];
        self.permute(bytes, rows, |natural, stored| (stored, natural), &mut out);
        out
    }

    fn permute(
        self,
        bytes: &[u8],
        rows: usize,
        order: impl Fn(usize, usize) -> (usize, usize),
        out: &mut [u8],
    ) {
        let RowOrder::InterleavedPairs { heads } = self else { return out.copy_from_slice(bytes) };
        let row_bytes = bytes.len() / rows.max(1);
        for natural in 0..rows / heads.max(1) * heads {
            let (to, from) = order(natural, self.stored_row(natural, rows));
            out[to * row_bytes..(to + 1) * row_bytes]
                .copy_from_slice(&bytes[from * row_bytes..(from + 1) * row_bytes]);
        }
    }

    /// Which stored row is row `natural` of `rows`.
    fn stored_row(self, natural: usize, rows: usize) -> usize {
        let RowOrder::InterleavedPairs { heads } = self else { return natural };
        let head_dim = (rows / heads.max(1)).max(1);
        let half = (head_dim / 2).max(1);
        // half-split row i is member i / half of pair i % half
        let i = natural % head_dim;
        natural - i + 2 * (i % half) + i / half
    }

    /// Some of puna's rows, of all rows as they are stored.
    pub(crate) fn some_to_natural(self, bytes: &[u8], rows: usize, some: Range<usize>) -> Vec<u8> {
        let row_bytes = bytes.len() / rows.max(1);
        let mut out = Vec::with_capacity(some.len() * row_bytes);
        for natural in some {
            let from = self.stored_row(natural, rows) * row_bytes;
            out.extend_from_slice(&bytes[from..from + row_bytes]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_pairs_become_halves_and_back() {
        let order = RowOrder::InterleavedPairs { heads: 2 };
        let stored = [0u8, 2, 1, 3, 10, 12, 11, 13];
        let natural = order.to_natural(&stored, 8);
        assert_eq!(natural, [0, 1, 2, 3, 10, 11, 12, 13]);
        assert_eq!(order.from_natural(&natural, 8), stored);
        for (start, end) in [(0, 8), (1, 6), (5, 5)] {
            assert_eq!(order.some_to_natural(&stored, 8, start..end), natural[start..end]);
        }
    }
}
