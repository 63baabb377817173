//! Memory of GPUs, and tensors as kernels take them.

use candle_core::{DType, Device, Result, Tensor};

use crate::launch::{self, address};

/// The GPU with some number; all its work is on one stream.
///
/// # Errors
/// If there is no such GPU or no driver, or puna was built without the feature `cuda`.
pub fn open(index: usize) -> Result<Device> {
    launch::open(index)
}

/// Memory for values on the GPU of `like`, to be written as a whole before it is read; `None` on other
/// devices and for types other than bfloat16 and float32.
///
/// # Errors
/// If there is no memory.
pub fn empty(like: &Tensor, dtype: DType, shape: (usize, usize)) -> Result<Option<Tensor>> {
    match (launch::kernels(like)?, suffix(dtype)) {
        (Some(kernels), Some(_)) => kernels.output(dtype, shape).map(Some),
        _ => Ok(None),
    }
}

/// Whether all are contiguous float32 tensors on a GPU.
pub(crate) fn floats(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|x| {
        x.dtype() == DType::F32 && x.is_contiguous() && matches!(x.device(), Device::Cuda(_))
    })
}

/// Address of a tensor's first value, of the two types that products have.
pub(crate) fn address_of(x: &Tensor) -> Result<u64> {
    match x.dtype() {
        DType::BF16 => address::<half::bf16>(x),
        _ => address::<f32>(x),
    }
}

pub(crate) fn optional(x: Option<&Tensor>) -> Result<u64> {
    x.map_or(Ok(0), address::<f32>)
}

/// How kernels of a type are called; `None` of types that have none.
pub(crate) fn suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::BF16 => Some("bf16"),
        DType::F32 => Some("f32"),
        _ => None,
    }
}

/// The tensor at an address that four values are read from at once: a copy where it begins elsewhere.
pub(crate) fn aligned(x: &Tensor) -> Result<Tensor> {
    let first = x.layout().start_offset();
    if first.is_multiple_of(4) { Ok(x.clone()) } else { x.copy() }
}
