//! What a model is: typed decoder configs, their parsers and exact accounting.
//!
//! A [`ModelConfig`] comes from Hugging Face's `config.json` ([`ModelConfig::from_hf_json`]), from
//! GGUF metadata ([`ModelConfig::from_gguf`]), from Meta's `params.json`
//! ([`ModelConfig::from_meta_json`]) or from a [`preset`], and can be written back as any of the
//! three. What a dialect cannot say is an error, never a guess; what a parser does not know is an
//! error too.

mod account;
mod check;
mod decoder;
mod error;
mod gguf;
mod hf;
mod meta;
mod model;
mod object;
mod pattern;
mod presets;
mod rope;

pub use account::ParameterCount;
pub use decoder::{
    Activation, AttentionBias, AttentionConfig, DecoderConfig, EmbeddingConfig, EmbeddingScale,
    FfnBias, FfnConfig, HeadWeight, LayerKind, LayerPattern, LocalAttention, LocalLayers,
    NormConfig, NormPlacement, NormWeight, QkNorm, RopeConfig, RopeScaling, Routing, YarnRamp,
};
pub use error::ConfigError;
pub use gguf::{GgufMetadata, GgufValue};
pub use meta::MetaFacts;
pub use model::{
    ActOrder, BitsAndBytesKind, ConfigTokens, Family, GptqZeros, ModelConfig, Quantization,
    WeightDtype,
};
pub use presets::{preset, preset_names};
pub use rope::RopeFrequencies;
