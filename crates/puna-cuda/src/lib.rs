//! Kernels of decoding and training on NVIDIA GPUs.
//!
//! What a step over few tokens does between two reads of weights is little: composed of a tensor
//! library's operations it is dozens of launches per layer, each a few microseconds, for a
//! millisecond's worth of memory traffic. Here a layer is six launches, each of which begins to
//! fetch its weights while the one before still computes (programmatic dependent launch, from
//! Hopper on).
//!
//! Every function says `None` where it has nothing for its arguments: on other devices, without the
//! feature `cuda`, for types and sizes that no kernel takes. The caller then composes the same of
//! candle's operations, which the kernels are tested against. A way back is a function of its own; who
//! calls which is in puna-nn.
//!
//! The alternative, kernels compiled when the program runs (NVRTC), asks for a compiler where a
//! driver is enough.

#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "nobody is called"))]
mod call;
mod few;
mod flash;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod launch;
mod many;
#[cfg(feature = "cuda")]
pub mod nccl;
#[cfg(not(feature = "cuda"))]
#[path = "nccl_absent.rs"]
pub mod nccl;
mod tensors;
mod train;

pub use few::{attend, gate, project, rotate};
pub use flash::{flash, flash_back, flash_takes};
pub use many::{matmul, softmax};
pub use tensors::{empty, open};
pub use train::{
    adamw, add, cross_entropy, gated, gated_back, look_up, look_up_back, memory, product, rms_norm,
    rms_norm_back, round, row_sum, square_sums, turn,
};

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

/// A matrix in a product.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// bfloat16 or float32, contiguous.
    pub matrix: &'a Tensor,
    /// Whether its transpose is meant.
    pub is_transposed: bool,
}

impl<'a> Operand<'a> {
    /// A matrix as it is.
    #[must_use]
    pub fn rows(matrix: &'a Tensor) -> Self {
        Self { matrix, is_transposed: false }
    }

    /// The transpose of a matrix.
    #[must_use]
    pub fn transposed(matrix: &'a Tensor) -> Self {
        Self { matrix, is_transposed: true }
    }

    fn shape(&self) -> candle_core::Result<(usize, usize)> {
        let (rows, cols) = self.matrix.dims2()?;
        Ok(if self.is_transposed { (cols, rows) } else { (rows, cols) })
    }
}

/// Rows of tokens that attend each within itself.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Tokens of a row (`T`).
    pub len: usize,
    /// Index in its row of the first token that each token sees, 32-bit ids `[rows·T]`; never decreases
    /// along a row, and is at most the token's own index.
    pub visible_from: &'a Tensor,
}

/// The loss of rows of logits.
#[derive(Debug, Clone, Copy)]
pub struct LossRows {
    /// `cap · tanh(logit / cap)`
    pub softcap: Option<f32>,
    /// Factor of the loss in the gradients.
    pub scale: f32,
    /// Factor of the squared logarithm of the softmax's sum.
    pub z_loss: f32,
}

/// A step of AdamW.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay rates of the moments.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// What weight decay leaves of a value.
    pub keep: f32,
    /// Factors that the moments have too little.
    pub corrections: (f32, f32),
    /// Factor of the gradient.
    pub gradient_scale: f32,
}
