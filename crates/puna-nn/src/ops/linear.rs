//! `y[n, o] = Σ_i x[n, i] w[o, i]`.
//!
//! Backward: `dx = dy W` for every stored form (the weight is dequantized row by row), and
//! `dW = dyᵀ x` where the weight is a trained tensor. A frozen quantized base with trained
//! adapters (QLoRA) needs nothing else.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::f32_slice;
use crate::{NnError, Precision, Weight};

struct FrozenLinear {
    weight: Arc<Weight>,
    precision: Precision,
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32_slice(storage, layout, "linear")?;
        let tokens = x.len() / self.weight.cols().max(1);
        let mut y = vec![0f32; tokens * self.weight.rows()];
        if let Some(matrix) = self.weight.matrix() {
            puna_kernels::matmul(&matrix, x, &mut y, self.precision);
        }
        Ok((CpuStorage::F32(y), Shape::from((tokens, self.weight.rows()))))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let weight = self.weight.dequantize().map_err(candle_core::Error::wrap)?; // [out, in]
        Ok(Some(dy.matmul(&weight)?)) // [N, in]
    }
}

/// Multiplies by a weight in any stored form.
///
/// # Shapes
/// `x` `[N, in]`, weight `[out, in]` → `[N, out]`
///
/// # Errors
/// If the widths differ or `x` is not float32.
pub fn linear(
    x: &Tensor,
    weight: &Arc<Weight>,
    precision: Precision,
) -> std::result::Result<Tensor, NnError> {
    let (_, width) = x.dims2()?;
    if width != weight.cols() {
        return Err(NnError::Shape { what: "input width", expected: weight.cols(), got: width });
    }
    if let Weight::Dense(weight) = &**weight {
        // In the type of the weight, which on a GPU may be bfloat16; gradients are candle's own.
        let y = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
        return Ok(y.to_dtype(x.dtype())?);
    }
    let op = FrozenLinear { weight: Arc::clone(weight), precision };
    Ok(x.contiguous()?.apply_op1(op)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockWeight;
    use puna_kernels::BlockFormat;
    use puna_testkit::{GradTolerance, gradcheck, random_tensor};

    fn block_weight(values: &[f32], rows: usize, cols: usize) -> Arc<Weight> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let block = BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(bytes)).unwrap();
        Arc::new(Weight::Block(block))
    }

    #[test]
    fn linear_of_a_two_by_two_block_weight_is_the_product_by_hand() {
        let weight = block_weight(&[1.0, 2.0, 3.0, 4.0], 2, 2);
        let x = Tensor::new(&[[1f32, -1.0]], &candle_core::Device::Cpu).unwrap();
        let y = linear(&x, &weight, Precision::Exact).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), vec![vec![-1.0, -1.0]]);
    }

    #[test]
    fn linear_backward_matches_central_differences() {
        let w = random_tensor(7, &[5, 6]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let weight = block_weight(&w, 5, 6);
        let x = random_tensor(8, &[3, 6]);
        gradcheck(
            |inputs| {
                linear(&inputs[0], &weight, Precision::Exact).map_err(candle_core::Error::wrap)
            },
            &[x],
            GradTolerance::default(),
        );
    }
}
