//! GGUF metadata as a model's config, in both directions.
//!
//! llama.cpp keeps part of a config in code (Gemma's scales and window patterns, Mixtral's
//! routing) and drops another part (Llama 3.1's rope parameters, Mistral's window). Reading does
//! what llama.cpp does with the same file, except that windows it ignores are kept; writing adds
//! `puna.*` keys for what the format cannot say, and reading prefers them.
//!
//! | key | type | says |
//! |---|---|---|
//! | `puna.family` | string | `model_type`, where the architecture has several |
//! | `puna.attention.scale` | f64 | factor on the scores, where it is not llama.cpp's |
//! | `puna.attention.sliding_window`, `.local_layers` | u64, string | windows that llama.cpp drops |
//! | `puna.rope.scaling.*` | | all parameters of a scaling other than linear |

mod keys;
mod rope;
mod write;

use crate::check::check_decoder;
use crate::error::{ConfigError, Result};
use crate::pattern::{infer, touches};
use crate::{
    Activation, AttentionBias, AttentionConfig, ConfigTokens, DecoderConfig, EmbeddingConfig,
    EmbeddingScale, Family, FfnBias, FfnConfig, HeadWeight, LayerPattern, LocalAttention,
    LocalLayers, ModelConfig, NormConfig, NormPlacement, NormWeight, QkNorm, RopeScaling, Routing,
    WeightDtype,
};
use keys::Keys;

pub use keys::{GgufMetadata, GgufValue};

impl ModelConfig {
    /// Reads the metadata of a GGUF file.
    ///
    /// Architectures: `llama` (also Mistral and Mixtral), `gemma`, `gemma2`, `gemma3`, `qwen2`,
    /// `qwen3`, `qwen3moe`, `olmoe`, `phi3`. Norm tensors of Gemma's files hold the factor itself.
    /// Numbers stored as f32 are taken for the shortest decimal that gives that f32 (`1e-5`).
    ///
    /// # Errors
    /// What is wrong, with the key: another architecture, an unknown key of the architecture, a
    /// value of the wrong type or out of range, or two values that exclude each other.
    pub fn from_gguf(meta: &dyn GgufMetadata) -> Result<Self> {
        let key = "general.architecture";
        let arch = meta.str(key).ok_or_else(|| ConfigError::MissingKey { key: key.into() })?;
        let family = match arch {
            "llama" => Family::Llama,
            "gemma" => Family::Gemma,
            "gemma2" => Family::Gemma2,
            "gemma3" => Family::Gemma3,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "qwen3moe" => Family::Qwen3Moe,
            "olmoe" => Family::Olmoe,
            "phi3" => Family::Phi3,
            _ => {
                let name = arch.to_owned();
                return Err(ConfigError::UnsupportedArchitecture { key: key.into(), name });
            }
        };
        let keys = Keys::new(meta, arch);
        let decoder = read_decoder(&keys, family)?;
        let family = read_family(&keys, family, &decoder.ffn)?;
        let dtype = match keys.meta.u64("general.file_type") {
            Some(0) => Some(WeightDtype::F32),
            Some(1) => Some(WeightDtype::F16),
            Some(32) => Some(WeightDtype::BF16),
            _ => None,
        };
        let tokens = read_tokens(meta);
        keys.finish()?;
        Ok(Self { decoder, family, dtype, quantization: None, tokens })
    }
}

/// The architecture `llama` has several families; `puna.family` or the experts tell which.
fn read_family(keys: &Keys<'_>, family: Family, ffn: &FfnConfig) -> Result<Family> {
    if family != Family::Llama {
        return Ok(family);
    }
    match (ffn, keys.meta.str("puna.family")) {
        (FfnConfig::Moe { .. }, None | Some("mixtral")) => Ok(Family::Mixtral),
        (FfnConfig::Dense { .. }, None | Some("llama")) => Ok(Family::Llama),
        (FfnConfig::Dense { .. }, Some("mistral")) => Ok(Family::Mistral),
        (_, Some(other)) => Err(ConfigError::contradiction(
            ("puna.family", other),
            ("general.architecture", keys.arch),
            "the architecture has no such family",
        )),
    }
}

fn read_tokens(meta: &dyn GgufMetadata) -> ConfigTokens {
    let id = |name: &str| {
        meta.u64(&format!("tokenizer.ggml.{name}_token_id")).and_then(|id| u32::try_from(id).ok())
    };
    let mut eos: Vec<u32> = id("eos").into_iter().collect();
    for other in [id("eot"), id("eom")].into_iter().flatten() {
        if !eos.contains(&other) {
            eos.push(other);
        }
    }
    ConfigTokens { bos: id("bos"), eos, pad: id("padding") }
}

fn read_decoder(keys: &Keys<'_>, family: Family) -> Result<DecoderConfig> {
    let gemma = matches!(family, Family::Gemma | Family::Gemma2 | Family::Gemma3);
    let sandwich = matches!(family, Family::Gemma2 | Family::Gemma3);
    let hidden_size = keys.required("embedding_length")?;
    let num_layers = keys.required("block_count")?;
    let max_seq_len = keys.required("context_length")?;
    let attention = read_attention(keys, family, (hidden_size, num_layers))?;
    let tied = !keys.meta.has_tensor("output.weight");
    let decoder = DecoderConfig {
        vocab_size: read_vocab_size(keys)?,
        hidden_size,
        num_layers,
        max_seq_len,
        norm: NormConfig {
            eps: keys.required_f64("attention.layer_norm_rms_epsilon")?,
            weight: NormWeight::Direct,
        },
        placement: if sandwich { NormPlacement::Sandwich } else { NormPlacement::Pre },
        layers: read_layers(keys, family, (num_layers, max_seq_len, attention.head_dim))?,
        attention,
        ffn: read_ffn(keys, family)?,
        embedding: EmbeddingConfig {
            head: if tied { HeadWeight::Tied } else { HeadWeight::Separate },
            scale: if gemma { EmbeddingScale::SqrtHidden } else { EmbeddingScale::One },
        },
        final_logit_softcap: read_softcap(keys, family, ("final_logit_softcapping", 30.0))?,
    };
    check_decoder(&decoder, &|field| keys::field(keys.arch, field))?;
    Ok(decoder)
}

/// The key, the token list and the embedding's rows say the same where they say anything.
fn read_vocab_size(keys: &Keys<'_>) -> Result<usize> {
    let embedding = "token_embd.weight";
    let rows = keys.meta.tensor_shape(embedding).and_then(|shape| shape.first().copied());
    let tokens = "tokenizer.ggml.tokens";
    let sources = [
        (keys.key("vocab_size"), keys.usize("vocab_size")?),
        (tokens.to_owned(), keys.meta.string_array_len(tokens)),
        (format!("rows of {embedding}"), rows),
    ];
    let mut known = sources.into_iter().filter_map(|(name, n)| Some((name, n?)));
    let Some(first) = known.next() else {
        return Err(ConfigError::MissingKey { key: keys.key("vocab_size") });
    };
    match known.find(|(_, n)| *n != first.1) {
        Some(other) => Err(ConfigError::contradiction(first, other, "they must agree")),
        None => Ok(first.1),
    }
}

fn read_attention(
    keys: &Keys<'_>,
    family: Family,
    (hidden_size, num_layers): (usize, usize),
) -> Result<AttentionConfig> {
    let num_heads = keys.required("attention.head_count")?;
    let num_kv_heads = keys.usize("attention.head_count_kv")?.unwrap_or(num_heads);
    let head_dim = match keys.usize("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            return Err(ConfigError::contradiction(
                (keys.key("embedding_length"), hidden_size),
                (keys.key("attention.head_count"), num_heads),
                "without attention.key_length the heads must divide the embedding",
            ));
        }
    };
    if let Some(value) = keys.usize("attention.value_length")?
        && value != head_dim
    {
        return Err(ConfigError::contradiction(
            (keys.key("attention.value_length"), value),
            (keys.key("attention.key_length"), head_dim),
            "keys and values have one width",
        ));
    }
    let default_scale = default_scale(family, (hidden_size, num_layers), (num_heads, head_dim));
    let scale = keys.f64("attention.scale")?.filter(|scale| *scale != 0.0);
    let has = |name: &str| keys.meta.has_tensor(name);
    let bias = match (has("blk.0.attn_q.bias"), has("blk.0.attn_output.bias")) {
        (false, _) => AttentionBias::None,
        (true, false) => AttentionBias::Qkv,
        (true, true) => AttentionBias::QkvOutput,
    };
    let qk_norm = match (family, has("blk.0.attn_q_norm.weight")) {
        (_, false) => QkNorm::None,
        (Family::Olmoe, true) => QkNorm::WholeProjection,
        (_, true) => QkNorm::PerHead,
    };
    Ok(AttentionConfig {
        num_heads,
        num_kv_heads,
        head_dim,
        scale: keys.meta.f64("puna.attention.scale").or(scale).unwrap_or(default_scale),
        qk_norm,
        logit_softcap: read_softcap(keys, family, ("attn_logit_softcapping", 50.0))?,
        bias,
    })
}

/// The factor on the scores that llama.cpp derives: `1 / sqrt(key_length)`, except for the 27B
/// models of Gemma 2 and 3, known by their number of layers: `1 / sqrt(embedding / heads)`.
fn default_scale(
    family: Family,
    (hidden_size, num_layers): (usize, usize),
    (num_heads, head_dim): (usize, usize),
) -> f64 {
    let width = match (family, num_layers) {
        (Family::Gemma2, 46) | (Family::Gemma3, 62) => hidden_size / num_heads.max(1),
        _ => head_dim,
    };
    1.0 / (width as f64).sqrt()
}

/// Gemma 2's caps by default; Gemma 3's where given and not 0.
fn read_softcap(
    keys: &Keys<'_>,
    family: Family,
    (key, gemma2): (&'static str, f64),
) -> Result<Option<f64>> {
    match family {
        Family::Gemma2 => Ok(Some(keys.f64(key)?.unwrap_or(gemma2))),
        Family::Gemma3 => Ok(keys.f64(key)?.filter(|cap| *cap != 0.0)),
        _ => Ok(None),
    }
}

fn read_ffn(keys: &Keys<'_>, family: Family) -> Result<FfnConfig> {
    let activation = match family {
        Family::Gemma | Family::Gemma2 | Family::Gemma3 => Activation::GeluTanh,
        _ => Activation::Silu,
    };
    let num_experts = keys.usize("expert_count")?.filter(|n| *n > 0);
    let used = keys.usize("expert_used_count")?;
    let moe_only = matches!(family, Family::Qwen3Moe | Family::Olmoe);
    let Some(num_experts) = num_experts else {
        if moe_only {
            return Err(ConfigError::MissingKey { key: keys.key("expert_count") });
        }
        let bias = keys.meta.has_tensor("blk.0.ffn_gate.bias");
        return Ok(FfnConfig::Dense {
            ffn_size: keys.required("feed_forward_length")?,
            activation,
            bias: if bias { FfnBias::All } else { FfnBias::None },
        });
    };
    if !moe_only && family != Family::Llama {
        return Err(ConfigError::invalid(keys.key("expert_count"), num_experts, "0"));
    }
    let dense = keys.usize("feed_forward_length")?;
    let expert = keys.usize("expert_feed_forward_length")?;
    let missing = |key| ConfigError::MissingKey { key: keys.key(key) };
    let ffn_size = expert.or(dense).ok_or_else(|| missing("expert_feed_forward_length"))?;
    if let Some(gating) = keys.usize("expert_gating_func")?
        && gating != 1
    {
        let key = keys.key("expert_gating_func");
        return Err(ConfigError::invalid(key, gating, "1 (softmax)"));
    }
    // llama.cpp renormalizes for llama and qwen3moe and not for olmoe, whatever the file says.
    let default = match family {
        Family::Olmoe => Routing::SoftmaxOverAll,
        _ => Routing::SoftmaxOverChosen,
    };
    let routing = match keys.bool("expert_weights_norm")? {
        Some(true) => Routing::SoftmaxOverChosen,
        Some(false) => Routing::SoftmaxOverAll,
        None => default,
    };
    Ok(FfnConfig::Moe {
        ffn_size,
        activation,
        num_experts,
        experts_per_token: used.ok_or_else(|| missing("expert_used_count"))?,
        routing,
    })
}

fn read_layers(
    keys: &Keys<'_>,
    family: Family,
    (num_layers, max_seq_len, head_dim): (usize, usize, usize),
) -> Result<LayerPattern> {
    let global_rope = rope::read(keys, (max_seq_len, head_dim))?;
    let (mut window, mut rule) = match family {
        Family::Gemma2 => {
            (keys.usize("attention.sliding_window")?.or(Some(4096)), LocalLayers::AllButEvery(2))
        }
        Family::Gemma3 => {
            (Some(keys.required("attention.sliding_window")?), LocalLayers::AllButEvery(6))
        }
        Family::Llama | Family::Phi3 => (keys.usize("attention.sliding_window")?, LocalLayers::All),
        _ => (None, LocalLayers::All),
    };
    if window.is_some() {
        rule = read_pattern(keys, num_layers, rule)?;
    }
    if let Some(ours) = keys.meta.u64("puna.attention.sliding_window") {
        window = usize::try_from(ours).ok();
    }
    if let Some(text) = keys.meta.str("puna.attention.local_layers") {
        rule = parse_local_layers(text)?;
    }
    let local_theta = keys.f64("rope.freq_base_swa")?;
    let window = window.filter(|window| *window > 0 && touches(rule, num_layers));
    let local = window.map(|window| {
        let mut rope = global_rope.clone();
        if family == Family::Gemma3 {
            rope.scaling = RopeScaling::None;
            rope.theta = 10_000.0;
        }
        rope.theta = local_theta.unwrap_or(rope.theta);
        LocalAttention { window, rope, which: rule }
    });
    Ok(LayerPattern { global_rope, local })
}

/// `attention.sliding_window_pattern`: a period, or per layer whether it is local.
fn read_pattern(keys: &Keys<'_>, num_layers: usize, default: LocalLayers) -> Result<LocalLayers> {
    let name = "attention.sliding_window_pattern";
    if let Some(list) = keys.usize_list(name) {
        let locals: Vec<bool> = list.iter().map(|x| *x != 0).collect();
        if locals.len() != num_layers {
            return Err(ConfigError::contradiction(
                (keys.key(name), format!("a list of {}", locals.len())),
                (keys.key("block_count"), num_layers),
                "there is one entry per layer",
            ));
        }
        let expected = "all local, all but every n-th, or all from one layer on";
        let refuse = || ConfigError::invalid(keys.key(name), "another arrangement", expected);
        return infer(&locals).ok_or_else(refuse);
    }
    match keys.usize(name)? {
        None => Ok(default),
        Some(n) if n >= 2 => Ok(LocalLayers::AllButEvery(n)),
        Some(n) => Err(ConfigError::invalid(keys.key(name), n, "at least 2")),
    }
}

/// `all`, `all_but_every:6` or `from:28`.
fn parse_local_layers(text: &str) -> Result<LocalLayers> {
    let number = |prefix| text.strip_prefix(prefix).and_then(|n: &str| n.parse::<usize>().ok());
    match (text, number("all_but_every:"), number("from:")) {
        ("all", ..) => Ok(LocalLayers::All),
        (_, Some(n), _) if n >= 2 => Ok(LocalLayers::AllButEvery(n)),
        (_, _, Some(first)) => Ok(LocalLayers::From(first)),
        _ => {
            let expected = "all, all_but_every:N with N from 2, or from:N";
            Err(ConfigError::invalid("puna.attention.local_layers", text, expected))
        }
    }
}
