//! Without the feature `cuda` there is no GPU, and nothing is taken over.

use candle_core::{DType, Device, Result, Tensor};

use crate::{Activation, Heads, Matrix, Norm, Places, Rotation, ScoreRows, Scores};

/// The GPU with some number.
///
/// # Errors
/// Always: puna was built without the feature `cuda`.
pub fn open(index: usize) -> Result<Device> {
    Device::new_cuda(index)
}

/// Memory for values on a GPU.
///
/// # Errors
/// Never.
pub fn empty(_like: &Tensor, _dtype: DType, _shape: (usize, usize)) -> Result<Option<Tensor>> {
    Ok(None)
}

/// Normalizes rows.
///
/// # Errors
/// Never.
pub fn rms_norm(_x: &Tensor, _norm: Norm<'_>, _dtype: DType) -> Result<Option<Tensor>> {
    Ok(None)
}

/// Multiplies few tokens by matrices.
///
/// # Errors
/// Never.
pub fn project(
    _x: &Tensor,
    _norm: Option<Norm<'_>>,
    _matrices: &[Matrix<'_>],
    _add: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    Ok(None)
}

/// The gated hidden state of few tokens.
///
/// # Errors
/// Never.
pub fn gate(
    _x: &Tensor,
    _norm: Option<Norm<'_>>,
    _matrices: [Matrix<'_>; 2],
    _activation: Activation,
) -> Result<Option<Tensor>> {
    Ok(None)
}

/// Gates values.
///
/// # Errors
/// Never.
pub fn gated(
    _gate: &Tensor,
    _up: &Tensor,
    _activation: Activation,
    _dtype: DType,
) -> Result<Option<Tensor>> {
    Ok(None)
}

/// Multiplies many tokens by a matrix.
///
/// # Errors
/// Never.
pub fn matmul(_x: &Tensor, _matrix: Matrix<'_>, _add: Option<&Tensor>) -> Result<Option<Tensor>> {
    Ok(None)
}

/// Turns scores into weights.
///
/// # Errors
/// Never.
pub fn softmax(_scores: &Tensor, _rows: ScoreRows, _transform: &Scores) -> Result<Option<()>> {
    Ok(None)
}

/// Rotates queries, and keeps rotated keys and the values.
///
/// # Errors
/// Never.
pub fn rotate(
    _qkv: [&Tensor; 3],
    _heads: Heads,
    _rotation: &Rotation<'_>,
    _places: &Places<'_>,
) -> Result<Option<()>> {
    Ok(None)
}

/// Attends to a cache.
///
/// # Errors
/// Never.
pub fn attend(
    _q: &Tensor,
    _heads: Heads,
    _places: &Places<'_>,
    _scores: &Scores,
    _out: &Tensor,
) -> Result<Option<()>> {
    Ok(None)
}
