//! What a layer keeps for its backward pass.
//!
//! Korthikanti et al. 2022 (arXiv:2205.05198), table 2: a GPT layer with 16-bit activations. A
//! LLaMA block without dropout and with fused attention keeps nearly the same
//! ([`llama_block_bytes`]), so the published `34 s b h` stands for it.

use puna_config::{DecoderConfig, FfnConfig};

/// What is computed again in the backward pass instead of being kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recompute {
    /// Nothing: attention's scores are kept, `5 a s / h` of them.
    Nothing,
    /// The scores, as fused attention does anyway.
    Selective,
    /// Everything but each layer's input.
    Full,
}

/// A layer's activations: the letters of the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationShape {
    /// `s`, tokens per sequence.
    pub seq: f64,
    /// `b`, sequences.
    pub micro_batch: f64,
    /// `h`.
    pub hidden: f64,
    /// `a`.
    pub heads: f64,
    /// `t`, devices that share a layer.
    pub tp: f64,
    /// Whether norms and residuals are divided among them too.
    pub sequence_parallel: bool,
}

impl ActivationShape {
    /// Bytes of one layer on one device.
    #[must_use]
    pub fn layer_bytes(&self, recompute: Recompute) -> f64 {
        let sbh = self.seq * self.micro_batch * self.hidden;
        // Norms, residuals and dropout masks: 10; the rest is divided among the devices.
        let linear = match self.sequence_parallel {
            true => 34.0 / self.tp,
            false => 10.0 + 24.0 / self.tp,
        };
        match recompute {
            Recompute::Nothing => sbh * (linear + self.score_term() / self.tp),
            Recompute::Selective => sbh * linear,
            Recompute::Full => 2.0 * sbh,
        }
    }

    /// `5 a s / h`: the scores' part in units of `s b h`.
    #[must_use]
    pub fn score_term(&self) -> f64 {
        5.0 * self.heads * self.seq / self.hidden
    }
}

/// Bytes per `s b h` of a LLaMA block with fused attention in 16 bits:
/// `12 + 4 kv/a + 6 f/h` (norm inputs, q, k, v, the attention's output, gate, up, their product).
#[must_use]
pub fn llama_block_bytes(config: &DecoderConfig) -> f64 {
    let a = &config.attention;
    let ffn = match config.ffn {
        FfnConfig::Dense { ffn_size, .. } => ffn_size,
        FfnConfig::Moe { ffn_size, experts_per_token, .. } => ffn_size * experts_per_token,
    };
    12.0 + 4.0 * a.num_kv_heads as f64 / a.num_heads as f64
        + 6.0 * ffn as f64 / config.hidden_size as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_config::preset;

    #[test]
    fn thirty_four_stands_for_a_llama_block() {
        for name in ["llama-1-7b", "llama-1-13b", "llama-1-65b", "llama-2-70b"] {
            let bytes = llama_block_bytes(&preset(name).unwrap().unwrap().decoder);
            assert!((32.0..=34.0).contains(&bytes), "{name}: {bytes}");
        }
    }
}
