//! Writing a `config.json` that transformers 4 and 5 both load.
//!
//! The older spelling is written (`rope_theta`, `rope_scaling`, `torch_dtype`): transformers 5
//! reads it, transformers 4 reads nothing else. Every value is written, also where it is the
//! default, so that the file does not depend on anybody's defaults.

use super::rope::{longrope_mscale, yarn_mscale};
use super::{names, parts};
use crate::error::{ConfigError, Result};
use crate::{
    AttentionBias, DecoderConfig, EmbeddingScale, Family, FfnBias, FfnConfig, HeadWeight,
    LocalLayers, ModelConfig, NormPlacement, QkNorm, RopeConfig, RopeScaling, Routing, WeightDtype,
    YarnRamp,
};
use serde_json::{Map, Value, json};

const FORMAT: &str = "config.json";
/// Written as the writer's version: the release whose spelling the file has.
const TRANSFORMERS_VERSION: &str = "4.46.0";

fn cannot<T>(what: &'static str, got: impl ToString) -> Result<T> {
    Err(ConfigError::Inexpressible { format: FORMAT, what, got: got.to_string() })
}

type Keys = Map<String, Value>;

impl ModelConfig {
    /// The `config.json` of this model with dense weights (no `quantization_config`).
    ///
    /// What norm tensors hold is not written: Gemma's hub files hold the factor minus one, whatever
    /// `norm.weight` says, so a converter from GGUF subtracts 1.
    ///
    /// # Errors
    /// [`ConfigError::Inexpressible`] where the family's architecture in transformers cannot do
    /// what the decoder does (a Llama with windows, say).
    pub fn to_hf_json(&self) -> Result<Value> {
        let (d, family) = (&self.decoder, self.family);
        let (model_type, class) = names::architecture(family);
        let mut keys = Keys::new();
        let mut put = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
        put("architectures", json!([class]));
        put("model_type", json!(model_type));
        put("transformers_version", json!(TRANSFORMERS_VERSION));
        put("vocab_size", json!(d.vocab_size));
        put("hidden_size", json!(d.hidden_size));
        put("num_hidden_layers", json!(d.num_layers));
        put("max_position_embeddings", json!(d.max_seq_len));
        put("rms_norm_eps", json!(d.norm.eps));
        put("tie_word_embeddings", json!(d.embedding.head == HeadWeight::Tied));
        put("bos_token_id", json!(self.tokens.bos));
        put("pad_token_id", json!(self.tokens.pad));
        put(
            "eos_token_id",
            match self.tokens.eos.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                several => json!(several),
            },
        );
        put("torch_dtype", json!(self.dtype.map(dtype_name)));
        put("use_cache", json!(true));
        check_fixed_parts(d, family)?;
        write_attention(d, family, &mut keys)?;
        write_ffn(&d.ffn, family, &mut keys)?;
        write_layers(d, family, &mut keys)?;
        write_ropes(d, family, &mut keys)?;
        Ok(Value::Object(keys))
    }
}

fn dtype_name(dtype: WeightDtype) -> &'static str {
    match dtype {
        WeightDtype::F32 => "float32",
        WeightDtype::F16 => "float16",
        WeightDtype::BF16 => "bfloat16",
    }
}

/// What an architecture fixes and no key can change.
fn check_fixed_parts(d: &DecoderConfig, family: Family) -> Result<()> {
    let gemma = matches!(family, Family::Gemma | Family::Gemma2 | Family::Gemma3);
    let placement = parts::placement(family);
    if d.placement != placement {
        return cannot("norm placement", format!("{:?}", d.placement));
    }
    if (d.embedding.scale == EmbeddingScale::SqrtHidden) != gemma {
        return cannot("embedding scale", format!("{:?}", d.embedding.scale));
    }
    let qk_norm = match family {
        Family::Gemma3 | Family::Qwen3 | Family::Qwen3Moe => QkNorm::PerHead,
        Family::Olmoe => QkNorm::WholeProjection,
        _ => QkNorm::None,
    };
    if d.attention.qk_norm != qk_norm {
        return cannot("query and key norm", format!("{:?}", d.attention.qk_norm));
    }
    let caps = d.attention.logit_softcap.or(d.final_logit_softcap);
    match caps {
        Some(cap) if placement != NormPlacement::Sandwich => cannot("soft cap", cap),
        _ => Ok(()),
    }
}

fn write_attention(d: &DecoderConfig, family: Family, keys: &mut Keys) -> Result<()> {
    let a = &d.attention;
    keys.insert("num_attention_heads".into(), json!(a.num_heads));
    keys.insert("num_key_value_heads".into(), json!(a.num_kv_heads));
    // Phi-3 and OLMoE derive the width of a head; transformers 4 ignores a key there.
    if !matches!(family, Family::Phi3 | Family::Olmoe) {
        keys.insert("head_dim".into(), json!(a.head_dim));
    } else if a.head_dim * a.num_heads != d.hidden_size {
        return cannot("head_dim", a.head_dim);
    }
    let qwen2 = family == Family::Qwen2;
    match a.bias {
        AttentionBias::Qkv if qwen2 => {}
        AttentionBias::None if matches!(family, Family::Mistral | Family::Mixtral) => {}
        AttentionBias::None if !qwen2 => drop(keys.insert("attention_bias".into(), json!(false))),
        AttentionBias::QkvOutput
            if !matches!(family, Family::Mistral | Family::Mixtral | Family::Phi3) && !qwen2 =>
        {
            keys.insert("attention_bias".into(), json!(true));
        }
        bias => return cannot("attention bias", format!("{bias:?}")),
    }
    keys.insert("attention_dropout".into(), json!(0.0));
    if matches!(family, Family::Gemma2 | Family::Gemma3) {
        keys.insert("query_pre_attn_scalar".into(), scalar_of(a.scale));
        keys.insert("attn_logit_softcapping".into(), json!(a.logit_softcap));
        keys.insert("final_logit_softcapping".into(), json!(d.final_logit_softcap));
    } else if a.scale != 1.0 / (a.head_dim as f64).sqrt() {
        return cannot("attention scale", a.scale);
    }
    Ok(())
}

/// The number whose inverse square root is the scale, with as few decimals as give it exactly.
fn scalar_of(scale: f64) -> Value {
    let scalar = 1.0 / (scale * scale);
    let rounded = (0..=12).map(|digits| {
        let unit = 10f64.powi(digits);
        (scalar * unit).round() / unit
    });
    match rounded.into_iter().find(|x| 1.0 / x.sqrt() == scale) {
        Some(whole) if whole.fract() == 0.0 => json!(whole as u64),
        Some(short) => json!(short),
        None => json!(scalar),
    }
}

fn write_ffn(ffn: &FfnConfig, family: Family, keys: &mut Keys) -> Result<()> {
    let moe = matches!(family, Family::Mixtral | Family::Qwen3Moe | Family::Olmoe);
    let activation = match ffn {
        FfnConfig::Dense { ffn_size, activation, bias } if !moe => {
            keys.insert("intermediate_size".into(), json!(ffn_size));
            match (family, bias) {
                (Family::Llama, bias) => {
                    drop(keys.insert("mlp_bias".into(), json!(*bias == FfnBias::All)))
                }
                (_, FfnBias::None) => {}
                (_, bias) => return cannot("feed-forward bias", format!("{bias:?}")),
            }
            *activation
        }
        FfnConfig::Moe { ffn_size, activation, num_experts, experts_per_token, routing } if moe => {
            keys.insert(names::ffn_size(family).into(), json!(ffn_size));
            keys.insert(names::num_experts(family).into(), json!(num_experts));
            keys.insert("num_experts_per_tok".into(), json!(experts_per_token));
            let renormalize = *routing == Routing::SoftmaxOverChosen;
            match family {
                Family::Mixtral if renormalize => {}
                Family::Mixtral => return cannot("routing", format!("{routing:?}")),
                _ => drop(keys.insert("norm_topk_prob".into(), json!(renormalize))),
            }
            *activation
        }
        other => return cannot("feed-forward part", format!("{other:?}")),
    };
    let name = json!(parts::activation_name(activation));
    keys.insert(names::activation(family).into(), name.clone());
    if family == Family::Gemma {
        keys.insert("hidden_activation".into(), name);
    }
    Ok(())
}

fn write_layers(d: &DecoderConfig, family: Family, keys: &mut Keys) -> Result<()> {
    let window = d.layers.local.as_ref().map(|local| local.window);
    let which = d.layers.local.as_ref().map(|local| local.which);
    let qwen = matches!(family, Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe);
    let mut put = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
    match (family, which) {
        (Family::Llama | Family::Gemma | Family::Olmoe, None) => {}
        (Family::Mistral | Family::Mixtral | Family::Phi3, None | Some(LocalLayers::All)) => {
            put("sliding_window", json!(window));
        }
        (_, None) if qwen => {
            put("use_sliding_window", json!(false));
            put("sliding_window", Value::Null);
        }
        (Family::Qwen3Moe, Some(LocalLayers::All)) => {
            put("use_sliding_window", json!(true));
            put("sliding_window", json!(window));
        }
        (Family::Qwen2 | Family::Qwen3, Some(LocalLayers::All | LocalLayers::From(_))) => {
            let first = if let Some(LocalLayers::From(first)) = which { first } else { 0 };
            put("use_sliding_window", json!(true));
            put("sliding_window", json!(window));
            put("max_window_layers", json!(first));
        }
        (Family::Gemma2 | Family::Gemma3, _) => {
            put("sliding_window", json!(window.unwrap_or(4096)));
            put("layer_types", layer_types(d));
            if let (Family::Gemma3, Some(LocalLayers::AllButEvery(n))) = (family, which) {
                put("sliding_window_pattern", json!(n));
            }
        }
        (_, which) => return cannot("sliding windows", format!("{which:?}")),
    }
    Ok(())
}

fn layer_types(d: &DecoderConfig) -> Value {
    let name = |layer| match d.layers.kind(layer) {
        crate::LayerKind::Global => "full_attention",
        crate::LayerKind::Local { .. } => "sliding_attention",
    };
    (0..d.num_layers).map(name).collect()
}

fn write_ropes(d: &DecoderConfig, family: Family, keys: &mut Keys) -> Result<()> {
    let global = &d.layers.global_rope;
    keys.insert("rope_theta".into(), json!(global.theta));
    keys.insert("rope_scaling".into(), scaling(d, global, family)?);
    if let RopeScaling::LongRope { original_max, .. } = &global.scaling
        && family == Family::Phi3
    {
        keys.insert("original_max_position_embeddings".into(), json!(original_max));
    }
    if global.rotary_dim != d.attention.head_dim {
        if family != Family::Phi3 {
            return cannot("partial rotation, of dimensions", global.rotary_dim);
        }
        let partial = partial_factor(global.rotary_dim, d.attention.head_dim);
        keys.insert("partial_rotary_factor".into(), json!(partial));
    }
    let Some(local) = &d.layers.local else { return Ok(()) };
    if family == Family::Gemma3 {
        let plain = local.rope.scaling == RopeScaling::None;
        if !plain || local.rope.rotary_dim != d.attention.head_dim {
            return cannot("rotation of local layers", format!("{:?}", local.rope));
        }
        keys.insert("rope_local_base_freq".into(), json!(local.rope.theta));
    } else if local.rope != *global {
        return cannot("rotation of local layers", format!("{:?}", local.rope));
    }
    Ok(())
}

/// A factor that truncation turns back into `rotary_dim`.
fn partial_factor(rotary_dim: usize, head_dim: usize) -> f64 {
    let exact = rotary_dim as f64 / head_dim as f64;
    if (head_dim as f64 * exact) as usize == rotary_dim {
        return exact;
    }
    (rotary_dim as f64 + 0.5) / head_dim as f64
}

fn scaling(d: &DecoderConfig, rope: &RopeConfig, family: Family) -> Result<Value> {
    let max = d.max_seq_len;
    // Linear and dynamic scaling under `type`, which alone the first releases accept; Gemma 3 came
    // later and transformers 5 looks for `rope_type` there.
    let kind = if family == Family::Gemma3 { "rope_type" } else { "type" };
    Ok(match &rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({kind: "linear", "factor": factor}),
        RopeScaling::DynamicNtk { factor, original_max } if *original_max == max => {
            json!({kind: "dynamic", "factor": factor})
        }
        RopeScaling::DynamicNtk { original_max, .. } => {
            return cannot("dynamic scaling from another length than the context's,", original_max);
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max,
        }),
        RopeScaling::Yarn { .. } if family == Family::Phi3 => {
            return cannot("rotary scaling of phi3", "YaRN");
        }
        RopeScaling::Yarn {
            factor,
            original_max,
            beta_fast,
            beta_slow,
            attention_factor,
            ramp,
        } => {
            let mut keys = Keys::new();
            keys.insert("rope_type".into(), json!("yarn"));
            keys.insert("factor".into(), json!(factor));
            keys.insert("original_max_position_embeddings".into(), json!(original_max));
            keys.insert("beta_fast".into(), json!(beta_fast));
            keys.insert("beta_slow".into(), json!(beta_slow));
            if *attention_factor != yarn_mscale(*factor, 1.0) {
                keys.insert("attention_factor".into(), json!(attention_factor));
            }
            if *ramp == YarnRamp::Exact {
                keys.insert("truncate".into(), json!(false));
            }
            Value::Object(keys)
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max, attention_factor } => {
            let mut keys = Keys::new();
            keys.insert("short_factor".into(), json!(short_factor));
            keys.insert("long_factor".into(), json!(long_factor));
            // transformers 4 accepts exactly three keys from a Phi-3.
            if family == Family::Phi3 {
                keys.insert("type".into(), json!("longrope"));
            } else {
                keys.insert("rope_type".into(), json!("longrope"));
                keys.insert("original_max_position_embeddings".into(), json!(original_max));
            }
            let ratio = max as f64 / *original_max as f64;
            if *attention_factor != longrope_mscale(ratio, *original_max) {
                keys.insert("attention_factor".into(), json!(attention_factor));
            }
            Value::Object(keys)
        }
    })
}
