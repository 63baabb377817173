//! Rotary embedding from a `config.json`: `rope_theta` with `rope_scaling` (transformers 4) or
//! `rope_parameters` (5), the latter nested per layer type for Gemma 3.

use super::defaults;
use super::parts::Sizes;
use crate::error::{ConfigError, Result};
use crate::object::{Harmless, Object};
use crate::{Family, RopeConfig, RopeScaling, YarnRamp};

/// The rotary embeddings of global and, where they differ, of local layers.
pub(super) struct Ropes {
    pub global: RopeConfig,
    pub local: Option<RopeConfig>,
}

/// What the rest of the file says about the rotation.
struct Context {
    family: Family,
    theta: Option<f64>,
    default_theta: f64,
    head_dim: usize,
    max_seq_len: usize,
    original_max: Option<usize>,
    partial: Option<f64>,
}

pub(super) fn read(
    o: &Object<'_>,
    family: Family,
    (sizes, head_dim): (&Sizes, usize),
) -> Result<Ropes> {
    let (old, new) = (o.object("rope_scaling")?, o.object("rope_parameters")?);
    if let (Some(old), Some(new)) = (&old, &new)
        && old.map() != new.map()
    {
        return Err(ConfigError::contradiction(
            (o.key("rope_scaling"), "an object"),
            (o.key("rope_parameters"), "another object"),
            "they are two spellings of one setting",
        ));
    }
    let context = Context {
        family,
        theta: o.f64("rope_theta")?.value(),
        default_theta: defaults::theta(family),
        head_dim,
        max_seq_len: sizes.max_seq_len,
        original_max: o.usize("original_max_position_embeddings")?.value(),
        partial: o.f64("partial_rotary_factor")?.value(),
    };
    if family != Family::Gemma3 {
        let global = read_one(new.or(old).as_ref(), &context)?;
        return Ok(Ropes { global, local: None });
    }
    let local_theta = o.f64("rope_local_base_freq")?.value();
    let (global_dict, local_dict) = match &new {
        Some(new) => split_by_layer_type(new)?,
        None => (old, None),
    };
    let global = read_one(global_dict.as_ref(), &context)?;
    let context = Context { theta: local_theta, default_theta: defaults::LOCAL_THETA, ..context };
    Ok(Ropes { global, local: Some(read_one(local_dict.as_ref(), &context)?) })
}

/// `{"full_attention": {…}, "sliding_attention": {…}}`; a flat object is that of global layers.
fn split_by_layer_type<'a>(new: &Object<'a>) -> Result<(Option<Object<'a>>, Option<Object<'a>>)> {
    let global = new.object("full_attention")?;
    let local = new.object("sliding_attention")?;
    if global.is_none() && local.is_none() {
        return Ok((Some(new.reread()), None));
    }
    new.finish(&[])?;
    Ok((global, local))
}

fn read_one(dict: Option<&Object<'_>>, context: &Context) -> Result<RopeConfig> {
    let theta = match dict {
        Some(d) => agree(d, "rope_theta", d.f64("rope_theta")?.value(), context.theta)?,
        None => context.theta,
    };
    let partial = match dict {
        Some(d) => {
            let inner = d.f64("partial_rotary_factor")?.value();
            agree(d, "partial_rotary_factor", inner, context.partial)?
        }
        None => context.partial,
    };
    let rotary_dim = rotary_dim(partial.unwrap_or(1.0), context)?;
    let scaling = match dict {
        Some(d) => read_scaling(d, context)?,
        None => RopeScaling::None,
    };
    Ok(RopeConfig { theta: theta.unwrap_or(context.default_theta), rotary_dim, scaling })
}

/// A setting that may stand inside the object, outside, or in both places alike.
fn agree<T: PartialEq + ToString>(
    d: &Object<'_>,
    key: &'static str,
    inner: Option<T>,
    outer: Option<T>,
) -> Result<Option<T>> {
    match (inner, outer) {
        (Some(inner), Some(outer)) if inner != outer => {
            Err(ConfigError::contradiction((d.key(key), inner), (key, outer), "they must agree"))
        }
        (inner, outer) => Ok(inner.or(outer)),
    }
}

/// `int(head_dim * partial)`, as transformers truncates; only Phi-3's attention rotates a part.
fn rotary_dim(partial: f64, context: &Context) -> Result<usize> {
    if partial == 1.0 {
        return Ok(context.head_dim);
    }
    if context.family != Family::Phi3 || !(0.0..1.0).contains(&partial) {
        let expected = "1 (for phi3 above 0 and at most 1)";
        return Err(ConfigError::invalid("partial_rotary_factor", partial, expected));
    }
    Ok((context.head_dim as f64 * partial) as usize)
}

fn read_scaling(d: &Object<'_>, context: &Context) -> Result<RopeScaling> {
    let (new, old) = (d.str("rope_type")?.value(), d.str("type")?.value());
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        let pair = (d.key("rope_type"), new);
        return Err(ConfigError::contradiction(pair, (d.key("type"), old), "they must agree"));
    }
    let key = if new.is_some() { "rope_type" } else { "type" };
    let kind = match new.or(old).unwrap_or("default") {
        // Phi-3's first files say `su`, or `yarn` for what is LongRoPE.
        "su" => "longrope",
        "yarn" if context.family == Family::Phi3 => "longrope",
        kind => kind,
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: d.required_f64("factor")? },
        "dynamic" => read_dynamic(d, context)?,
        "yarn" => read_yarn(d, context)?,
        "llama3" => RopeScaling::Llama3 {
            factor: d.required_f64("factor")?,
            low_freq_factor: d.required_f64("low_freq_factor")?,
            high_freq_factor: d.required_f64("high_freq_factor")?,
            original_max: original_max(d, context)?,
        },
        "longrope" => read_longrope(d, context)?,
        other => {
            let expected = "default, linear, dynamic, yarn, llama3 or longrope";
            return Err(ConfigError::invalid(d.key(key), other, expected));
        }
    };
    if kind == "default" {
        // transformers leaves it standing there for every kind.
        d.usize("original_max_position_embeddings")?;
    }
    d.finish(UNUSED)?;
    Ok(scaling)
}

/// Keys of the object that no kind of scaling looks at.
const UNUSED: &[Harmless] = &[
    // YaRN-Llama's files: whether the model was tuned with the scaling.
    Harmless::Any(&["finetuned"]),
];

/// The length of pretraining: beside the object (Phi-3), in it, or `max_position_embeddings`.
fn original_max(d: &Object<'_>, context: &Context) -> Result<usize> {
    let key = "original_max_position_embeddings";
    let given = agree(d, key, d.usize(key)?.value(), context.original_max)?;
    let default = match context.family {
        Family::Phi3 => 4096,
        _ => context.max_seq_len,
    };
    Ok(given.unwrap_or(default))
}

/// Dynamic NTK grows from `max_position_embeddings`; another original length is refused because
/// transformers would ignore it.
fn read_dynamic(d: &Object<'_>, context: &Context) -> Result<RopeScaling> {
    let key = "original_max_position_embeddings";
    if let Some(original) = d.usize(key)?.value()
        && original != context.max_seq_len
    {
        return Err(ConfigError::contradiction(
            (d.key(key), original),
            ("max_position_embeddings", context.max_seq_len),
            "dynamic scaling starts at max_position_embeddings",
        ));
    }
    let factor = d.required_f64("factor")?;
    Ok(RopeScaling::DynamicNtk { factor, original_max: context.max_seq_len })
}

/// `0.1 * mscale * ln(factor) + 1`, the factor on cos and sin (arXiv:2309.00071, eq. 22).
pub(super) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

fn read_yarn(d: &Object<'_>, context: &Context) -> Result<RopeScaling> {
    let original_max = original_max(d, context)?;
    let ratio = context.max_seq_len as f64 / original_max.max(1) as f64;
    let factor = match d.map().contains_key("factor") {
        true => d.f64("factor")?.value().unwrap_or(ratio),
        false => d.required_f64("factor")?,
    };
    let (mscale, all_dim) = (d.f64("mscale")?.value(), d.f64("mscale_all_dim")?.value());
    let attention_factor = match (d.f64("attention_factor")?.value(), mscale, all_dim) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all_dim)) if mscale != 0.0 && all_dim != 0.0 => {
            yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dim)
        }
        _ => yarn_mscale(factor, 1.0),
    };
    // As in transformers, 0 means the default.
    let rotations = |key, default: f64| {
        Ok::<_, ConfigError>(d.f64(key)?.value().filter(|x| *x != 0.0).unwrap_or(default))
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_max,
        beta_fast: rotations("beta_fast", 32.0)?,
        beta_slow: rotations("beta_slow", 1.0)?,
        attention_factor,
        ramp: match d.bool("truncate")?.value() {
            Some(false) => YarnRamp::Exact,
            _ => YarnRamp::Truncated,
        },
    })
}

/// `sqrt(1 + ln(factor) / ln(original_max))`, LongRoPE's factor on cos and sin by default.
pub(super) fn longrope_mscale(factor: f64, original_max: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_max as f64).ln()).sqrt() }
}

fn read_longrope(d: &Object<'_>, context: &Context) -> Result<RopeScaling> {
    let table = |key: &'static str| {
        let missing = || ConfigError::MissingKey { key: d.key(key) };
        d.f64s(key)?.value().ok_or_else(missing)
    };
    let original_max = original_max(d, context)?;
    let ratio = context.max_seq_len as f64 / original_max.max(1) as f64;
    let factor = d.f64("factor")?.value().unwrap_or(ratio);
    let given = d.f64("attention_factor")?.value();
    Ok(RopeScaling::LongRope {
        short_factor: table("short_factor")?,
        long_factor: table("long_factor")?,
        original_max,
        attention_factor: given.unwrap_or_else(|| longrope_mscale(factor, original_max)),
    })
}
