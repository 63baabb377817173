//! Which layers of a `config.json` see everything and which a window.
//!
//! transformers says it in four ways: a window for all layers (Mistral, Phi-3), `layer_types`, a
//! period (`sliding_window_pattern`), or a first layer behind a switch (`use_sliding_window` and
//! `max_window_layers`, Qwen). They are read into one rule and must agree where several stand.

use super::rope::Ropes;
use crate::error::{ConfigError, Result};
use crate::object::{Object, Slot};
use crate::pattern::{gives, infer, touches};
use crate::{Family, LayerPattern, LocalAttention, LocalLayers};

pub(super) fn read(
    o: &Object<'_>,
    family: Family,
    (num_layers, ropes): (usize, Ropes),
) -> Result<LayerPattern> {
    let (window, rule) = match family {
        Family::Llama | Family::Gemma | Family::Olmoe => (None, None),
        Family::Mistral => (window(o, Some(4096))?, Some(LocalLayers::All)),
        Family::Mixtral | Family::Phi3 => (window(o, None)?, Some(LocalLayers::All)),
        Family::Gemma2 => (window(o, Some(4096))?, Some(LocalLayers::AllButEvery(2))),
        Family::Gemma3 => (window(o, Some(4096))?, period(o)?),
        Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => switched(o, family)?,
    };
    let rule = agree_with_layer_types(o, num_layers, (window, rule))?;
    let local = match (window, rule.filter(|rule| touches(*rule, num_layers))) {
        (Some(window), Some(which)) => {
            let rope = ropes.local.unwrap_or_else(|| ropes.global.clone());
            Some(LocalAttention { window, rope, which })
        }
        _ => None,
    };
    Ok(LayerPattern { global_rope: ropes.global, local })
}

/// `sliding_window`, and Gemma 2's older word for it.
fn window(o: &Object<'_>, default: Option<usize>) -> Result<Option<usize>> {
    let window = o.usize("sliding_window")?.or(default);
    if let Slot::Value(older) = o.usize("sliding_window_size")?
        && window != Some(older)
    {
        return Err(ConfigError::contradiction(
            (o.key("sliding_window_size"), older),
            (o.key("sliding_window"), format!("{window:?}")),
            "they must agree",
        ));
    }
    Ok(window)
}

/// Gemma 3's period (also written with an underscore): every n-th layer is global, 6 by default.
fn period(o: &Object<'_>) -> Result<Option<LocalLayers>> {
    let public = o.usize("sliding_window_pattern")?.value();
    let private = o.usize("_sliding_window_pattern")?.value();
    if let (Some(a), Some(b)) = (public, private)
        && a != b
    {
        return Err(ConfigError::contradiction(
            (o.key("sliding_window_pattern"), a),
            (o.key("_sliding_window_pattern"), b),
            "they must agree",
        ));
    }
    match public.or(private).unwrap_or(6) {
        0 => Err(ConfigError::invalid(o.key("sliding_window_pattern"), 0, "at least 1")),
        1 => Ok(None),
        n => Ok(Some(LocalLayers::AllButEvery(n))),
    }
}

/// Qwen: a window only where `use_sliding_window` is true, from layer `max_window_layers` on.
///
/// Published files carry a `sliding_window` beside `use_sliding_window: false`; it is not in force.
/// Qwen 3 MoE's versions of transformers disagree about `max_window_layers`, so there a window
/// that does not start at layer 0 is refused.
fn switched(o: &Object<'_>, family: Family) -> Result<(Option<usize>, Option<LocalLayers>)> {
    let window = o.usize("sliding_window")?.or(Some(4096));
    let first = o.usize("max_window_layers")?;
    let used = o.bool("use_sliding_window")?.value().unwrap_or(false);
    if !used {
        return Ok((None, None));
    }
    let first = match (family, first.value()) {
        (Family::Qwen3Moe, Some(first)) if first > 0 => {
            let key = o.key("max_window_layers");
            return Err(ConfigError::invalid(key, first, "0 where use_sliding_window is true"));
        }
        (Family::Qwen3Moe, _) => 0,
        (_, first) => first.unwrap_or(28),
    };
    let rule = if first == 0 { LocalLayers::All } else { LocalLayers::From(first) };
    Ok((window, Some(rule)))
}

/// Brings `layer_types` and the rule together: the rule where both say the same, else what
/// `layer_types` describes, unless the file states the rule itself.
fn agree_with_layer_types(
    o: &Object<'_>,
    num_layers: usize,
    (window, rule): (Option<usize>, Option<LocalLayers>),
) -> Result<Option<LocalLayers>> {
    let Slot::Value(types) = o.strs("layer_types")? else { return Ok(rule) };
    let key = o.key("layer_types");
    if types.len() != num_layers {
        return Err(ConfigError::contradiction(
            (key, format!("a list of {}", types.len())),
            (o.key("num_hidden_layers"), num_layers),
            "there is one type per layer",
        ));
    }
    let mut locals = Vec::with_capacity(types.len());
    for name in types {
        locals.push(match name {
            "full_attention" => false,
            "sliding_attention" => true,
            other => {
                let expected = "full_attention or sliding_attention in each place";
                return Err(ConfigError::invalid(key, other, expected));
            }
        });
    }
    let any = locals.contains(&true);
    if any && window.is_none() {
        return Err(ConfigError::contradiction(
            (key, "sliding_attention"),
            (o.key("sliding_window"), "null or not in force"),
            "local layers need a window",
        ));
    }
    let in_force = rule.filter(|_| window.is_some());
    match in_force {
        Some(rule) if gives(rule, &locals) => Ok(Some(rule)),
        None if !any => Ok(None),
        Some(rule) if states_rule(o) => Err(ConfigError::contradiction(
            (key, "another list"),
            (o.key("sliding_window_pattern"), format!("{rule:?}")),
            "they must agree",
        )),
        _ if !any => Ok(None),
        _ => infer(&locals).map(Some).ok_or_else(|| {
            let expected = "all local, all but every n-th, or all from one layer on";
            ConfigError::invalid(key, "another arrangement", expected)
        }),
    }
}

fn states_rule(o: &Object<'_>) -> bool {
    ["sliding_window_pattern", "_sliding_window_pattern", "max_window_layers"]
        .iter()
        .any(|key| o.map().get(*key).is_some_and(|v| !v.is_null()))
}
