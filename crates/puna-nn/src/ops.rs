//! Differentiable ops: each file holds one, with its equation, forward, backward and gradcheck.
//!
//! On the CPU the forward is a kernel of puna-kernels. On other devices it is composed of candle
//! operations, whose backward is candle's own; a test compares the two on the CPU.

mod attention;
mod gated;
mod linear;
mod rms_norm;
mod rope;

pub use attention::attention;
pub use gated::gated;
pub use linear::linear;
pub use rms_norm::rms_norm;
pub use rope::rope;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};

use crate::NnError;

/// The float32 slice of a contiguous argument of an op.
fn f32_slice<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        return Err(candle_core::Error::UnsupportedDTypeForOp(storage_dtype(storage), op).bt());
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op }.bt()),
    }
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage as _;
    storage.dtype()
}

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
    Ok(f(f32_slice(storage, layout, "with_f32")?))
}
