//! What must hold in any decoder, whatever file it was described in.
//!
//! The parsers check their own dialect (missing, unknown and disagreeing keys); sizes and their
//! relations are checked here, once, with the dialect's word for each field in the error.

use crate::error::{ConfigError, Result};
use crate::{
    AttentionConfig, DecoderConfig, FfnConfig, LayerPattern, LocalLayers, RopeConfig, RopeScaling,
};

/// Fields that an error can be about; each dialect has its word for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    VocabSize,
    HiddenSize,
    NumLayers,
    MaxSeqLen,
    NormEps,
    NumHeads,
    NumKvHeads,
    HeadDim,
    Scale,
    LogitSoftcap,
    FinalSoftcap,
    FfnSize,
    NumExperts,
    ExpertsPerToken,
    Window,
    LocalPattern,
    Theta,
    LocalTheta,
    RotaryDim,
    RopeScaling,
    OriginalMax,
}

/// The dialect's word for a field.
pub(crate) type Names<'a> = &'a dyn Fn(Field) -> String;

/// Largest plausible sizes; beyond them a file is broken or hostile, and products may overflow.
const MAX_VOCAB: usize = 1 << 26;
const MAX_WIDTH: usize = 1 << 22;
const MAX_LAYERS: usize = 1 << 14;
const MAX_HEADS: usize = 1 << 16;
const MAX_EXPERTS: usize = 1 << 16;
const MAX_TOKENS: usize = 1 << 32;
/// Largest plausible number of parameters (2^53, the last at which f64 counts exactly).
const MAX_PARAMETERS: u64 = 1 << 53;

impl DecoderConfig {
    /// Checks sizes and their relations: nothing zero or absurd, kv heads divide the heads,
    /// even rotary dimensions, tables of the right length, finite positive factors.
    ///
    /// # Errors
    /// The first field that fails, under puna's own name for it.
    pub fn validate(&self) -> Result<()> {
        check_decoder(self, &|field| format!("{field:?}"))
    }
}

pub(crate) fn check_decoder(d: &DecoderConfig, names: Names<'_>) -> Result<()> {
    let size = |field, n: usize, max| check_size(names, field, n, max);
    size(Field::VocabSize, d.vocab_size, MAX_VOCAB)?;
    size(Field::HiddenSize, d.hidden_size, MAX_WIDTH)?;
    size(Field::NumLayers, d.num_layers, MAX_LAYERS)?;
    size(Field::MaxSeqLen, d.max_seq_len, MAX_TOKENS)?;
    if !(0.0..1.0).contains(&d.norm.eps) {
        return Err(ConfigError::invalid(names(Field::NormEps), d.norm.eps, "from 0 to below 1"));
    }
    check_attention(&d.attention, names)?;
    check_ffn(&d.ffn, names)?;
    check_layers(&d.layers, d.attention.head_dim, names)?;
    if let Some(cap) = d.final_logit_softcap {
        check_positive(names, Field::FinalSoftcap, cap)?;
    }
    let parameters = d.parameters().total;
    if parameters > MAX_PARAMETERS {
        let expected = format!("such that the model has at most {MAX_PARAMETERS} parameters");
        return Err(ConfigError::invalid(names(Field::HiddenSize), d.hidden_size, expected));
    }
    Ok(())
}

pub(crate) fn check_size(names: Names<'_>, field: Field, n: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&n) {
        return Ok(());
    }
    Err(ConfigError::invalid(names(field), n, format!("from 1 to {max}")))
}

fn check_positive(names: Names<'_>, field: Field, x: f64) -> Result<()> {
    if x.is_finite() && x > 0.0 {
        return Ok(());
    }
    Err(ConfigError::invalid(names(field), x, "finite and above 0"))
}

fn check_attention(a: &AttentionConfig, names: Names<'_>) -> Result<()> {
    check_size(names, Field::NumHeads, a.num_heads, MAX_HEADS)?;
    check_size(names, Field::NumKvHeads, a.num_kv_heads, MAX_HEADS)?;
    check_size(names, Field::HeadDim, a.head_dim, MAX_WIDTH)?;
    if !a.num_heads.is_multiple_of(a.num_kv_heads) {
        return Err(ConfigError::contradiction(
            (names(Field::NumHeads), a.num_heads),
            (names(Field::NumKvHeads), a.num_kv_heads),
            "the kv heads must divide the heads",
        ));
    }
    check_positive(names, Field::Scale, a.scale)?;
    a.logit_softcap.map_or(Ok(()), |cap| check_positive(names, Field::LogitSoftcap, cap))
}

fn check_ffn(ffn: &FfnConfig, names: Names<'_>) -> Result<()> {
    match ffn {
        FfnConfig::Dense { ffn_size, .. } => {
            check_size(names, Field::FfnSize, *ffn_size, MAX_WIDTH)
        }
        FfnConfig::Moe { ffn_size, num_experts, experts_per_token, .. } => {
            check_size(names, Field::FfnSize, *ffn_size, MAX_WIDTH)?;
            check_size(names, Field::NumExperts, *num_experts, MAX_EXPERTS)?;
            if (1..=*num_experts).contains(experts_per_token) {
                return Ok(());
            }
            Err(ConfigError::contradiction(
                (names(Field::ExpertsPerToken), experts_per_token),
                (names(Field::NumExperts), num_experts),
                "a token uses at least one expert and at most all",
            ))
        }
    }
}

fn check_layers(layers: &LayerPattern, head_dim: usize, names: Names<'_>) -> Result<()> {
    check_rope(&layers.global_rope, head_dim, (Field::Theta, names))?;
    let Some(local) = &layers.local else { return Ok(()) };
    check_rope(&local.rope, head_dim, (Field::LocalTheta, names))?;
    check_size(names, Field::Window, local.window, MAX_TOKENS)?;
    match local.which {
        LocalLayers::AllButEvery(n) if n < 2 => {
            Err(ConfigError::invalid(names(Field::LocalPattern), n, "at least 2"))
        }
        _ => Ok(()),
    }
}

fn check_rope(
    rope: &RopeConfig,
    head_dim: usize,
    (theta, names): (Field, Names<'_>),
) -> Result<()> {
    if !(rope.theta.is_finite() && rope.theta > 1.0) {
        return Err(ConfigError::invalid(names(theta), rope.theta, "finite and above 1"));
    }
    let dim = rope.rotary_dim;
    if dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
        let expected =
            format!("even, above 0 and at most {}, which is {head_dim}", { names(Field::HeadDim) });
        return Err(ConfigError::invalid(names(Field::RotaryDim), dim, expected));
    }
    check_scaling(rope, names)
}

fn check_scaling(rope: &RopeConfig, names: Names<'_>) -> Result<()> {
    let positive = |x| check_positive(names, Field::RopeScaling, x);
    let original = |n| check_size(names, Field::OriginalMax, n, MAX_TOKENS);
    match &rope.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => positive(*factor),
        RopeScaling::DynamicNtk { factor, original_max } => {
            if !(factor.is_finite() && *factor >= 1.0) {
                let key = names(Field::RopeScaling);
                return Err(ConfigError::invalid(key, factor, "finite and at least 1"));
            }
            original(*original_max)
        }
        RopeScaling::Yarn {
            factor, original_max, beta_fast, beta_slow, attention_factor, ..
        } => {
            [*factor, *beta_fast, *beta_slow, *attention_factor]
                .into_iter()
                .try_for_each(positive)?;
            original(*original_max)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
            [*factor, *low_freq_factor, *high_freq_factor].into_iter().try_for_each(positive)?;
            if high_freq_factor <= low_freq_factor {
                return Err(ConfigError::contradiction(
                    ("high_freq_factor", high_freq_factor),
                    ("low_freq_factor", low_freq_factor),
                    "the high factor must be the larger",
                ));
            }
            original(*original_max)
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max, attention_factor } => {
            positive(*attention_factor)?;
            original(*original_max)?;
            check_table("short_factor", short_factor, rope.rotary_dim, names)?;
            check_table("long_factor", long_factor, rope.rotary_dim, names)
        }
    }
}

fn check_table(
    key: &'static str,
    table: &[f64],
    rotary_dim: usize,
    names: Names<'_>,
) -> Result<()> {
    if table.len() != rotary_dim / 2 {
        return Err(ConfigError::contradiction(
            (key, format!("a list of {}", table.len())),
            (names(Field::RotaryDim), rotary_dim),
            "there is one factor per pair of rotary dimensions",
        ));
    }
    match table.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        Some(x) => Err(ConfigError::invalid(key, x, "a list of finite numbers above 0")),
        None => Ok(()),
    }
}
