//! Differentiable ops and layers over candle-core.
//!
//! Every formula of the decoder is written here once. Ops take and give [`Value`]s, tensors that know
//! the way back, and are kernels of puna-kernels on the CPU; candle-nn's fused ops are not used
//! because they drop gradients silently. Activations are `[N, C]` with the tokens of all sequences behind one another
//! (ragged batches); what a sequence remembers is in its [`KvCache`], passed in.
//!
//! Axes in shape comments: `N` tokens of all segments, `T` new tokens of one, `S` keys seen,
//! `C` hidden, `H` query heads, `K` kv heads, `D` head_dim, `F` ffn, `V` vocab, `E` experts.

mod adapter;
mod attention;
mod device;
mod device_products;
mod embedding;
mod error;
mod kv_cache;
mod kv_tensors;
mod linear;
mod mlp;
mod moe;
mod norm;
pub mod ops;
mod packed;
mod parameter;
mod projection;
mod rope;
mod segment;
mod slot;
mod value;
mod vector;
mod weight;
mod workspace;

pub use adapter::{
    AdaptedLinear, AdapterSet, Branch, BranchAdapter, EmbeddingAdapter, LinearAdapter, Pass,
    PrefixAdapter, PromptAdapter,
};
pub use attention::{Attention, AttentionParts};
pub use device::project;
pub use embedding::Embedding;
pub use error::NnError;
pub use kv_cache::{KvBlock, KvCache, RotaryTable};
pub use linear::{Linear, Stream};
pub use mlp::{FeedForward, Mlp};
pub use moe::Moe;
pub use norm::RmsNorm;
pub use packed::PackedWeight;
pub use parameter::{DeviceParameter, Parameter};
pub use projection::Projection;
pub use puna_kernels::Precision;
pub use rope::{RopeTables, Rotary};
pub use segment::{Balance, Context, RowsOfTokens, Segment, Tokens};
pub use slot::{Expert, LayerSlot, Slot};
pub use value::{Gradients, Value};
pub use vector::Vector;
pub use weight::{
    BlockOrder, BlockWeight, CodebookScales, CodebookWeight, Fp8Weight, GroupWeight,
    GroupWeightQuants, SharedBytes, StoredBytes, Weight,
};
pub use workspace::Workspace;
