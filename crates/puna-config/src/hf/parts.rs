//! Sizes, attention, feed-forward part, norms and embedding from a `config.json`.

use super::defaults::Defaults;
use super::names;
use crate::check::{Field, check_size};
use crate::error::{ConfigError, Result};
use crate::object::Object;
use crate::{
    Activation, AttentionBias, AttentionConfig, EmbeddingConfig, EmbeddingScale, Family, FfnBias,
    FfnConfig, HeadWeight, NormConfig, NormPlacement, NormWeight, QkNorm, Routing,
};

/// The plain whole numbers.
pub(super) struct Sizes {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub ffn_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub max_seq_len: usize,
}

impl Sizes {
    pub(super) fn read(o: &Object<'_>, defaults: &Defaults) -> Result<Self> {
        let size = |key, default| Ok::<_, ConfigError>(o.usize(key)?.value().unwrap_or(default));
        let num_heads = size("num_attention_heads", defaults.num_heads)?;
        let hidden_size = size("hidden_size", defaults.hidden_size)?;
        let field = |_| o.key("num_attention_heads");
        check_size(&field, Field::NumHeads, num_heads, 1 << 16)?;
        let head_dim = match o.usize("head_dim")?.value().or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                return Err(ConfigError::contradiction(
                    (o.key("hidden_size"), hidden_size),
                    (o.key("num_attention_heads"), num_heads),
                    "without head_dim the heads must divide the hidden size",
                ));
            }
        };
        Ok(Self {
            vocab_size: size("vocab_size", defaults.vocab_size)?,
            hidden_size,
            ffn_size: size("intermediate_size", defaults.ffn_size)?,
            num_layers: size("num_hidden_layers", defaults.num_layers)?,
            num_heads,
            num_kv_heads: match o.usize("num_key_value_heads")? {
                crate::object::Slot::Missing => defaults.num_kv_heads.unwrap_or(num_heads),
                slot => slot.value().unwrap_or(num_heads),
            },
            head_dim,
            max_seq_len: size("max_position_embeddings", defaults.max_seq_len)?,
        })
    }
}

pub(super) fn attention(o: &Object<'_>, family: Family, sizes: &Sizes) -> Result<AttentionConfig> {
    let head_dim = sizes.head_dim;
    let scaled_by = match family {
        Family::Gemma2 | Family::Gemma3 => o.f64("query_pre_attn_scalar")?.value().unwrap_or(256.0),
        _ => head_dim as f64,
    };
    let has_bias = o.bool("attention_bias")?.value().unwrap_or(false);
    let bias = match family {
        Family::Qwen2 => AttentionBias::Qkv,
        Family::Mistral | Family::Mixtral | Family::Phi3 if has_bias => {
            return Err(ConfigError::invalid(o.key("attention_bias"), true, "false"));
        }
        _ if has_bias => AttentionBias::QkvOutput,
        _ => AttentionBias::None,
    };
    let qk_norm = match family {
        Family::Gemma3 | Family::Qwen3 | Family::Qwen3Moe => QkNorm::PerHead,
        Family::Olmoe => QkNorm::WholeProjection,
        _ => QkNorm::None,
    };
    Ok(AttentionConfig {
        num_heads: sizes.num_heads,
        num_kv_heads: sizes.num_kv_heads,
        head_dim,
        scale: 1.0 / scaled_by.sqrt(),
        qk_norm,
        logit_softcap: softcap(o, family, "attn_logit_softcapping", 50.0)?,
        bias,
    })
}

/// Gemma 2's caps by default, Gemma 3's where given, nobody else's.
pub(super) fn softcap(
    o: &Object<'_>,
    family: Family,
    key: &'static str,
    gemma2: f64,
) -> Result<Option<f64>> {
    match family {
        Family::Gemma2 => Ok(o.f64(key)?.or(Some(gemma2))),
        Family::Gemma3 => Ok(o.f64(key)?.value()),
        _ => Ok(None),
    }
}

pub(super) fn norm(o: &Object<'_>, family: Family, eps: f64) -> Result<NormConfig> {
    let weight = match family {
        Family::Gemma | Family::Gemma2 | Family::Gemma3 => NormWeight::OnePlus,
        _ => NormWeight::Direct,
    };
    Ok(NormConfig { eps: o.f64("rms_norm_eps")?.value().unwrap_or(eps), weight })
}

pub(super) fn placement(family: Family) -> NormPlacement {
    match family {
        Family::Gemma2 | Family::Gemma3 => NormPlacement::Sandwich,
        _ => NormPlacement::Pre,
    }
}

pub(super) fn embedding(
    o: &Object<'_>,
    family: Family,
    tied_default: bool,
) -> Result<EmbeddingConfig> {
    let scale = match family {
        Family::Gemma | Family::Gemma2 | Family::Gemma3 => EmbeddingScale::SqrtHidden,
        _ => EmbeddingScale::One,
    };
    Ok(EmbeddingConfig { head: head_weight(tied(o, tied_default)?), scale })
}

pub(super) fn tied(o: &Object<'_>, default: bool) -> Result<bool> {
    Ok(o.bool("tie_word_embeddings")?.value().unwrap_or(default))
}

pub(super) fn head_weight(tied: bool) -> HeadWeight {
    if tied { HeadWeight::Tied } else { HeadWeight::Separate }
}

pub(super) fn ffn(o: &Object<'_>, family: Family, ffn_size: usize) -> Result<FfnConfig> {
    let activation = read_activation(o, family)?;
    let has_bias = o.bool("mlp_bias")?.value().unwrap_or(false);
    if has_bias && family != Family::Llama {
        return Err(ConfigError::invalid(o.key("mlp_bias"), true, "false"));
    }
    let size = |key, default| Ok::<_, ConfigError>(o.usize(key)?.value().unwrap_or(default));
    let experts = names::num_experts(family);
    let (ffn_size, num_experts, experts_per_token, renormalize) = match family {
        Family::Mixtral => (ffn_size, size(experts, 8)?, 2, true),
        Family::Qwen3Moe => {
            refuse_dense_layers(o)?;
            let renormalize = o.bool("norm_topk_prob")?.value().unwrap_or(false);
            (size("moe_intermediate_size", 768)?, size(experts, 128)?, 8, renormalize)
        }
        Family::Olmoe => {
            let renormalize = o.bool("norm_topk_prob")?.value().unwrap_or(false);
            (ffn_size, size(experts, 64)?, 8, renormalize)
        }
        _ => {
            let bias = if has_bias { FfnBias::All } else { FfnBias::None };
            return Ok(FfnConfig::Dense { ffn_size, activation, bias });
        }
    };
    Ok(FfnConfig::Moe {
        ffn_size,
        activation,
        num_experts,
        experts_per_token: size("num_experts_per_tok", experts_per_token)?,
        routing: if renormalize { Routing::SoftmaxOverChosen } else { Routing::SoftmaxOverAll },
    })
}

/// Qwen 3 MoE can mix dense layers in; the decoder cannot, and no published model does.
fn refuse_dense_layers(o: &Object<'_>) -> Result<()> {
    let step = o.usize("decoder_sparse_step")?.value().unwrap_or(1);
    if step != 1 {
        return Err(ConfigError::invalid(o.key("decoder_sparse_step"), step, "1"));
    }
    let dense = o.usizes("mlp_only_layers")?.value().unwrap_or_default();
    if !dense.is_empty() {
        let got = format!("{dense:?}");
        return Err(ConfigError::invalid(o.key("mlp_only_layers"), got, "an empty list"));
    }
    Ok(())
}

/// The gate's nonlinearity.
///
/// Gemma 1's first files say `hidden_act: gelu` but the model was trained with the tanh form, which
/// transformers uses unless `hidden_activation` says otherwise; so does this. Where Gemma 2 and 3
/// files carry both keys, both must name the same function.
fn read_activation(o: &Object<'_>, family: Family) -> Result<Activation> {
    let parse = |key: &'static str| match o.str(key)?.value() {
        None => Ok(None),
        Some(name) => match activation_named(name) {
            Some(activation) => Ok(Some(activation)),
            None => {
                let expected = "silu, gelu or gelu_pytorch_tanh";
                Err(ConfigError::invalid(o.key(key), name, expected))
            }
        },
    };
    match family {
        Family::Gemma => {
            let hidden_act = match parse("hidden_act")? {
                None | Some(Activation::GeluErf) => Activation::GeluTanh,
                Some(other) => other,
            };
            Ok(parse("hidden_activation")?.unwrap_or(hidden_act))
        }
        Family::Gemma2 | Family::Gemma3 => {
            let used = parse("hidden_activation")?.unwrap_or(Activation::GeluTanh);
            match parse("hidden_act")? {
                Some(other) if other != used => Err(ConfigError::contradiction(
                    (o.key("hidden_act"), format!("{other:?}")),
                    (o.key("hidden_activation"), format!("{used:?}")),
                    "both name the same function",
                )),
                _ => Ok(used),
            }
        }
        _ => Ok(parse("hidden_act")?.unwrap_or(Activation::Silu)),
    }
}

fn activation_named(name: &str) -> Option<Activation> {
    match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Some(Activation::GeluTanh),
        "gelu" => Some(Activation::GeluErf),
        _ => None,
    }
}

/// The name that transformers gives a nonlinearity.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::GeluErf => "gelu",
    }
}
