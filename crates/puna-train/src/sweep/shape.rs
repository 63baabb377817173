//! From a size to a shape: LLaMA's proportions, for models far below LLaMA's sizes.

use puna_config::{ConfigError, ModelConfig};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Proportions of the models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShapeRule {
    /// Hidden sizes are multiples of it.
    pub hidden_multiple: usize,
    /// Hidden size per layer.
    pub hidden_per_layer: f64,
    /// Fewest layers: what two cannot learn and three can makes a step in the losses of a sweep.
    pub min_layers: usize,
    /// Size of a head, where the hidden size is a multiple of it; smaller models have one head.
    pub head_dim: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Default for ShapeRule {
    fn default() -> Self {
        Self {
            hidden_multiple: 16,
            hidden_per_layer: 40.0,
            min_layers: 4,
            head_dim: 32,
            tied: true,
        }
    }
}

/// A model's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Layers: hidden size / `hidden_per_layer`, at least `min_layers`.
    pub layers: usize,
    /// Hidden size.
    pub hidden: usize,
    /// Heads, each with keys and values of its own.
    pub heads: usize,
    /// Feed-forward size: 8/3 of the hidden size, rounded up to `hidden_multiple`.
    pub ffn: usize,
}

impl ShapeRule {
    /// The shape of a hidden size.
    #[must_use]
    pub fn of_hidden(&self, hidden: usize) -> Shape {
        let multiple = self.hidden_multiple.max(1);
        let layers = (hidden as f64 / self.hidden_per_layer).round() as usize;
        let layers = layers.max(self.min_layers);
        let wanted = (hidden / self.head_dim.max(1)).max(1);
        let fits =
            |heads: &usize| hidden.is_multiple_of(*heads) && (hidden / heads).is_multiple_of(2);
        let heads = (1..=wanted).rev().find(fits).unwrap_or(1);
        let ffn = (8 * hidden).div_ceil(3).next_multiple_of(multiple);
        Shape { layers, hidden, heads, ffn }
    }

    /// The config of a shape.
    ///
    /// # Errors
    /// If it is none that a decoder can have.
    pub fn config(
        &self,
        shape: Shape,
        (vocab, context): (usize, usize),
    ) -> Result<(String, ModelConfig), ConfigError> {
        let value = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "head_dim": shape.hidden / shape.heads,
            "hidden_act": "silu",
            "max_position_embeddings": context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "torch_dtype": "float32",
        });
        let config = ModelConfig::from_hf_value(&value)?;
        Ok((format!("{value:#}\n"), config))
    }

    /// The shape whose number of multiplied matrix entries is nearest to `params` in ratio.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub fn nearest(
        &self,
        params: f64,
        (vocab, context): (usize, usize),
    ) -> Result<Shape, ConfigError> {
        let multiple = self.hidden_multiple.max(1);
        let mut best = (f64::INFINITY, self.of_hidden(multiple));
        let mut hidden = multiple;
        loop {
            let shape = self.of_hidden(hidden);
            let (_, config) = self.config(shape, (vocab, context))?;
            let found = config.decoder.parameters().matmul as f64;
            let distance = (found / params).ln().abs();
            if distance < best.0 {
                best = (distance, shape);
            }
            if found > params {
                return Ok(best.1);
            }
            hidden += multiple;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_keep_their_proportions() {
        let rule = ShapeRule::default();
        let shape = rule.of_hidden(256);
        assert_eq!(shape, Shape { layers: 6, hidden: 256, heads: 8, ffn: 688 });
        assert_eq!(rule.of_hidden(16), Shape { layers: 4, hidden: 16, heads: 1, ffn: 48 });
        assert_eq!(rule.of_hidden(48).heads, 1);
    }

    #[test]
    fn the_nearest_shape_is_none_that_another_would_be_nearer_than() {
        let rule = ShapeRule::default();
        let matmul = |hidden| {
            let config = rule.config(rule.of_hidden(hidden), (4096, 256)).unwrap().1;
            config.decoder.parameters().matmul as f64
        };
        // d V + L (4 d d + 3 d f)
        assert_eq!(matmul(64), 64.0 * 4096.0 + 4.0 * (4.0 * 64.0 * 64.0 + 3.0 * 64.0 * 176.0));
        let shape = rule.nearest(1.02 * matmul(96), (4096, 256)).unwrap();
        assert_eq!(shape.hidden, 96);
        assert_eq!(rule.nearest(1.0, (4096, 256)).unwrap().hidden, 16);
    }
}
