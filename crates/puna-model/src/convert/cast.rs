//! A tensor's bytes in another type.

use half::{bf16, f16};
use puna_io::{Dtype, StoredTensor, TensorBytes};
use puna_kernels::{Matrix, MatrixData, quantize_rows};

use crate::loader::block_format;
use crate::{ModelError, float};

/// Adds a constant on the way: norms are stored as the factor or as the factor minus one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shift {
    None,
    Add(f32),
}

/// The tensor as `dtype`; bit for bit where nothing changes.
pub(super) fn cast(
    tensor: &StoredTensor,
    dtype: Dtype,
    shift: Shift,
) -> Result<TensorBytes, ModelError> {
    if tensor.info.dtype == dtype && shift == Shift::None {
        return Ok(tensor.bytes.clone());
    }
    let mut values = floats(tensor)?;
    if let Shift::Add(constant) = shift {
        values.iter_mut().for_each(|v| *v += constant);
    }
    let cols = tensor.info.shape.last().copied().unwrap_or(1);
    let mut out = Vec::new();
    match dtype {
        Dtype::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Dtype::F16 => out.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        Dtype::BF16 => out.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        other => {
            let format =
                block_format(other).ok_or(ModelError::CannotWrite { dtype: other.name() })?;
            quantize_rows(format, &values, cols, &mut out).map_err(puna_nn::NnError::from)?;
        }
    }
    Ok(TensorBytes::from_vec(out))
}

/// Whether values, shifted and narrowed to `dtype`, still mean the same: bit for bit without a
/// shift; with one, that shifting back in float32 gives the stored factor.
pub(super) fn survives(values: &[f32], dtype: Dtype, shift: Shift) -> bool {
    let narrow = |v: f32| match dtype {
        Dtype::F16 => f16::from_f32(v).to_f32(),
        Dtype::BF16 => bf16::from_f32(v).to_f32(),
        _ => v,
    };
    values.iter().all(|&v| match shift {
        Shift::None => narrow(v).to_bits() == v.to_bits(),
        Shift::Add(constant) => narrow(v + constant) - constant == v,
    })
}

pub(super) fn floats(tensor: &StoredTensor) -> Result<Vec<f32>, ModelError> {
    if let Some(values) = float::to_f32(tensor) {
        return Ok(values);
    }
    let dtype = tensor.info.dtype;
    let format = block_format(dtype).ok_or(ModelError::CannotWrite { dtype: dtype.name() })?;
    let cols = tensor.info.shape.last().copied().unwrap_or(1);
    let rows = tensor.info.elements().unwrap_or(0) / cols.max(1);
    let data = MatrixData::Block { format, bytes: &tensor.bytes, scales: None };
    let matrix = Matrix { rows, cols, data };
    matrix.validate().map_err(puna_nn::NnError::from)?;
    let mut values = vec![0f32; rows * cols];
    for (row, out) in values.chunks_exact_mut(cols.max(1)).enumerate() {
        matrix.dequantize_row(row, out);
    }
    Ok(values)
}
