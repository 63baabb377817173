//! What a model is: typed decoder configs, their parsers and exact accounting.

mod decoder;
mod model;

pub use decoder::{
    Activation, AttentionBias, AttentionConfig, DecoderConfig, EmbeddingConfig, EmbeddingScale,
    FfnBias, FfnConfig, HeadWeight, LayerKind, LayerPattern, LocalAttention, LocalLayers,
    NormConfig, NormPlacement, NormWeight, QkNorm, RopeConfig, RopeScaling, Routing, YarnRamp,
};
pub use model::{
    ActOrder, BitsAndBytesKind, ConfigTokens, Family, GptqZeros, ModelConfig, Quantization,
    WeightDtype,
};
