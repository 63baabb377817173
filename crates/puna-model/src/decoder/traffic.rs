//! How many bytes of weights a decode step reads: what its speed is compared with.
//!
//! Counted from the weights as they are held, not from the config: one file may mix formats, and a
//! tied head is read although no tensor of that name is stored. Norms and biases are left out
//! (below 0.1 %), as are the few rows of the embedding.

use std::sync::Arc;

use puna_io::{Sha256, hex};
use puna_nn::{FeedForward, Linear, Mlp, Moe, Weight};

use super::Decoder;
use crate::ModelError;

impl Decoder {
    /// Bytes of all matrices, as they are stored.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let linears: u64 = self.linears().iter().map(|(_, linear)| bytes(linear)).sum();
        let head = match &**self.head.weight() {
            Weight::Packed(head) => head.of(),
            _ => self.head.weight(),
        };
        let tied = Arc::ptr_eq(self.embedding.weight(), head);
        linears + if tied { 0 } else { self.embedding.weight().stored_bytes() as u64 }
    }

    /// What tells this model from others in whatever form its matrices are stored: SHA-256 over its
    /// sizes and its norms, which conversions and quantizers leave alone, rounded to bfloat16.
    ///
    /// # Errors
    /// If a norm is not on the CPU.
    pub fn fingerprint(&self) -> Result<String, ModelError> {
        let c = &self.config;
        let a = &c.attention;
        let mut hash = Sha256::default();
        for size in
            [c.vocab_size, c.hidden_size, c.num_layers, a.num_heads, a.num_kv_heads, a.head_dim]
        {
            hash.update(&(size as u64).to_le_bytes());
        }
        let norms =
            self.blocks.iter().flat_map(|block| [&block.attn_pre_norm, &block.ffn_pre_norm]);
        for norm in norms.chain([&self.final_norm]) {
            let values = norm.weight().with(<[f32]>::to_vec)?;
            let rounded = values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes());
            hash.update(&rounded.collect::<Vec<u8>>());
        }
        Ok(hex(&hash.finish()))
    }

    /// Bytes of the matrices that one step of `sequences` sequences reads, one new token each.
    ///
    /// Of a mixture of experts these are the router and the experts that the step is expected to
    /// meet if all were equally likely: `E (1 - (1 - k / E)^B)`, which is `k` for one sequence.
    #[must_use]
    pub fn step_weight_bytes(&self, sequences: usize) -> u64 {
        let blocks = self.blocks.iter().map(|block| {
            let a = block.attention.parts();
            let attention: u64 = [&a.query, &a.key, &a.value, &a.output].map(bytes).iter().sum();
            attention
                + match &block.ffn {
                    FeedForward::Dense(mlp) => mlp_bytes(mlp),
                    FeedForward::Moe(moe) => moe_bytes(moe, sequences),
                }
        });
        blocks.sum::<u64>() + bytes(&self.head)
    }
}

fn bytes(linear: &Linear) -> u64 {
    linear.weight().stored_bytes() as u64
}

fn mlp_bytes(mlp: &Mlp) -> u64 {
    [&mlp.gate, &mlp.up, &mlp.down].map(bytes).iter().sum()
}

fn moe_bytes(moe: &Moe, sequences: usize) -> u64 {
    let all: u64 = moe.experts.iter().map(mlp_bytes).sum();
    let share = expected_share(moe.experts.len(), moe.experts_per_token, sequences);
    bytes(&moe.router) + (all as f64 * share) as u64
}

/// Share of the experts that at least one of the sequences uses.
fn expected_share(experts: usize, used: usize, sequences: usize) -> f64 {
    let unused = 1.0 - used as f64 / experts.max(1) as f64;
    1.0 - unused.powi(i32::try_from(sequences).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::expected_share;

    #[test]
    fn one_sequence_uses_k_of_the_experts_and_many_use_all() {
        assert_eq!(expected_share(8, 2, 1), 0.25);
        assert_eq!(expected_share(8, 2, 2), 0.4375);
        assert!(expected_share(8, 2, 100) > 0.999_999);
    }
}
