//! Exact counts: parameters, FLOPs, cache and weight bytes of a decoder.
//!
//! Counted from the config alone, without a file, and equal to the sum of the tensor sizes of a
//! checkpoint; the published counts of 32 models are the test.

use crate::{
    AttentionBias, DecoderConfig, FfnBias, FfnConfig, HeadWeight, LayerKind, NormPlacement, QkNorm,
    WeightDtype,
};

/// Numbers of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterCount {
    /// All that a checkpoint stores; a tied head counts once.
    pub total: u64,
    /// Those that one token uses: of the experts only `experts_per_token`.
    pub active: u64,
    /// `total` without embedding and head.
    pub non_embedding: u64,
    /// Entries of all matrices that are multiplied: `total` without norms, biases and the
    /// embedding's lookup; the head counts even where it is tied.
    pub matmul: u64,
    /// `matmul` of the experts that one token uses.
    pub active_matmul: u64,
}

/// Parts of a layer, in parameters.
struct Layer {
    attention: u128,
    expert: u128,
    router: u128,
    biases: u128,
    norms: u128,
}

/// Exact for every valid config; nonsense ends at 2^96, so that sums of a few cannot overflow.
fn product(factors: &[usize]) -> u128 {
    factors.iter().fold(1u128, |p, &f| p.saturating_mul(f as u128)).min(1 << 96)
}

fn narrow(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl DecoderConfig {
    /// Exact numbers of parameters.
    #[must_use]
    pub fn parameters(&self) -> ParameterCount {
        let layers = self.num_layers as u128;
        let layer = self.layer_parameters();
        let (experts, used) = match self.ffn {
            FfnConfig::Dense { .. } => (1, 1),
            FfnConfig::Moe { num_experts, experts_per_token, .. } => {
                (num_experts as u128, experts_per_token as u128)
            }
        };
        let embedding = product(&[self.vocab_size, self.hidden_size]);
        let head = match self.embedding.head {
            HeadWeight::Tied => 0,
            HeadWeight::Separate => embedding,
        };
        let matmul_of = |experts: u128| {
            let experts = layer.expert.saturating_mul(experts);
            let layer = experts.saturating_add(layer.attention + layer.router);
            layer.saturating_mul(layers).saturating_add(embedding)
        };
        let rest = (layer.biases + layer.norms).saturating_mul(layers).min(1 << 120)
            + self.hidden_size as u128;
        let total_of = |experts| matmul_of(experts).saturating_add(rest + head);
        ParameterCount {
            total: narrow(total_of(experts)),
            active: narrow(total_of(used)),
            non_embedding: narrow(total_of(experts) - embedding - head),
            matmul: narrow(matmul_of(experts)),
            active_matmul: narrow(matmul_of(used)),
        }
    }

    fn layer_parameters(&self) -> Layer {
        let a = &self.attention;
        let c = self.hidden_size;
        let (q, kv) = (product(&[a.num_heads, a.head_dim]), product(&[a.num_kv_heads, a.head_dim]));
        let qkv_bias = q + 2 * kv;
        let attention_bias = match a.bias {
            AttentionBias::None => 0,
            AttentionBias::Qkv => qkv_bias,
            AttentionBias::QkvOutput => qkv_bias + c as u128,
        };
        let (ffn_size, router, ffn_bias) = match self.ffn {
            FfnConfig::Dense { ffn_size, bias, .. } => match bias {
                FfnBias::None => (ffn_size, 0, 0),
                FfnBias::All => (ffn_size, 0, 2 * ffn_size as u128 + c as u128),
            },
            FfnConfig::Moe { ffn_size, num_experts, .. } => {
                (ffn_size, product(&[num_experts, c]), 0)
            }
        };
        let block_norms = match self.placement {
            NormPlacement::Pre => 2 * c as u128,
            NormPlacement::Sandwich => 4 * c as u128,
        };
        let qk_norms = match a.qk_norm {
            QkNorm::None => 0,
            QkNorm::PerHead => 2 * a.head_dim as u128,
            QkNorm::WholeProjection => q + kv,
        };
        Layer {
            attention: (2 * (q + kv)).saturating_mul(c as u128).min(1 << 96), // q, k, v and output
            expert: product(&[3, c, ffn_size]),                               // gate, up and down
            router,
            biases: attention_bias + ffn_bias,
            norms: block_norms + qk_norms,
        }
    }

    /// FLOPs (one multiply or one add each) of the forward pass of one token that sees
    /// `context` positions, its own included:
    ///
    /// `2 * active_matmul + sum over layers of 4 * H * D * min(context, window)`
    ///
    /// A matrix entry is one multiply and one add; a query meets each key once and each value
    /// once, `D` products per head. Norms, rotations, softmax and the lookup are left out (below
    /// 1 %). For a whole sequence of `T` tokens sum over `context = 1..=T`.
    #[must_use]
    pub fn forward_flops_per_token(&self, context: usize) -> u64 {
        let per_key = product(&[4, self.attention.num_heads, self.attention.head_dim]);
        let matmul = u128::from(self.parameters().active_matmul);
        narrow((2 * matmul).saturating_add(per_key.saturating_mul(self.keys_seen(context))))
    }

    /// Keys that one query meets, summed over the layers.
    fn keys_seen(&self, context: usize) -> u128 {
        let seen = |layer| match self.layers.kind(layer) {
            LayerKind::Global => context,
            LayerKind::Local { window } => context.min(window),
        };
        (0..self.num_layers).map(|layer| seen(layer) as u128).sum()
    }

    /// FLOPs of a prompt of `tokens` tokens behind `depth` earlier ones, as
    /// [`Self::forward_flops_per_token`] counts them, of which `logits` tokens go through the
    /// head.
    #[must_use]
    pub fn prefill_flops(&self, depth: usize, tokens: usize, logits: usize) -> u64 {
        let contexts = depth.saturating_add(1)..=depth.saturating_add(tokens);
        let all: u128 = contexts.map(|c| u128::from(self.forward_flops_per_token(c))).sum();
        let head = product(&[2, self.vocab_size, self.hidden_size]);
        narrow(all.saturating_sub(head.saturating_mul(tokens.saturating_sub(logits) as u128)))
    }

    /// Bytes of the KV cache that the step of one token reads which sees `context` positions.
    #[must_use]
    pub fn kv_bytes_read(&self, context: usize, bytes_per_value: usize) -> u64 {
        let a = &self.attention;
        let per_key = product(&[2, a.num_kv_heads, a.head_dim, bytes_per_value]);
        narrow(per_key.saturating_mul(self.keys_seen(context)))
    }

    /// Bytes that one token adds to a full (not windowed) KV cache: `2 * L * K * D` values.
    #[must_use]
    pub fn kv_bytes_per_token(&self, bytes_per_value: usize) -> u64 {
        let a = &self.attention;
        narrow(product(&[2, self.num_layers, a.num_kv_heads, a.head_dim, bytes_per_value]))
    }

    /// Bytes of all weights stored densely as `dtype`.
    #[must_use]
    pub fn weight_bytes(&self, dtype: WeightDtype) -> u64 {
        self.parameters().total.saturating_mul(dtype.size_bytes())
    }
}

impl WeightDtype {
    /// Bytes per value.
    #[must_use]
    pub fn size_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}
