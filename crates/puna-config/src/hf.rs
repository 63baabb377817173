//! Hugging Face's `config.json`, in the spellings of transformers 4 and 5.
//!
//! Missing keys take the default of that architecture in transformers, null is not missing, and a
//! key that is neither read nor on the list of harmless ones is an error.

mod defaults;
mod harmless;
mod layers;
mod names;
mod parts;
mod quantization;
mod rope;
mod write;

use crate::check::check_decoder;
use crate::error::{ConfigError, Result};
use crate::object::{Object, quote};
use crate::{ConfigTokens, DecoderConfig, Family, ModelConfig, WeightDtype};
use defaults::Defaults;
use serde_json::Value;

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// Read are `llama`, `mistral`, `mixtral`, `gemma`, `gemma2`, `gemma3_text` (and the text part
    /// of `gemma3`), `qwen2`, `qwen3`, `qwen3_moe`, `olmoe` and `phi3`.
    ///
    /// # Errors
    /// What is wrong, with the key and its value: no JSON, another architecture, an unknown key, a
    /// value of the wrong type or out of range, or two values that exclude each other.
    ///
    /// # Examples
    /// ```
    /// let text = r#"{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}"#;
    /// let config = puna_config::ModelConfig::from_hf_json(text)?;
    /// assert_eq!(config.decoder.attention.head_dim, 16);
    /// # Ok::<(), puna_config::ConfigError>(())
    /// ```
    pub fn from_hf_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        Self::from_hf_value(&value)
    }

    /// Reads a `config.json` that is already parsed.
    ///
    /// # Errors
    /// As [`ModelConfig::from_hf_json`].
    pub fn from_hf_value(value: &Value) -> Result<Self> {
        let top = Object::new("", value)?;
        let name = top.str("model_type")?.value();
        let name = name.ok_or_else(|| ConfigError::MissingKey { key: top.key("model_type") })?;
        if name == "gemma3" {
            return read_multimodal(&top);
        }
        let family = names::family(name).ok_or_else(|| ConfigError::UnsupportedArchitecture {
            key: top.key("model_type"),
            name: name.to_owned(),
        })?;
        read_model(&top, family)
    }
}

/// The text part of Gemma 3's image models; the vision part is another crate's concern.
fn read_multimodal(top: &Object<'_>) -> Result<ModelConfig> {
    let text = top.object("text_config")?;
    let text = text.ok_or_else(|| ConfigError::MissingKey { key: top.key("text_config") })?;
    match text.str("model_type")?.value() {
        None | Some("gemma3_text") => {}
        Some(name) => {
            let (key, name) = (text.key("model_type"), name.to_owned());
            return Err(ConfigError::UnsupportedArchitecture { key, name });
        }
    }
    let mut model = read_model(&text, Family::Gemma3)?;
    model.tokens = read_tokens(top, (model.tokens.bos, &model.tokens.eos, model.tokens.pad))?;
    model.dtype = read_dtype(top)?.or(model.dtype);
    if let Some(quantization) = top.object("quantization_config")? {
        model.quantization = Some(quantization::read(&quantization)?);
    }
    if let Some(tied) = top.bool("tie_word_embeddings")?.value() {
        if text.map().contains_key("tie_word_embeddings") && tied != parts::tied(&text, true)? {
            return Err(ConfigError::contradiction(
                (top.key("tie_word_embeddings"), tied),
                (text.key("tie_word_embeddings"), !tied),
                "they must agree",
            ));
        }
        model.decoder.embedding.head = parts::head_weight(tied);
    }
    top.finish(harmless::MULTIMODAL)?;
    Ok(model)
}

fn read_model(o: &Object<'_>, family: Family) -> Result<ModelConfig> {
    let defaults = defaults::of(family);
    let decoder = read_decoder(o, family, &defaults)?;
    let (bos, eos, pad) = defaults.tokens;
    let tokens = read_tokens(o, (bos, eos.as_slice(), pad))?;
    let dtype = read_dtype(o)?;
    let quantization = match o.object("quantization_config")? {
        Some(q) => Some(quantization::read(&q)?),
        None => None,
    };
    o.finish(harmless::CONFIG)?;
    Ok(ModelConfig { decoder, family, dtype, quantization, tokens })
}

fn read_decoder(o: &Object<'_>, family: Family, defaults: &Defaults) -> Result<DecoderConfig> {
    let sizes = parts::Sizes::read(o, defaults)?;
    let attention = parts::attention(o, family, &sizes)?;
    let ropes = rope::read(o, family, (&sizes, attention.head_dim))?;
    let decoder = DecoderConfig {
        vocab_size: sizes.vocab_size,
        hidden_size: sizes.hidden_size,
        num_layers: sizes.num_layers,
        max_seq_len: sizes.max_seq_len,
        norm: parts::norm(o, family, defaults.norm_eps)?,
        placement: parts::placement(family),
        layers: layers::read(o, family, (sizes.num_layers, ropes))?,
        ffn: parts::ffn(o, family, sizes.ffn_size)?,
        embedding: parts::embedding(o, family, defaults.tied)?,
        final_logit_softcap: parts::softcap(o, family, "final_logit_softcapping", 30.0)?,
        attention,
    };
    check_decoder(&decoder, &|field| o.key(names::field(family, field)))?;
    Ok(decoder)
}

/// Both spellings of the dense type: `torch_dtype` (transformers 4) and `dtype` (5).
fn read_dtype(o: &Object<'_>) -> Result<Option<WeightDtype>> {
    let (old, new) = (o.str("torch_dtype")?.value(), o.str("dtype")?.value());
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let (key, other) = (o.key("torch_dtype"), o.key("dtype"));
        return Err(ConfigError::contradiction((key, old), (other, new), "they must agree"));
    }
    let key = if new.is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = new.or(old) else { return Ok(None) };
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" | "float" => Ok(Some(WeightDtype::F32)),
        "float16" | "half" => Ok(Some(WeightDtype::F16)),
        "bfloat16" => Ok(Some(WeightDtype::BF16)),
        _ => Err(ConfigError::invalid(o.key(key), name, "float32, float16 or bfloat16")),
    }
}

/// Token ids; `-1`, which old files write for "none", is none.
fn read_tokens(
    o: &Object<'_>,
    (bos, eos, pad): (Option<u32>, &[u32], Option<u32>),
) -> Result<ConfigTokens> {
    let one = |key: &'static str, default: Option<u32>| -> Result<Option<u32>> {
        match o.i64(key)?.or(default.map(i64::from)) {
            None | Some(-1) => Ok(None),
            Some(id) => token_id(o, key, id).map(Some),
        }
    };
    let eos = match o.map().get("eos_token_id") {
        None => eos.to_vec(),
        Some(Value::Array(ids)) => {
            o.value("eos_token_id")?;
            let id = |v: &Value| match v.as_i64() {
                Some(id) => token_id(o, "eos_token_id", id),
                None => Err(ConfigError::WrongType {
                    key: o.key("eos_token_id"),
                    expected: "a token id or a list of them",
                    got: quote(v),
                }),
            };
            ids.iter().map(id).collect::<Result<_>>()?
        }
        Some(_) => one("eos_token_id", None)?.into_iter().collect(),
    };
    Ok(ConfigTokens { bos: one("bos_token_id", bos)?, eos, pad: one("pad_token_id", pad)? })
}

fn token_id(o: &Object<'_>, key: &'static str, id: i64) -> Result<u32> {
    u32::try_from(id).map_err(|_| ConfigError::invalid(o.key(key), id, "a token id"))
}
