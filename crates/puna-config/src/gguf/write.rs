//! Writing GGUF metadata: llama.cpp's keys, and puna's for what those cannot say.

use super::default_scale;
use super::keys::GgufValue::{self, F32, F64, Str, U32, U64};
use super::rope;
use crate::error::{ConfigError, Result};
use crate::{
    Activation, DecoderConfig, EmbeddingScale, Family, FfnConfig, LocalLayers, ModelConfig,
    NormPlacement, QkNorm, RopeScaling, Routing,
};

const FORMAT: &str = "GGUF";

fn cannot<T>(what: &'static str, got: impl ToString) -> Result<T> {
    Err(ConfigError::Inexpressible { format: FORMAT, what, got: got.to_string() })
}

fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::Mistral | Family::Mixtral => "llama",
        Family::Gemma => "gemma",
        Family::Gemma2 => "gemma2",
        Family::Gemma3 => "gemma3",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Qwen3Moe => "qwen3moe",
        Family::Olmoe => "olmoe",
        Family::Phi3 => "phi3",
    }
}

/// Metadata under construction.
struct Writer {
    arch: &'static str,
    pairs: Vec<(String, GgufValue)>,
}

impl Writer {
    fn put(&mut self, name: &str, value: GgufValue) {
        self.pairs.push((format!("{}.{name}", self.arch), value));
    }

    fn size(&mut self, name: &str, n: usize) -> Result<()> {
        match u32::try_from(n) {
            Ok(n) => {
                self.put(name, U32(n));
                Ok(())
            }
            Err(_) => cannot("a number above 32 bits,", n),
        }
    }

    fn ours(&mut self, key: &str, value: GgufValue) {
        self.pairs.push((key.to_owned(), value));
    }
}

impl ModelConfig {
    /// What GGUF calls the model's architecture.
    #[must_use]
    pub fn gguf_architecture(&self) -> &'static str {
        architecture(self.family)
    }

    /// The metadata that llama.cpp needs to run this model, `general.architecture` first, and
    /// `puna.*` keys for what llama.cpp has no key for.
    ///
    /// Tokenizer, file type and alignment are not the config's; nor are the tensors of
    /// [`DecoderConfig::gguf_rope_tensors`], which belong into the same file. Biases, query and key
    /// norms and a tied head are said by the tensors present. Gemma's norm tensors must hold the
    /// factor itself (add 1 to those of its hub files).
    ///
    /// # Errors
    /// [`ConfigError::Inexpressible`] where llama.cpp's code for the architecture does something
    /// that the decoder does not.
    pub fn to_gguf_metadata(&self) -> Result<Vec<(String, GgufValue)>> {
        let (d, a) = (&self.decoder, &self.decoder.attention);
        check_fixed_parts(d, self.family)?;
        let arch = architecture(self.family);
        let mut w = Writer { arch, pairs: vec![] };
        w.ours("general.architecture", Str(arch.to_owned()));
        for (name, n) in [
            ("vocab_size", d.vocab_size),
            ("context_length", d.max_seq_len),
            ("embedding_length", d.hidden_size),
            ("block_count", d.num_layers),
            ("attention.head_count", a.num_heads),
            ("attention.head_count_kv", a.num_kv_heads),
            ("attention.key_length", a.head_dim),
            ("attention.value_length", a.head_dim),
            ("rope.dimension_count", d.layers.global_rope.rotary_dim),
        ] {
            w.size(name, n)?;
        }
        w.put("attention.layer_norm_rms_epsilon", F32(d.norm.eps as f32));
        w.put("rope.freq_base", F32(d.layers.global_rope.theta as f32));
        write_ffn(&d.ffn, self.family, &mut w)?;
        write_attention(d, self.family, &mut w)?;
        write_layers(d, self.family, &mut w)?;
        let (theirs, ours) = rope::write(&d.layers.global_rope.scaling, self.family);
        theirs.into_iter().for_each(|(name, value)| w.put(name, value));
        w.pairs.extend(ours);
        if self.family == Family::Mistral {
            w.ours("puna.family", Str("mistral".to_owned()));
        }
        Ok(w.pairs)
    }
}

/// What llama.cpp's code for an architecture fixes.
fn check_fixed_parts(d: &DecoderConfig, family: Family) -> Result<()> {
    let gemma = matches!(family, Family::Gemma | Family::Gemma2 | Family::Gemma3);
    let sandwich = matches!(family, Family::Gemma2 | Family::Gemma3);
    if (d.placement == NormPlacement::Sandwich) != sandwich {
        return cannot("norm placement", format!("{:?}", d.placement));
    }
    if (d.embedding.scale == EmbeddingScale::SqrtHidden) != gemma {
        return cannot("embedding scale", format!("{:?}", d.embedding.scale));
    }
    let whole = d.attention.qk_norm == QkNorm::WholeProjection;
    if d.attention.qk_norm != QkNorm::None && whole != (family == Family::Olmoe) {
        return cannot("query and key norm", format!("{:?}", d.attention.qk_norm));
    }
    let (FfnConfig::Dense { activation, .. } | FfnConfig::Moe { activation, .. }) = &d.ffn;
    if *activation != if gemma { Activation::GeluTanh } else { Activation::Silu } {
        return cannot("activation", format!("{activation:?}"));
    }
    Ok(())
}

fn write_ffn(ffn: &FfnConfig, family: Family, w: &mut Writer) -> Result<()> {
    let moe_only = matches!(family, Family::Mixtral | Family::Qwen3Moe | Family::Olmoe);
    match ffn {
        FfnConfig::Dense { ffn_size, .. } if !moe_only => w.size("feed_forward_length", *ffn_size),
        FfnConfig::Moe { ffn_size, num_experts, experts_per_token, routing, .. } if moe_only => {
            let theirs = match family {
                Family::Olmoe => Routing::SoftmaxOverAll,
                _ => Routing::SoftmaxOverChosen,
            };
            if *routing != theirs {
                return cannot("routing", format!("{routing:?}"));
            }
            w.size("feed_forward_length", *ffn_size)?;
            if family == Family::Qwen3Moe {
                w.size("expert_feed_forward_length", *ffn_size)?;
            }
            w.size("expert_count", *num_experts)?;
            w.size("expert_used_count", *experts_per_token)
        }
        other => cannot("feed-forward part", format!("{other:?}")),
    }
}

fn write_attention(d: &DecoderConfig, family: Family, w: &mut Writer) -> Result<()> {
    let a = &d.attention;
    let theirs = default_scale(family, (d.hidden_size, d.num_layers), (a.num_heads, a.head_dim));
    if a.scale != theirs {
        w.ours("puna.attention.scale", F64(a.scale));
    }
    for (name, cap) in [
        ("attn_logit_softcapping", a.logit_softcap),
        ("final_logit_softcapping", d.final_logit_softcap),
    ] {
        match (family, cap) {
            (Family::Gemma2 | Family::Gemma3, Some(cap)) => w.put(name, F32(cap as f32)),
            (Family::Gemma2, None) => return cannot("a Gemma 2 without", name),
            (_, Some(cap)) => return cannot("soft cap", cap),
            (_, None) => {}
        }
    }
    Ok(())
}

fn write_layers(d: &DecoderConfig, family: Family, w: &mut Writer) -> Result<()> {
    let Some(local) = &d.layers.local else {
        return match family {
            // 0 is llama.cpp's word for none.
            Family::Gemma2 | Family::Gemma3 | Family::Phi3 => w.size("attention.sliding_window", 0),
            _ => Ok(()),
        };
    };
    let global = &d.layers.global_rope;
    let plain = local.rope.scaling == RopeScaling::None;
    let derived = match family {
        Family::Gemma3 => plain && local.rope.rotary_dim == global.rotary_dim,
        _ => local.rope == *global,
    };
    if !derived {
        return cannot("rotation of local layers", format!("{:?}", local.rope));
    }
    if family == Family::Gemma3 {
        w.put("rope.freq_base_swa", F32(local.rope.theta as f32));
    }
    let period = match (family, local.which) {
        (Family::Gemma2, LocalLayers::AllButEvery(2)) => None,
        (Family::Gemma3, LocalLayers::AllButEvery(6)) => None,
        (Family::Phi3, LocalLayers::All) => None,
        (_, which) => Some(which),
    };
    if matches!(family, Family::Gemma2 | Family::Gemma3 | Family::Phi3) {
        w.size("attention.sliding_window", local.window)?;
    } else {
        w.ours("puna.attention.sliding_window", U64(local.window as u64));
    }
    match period {
        Some(LocalLayers::AllButEvery(n)) if family != Family::Phi3 => {
            w.size("attention.sliding_window_pattern", n)?;
            w.ours("puna.attention.local_layers", Str(format!("all_but_every:{n}")));
        }
        Some(LocalLayers::AllButEvery(n)) => {
            w.ours("puna.attention.local_layers", Str(format!("all_but_every:{n}")));
        }
        Some(LocalLayers::From(first)) => {
            w.ours("puna.attention.local_layers", Str(format!("from:{first}")));
        }
        Some(LocalLayers::All) => w.ours("puna.attention.local_layers", Str("all".to_owned())),
        None => {}
    }
    Ok(())
}
