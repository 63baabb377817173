//! Products on a GPU: bfloat16 or float32 factors, float32 sums.

use candle_core::{DType, Tensor};
use puna_cuda::Operand;

use crate::value::Sum;
use crate::{NnError, Precision};

/// The type of factors.
pub(crate) fn factors(precision: Precision) -> DType {
    match precision {
        Precision::Exact => DType::F32,
        Precision::Fast => DType::BF16,
    }
}

/// A tensor as products of some type take it.
pub(crate) fn operand(x: &Tensor, dtype: DType) -> Result<Tensor, NnError> {
    let x = x.contiguous()?;
    Ok(match dtype {
        DType::BF16 if x.dtype() != dtype => puna_cuda::round(&x)?,
        _ => x.to_dtype(dtype)?,
    })
}

/// What a device without kernels of training is told.
pub(crate) fn no_kernel() -> NnError {
    NnError::Tracked { op: "training on this device" }
}

/// `a b`, `[m, n]`.
pub(crate) fn product(a: Operand<'_>, b: Operand<'_>) -> Result<Tensor, NnError> {
    let rows = a.matrix.dim(usize::from(a.is_transposed))?;
    let cols = b.matrix.dim(usize::from(!b.is_transposed))?;
    let to = puna_cuda::empty(a.matrix, DType::F32, (rows, cols))?.ok_or_else(no_kernel)?;
    write_product(a, b, &to, false)?;
    Ok(to)
}

/// Writes or adds `a b` to `[m, n]`.
pub(crate) fn write_product(
    a: Operand<'_>,
    b: Operand<'_>,
    to: &Tensor,
    adds: bool,
) -> Result<(), NnError> {
    puna_cuda::product(a, b, to, adds)?.ok_or_else(no_kernel)
}

/// `a b` with what was there before, in its memory if nothing else sees that.
pub(crate) fn product_plus(
    a: Operand<'_>,
    b: Operand<'_>,
    before: Option<Sum>,
) -> Result<Sum, NnError> {
    match before {
        None => Ok(Sum::own(product(a, b)?)),
        Some(before) => match before.writable_on_device() {
            Ok(to) => {
                write_product(a, b, &to, true)?;
                Ok(Sum::own(to))
            }
            Err(before) => Sum::own(product(a, b)?).plus(before),
        },
    }
}
