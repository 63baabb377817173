//! What can go wrong in a layer.

use puna_kernels::KernelError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NnError {
    /// The tensor library refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Two shapes that must agree do not.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// What was looked at.
        what: &'static str,
        /// What it should have been.
        expected: usize,
        /// What it was.
        got: usize,
    },
    /// An op without a backward pass was given a tensor that gradients flow through.
    #[error("{op} has no backward pass and was given a tracked tensor; run it without gradients")]
    Tracked {
        /// Name of the op.
        op: &'static str,
    },
    /// A graph was walked back a second time; what its ops had saved is gone.
    #[error("gradients of this value were computed before; run its forward pass again")]
    WalkedTwice,
    /// A token id that the embedding has no row for.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A cache cannot go back to a length because a sliding window dropped what it would need.
    #[error("cannot go back to {len} tokens: a sliding-window layer keeps positions from {oldest}")]
    CacheDropped {
        /// The length asked for.
        len: usize,
        /// The oldest position still there.
        oldest: usize,
    },
    /// A block of keys and values that another decoder or adapter made.
    #[error("keys and values of another decoder or adapter cannot continue this sequence")]
    ForeignBlock,
}
