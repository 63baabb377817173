//! What a decoder is, as data: one value of [`DecoderConfig`] per model.
//!
//! A family (LLaMA, Mistral, Gemma, …) is nothing but a value of this type: what differs between
//! families is a variant of a part's enum, never a flag and never a name that code branches on.
//! The alternative, one config struct per architecture as in transformers, copies the same twenty
//! fields sixteen times and lets their defaults diverge.

/// Everything the decoder's arithmetic depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Rows of the embedding and of the head (`V`).
    pub vocab_size: usize,
    /// Width of the residual stream (`C`).
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Longest sequence the checkpoint claims to handle, in tokens.
    pub max_seq_len: usize,
    /// Kind of normalization.
    pub norm: NormConfig,
    /// Where the normalizations stand in a block.
    pub placement: NormPlacement,
    /// The attention part.
    pub attention: AttentionConfig,
    /// Which layers see everything and which a window, each with its rotary table.
    pub layers: LayerPattern,
    /// The feed-forward part.
    pub ffn: FfnConfig,
    /// Embedding and head.
    pub embedding: EmbeddingConfig,
    /// Gemma 2: logits are `cap * tanh(logits / cap)`.
    pub final_logit_softcap: Option<f64>,
}

/// RMSNorm's settings: `y = x / sqrt(mean(x²) + eps) * weight`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormConfig {
    /// Added to the mean square.
    pub eps: f64,
    /// What the checkpoint's norm tensors hold.
    pub weight: NormWeight,
}

/// What a stored norm tensor means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormWeight {
    /// The factor itself.
    Direct,
    /// The factor minus one (Gemma's Hugging Face files; its GGUF files hold the factor).
    OnePlus,
}

/// Where the normalizations of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the feed-forward part (LLaMA).
    Pre,
    /// Before and after both (Gemma 2 and 3).
    Sandwich,
}

/// Attention: heads, scale and what is done to queries, keys and scores.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// Query heads (`H`).
    pub num_heads: usize,
    /// Key and value heads (`K`); divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head (`D`); need not be `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Scores are `scale * q·k`.
    pub scale: f64,
    /// Normalization of queries and keys before the rotation.
    pub qk_norm: QkNorm,
    /// Gemma 2: scores are `cap * tanh(scores / cap)`.
    pub logit_softcap: Option<f64>,
    /// Which projections carry a bias.
    pub bias: AttentionBias,
}

/// Normalization of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMSNorm over each head, one weight of length `D` shared by the heads (Qwen 3, Gemma 3).
    PerHead,
    /// RMSNorm over the whole projection, a weight as long as the projection (OLMoE).
    WholeProjection,
}

/// Which attention projections carry a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// None of them (LLaMA).
    None,
    /// q, k and v (Qwen 2).
    Qkv,
    /// q, k, v and the output projection (`attention_bias: true`).
    QkvOutput,
}

/// Which layers attend to everything and which to a sliding window.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerPattern {
    /// Rotary embedding of the layers that see everything.
    pub global_rope: RopeConfig,
    /// The layers that see a window, if any.
    pub local: Option<LocalAttention>,
}

/// Sliding-window layers.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalAttention {
    /// A query at position `p` sees the keys `p - window + 1 ..= p`.
    pub window: usize,
    /// Their rotary embedding.
    pub rope: RopeConfig,
    /// Which layers they are.
    pub which: LocalLayers,
}

/// Which layers are local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalLayers {
    /// Every layer (Mistral 7B v0.1, Phi-3).
    All,
    /// All but every `n`-th: layer `i` is global if `(i + 1) % n == 0` (Gemma 2: 2; Gemma 3: 6).
    AllButEvery(usize),
    /// The layers from this index on (Qwen 2 with `use_sliding_window`).
    From(usize),
}

/// What a layer attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// All earlier positions.
    Global,
    /// The last `window` positions, its own included.
    Local {
        /// Number of positions seen.
        window: usize,
    },
}

impl LayerPattern {
    /// What layer `layer` (from 0) attends to.
    #[must_use]
    pub fn kind(&self, layer: usize) -> LayerKind {
        let Some(local) = &self.local else { return LayerKind::Global };
        let is_local = match local.which {
            LocalLayers::All => true,
            LocalLayers::AllButEvery(n) => !(layer + 1).is_multiple_of(n),
            LocalLayers::From(first) => layer >= first,
        };
        if is_local { LayerKind::Local { window: local.window } } else { LayerKind::Global }
    }

    /// The rotary embedding of layer `layer` (from 0).
    #[must_use]
    pub fn rope(&self, layer: usize) -> &RopeConfig {
        match (&self.local, self.kind(layer)) {
            (Some(local), LayerKind::Local { .. }) => &local.rope,
            _ => &self.global_rope,
        }
    }
}

/// Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric sequence of frequencies.
    pub theta: f64,
    /// Leading dimensions of a head that are rotated; even, at most `head_dim`.
    pub rotary_dim: usize,
    /// How the frequencies are stretched for contexts longer than those of pretraining.
    pub scaling: RopeScaling,
}

/// Stretching of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Base grows with the sequence once it is longer than `original_max` (dynamic NTK).
    DynamicNtk {
        /// As in `rope_scaling.factor`.
        factor: f64,
        /// Length from which the base grows.
        original_max: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv:2309.00071).
    Yarn {
        /// Context extension.
        factor: f64,
        /// Length of pretraining.
        original_max: usize,
        /// Rotations above which a frequency is kept (32 by default).
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor` (1 by default).
        beta_slow: f64,
        /// Multiplies cos and sin; already resolved (`0.1 ln(factor) + 1` by default).
        attention_factor: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        ramp: YarnRamp,
    },
    /// Llama 3.1's piecewise scaling.
    Llama3 {
        /// Division of the low frequencies (8 in 3.1, 32 in 3.2).
        factor: f64,
        /// Wavelengths above `original_max / low_freq_factor` are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below `original_max / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Length of pretraining (8192).
        original_max: usize,
    },
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): one divisor per frequency, two tables.
    LongRope {
        /// Divisors up to `original_max` positions; `rotary_dim / 2` of them.
        short_factor: Vec<f64>,
        /// Divisors beyond.
        long_factor: Vec<f64>,
        /// Length at which the tables switch.
        original_max: usize,
        /// Multiplies cos and sin; already resolved.
        attention_factor: f64,
    },
}

/// Ends of YaRN's ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YarnRamp {
    /// Rounded outwards to whole dimensions (`truncate: true`, the default).
    Truncated,
    /// As computed.
    Exact,
}

/// The feed-forward part.
#[derive(Debug, Clone, PartialEq)]
pub enum FfnConfig {
    /// `down(act(gate(x)) * up(x))`.
    Dense {
        /// Inner width (`F`).
        ffn_size: usize,
        /// The gate's nonlinearity.
        activation: Activation,
        /// Whether the three projections carry biases (`mlp_bias`).
        bias: FfnBias,
    },
    /// Mixture of experts, each a dense part without bias.
    Moe {
        /// Inner width of an expert (`F`).
        ffn_size: usize,
        /// The gate's nonlinearity.
        activation: Activation,
        /// Experts per layer (`E`).
        num_experts: usize,
        /// Experts that each token uses.
        experts_per_token: usize,
        /// How router logits become weights.
        routing: Routing,
    },
}

/// Whether the feed-forward projections carry biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FfnBias {
    /// No biases.
    None,
    /// gate, up and down each have one.
    All,
}

/// Nonlinearity of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU in its tanh form (`gelu_pytorch_tanh`).
    GeluTanh,
    /// GELU with the error function.
    GeluErf,
}

/// How router logits become the weights of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Softmax over the chosen experts' logits, which is softmax over all, renormalized (Mixtral).
    SoftmaxOverChosen,
    /// Softmax over all experts, not renormalized (OLMoE, `norm_topk_prob: false`).
    SoftmaxOverAll,
}

/// Embedding and head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingConfig {
    /// Where the head's weight comes from.
    pub head: HeadWeight,
    /// Factor on the embedded tokens.
    pub scale: EmbeddingScale,
}

/// Where the head's weight comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadWeight {
    /// It is the embedding.
    Tied,
    /// A matrix of its own.
    Separate,
}

/// Factor on the embedded tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// 1.
    One,
    /// `sqrt(hidden_size)` (Gemma).
    SqrtHidden,
}
