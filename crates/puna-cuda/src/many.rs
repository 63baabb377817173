//! Passes over many tokens: cuBLAS, and between its products kernels/prompt.cu.

use candle_core::{DType, Result, Tensor};

use crate::call::{Arguments, Factor, Product, THREADS};
use crate::launch::{self, address};
use crate::tensors::{address_of, floats, suffix};
use crate::{Matrix, ScoreRows, Scores};

/// `x Wᵀ (+ add)`, summed in float32 and not rounded behind it.
///
/// # Shapes
/// `x` `[N, C]` of the type of the weight `[R, C]`, `add` `[N, R]` → float32 `[N, R]`
///
/// # Errors
/// If cuBLAS refuses.
pub fn matmul(x: &Tensor, matrix: Matrix<'_>, add: Option<&Tensor>) -> Result<Option<Tensor>> {
    let Some(kernels) = launch::kernels(x)? else { return Ok(None) };
    let weight = matrix.weight;
    let ((tokens, width), (rows, cols)) = (x.dims2()?, weight.dims2()?);
    let fits = width == cols
        && matrix.bias.is_none()
        && x.dtype() == weight.dtype()
        && suffix(x.dtype()).is_some()
        && x.is_contiguous()
        && weight.is_contiguous()
        && tokens * rows * cols > 0
        && add.is_none_or(|add| floats(&[add]) && add.dims() == [tokens, rows]);
    if !fits {
        return Ok(None);
    }
    let y = match add {
        Some(add) => add.copy()?,
        None => kernels.output(DType::F32, (tokens, rows))?,
    };
    let product = Product {
        shape: (tokens, rows, cols),
        a: Factor { address: address_of(x)?, is_transposed: false },
        b: Factor { address: address_of(weight)?, is_transposed: true },
        to: address::<f32>(&y)?,
        is_bf16: x.dtype() == DType::BF16,
        adds: add.is_some(),
    };
    kernels.multiply(&product)?;
    Ok(Some(y))
}

/// Turns scores into weights where they lie; a query sees the keys up to its own position.
///
/// # Shapes
/// `scores` `[K, G·T, S]`, contiguous; nothing else may look at them
///
/// # Errors
/// If the driver refuses.
pub fn softmax(scores: &Tensor, rows: ScoreRows, transform: &Scores) -> Result<Option<()>> {
    let Some(kernels) = launch::kernels(scores)? else { return Ok(None) };
    let (kv_heads, queries, keys) = scores.dims3()?;
    let all = kv_heads * queries;
    let fits = scores.is_contiguous()
        && rows.tokens > 0
        && queries.is_multiple_of(rows.tokens)
        && rows.begin <= rows.first
        && all * keys > 0;
    let (Some(suffix), true) = (suffix(scores.dtype()), fits) else { return Ok(None) };
    let mut arguments = Arguments::default()
        .wide(address_of(scores)?)
        .int(all)
        .int(rows.tokens)
        .int(keys)
        .int(rows.first)
        .int(rows.begin)
        .int(transform.window.unwrap_or(0).min(i32::MAX as usize))
        .float(transform.scale)
        .float(transform.softcap.unwrap_or(0.0));
    let name = format!("softmax_{suffix}");
    let blocks = all.div_ceil(THREADS as usize / 32) as u32;
    kernels.launch(&name, ([blocks, 1, 1], THREADS), 0, &mut arguments)?;
    Ok(Some(()))
}
