//! Rotary embedding in GGUF: keys, factor tensors and `puna.rope.scaling.*`.
//!
//! Llama 3.1's scaling is stored only as the tensor `rope_freqs.weight`, one divisor per frequency;
//! the parameters are dropped. Where puna's own keys do not give them back, the divisors are read
//! as LongRoPE with two equal tables and no factor on cos and sin, which is the same arithmetic.

use super::keys::{GgufMetadata, GgufValue, Keys};
use crate::error::{ConfigError, Result};
use crate::{DecoderConfig, Family, RopeConfig, RopeScaling, YarnRamp};

/// Divisors for all lengths (Llama 3.1).
const FREQS: &str = "rope_freqs.weight";
/// Divisors up to the original length (Phi-3).
const SHORT: &str = "rope_factors_short.weight";
/// Divisors beyond it.
const LONG: &str = "rope_factors_long.weight";
/// Before each of puna's own keys.
const PUNA: &str = "puna.rope.scaling.";

pub(super) fn read(keys: &Keys<'_>, (max_seq_len, head_dim): (usize, usize)) -> Result<RopeConfig> {
    let theta = keys.f64("rope.freq_base")?.unwrap_or(10_000.0);
    let rotary_dim = keys.usize("rope.dimension_count")?.unwrap_or(head_dim);
    // Read all of llama.cpp's keys first, so that they are known also where puna's are preferred.
    let theirs = read_scaling(keys, max_seq_len);
    let scaling = match keys.meta.str("puna.rope.scaling.type") {
        Some(kind) => read_ours(keys.meta, kind)?,
        None => theirs?,
    };
    Ok(RopeConfig { theta, rotary_dim, scaling })
}

fn read_scaling(keys: &Keys<'_>, max_seq_len: usize) -> Result<RopeScaling> {
    let kind = keys.str("rope.scaling.type")?;
    let old_factor = keys.f64("rope.scale_linear")?;
    let factor = keys.f64("rope.scaling.factor")?.or(old_factor).filter(|f| *f != 0.0);
    let original = keys.usize("rope.scaling.original_context_length")?;
    let original_max = original.unwrap_or(max_seq_len);
    let attn_factor = keys.f64("rope.scaling.attn_factor")?.filter(|f| *f != 0.0);
    let yarn = read_yarn(keys, original_max, (factor, attn_factor.unwrap_or(1.0)));
    let table = |name: &str| -> Result<Vec<f64>> {
        let missing = || ConfigError::MissingKey { key: format!("tensor {name}") };
        let values = keys.meta.f32_tensor(name).ok_or_else(missing)?;
        Ok(values.into_iter().map(f64::from).collect())
    };
    let has = |name: &str| keys.meta.has_tensor(name);
    let by_tensor = has(FREQS) || has(SHORT) || has(LONG);
    match kind {
        Some("yarn" | "linear") if by_tensor => Err(ConfigError::contradiction(
            (keys.key("rope.scaling.type"), kind.unwrap_or_default()),
            ("rope factor tensors", "present"),
            "frequencies are scaled in one way",
        )),
        Some("yarn") => yarn,
        None | Some("none" | "longrope") if has(SHORT) || has(LONG) => Ok(RopeScaling::LongRope {
            short_factor: table(SHORT)?,
            long_factor: table(LONG)?,
            original_max,
            attention_factor: attn_factor.unwrap_or(1.0),
        }),
        None | Some("none") if has(FREQS) => {
            let factors = table(FREQS)?;
            Ok(RopeScaling::LongRope {
                short_factor: factors.clone(),
                long_factor: factors,
                original_max: max_seq_len,
                attention_factor: 1.0,
            })
        }
        Some("longrope") => Err(ConfigError::MissingKey { key: format!("tensor {LONG}") }),
        Some("none") => Ok(RopeScaling::None),
        None | Some("linear") => match factor {
            None | Some(1.0) => Ok(RopeScaling::None),
            Some(factor) => Ok(RopeScaling::Linear { factor }),
        },
        Some(other) => {
            let key = keys.key("rope.scaling.type");
            Err(ConfigError::invalid(key, other, "none, linear, yarn or longrope"))
        }
    }
}

/// llama.cpp multiplies cos and sin by `attn_factor * (0.1 ln(factor) + 1)`.
fn read_yarn(
    keys: &Keys<'_>,
    original_max: usize,
    (factor, attn_factor): (Option<f64>, f64),
) -> Result<RopeScaling> {
    let beta_fast = keys.f64("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
    let beta_slow = keys.f64("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
    let more = keys.f64("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0);
    for (name, neutral) in
        [("rope.scaling.yarn_ext_factor", 1.0), ("rope.scaling.yarn_log_multiplier", 0.0)]
    {
        if let Some(value) = keys.f64(name)?
            && value != neutral
        {
            return Err(ConfigError::invalid(keys.key(name), value, neutral.to_string()));
        }
    }
    let missing = || ConfigError::MissingKey { key: keys.key("rope.scaling.factor") };
    let factor = factor.ok_or_else(missing)?;
    Ok(RopeScaling::Yarn {
        factor,
        original_max,
        beta_fast,
        beta_slow,
        attention_factor: attn_factor * more * mscale(factor),
        ramp: YarnRamp::Truncated,
    })
}

fn mscale(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

/// puna's own keys, which hold every parameter exactly.
fn read_ours(meta: &dyn GgufMetadata, kind: &str) -> Result<RopeScaling> {
    let missing = |name: &str| ConfigError::MissingKey { key: format!("{PUNA}{name}") };
    let number = |name: &str| meta.f64(&format!("{PUNA}{name}")).ok_or_else(|| missing(name));
    let original_max = || {
        let value = meta.u64(&format!("{PUNA}original_max"));
        value.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| missing("original_max"))
    };
    let table = |name: &str| meta.f64_array(&format!("{PUNA}{name}")).ok_or_else(|| missing(name));
    match kind {
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max: original_max()?,
        }),
        "dynamic" => {
            Ok(RopeScaling::DynamicNtk { factor: number("factor")?, original_max: original_max()? })
        }
        "yarn" => Ok(RopeScaling::Yarn {
            factor: number("factor")?,
            original_max: original_max()?,
            beta_fast: number("beta_fast")?,
            beta_slow: number("beta_slow")?,
            attention_factor: number("attention_factor")?,
            ramp: match meta.bool(&format!("{PUNA}truncate")) {
                Some(false) => YarnRamp::Exact,
                _ => YarnRamp::Truncated,
            },
        }),
        "longrope" => Ok(RopeScaling::LongRope {
            short_factor: table("short_factor")?,
            long_factor: table("long_factor")?,
            original_max: original_max()?,
            attention_factor: number("attention_factor")?,
        }),
        other => {
            let expected = "llama3, dynamic, yarn or longrope";
            Err(ConfigError::invalid(format!("{PUNA}type"), other, expected))
        }
    }
}

/// llama.cpp's keys for the scaling (without the architecture) and puna's (whole).
///
/// For Phi-3 the kind is left out, as llama.cpp's converter does: there the tensors say it.
pub(super) fn write(
    scaling: &RopeScaling,
    family: Family,
) -> (Vec<(&'static str, GgufValue)>, Vec<Ours>) {
    use GgufValue::{Bool, F32, F64, F64s, Str, U32};
    let original = |n: usize| ("rope.scaling.original_context_length", U32(narrow(n)));
    let kind = |name: &str| ("rope.scaling.type", Str(name.to_owned()));
    match scaling {
        RopeScaling::None => (vec![], vec![]),
        RopeScaling::Linear { factor } => {
            (vec![kind("linear"), ("rope.scaling.factor", F32(*factor as f32))], vec![])
        }
        RopeScaling::DynamicNtk { factor, original_max } => {
            (vec![], ours("dynamic", *original_max, [("factor", F64(*factor))]))
        }
        RopeScaling::Yarn {
            factor,
            original_max,
            beta_fast,
            beta_slow,
            attention_factor,
            ramp,
        } => {
            let attn_factor = attention_factor / mscale(*factor);
            let theirs = vec![
                kind("yarn"),
                ("rope.scaling.factor", F32(*factor as f32)),
                original(*original_max),
                ("rope.scaling.attn_factor", F32(attn_factor as f32)),
                ("rope.scaling.yarn_beta_fast", F32(*beta_fast as f32)),
                ("rope.scaling.yarn_beta_slow", F32(*beta_slow as f32)),
            ];
            let exact = [
                ("factor", F64(*factor)),
                ("beta_fast", F64(*beta_fast)),
                ("beta_slow", F64(*beta_slow)),
                ("attention_factor", F64(*attention_factor)),
                ("truncate", Bool(*ramp == YarnRamp::Truncated)),
            ];
            (theirs, ours("yarn", *original_max, exact))
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
            let exact = [
                ("factor", F64(*factor)),
                ("low_freq_factor", F64(*low_freq_factor)),
                ("high_freq_factor", F64(*high_freq_factor)),
            ];
            (vec![], ours("llama3", *original_max, exact))
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max, attention_factor } => {
            let exact = [
                ("short_factor", F64s(short_factor.clone())),
                ("long_factor", F64s(long_factor.clone())),
                ("attention_factor", F64(*attention_factor)),
            ];
            let theirs = if is_one_table(scaling) {
                vec![]
            } else {
                let attn_factor = ("rope.scaling.attn_factor", F32(*attention_factor as f32));
                let kind = (family != Family::Phi3).then(|| kind("longrope"));
                [original(*original_max), attn_factor].into_iter().chain(kind).collect()
            };
            (theirs, ours("longrope", *original_max, exact))
        }
    }
}

/// A key of puna's, whole, and its value.
type Ours = (String, GgufValue);

fn ours<const N: usize>(
    kind: &str,
    original_max: usize,
    values: [(&str, GgufValue); N],
) -> Vec<Ours> {
    let original_max = ("original_max", GgufValue::U64(original_max as u64));
    [("type", GgufValue::Str(kind.to_owned())), original_max]
        .into_iter()
        .chain(values)
        .map(|(name, value)| (format!("{PUNA}{name}"), value))
        .collect()
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// LongRoPE that is but one table, as read from a file with `rope_freqs.weight`.
fn is_one_table(scaling: &RopeScaling) -> bool {
    matches!(scaling, RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. }
        if short_factor == long_factor && *attention_factor == 1.0)
}

impl DecoderConfig {
    /// The tensor `rope_freqs.weight` that a GGUF file of this model needs, `None` if it needs
    /// none: the divisor of each of the `rotary_dim / 2` frequencies under Llama 3.1's scaling, as
    /// llama.cpp's converter computes them.
    #[must_use]
    pub fn gguf_rope_factors(&self) -> Option<Vec<f32>> {
        let rope = &self.layers.global_rope;
        match &rope.scaling {
            RopeScaling::Llama3 { .. } => {
                let plain = RopeConfig { scaling: RopeScaling::None, ..rope.clone() };
                let plain = plain.inverse_frequencies(1).inv_freq;
                let scaled = rope.inverse_frequencies(1).inv_freq;
                Some(plain.iter().zip(&scaled).map(|(p, s)| (p / s) as f32).collect())
            }
            RopeScaling::LongRope { short_factor, .. } if is_one_table(&rope.scaling) => {
                Some(short_factor.iter().map(|x| *x as f32).collect())
            }
            _ => None,
        }
    }

    /// All one-dimensional f32 tensors of rotary factors that a GGUF file of this model needs:
    /// `rope_freqs.weight`, or LongRoPE's `rope_factors_long.weight` and
    /// `rope_factors_short.weight`, each with `rotary_dim / 2` values; usually none.
    #[must_use]
    pub fn gguf_rope_tensors(&self) -> Vec<(String, Vec<f32>)> {
        if let Some(factors) = self.gguf_rope_factors() {
            return vec![(FREQS.to_owned(), factors)];
        }
        let narrow = |table: &[f64]| table.iter().map(|x| *x as f32).collect();
        match &self.layers.global_rope.scaling {
            RopeScaling::LongRope { short_factor, long_factor, .. } => vec![
                (LONG.to_owned(), narrow(long_factor)),
                (SHORT.to_owned(), narrow(short_factor)),
            ],
            _ => vec![],
        }
    }
}
