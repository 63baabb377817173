//! The places of the decoder that hold a tensor, under puna's own names.
//!
//! Hugging Face's `post_attention_layernorm` means different places in Llama and in Gemma 2, so
//! loading, saving, conversion and adapters speak of slots; only puna-model's `dialect` knows what
//! files call them.

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
