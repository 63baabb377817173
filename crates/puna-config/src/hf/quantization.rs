//! `quantization_config` of a `config.json`, and AutoGPTQ's separate `quantize_config.json`.

use super::harmless;
use crate::error::{ConfigError, Result};
use crate::object::Object;
use crate::{ActOrder, BitsAndBytesKind, GptqZeros, Quantization};

impl Quantization {
    /// Reads AutoGPTQ's `quantize_config.json`, where old folders keep the only settings.
    ///
    /// # Errors
    /// As [`crate::ModelConfig::from_hf_json`]; also where `quant_method` names another method.
    pub fn from_quantize_config_json(text: &str) -> Result<Self> {
        let value = serde_json::from_str(text)?;
        let o = Object::new("", &value)?;
        match o.str("quant_method")?.value() {
            None | Some("gptq") => gptq(&o),
            Some(other) => Err(ConfigError::invalid(o.key("quant_method"), other, "gptq")),
        }
    }
}

pub(super) fn read(o: &Object<'_>) -> Result<Quantization> {
    match o.str("quant_method")?.value() {
        Some("gptq") => gptq(o),
        Some("awq") => awq(o),
        Some("bitsandbytes") => bitsandbytes(o),
        Some("fp8") => fp8(o),
        Some(other) => {
            let expected = "gptq, awq, bitsandbytes or fp8";
            Err(ConfigError::invalid(o.key("quant_method"), other, expected))
        }
        // bitsandbytes' first files do not name the method.
        None if o.map().contains_key("load_in_4bit") || o.map().contains_key("load_in_8bit") => {
            bitsandbytes(o)
        }
        None => Err(ConfigError::MissingKey { key: o.key("quant_method") }),
    }
}

/// Inputs per scale; `-1` is one group per row.
fn group_size(o: &Object<'_>) -> Result<Option<usize>> {
    let key = "group_size";
    let missing = || ConfigError::MissingKey { key: o.key(key) };
    let size = o.i64(key)?.value().ok_or_else(missing)?;
    match usize::try_from(size) {
        Ok(size) if (1..=1 << 20).contains(&size) => Ok(Some(size)),
        _ if size == -1 => Ok(None),
        _ => Err(ConfigError::invalid(o.key(key), size, "-1 or from 1 to 1048576")),
    }
}

fn gptq(o: &Object<'_>) -> Result<Quantization> {
    let bits = o.required_usize("bits")?;
    let bits = match bits {
        2 | 3 | 4 | 8 => bits as u32,
        _ => return Err(ConfigError::invalid(o.key("bits"), bits, "2, 3, 4 or 8")),
    };
    let zeros = match o.str("checkpoint_format")?.value() {
        None | Some("gptq" | "") => GptqZeros::MinusOne,
        Some("gptq_v2") => GptqZeros::Stored,
        Some(other) => {
            let key = o.key("checkpoint_format");
            return Err(ConfigError::invalid(key, other, "gptq or gptq_v2"));
        }
    };
    if let Some(pack) = o.str("pack_dtype")?.value()
        && pack != "int32"
    {
        return Err(ConfigError::invalid(o.key("pack_dtype"), pack, "int32"));
    }
    let act_order = match o.bool("desc_act")?.value() {
        Some(true) => ActOrder::Reordered,
        _ => ActOrder::Sequential,
    };
    let group_size = group_size(o)?;
    o.finish(harmless::GPTQ)?;
    Ok(Quantization::Gptq { bits, group_size, zeros, act_order })
}

fn awq(o: &Object<'_>) -> Result<Quantization> {
    let bits = o.usize("bits")?.value().unwrap_or(4);
    if bits != 4 {
        return Err(ConfigError::invalid(o.key("bits"), bits, "4"));
    }
    let version = o.str("version")?.value().unwrap_or("gemm");
    if !version.eq_ignore_ascii_case("gemm") {
        return Err(ConfigError::invalid(o.key("version"), version, "gemm"));
    }
    if o.bool("zero_point")?.value() == Some(false) {
        return Err(ConfigError::invalid(o.key("zero_point"), false, "true"));
    }
    let group_size = group_size(o)?;
    o.finish(harmless::AWQ)?;
    Ok(Quantization::Awq { group_size })
}

fn bitsandbytes(o: &Object<'_>) -> Result<Quantization> {
    let either = |public: &'static str, private: &'static str| -> Result<bool> {
        let (a, b) = (o.bool(public)?.value(), o.bool(private)?.value());
        match (a, b) {
            (Some(a), Some(b)) if a != b => Err(ConfigError::contradiction(
                (o.key(public), a),
                (o.key(private), b),
                "they must agree",
            )),
            (a, b) => Ok(a.or(b).unwrap_or(false)),
        }
    };
    let four = either("load_in_4bit", "_load_in_4bit")?;
    let eight = either("load_in_8bit", "_load_in_8bit")?;
    if four == eight {
        return Err(ConfigError::contradiction(
            (o.key("load_in_4bit"), four),
            (o.key("load_in_8bit"), eight),
            "one of them must be true",
        ));
    }
    o.finish(harmless::BITSANDBYTES)?;
    let kind = if four { BitsAndBytesKind::FourBit } else { BitsAndBytesKind::Int8 };
    Ok(Quantization::BitsAndBytes { kind })
}

fn fp8(o: &Object<'_>) -> Result<Quantization> {
    for (key, only) in [("fmt", "e4m3"), ("activation_scheme", "dynamic")] {
        if let Some(value) = o.str(key)?.value()
            && value != only
        {
            return Err(ConfigError::invalid(o.key(key), value, only));
        }
    }
    let key = "weight_block_size";
    let missing = || ConfigError::MissingKey { key: o.key(key) };
    let sizes = o.usizes(key)?.value().ok_or_else(missing)?;
    let [rows, cols] = sizes[..] else {
        return Err(ConfigError::invalid(o.key(key), format!("{sizes:?}"), "two numbers"));
    };
    if rows == 0 || cols == 0 || rows.max(cols) > 1 << 20 {
        let got = format!("{sizes:?}");
        return Err(ConfigError::invalid(o.key(key), got, "two numbers from 1 to 1048576"));
    }
    o.finish(harmless::FP8)?;
    Ok(Quantization::Fp8Block { block: [rows, cols] })
}
