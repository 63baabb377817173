//! Fused kernels of decoding on NVIDIA GPUs.
//!
//! What a step over few tokens does between two reads of weights is little: composed of a tensor
//! library's operations it is dozens of launches per layer, each a few microseconds, for a
//! millisecond's worth of memory traffic. Here a layer is six launches, each of which begins to
//! fetch its weights while the one before still computes (programmatic dependent launch, from
//! Hopper on).
//!
//! Every function says `None` where it has nothing for its arguments: on other devices, without the
//! feature `cuda`, for types and sizes that no kernel takes. The caller then composes the same of
//! candle's operations, which the kernels are tested against. Nothing here has a way back.
//!
//! The alternative, kernels compiled when the program runs (NVRTC), asks for a compiler where a
//! driver is enough.

#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod backend;
#[cfg(feature = "cuda")]
#[path = "device.rs"]
mod backend;
#[cfg(feature = "cuda")]
mod few;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod many;

pub use backend::{attend, empty, gate, gated, matmul, open, project, rms_norm, rotate, softmax};

use candle_core::Tensor;

/// Tokens that one launch multiplies weights with at most.
pub const FEW_TOKENS: usize = 8;

/// A matrix `[out, in]`, bfloat16 or float32, and what is added to its products, `[out]`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// `[out, in]`
    pub weight: &'a Tensor,
    /// `[out]`
    pub bias: Option<&'a Tensor>,
}

/// A norm in front of a product: `x / sqrt(mean(x²) + eps) · weight`.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// `[C]`
    pub weight: &'a Tensor,
    /// Added under the root.
    pub eps: f32,
}

/// The nonlinearity of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu = 0,
    /// GELU, by tanh.
    GeluTanh = 1,
    /// GELU, exact.
    GeluErf = 2,
}

/// The heads of an attention part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads (`H`).
    pub query: usize,
    /// Key and value heads (`K`).
    pub kv: usize,
    /// Values of a head (`D`).
    pub dim: usize,
}

/// Where keys and values are kept: `[K, capacity, D]` each, contiguous, of one type.
#[derive(Debug, Clone)]
pub struct Place {
    /// The keys.
    pub keys: Tensor,
    /// The values.
    pub values: Tensor,
    /// Position of the first token of a run.
    pub first: usize,
}

/// Places of the tokens of a call: token `t` is at position `each[t / run].first + t % run`.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// A place for each run of tokens, at most [`FEW_TOKENS`].
    pub each: &'a [Place],
    /// Tokens of a run.
    pub run: usize,
}

/// How new queries and keys are turned.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines and sines of the tokens, `[T, R/2]` values each.
    pub tables: (&'a Tensor, &'a Tensor),
    /// Dimensions of a head that are rotated (`R`).
    pub rotary_dim: usize,
    /// Norms of each head of queries and of keys, `[D]`, before the rotation.
    pub norms: (Option<Norm<'a>>, Option<Norm<'a>>),
}

/// What the rows of a matrix of scores belong to: `[K, G, T, S]`, query `t` at position `first + t`, key
/// `s` at `begin + s`.
#[derive(Debug, Clone, Copy)]
pub struct ScoreRows {
    /// New tokens (`T`).
    pub tokens: usize,
    /// Position of the first query.
    pub first: usize,
    /// Position of the first key.
    pub begin: usize,
}

/// How scores become weights.
#[derive(Debug, Clone, Copy)]
pub struct Scores {
    /// Factor of the products.
    pub scale: f32,
    /// `cap · tanh(score / cap)`
    pub softcap: Option<f32>,
    /// Keys that a query sees at most, its own included.
    pub window: Option<usize>,
}
