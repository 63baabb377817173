//! What a run needs in memory, before it begins.

use puna_config::{AttentionBias, DecoderConfig, FfnBias, FfnConfig, QkNorm};
use puna_model::{Precision, Recompute};
use puna_nn::ops::{device_positions_at_once, positions_at_once};

use crate::Member;

/// Code, tables and allocator of a process that trains: what the smallest runs hold beside their
/// tensors, measured on 20 of them.
const PROGRAM_BYTES: u64 = 56 << 20;

/// How batches go through a model.
#[derive(Debug, Clone, Copy)]
pub struct Passes {
    /// Tokens at a time.
    pub tokens: u64,
    /// What is computed twice.
    pub recompute: Recompute,
    /// Arithmetic of the products.
    pub precision: Precision,
    /// Whether the parts of a block that can be one operation are, with bfloat16 between their products
    /// (docs/decisions/0019).
    pub rounds: bool,
}

impl Passes {
    fn rounds_attention(&self, config: &DecoderConfig) -> bool {
        let a = &config.attention;
        self.rounds && a.bias == AttentionBias::None && a.qk_norm == QkNorm::None
    }

    fn rounds_ffn(&self, config: &DecoderConfig) -> bool {
        let biased = matches!(config.ffn, FfnConfig::Dense { bias: FfnBias::All, .. });
        self.rounds && !biased
    }
}

/// Bytes that a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryNeed {
    /// Weights: trained ones in float32, others as they are stored.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimizer's states.
    pub optimizer: u64,
    /// What blocks keep between forward and backward, at most.
    pub activations: u64,
    /// Logits of a chunk, packed operands, the program itself.
    pub rest: u64,
}

impl MemoryNeed {
    /// Of a model with some trained tensors and `frozen` bytes of others.
    #[must_use]
    pub fn of(
        (config, frozen): (&DecoderConfig, u64),
        members: &[Member],
        optimizer: u64,
        passes: &Passes,
    ) -> Self {
        let Passes { tokens, recompute, precision, .. } = *passes;
        let trained: u64 = members.iter().map(|m| 4 * m.parameter.len() as u64).sum();
        let a = &config.attention;
        let (q, kv) = (a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim);
        let ffn = match &config.ffn {
            FfnConfig::Dense { ffn_size, .. } => *ffn_size,
            FfnConfig::Moe { ffn_size, experts_per_token, .. } => ffn_size * experts_per_token,
        };
        let hidden = config.hidden_size;
        let half = |of_pairs: bool, values: usize| if of_pairs { values / 2 } else { values };
        // Residual stream twice and what products take of its norms.
        let norms = match precision {
            Precision::Fast => hidden,
            Precision::Exact => 2 * hidden,
        };
        // Queries and outputs, keys and values; what products take of the outputs beside it, float32
        // ones as they are.
        let rounded = passes.rounds_attention(config);
        let beside = if precision == Precision::Fast && !rounded { q / 2 } else { 0 };
        let attention = half(rounded, 2 * q + 2 * kv) + a.num_heads + beside;
        // Gate, up and gated values.
        let rounded = passes.rounds_ffn(config);
        let gated = half(precision == Precision::Fast, ffn);
        let block = (2 * hidden + norms + attention + half(rounded, 2 * ffn) + gated) as u64;
        // Gradients of the widest part of a block while its backward runs.
        let backward = (3 * ffn + 2 * hidden) as u64;
        let layers = config.num_layers as u64;
        let values = match recompute {
            Recompute::Nothing => layers * block + backward,
            Recompute::Blocks => layers * hidden as u64 + block + backward,
        };
        let vocab = config.vocab_size;
        let logits = 4 * tokens.min(positions_at_once(vocab) as u64) * vocab as u64;
        Self {
            weights: trained + frozen,
            gradients: trained,
            optimizer,
            activations: 4 * values * tokens,
            rest: logits + PROGRAM_BYTES,
        }
    }

    /// The same on a GPU, where products in bfloat16 have a copy of the trained weights and more logits exist
    /// at once, with their gradients.
    #[must_use]
    pub fn on_device(mut self, vocab: usize, tokens: u64, precision: Precision) -> Self {
        let at_once = tokens.min(device_positions_at_once(vocab) as u64) * vocab as u64;
        let (copies, gradients) = match precision {
            Precision::Fast => (self.gradients / 2, 2),
            // In the place of the logits.
            Precision::Exact => (0, 0),
        };
        self.weights += copies;
        self.rest = PROGRAM_BYTES + (4 + gradients) * at_once;
        self
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.activations + self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_has_copies_of_weights_and_more_logits_at_once() {
        let need = MemoryNeed { weights: 400, gradients: 400, ..MemoryNeed::default() };
        let (vocab, tokens) = (32_000, 16_384);
        let most = device_positions_at_once(vocab) as u64 * vocab as u64;
        assert!(most < tokens * vocab as u64);
        let fast = need.on_device(vocab, tokens, Precision::Fast);
        assert_eq!((fast.weights, fast.rest), (600, PROGRAM_BYTES + 6 * most));
        let exact = need.on_device(vocab, 100, Precision::Exact);
        assert_eq!((exact.weights, exact.rest), (400, PROGRAM_BYTES + 4 * 100 * vocab as u64));
    }
}
