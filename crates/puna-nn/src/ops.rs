//! Differentiable ops: each file holds one, with its equation, forward, backward and gradcheck.
//!
//! On the CPU forward and backward are kernels of puna-kernels. On other devices an op is composed
//! of candle operations, whose backward is candle's own; a test compares the two on the CPU.

mod attention;
mod batch_attention;
mod bias;
mod cross_entropy;
mod dropout;
mod embedding;
mod feed_forward;
mod gated;
mod linear;
mod load_balance;
mod low_rank;
mod prefix;
mod rms_norm;
mod rope;
mod scale_columns;
mod self_attention;

pub use attention::attention;
pub use batch_attention::{BatchAttention, batch_attention};
pub use bias::add_bias;
pub use cross_entropy::{
    CrossEntropy, LossSum, Losses, cross_entropy, device_positions_at_once, positions_at_once,
};
pub use dropout::dropout;
pub use embedding::{embedding_backward, embedding_backward_on_device};
pub use feed_forward::feed_forward;
pub use gated::gated;
pub(crate) use gated::kernel_activation;
pub(crate) use linear::{Rows, as_words, input_gradient, weight_gradient, with_matrix, with_right};
pub use linear::{linear, linear_in_training};
pub use load_balance::load_balance;
pub use low_rank::{LowRank, linear_with_low_rank, low_rank};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use scale_columns::{ColumnScale, scale_columns};
pub use self_attention::{SelfAttention, self_attention};

use candle_core::{CpuStorage, Result, Storage, Tensor};

use crate::NnError;

/// `cap tanh(x / cap)` (Gemma 2, arXiv:2408.00118), composed of candle operations.
///
/// # Errors
/// If the device refuses.
pub fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    (x / cap)?.tanh()? * cap
}

/// Lends the float32 values of a tensor on the CPU; a copy only where it is not contiguous.
///
/// # Errors
/// If the tensor is not float32 on the CPU.
pub fn with_f32<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> std::result::Result<T, NnError> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(candle_core::Error::Msg("the tensor is not on the CPU".into()).into());
    };
    let CpuStorage::F32(values) = storage else {
        return Err(candle_core::Error::UnsupportedDTypeForOp(x.dtype(), "with_f32").bt().into());
    };
    let (start, end) = layout.contiguous_offsets().unwrap_or_default();
    Ok(f(&values[start..end]))
}
