//! A concrete LLaMA shape for a number of parameters.
//!
//! The family's own rules, read off the published models: heads of 128 (64 in small models), 102
//! to 130 hidden units per layer, a feed-forward part of 8/3 h rounded up to a multiple of 256, and
//! from 30B on eight KV heads with 1.3 times as wide a feed-forward part in multiples of 1024
//! (Llama 2 and 3). Layers and heads divide well, so that the model can be divided.

use puna_config::{
    Activation, AttentionBias, AttentionConfig, DecoderConfig, EmbeddingConfig, EmbeddingScale,
    FfnBias, FfnConfig, HeadWeight, LayerPattern, NormConfig, NormPlacement, NormWeight, QkNorm,
    RopeConfig, RopeScaling,
};

use crate::error::{LawError, Result};

/// From this size on KV heads are shared, as in Llama 2.
const GROUPED_FROM: f64 = 30e9;
/// KV heads where they are shared.
const GROUPED_KV_HEADS: usize = 8;
/// Below this size embedding and head are one matrix: they would be most of the model.
const TIED_BELOW: f64 = 1e9;
/// From this size on layers and heads should divide by 4 and 8.
const DIVIDED_FROM: f64 = 3e9;
/// Hidden units per layer of the published models.
const WIDTH_PER_LAYER: std::ops::RangeInclusive<f64> = 102.0..=130.0;
/// The same, where nothing else comes near the size.
const ANY_WIDTH_PER_LAYER: std::ops::RangeInclusive<f64> = 16.0..=160.0;
/// How far a shape may be from the size asked for.
const NEAR: f64 = 0.10;

/// Tokens and positions of the model to be shaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// Vocabulary.
    pub vocab: usize,
    /// Longest sequence.
    pub seq: usize,
}

/// The shape whose exact parameter count is nearest to `params`, counting awkward divisions as a
/// few percent of distance.
///
/// # Errors
/// [`LawError::NoShape`] if none is within 10 %: the vocabulary alone is larger, say.
pub fn shape_for(params: f64, text: Text) -> Result<DecoderConfig> {
    let mut best: Option<(f64, DecoderConfig)> = None;
    for config in candidates(params, text) {
        let cost = cost(&config, params);
        if best.as_ref().is_none_or(|(other, _)| cost < *other) {
            best = Some((cost, config));
        }
    }
    let near = |config: &DecoderConfig| (count(config) / params - 1.0).abs() <= NEAR;
    let nearest = best.as_ref().map_or(0.0, |(_, config)| count(config));
    best.map(|(_, config)| config).filter(near).ok_or(LawError::NoShape {
        params,
        vocab: text.vocab,
        nearest,
    })
}

fn count(config: &DecoderConfig) -> f64 {
    config.parameters().total as f64
}

/// Distance in logarithms, with penalties in its units.
fn cost(config: &DecoderConfig, params: f64) -> f64 {
    let (layers, heads) = (config.num_layers, config.attention.num_heads);
    let width = config.hidden_size as f64 / layers as f64;
    let large = params >= DIVIDED_FROM;
    let penalties = [
        (!WIDTH_PER_LAYER.contains(&width), if large { 0.2 } else { 0.06 }),
        (!layers.is_multiple_of(2), 0.01),
        (large && !layers.is_multiple_of(4), 0.03),
        (large && !heads.is_multiple_of(8), 0.015),
        (large && !heads.is_multiple_of(4), 0.03),
        (params >= GROUPED_FROM && !heads.is_multiple_of(GROUPED_KV_HEADS), 0.04),
    ];
    let penalty: f64 = penalties.iter().filter(|(applies, _)| *applies).map(|(_, p)| p).sum();
    (count(config) / params).ln().abs() + penalty
}

fn candidates(params: f64, text: Text) -> impl Iterator<Item = DecoderConfig> {
    let head_dims: &[usize] = if params < 3e8 { &[64] } else { &[128] };
    head_dims.iter().flat_map(move |&head_dim| {
        (1..=512).flat_map(move |heads| {
            let hidden = heads * head_dim;
            let layers = |width: f64| hidden as f64 / width;
            let (fewest, most) = (ANY_WIDTH_PER_LAYER.end(), ANY_WIDTH_PER_LAYER.start());
            let range = layers(*fewest).ceil().max(1.0) as usize..=layers(*most) as usize;
            // The count grows with the layers: only those around the size asked for.
            let per_layer = {
                let (one, two) = (build(params, text, (heads, head_dim, 1)), 2);
                count(&build(params, text, (heads, head_dim, two))) - count(&one)
            };
            let base = count(&build(params, text, (heads, head_dim, 1))) - per_layer;
            let middle = ((params - base) / per_layer).round();
            let near = move |layers: &usize| (*layers as f64 - middle).abs() <= 4.0;
            range.filter(near).map(move |layers| build(params, text, (heads, head_dim, layers)))
        })
    })
}

fn build(
    params: f64,
    text: Text,
    (heads, head_dim, layers): (usize, usize, usize),
) -> DecoderConfig {
    let hidden = heads * head_dim;
    let grouped = params >= GROUPED_FROM && heads.is_multiple_of(GROUPED_KV_HEADS);
    let ffn = match grouped {
        true => (1.3 * (8.0 / 3.0 * hidden as f64).floor()) as usize,
        false => 8 * hidden / 3,
    };
    let rope = RopeConfig { theta: 10_000.0, rotary_dim: head_dim, scaling: RopeScaling::None };
    DecoderConfig {
        vocab_size: text.vocab,
        hidden_size: hidden,
        num_layers: layers,
        max_seq_len: text.seq,
        norm: NormConfig { eps: 1e-5, weight: NormWeight::Direct },
        placement: NormPlacement::Pre,
        attention: AttentionConfig {
            num_heads: heads,
            num_kv_heads: if grouped { GROUPED_KV_HEADS } else { heads },
            head_dim,
            scale: (head_dim as f64).sqrt().recip(),
            qk_norm: QkNorm::None,
            logit_softcap: None,
            bias: AttentionBias::None,
        },
        layers: LayerPattern { global_rope: rope, local: None },
        ffn: FfnConfig::Dense {
            ffn_size: ffn.next_multiple_of(if grouped { 1024 } else { 256 }),
            activation: Activation::Silu,
            bias: FfnBias::None,
        },
        embedding: EmbeddingConfig {
            head: if params < TIED_BELOW { HeadWeight::Tied } else { HeadWeight::Separate },
            scale: EmbeddingScale::One,
        },
        final_logit_softcap: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Text = Text { vocab: 32_000, seq: 4096 };

    #[test]
    fn the_rules_give_llama_s_own_shapes() {
        let cases = [
            (7e9, 6_738_415_616, 32, 4096),
            (13e9, 13_015_864_320, 40, 5120),
            (70e9, 68_976_648_192, 80, 8192),
        ];
        for (params, exact, layers, hidden) in cases {
            let config = shape_for(params, TEXT).unwrap();
            assert_eq!(
                (config.parameters().total, config.num_layers, config.hidden_size),
                (exact, layers, hidden),
                "{params:e}"
            );
        }
    }

    #[test]
    fn every_size_from_10m_to_1t_has_a_shape_near_it() {
        let mut params = 1e7;
        while params < 1e12 {
            let config = shape_for(params, TEXT).unwrap();
            let a = &config.attention;
            assert!((count(&config) / params - 1.0).abs() <= NEAR, "{params:e}");
            assert_eq!(a.num_heads * a.head_dim, config.hidden_size);
            assert!(a.num_heads.is_multiple_of(a.num_kv_heads));
            if params >= DIVIDED_FROM {
                let width = config.hidden_size as f64 / config.num_layers as f64;
                assert!(WIDTH_PER_LAYER.contains(&width), "{params:e}: {width}");
            }
            params *= 1.37;
        }
    }

    #[test]
    fn a_vocabulary_larger_than_the_model_leaves_no_shape() {
        let error = shape_for(1e6, TEXT).unwrap_err().to_string();
        assert!(error.contains("32000"), "{error}");
    }
}
