//! Meta's `params.json`: a LLaMA in ten numbers, the rest by convention.
//!
//! The file names neither the width of the feed-forward part (it follows from `multiple_of` and
//! `ffn_dim_multiplier`) nor the context, nor always the vocabulary (`-1`), so what the checkpoint
//! itself shows comes in as [`MetaFacts`].

mod write;

use crate::check::{Field, check_decoder};
use crate::error::{ConfigError, Result};
use crate::object::{Harmless, Object};
use crate::{
    Activation, AttentionBias, AttentionConfig, ConfigTokens, DecoderConfig, EmbeddingConfig,
    EmbeddingScale, Family, FfnBias, FfnConfig, HeadWeight, LayerPattern, ModelConfig, NormConfig,
    NormPlacement, NormWeight, QkNorm, RopeConfig, RopeScaling,
};

/// What the checkpoint shows and `params.json` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaFacts {
    /// Rows of `tok_embeddings.weight`, all shards together, or the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// [`HeadWeight::Tied`] where there is no `output.weight`.
    pub head: HeadWeight,
}

/// Llama 3.1's scaling where `use_scaled_rope` is true; Meta's code has these as constants.
const SCALED_FACTOR: f64 = 8.0;
const SCALED_LOW: f64 = 1.0;
const SCALED_HIGH: f64 = 4.0;
const SCALED_ORIGINAL_MAX: usize = 8192;

/// Base of the rotary frequencies where the file has none (LLaMA 1 and 2).
const DEFAULT_THETA: f64 = 10_000.0;

/// Keys of Meta's loader that say how to run the model, not what it is.
const HARMLESS: &[Harmless] = &[Harmless::Any(&["max_batch_size", "model_parallel_size"])];

impl ModelConfig {
    /// Reads a `params.json`.
    ///
    /// The file does not say the context; it is `max_seq_len` where present, else by generation:
    /// 131072 with `use_scaled_rope` (3.1), 8192 with `rope_theta` 5e5 (3), 16384 with 1e6 (Code
    /// Llama), 2048 with `norm_eps` 1e-6 (LLaMA 1), 4096 otherwise (2).
    ///
    /// `use_scaled_rope` means factor 8 unless `rope_scaling_factor` says otherwise: the files of
    /// 3.2 do not say their 32, and Meta's own code runs them with 8.
    ///
    /// # Errors
    /// As [`ModelConfig::from_hf_json`].
    pub fn from_meta_json(text: &str, facts: &MetaFacts) -> Result<Self> {
        let value = serde_json::from_str(text)?;
        let o = Object::new("", &value)?;
        let decoder = read_decoder(&o, facts)?;
        o.finish(HARMLESS)?;
        Ok(Self {
            decoder,
            family: Family::Llama,
            dtype: None,
            quantization: None,
            tokens: ConfigTokens::default(),
        })
    }
}

fn read_decoder(o: &Object<'_>, facts: &MetaFacts) -> Result<DecoderConfig> {
    let hidden_size = o.required_usize("dim")?;
    let num_heads = o.required_usize("n_heads")?;
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        return Err(ConfigError::contradiction(
            (o.key("dim"), hidden_size),
            (o.key("n_heads"), num_heads),
            "the heads must divide the width",
        ));
    }
    let head_dim = hidden_size / num_heads;
    let theta = o.f64("rope_theta")?.value().unwrap_or(DEFAULT_THETA);
    let norm_eps = o.f64("norm_eps")?.value().unwrap_or(1e-5);
    let scaling = read_scaling(o)?;
    let max_seq_len = o.usize("max_seq_len")?.value();
    let decoder = DecoderConfig {
        vocab_size: read_vocab_size(o, facts)?,
        hidden_size,
        num_layers: o.required_usize("n_layers")?,
        max_seq_len: max_seq_len.unwrap_or_else(|| default_context(theta, norm_eps, &scaling)),
        norm: NormConfig { eps: norm_eps, weight: NormWeight::Direct },
        placement: NormPlacement::Pre,
        attention: AttentionConfig {
            num_heads,
            num_kv_heads: o.usize("n_kv_heads")?.value().unwrap_or(num_heads),
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            qk_norm: QkNorm::None,
            logit_softcap: None,
            bias: AttentionBias::None,
        },
        layers: LayerPattern {
            global_rope: RopeConfig { theta, rotary_dim: head_dim, scaling },
            local: None,
        },
        ffn: FfnConfig::Dense {
            ffn_size: read_ffn_size(o, hidden_size)?,
            activation: Activation::Silu,
            bias: FfnBias::None,
        },
        embedding: EmbeddingConfig { head: facts.head, scale: EmbeddingScale::One },
        final_logit_softcap: None,
    };
    check_decoder(&decoder, &|field| field_key(field).to_owned())?;
    Ok(decoder)
}

/// The file's number, where it is not -1, must be what the checkpoint shows.
fn read_vocab_size(o: &Object<'_>, facts: &MetaFacts) -> Result<usize> {
    match o.i64("vocab_size")?.value() {
        Some(said) if said != -1 && usize::try_from(said) != Ok(facts.vocab_size) => {
            Err(ConfigError::contradiction(
                (o.key("vocab_size"), said),
                ("rows of the embedding", facts.vocab_size),
                "they must agree unless the former is -1",
            ))
        }
        _ => Ok(facts.vocab_size),
    }
}

/// Largest numbers with which the width cannot overflow.
const MAX_DIM: usize = 1 << 22;
const MAX_MULTIPLIER: f64 = 1_048_576.0;

fn read_ffn_size(o: &Object<'_>, hidden_size: usize) -> Result<usize> {
    let multiple_of = o.usize("multiple_of")?.value().unwrap_or(256);
    for (key, n) in [("dim", hidden_size), ("multiple_of", multiple_of)] {
        if !(1..=MAX_DIM).contains(&n) {
            return Err(ConfigError::invalid(o.key(key), n, format!("from 1 to {MAX_DIM}")));
        }
    }
    let multiplier = o.f64("ffn_dim_multiplier")?.value();
    if let Some(x) = multiplier
        && !(x > 0.0 && x <= MAX_MULTIPLIER)
    {
        let key = o.key("ffn_dim_multiplier");
        return Err(ConfigError::invalid(key, x, format!("above 0 and at most {MAX_MULTIPLIER}")));
    }
    Ok(ffn_size(hidden_size, multiplier, multiple_of))
}

/// Meta's rule: two thirds of `4 * dim`, times the multiplier, both truncated, then rounded up to
/// a multiple.
fn ffn_size(hidden_size: usize, multiplier: Option<f64>, multiple_of: usize) -> usize {
    let base = 8 * hidden_size / 3;
    let base = multiplier.map_or(base, |m| (m * base as f64) as usize);
    base.div_ceil(multiple_of) * multiple_of
}

fn read_scaling(o: &Object<'_>) -> Result<RopeScaling> {
    let scaled = o.bool("use_scaled_rope")?.value().unwrap_or(false);
    let factor = o.f64("rope_scaling_factor")?.value();
    let high = o.f64("rope_high_freq_factor")?.value();
    if let (false, Some(factor)) = (scaled, factor.or(high)) {
        return Err(ConfigError::contradiction(
            (o.key("rope_scaling_factor"), factor),
            (o.key("use_scaled_rope"), false),
            "a factor needs use_scaled_rope",
        ));
    }
    if !scaled {
        return Ok(RopeScaling::None);
    }
    Ok(RopeScaling::Llama3 {
        factor: factor.unwrap_or(SCALED_FACTOR),
        low_freq_factor: SCALED_LOW,
        high_freq_factor: high.unwrap_or(SCALED_HIGH),
        original_max: SCALED_ORIGINAL_MAX,
    })
}

/// The context of the generation that these numbers belong to.
fn default_context(theta: f64, norm_eps: f64, scaling: &RopeScaling) -> usize {
    if *scaling != RopeScaling::None {
        131_072
    } else if theta == 1e6 {
        16_384
    } else if theta >= 5e5 {
        8192
    } else if norm_eps == 1e-6 {
        2048
    } else {
        4096
    }
}

fn field_key(field: Field) -> &'static str {
    match field {
        Field::VocabSize => "vocab_size",
        Field::HiddenSize => "dim",
        Field::NumLayers => "n_layers",
        Field::MaxSeqLen => "max_seq_len",
        Field::NormEps => "norm_eps",
        Field::NumHeads => "n_heads",
        Field::NumKvHeads => "n_kv_heads",
        Field::Theta => "rope_theta",
        Field::RopeScaling => "rope_scaling_factor",
        Field::FfnSize => "feed-forward width (from multiple_of and ffn_dim_multiplier)",
        Field::HeadDim | Field::RotaryDim => "width of a head (dim / n_heads)",
        _ => "a fixed part",
    }
}

#[cfg(test)]
mod tests {
    use super::ffn_size;

    #[test]
    fn feed_forward_widths_are_those_of_the_published_models() {
        assert_eq!(ffn_size(4096, None, 256), 11_008); // 7B
        assert_eq!(ffn_size(8192, Some(1.3), 4096), 28_672); // Llama 2 70B
        assert_eq!(ffn_size(4096, Some(1.3), 1024), 14_336); // Llama 3 8B
        assert_eq!(ffn_size(16_384, Some(1.2), 4096), 53_248); // Llama 3.1 405B
    }
}
