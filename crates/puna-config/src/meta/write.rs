//! Writing a `params.json` from which Meta's rule gives the same widths back.

use super::{
    DEFAULT_THETA, SCALED_FACTOR, SCALED_HIGH, SCALED_LOW, SCALED_ORIGINAL_MAX, default_context,
    ffn_size,
};
use crate::error::{ConfigError, Result};
use crate::{
    Activation, AttentionBias, DecoderConfig, EmbeddingScale, FfnBias, FfnConfig, ModelConfig,
    NormPlacement, NormWeight, QkNorm, RopeScaling,
};
use serde_json::{Map, Value, json};

const FORMAT: &str = "params.json";

fn cannot<T>(what: &'static str, got: impl ToString) -> Result<T> {
    Err(ConfigError::Inexpressible { format: FORMAT, what, got: got.to_string() })
}

impl ModelConfig {
    /// The `params.json` of this model.
    ///
    /// `max_seq_len` is written only where a reader would take another context by default, and
    /// `rope_scaling_factor` only where it is not Llama 3.1's. A tied head is not said; Meta's
    /// loader wants `output.weight` in any case.
    ///
    /// # Errors
    /// [`ConfigError::Inexpressible`] for anything but a plain LLaMA: biases, windows, experts,
    /// another activation, a head width that is not `dim / n_heads`, other rotary scalings.
    pub fn to_meta_json(&self) -> Result<Value> {
        let (d, a) = (&self.decoder, &self.decoder.attention);
        check_is_llama(d)?;
        let mut keys = Map::new();
        let mut put = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
        put("dim", json!(d.hidden_size));
        put("n_layers", json!(d.num_layers));
        put("n_heads", json!(a.num_heads));
        if a.num_kv_heads != a.num_heads {
            put("n_kv_heads", json!(a.num_kv_heads));
        }
        put("vocab_size", json!(d.vocab_size));
        put("norm_eps", json!(d.norm.eps));
        let FfnConfig::Dense { ffn_size, .. } = d.ffn else {
            return cannot("feed-forward part", format!("{:?}", d.ffn));
        };
        let (multiplier, multiple_of) = ffn_rule(d.hidden_size, ffn_size)?;
        put("multiple_of", json!(multiple_of));
        if let Some(multiplier) = multiplier {
            put("ffn_dim_multiplier", json!(multiplier));
        }
        let rope = &d.layers.global_rope;
        if rope.theta != DEFAULT_THETA {
            put("rope_theta", json!(rope.theta));
        }
        if let RopeScaling::Llama3 { factor, high_freq_factor, .. } = rope.scaling {
            put("use_scaled_rope", json!(true));
            if factor != SCALED_FACTOR {
                put("rope_scaling_factor", json!(factor));
            }
            if high_freq_factor != SCALED_HIGH {
                put("rope_high_freq_factor", json!(high_freq_factor));
            }
        }
        if d.max_seq_len != default_context(rope.theta, d.norm.eps, &rope.scaling) {
            put("max_seq_len", json!(d.max_seq_len));
        }
        Ok(Value::Object(keys))
    }
}

fn check_is_llama(d: &DecoderConfig) -> Result<()> {
    let a = &d.attention;
    let rope = &d.layers.global_rope;
    if d.placement != NormPlacement::Pre {
        return cannot("norm placement", format!("{:?}", d.placement));
    }
    if d.norm.weight != NormWeight::Direct {
        return cannot("norm weights", format!("{:?}", d.norm.weight));
    }
    if a.head_dim * a.num_heads != d.hidden_size {
        return cannot("head width", a.head_dim);
    }
    if a.scale != 1.0 / (a.head_dim as f64).sqrt() {
        return cannot("attention scale", a.scale);
    }
    if a.qk_norm != QkNorm::None {
        return cannot("query and key norm", format!("{:?}", a.qk_norm));
    }
    if a.bias != AttentionBias::None {
        return cannot("attention bias", format!("{:?}", a.bias));
    }
    if let Some(cap) = a.logit_softcap.or(d.final_logit_softcap) {
        return cannot("soft cap", cap);
    }
    if let Some(local) = &d.layers.local {
        return cannot("sliding window", local.window);
    }
    if d.embedding.scale != EmbeddingScale::One {
        return cannot("embedding scale", format!("{:?}", d.embedding.scale));
    }
    match &d.ffn {
        FfnConfig::Dense { activation: Activation::Silu, bias: FfnBias::None, .. } => {}
        other => return cannot("feed-forward part", format!("{other:?}")),
    }
    if rope.rotary_dim != a.head_dim {
        return cannot("partial rotation, of dimensions", rope.rotary_dim);
    }
    match &rope.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Llama3 { low_freq_factor, original_max, .. }
            if *low_freq_factor == SCALED_LOW && *original_max == SCALED_ORIGINAL_MAX =>
        {
            Ok(())
        }
        other => cannot("rotary scaling", format!("{other:?}")),
    }
}

/// `multiple_of` as published models have it, then ever smaller.
const MULTIPLES: [usize; 13] = [256, 4096, 1024, 512, 128, 64, 32, 16, 8, 4, 2, 1, 2048];

/// A multiplier (none, or with as few decimals as will do) and a multiple that give this width.
fn ffn_rule(hidden_size: usize, width: usize) -> Result<(Option<f64>, usize)> {
    let gives =
        |multiplier| MULTIPLES.into_iter().find(|m| ffn_size(hidden_size, multiplier, *m) == width);
    if let Some(multiple_of) = gives(None) {
        return Ok((None, multiple_of));
    }
    let base = (8 * hidden_size / 3).max(1) as f64;
    let rounded = (1..=6).map(|digits| {
        let unit = 10f64.powi(digits);
        (width as f64 / base * unit).round() / unit
    });
    // Half above the width, so that truncation gives the width itself.
    for multiplier in rounded.chain([(width as f64 + 0.5) / base]) {
        if multiplier > 0.0
            && let Some(multiple_of) = gives(Some(multiplier))
        {
            return Ok((Some(multiplier), multiple_of));
        }
    }
    cannot("a feed-forward width of", width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_has_a_rule() {
        for hidden_size in [1, 2, 48, 64, 4096] {
            for width in [1, 7, 96, 112, 192, 11_008, 14_336, 65_537] {
                let (multiplier, multiple_of) = ffn_rule(hidden_size, width).expect("a rule");
                assert_eq!(ffn_size(hidden_size, multiplier, multiple_of), width);
            }
        }
    }

    #[test]
    fn published_widths_get_short_rules() {
        assert_eq!(ffn_rule(4096, 11_008).expect("a rule"), (None, 256));
        assert_eq!(ffn_rule(4096, 14_336).expect("a rule"), (Some(1.3), 256));
    }
}
