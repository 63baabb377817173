//! The places of the decoder that hold a tensor, under puna's own names.
//!
//! Hugging Face's `post_attention_layernorm` means different places in Llama and in Gemma 2, so
//! loading, saving and conversion speak of slots; only `dialect` knows what files call them.

use puna_config::{
    AttentionBias, DecoderConfig, FfnBias, FfnConfig, HeadWeight, NormPlacement, QkNorm,
};

/// A place that holds a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// `[V, C]`
    Embedding,
    /// `[C]`
    FinalNorm,
    /// `[V, C]`, absent where tied.
    Head,
    /// A place in block `0`-based.
    Layer(usize, LayerSlot),
}

/// A place in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerSlot {
    /// Norm before attention, `[C]`.
    AttnPreNorm,
    /// Norm after attention (sandwich), `[C]`.
    AttnPostNorm,
    /// Norm before the feed-forward part, `[C]`.
    FfnPreNorm,
    /// Norm after the feed-forward part (sandwich), `[C]`.
    FfnPostNorm,
    /// `[H·D, C]`
    Query,
    /// `[K·D, C]`
    Key,
    /// `[K·D, C]`
    Value,
    /// `[C, H·D]`
    Output,
    /// `[H·D]`
    QueryBias,
    /// `[K·D]`
    KeyBias,
    /// `[K·D]`
    ValueBias,
    /// `[C]`
    OutputBias,
    /// `[D]` or `[H·D]`
    QueryNorm,
    /// `[D]` or `[K·D]`
    KeyNorm,
    /// `[E, C]`
    Router,
    /// `[F, C]`
    Gate(Expert),
    /// `[F, C]`
    Up(Expert),
    /// `[C, F]`
    Down(Expert),
    /// `[F]`
    GateBias,
    /// `[F]`
    UpBias,
    /// `[C]`
    DownBias,
}

/// Which MLP of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expert {
    /// The only one.
    Dense,
    /// One of a mixture.
    Index(usize),
}

impl std::fmt::Display for Slot {
    /// `layers.3.query`, `layers.0.gate.7` (an expert's), `embedding`: what optimizer states call it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (layer, slot) = match self {
            Slot::Embedding => return f.write_str("embedding"),
            Slot::FinalNorm => return f.write_str("final_norm"),
            Slot::Head => return f.write_str("head"),
            Slot::Layer(layer, slot) => (layer, slot),
        };
        let (name, expert) = match slot {
            LayerSlot::Gate(expert) => ("gate".to_owned(), Some(expert)),
            LayerSlot::Up(expert) => ("up".to_owned(), Some(expert)),
            LayerSlot::Down(expert) => ("down".to_owned(), Some(expert)),
            other => (snake_case(&format!("{other:?}")), None),
        };
        match expert {
            Some(Expert::Index(index)) => write!(f, "layers.{layer}.{name}.{index}"),
            _ => write!(f, "layers.{layer}.{name}"),
        }
    }
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

impl Slot {
    /// Whether it is a norm's factor.
    #[must_use]
    pub fn is_norm(&self) -> bool {
        use LayerSlot as L;
        matches!(
            self,
            Slot::FinalNorm
                | Slot::Layer(
                    _,
                    L::AttnPreNorm
                        | L::AttnPostNorm
                        | L::FfnPreNorm
                        | L::FfnPostNorm
                        | L::QueryNorm
                        | L::KeyNorm
                )
        )
    }
}

/// Every slot that a config has, in the order in which files list them.
#[must_use]
pub fn slots(config: &DecoderConfig) -> Vec<Slot> {
    let mut slots = vec![Slot::Embedding];
    for layer in 0..config.num_layers {
        slots.extend(layer_slots(config).into_iter().map(|slot| Slot::Layer(layer, slot)));
    }
    slots.push(Slot::FinalNorm);
    if config.embedding.head == HeadWeight::Separate {
        slots.push(Slot::Head);
    }
    slots
}

fn layer_slots(config: &DecoderConfig) -> Vec<LayerSlot> {
    use LayerSlot as L;
    let mut slots = vec![L::AttnPreNorm, L::Query, L::Key, L::Value, L::Output];
    match config.attention.bias {
        AttentionBias::None => {}
        AttentionBias::Qkv => slots.extend([L::QueryBias, L::KeyBias, L::ValueBias]),
        AttentionBias::QkvOutput => {
            slots.extend([L::QueryBias, L::KeyBias, L::ValueBias, L::OutputBias]);
        }
    }
    if config.attention.qk_norm != QkNorm::None {
        slots.extend([L::QueryNorm, L::KeyNorm]);
    }
    slots.push(L::FfnPreNorm);
    if config.placement == NormPlacement::Sandwich {
        slots.extend([L::AttnPostNorm, L::FfnPostNorm]);
    }
    match &config.ffn {
        FfnConfig::Dense { bias, .. } => {
            slots.extend([L::Gate(Expert::Dense), L::Up(Expert::Dense), L::Down(Expert::Dense)]);
            if *bias == FfnBias::All {
                slots.extend([L::GateBias, L::UpBias, L::DownBias]);
            }
        }
        FfnConfig::Moe { num_experts, .. } => {
            slots.push(L::Router);
            for expert in (0..*num_experts).map(Expert::Index) {
                slots.extend([L::Gate(expert), L::Up(expert), L::Down(expert)]);
            }
        }
    }
    slots
}

/// Shape of a slot's tensor; `None` where the config has no such slot's size.
#[must_use]
pub fn matrix_shape(config: &DecoderConfig, slot: Slot) -> Vec<usize> {
    let a = &config.attention;
    let (q, kv, hidden) =
        (a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim, config.hidden_size);
    let (ffn, experts) = match &config.ffn {
        FfnConfig::Dense { ffn_size, .. } => (*ffn_size, 0),
        FfnConfig::Moe { ffn_size, num_experts, .. } => (*ffn_size, *num_experts),
    };
    let whole = a.qk_norm == QkNorm::WholeProjection;
    let Slot::Layer(_, slot) = slot else {
        return match slot {
            Slot::FinalNorm => vec![hidden],
            _ => vec![config.vocab_size, hidden],
        };
    };
    match slot {
        LayerSlot::AttnPreNorm
        | LayerSlot::AttnPostNorm
        | LayerSlot::FfnPreNorm
        | LayerSlot::FfnPostNorm
        | LayerSlot::OutputBias
        | LayerSlot::DownBias => vec![hidden],
        LayerSlot::Query => vec![q, hidden],
        LayerSlot::Key | LayerSlot::Value => vec![kv, hidden],
        LayerSlot::Output => vec![hidden, q],
        LayerSlot::QueryBias => vec![q],
        LayerSlot::KeyBias | LayerSlot::ValueBias => vec![kv],
        LayerSlot::QueryNorm => vec![if whole { q } else { a.head_dim }],
        LayerSlot::KeyNorm => vec![if whole { kv } else { a.head_dim }],
        LayerSlot::Router => vec![experts, hidden],
        LayerSlot::Gate(_) | LayerSlot::Up(_) => vec![ffn, hidden],
        LayerSlot::Down(_) => vec![hidden, ffn],
        LayerSlot::GateBias | LayerSlot::UpBias => vec![ffn],
    }
}
