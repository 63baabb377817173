//! What can be wrong with the data given to a kernel.

use crate::BlockFormat;

/// Why a matrix or a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A buffer does not have the size that the shape asks for.
    #[error("{what} holds {got} elements, expected {expected}")]
    Size {
        /// Which buffer.
        what: &'static str,
        /// Elements (bytes for packed buffers) that the shape asks for.
        expected: usize,
        /// Elements that are there.
        got: usize,
    },
    /// The number of columns is not a whole number of blocks.
    #[error("{cols} columns are not a multiple of the {block} weights of a {} block", format.name())]
    PartialBlock {
        /// The block format.
        format: BlockFormat,
        /// Columns of the matrix.
        cols: usize,
        /// Weights per block.
        block: usize,
    },
    /// A group or block size is zero.
    #[error("{what} is zero")]
    ZeroSize {
        /// Which size.
        what: &'static str,
    },
    /// The sizes do not fit into the address space.
    #[error("a matrix of {rows} x {cols} is too large")]
    TooLarge {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// A head of the KV cache is not a whole number of 8-bit blocks.
    #[error(
        "a q8_0 KV cache needs a head_dim that is a multiple of 32; this head_dim is {head_dim}"
    )]
    KvBlock {
        /// Features of a head.
        head_dim: usize,
    },
    /// The input order is not a permutation of the columns.
    #[error("input_order is not a permutation: entry {index} is {value}")]
    NotPermutation {
        /// First entry that is out of range or repeated.
        index: usize,
        /// Its value.
        value: u32,
    },
    /// No quantizer is implemented for the format.
    #[error("quantizing to {} is not supported", format.name())]
    CannotQuantize {
        /// The format asked for.
        format: BlockFormat,
    },
}
