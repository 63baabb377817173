//! Rotary position embedding on half-split pairs (arXiv:2104.09864, eq. 34):
//! `y_i = x_i cos − x_{i+R/2} sin`, `y_{i+R/2} = x_{i+R/2} cos + x_i sin` for `i < R/2`.
//!
//! The rotation is orthogonal up to the attention factor, so backward is the same rotation with
//! the sine negated.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use puna_kernels::RopeTable;

use super::with_f32;
use crate::device_products::{factors, no_kernel};
use crate::{NnError, Precision, RopeTables, Value};

/// Rotates the heads of every token, for a product of some precision: on a GPU the result is rounded as
/// that would do, and the gradient as that of the product before it.
///
/// # Shapes
/// `x` `[N, heads·D]`, tables of `N` positions → the shape of `x`
///
/// # Errors
/// If the number of tokens differs from that of the tables or a head is narrower than the
/// rotation.
pub fn rope(
    x: &Value,
    heads: usize,
    tables: &Arc<RopeTables>,
    product: Precision,
) -> std::result::Result<Value, NnError> {
    let (tokens, width) = x.tensor().dims2()?;
    if tokens != tables.tokens() {
        let expected = tables.tokens();
        return Err(NnError::Shape { what: "tokens to rotate", expected, got: tokens });
    }
    if width < heads * tables.rotary_dim() {
        let expected = heads * tables.rotary_dim();
        return Err(NnError::Shape { what: "width to rotate", expected, got: width });
    }
    let tables = Arc::clone(tables);
    if !x.tensor().device().is_cpu() {
        return on_device(x, heads, tables, factors(product));
    }
    let y = rotated(x.tensor(), heads, (tables.cos(), tables.sin()), tables.rotary_dim())?;
    Ok(Value::derived(y, &[x], move |dy| {
        let back = (tables.cos(), tables.negated_sin());
        Ok(vec![Some(rotated(dy, heads, back, tables.rotary_dim())?)])
    }))
}

fn rotated(
    x: &Tensor,
    heads: usize,
    (cos, sin): (&[f32], &[f32]),
    rotary_dim: usize,
) -> std::result::Result<Tensor, NnError> {
    let head_dim = x.dims2()?.1 / heads;
    let table = RopeTable { cos, sin, rotary_dim };
    let y = with_f32(x, |x| puna_kernels::rope_new(x, heads, head_dim, &table))?;
    Ok(Tensor::from_vec(y, x.shape(), &Device::Cpu)?)
}

fn on_device(
    x: &Value,
    heads: usize,
    tables: Arc<RopeTables>,
    dtype: DType,
) -> std::result::Result<Value, NnError> {
    let turned = move |x: &Tensor, tables: &RopeTables, backward| -> Result<Option<Tensor>> {
        let (cos, sin) = tables.on_device(x.device())?;
        let heads = (heads, tables.rotary_dim());
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        puna_cuda::turn(&x, (&cos, &sin), heads, backward, dtype)
    };
    let Some(y) = turned(x.tensor(), &tables, false)? else {
        return Value::by_candle(&[x], move |x| composed(&x[0], heads, &tables));
    };
    Ok(Value::derived(y, &[x], move |dy| {
        let dx = turned(dy, &tables, true)?;
        Ok(vec![Some(dx.ok_or_else(no_kernel)?)])
    }))
}

fn composed(x: &Tensor, heads: usize, tables: &RopeTables) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (head_dim, rotary_dim) = (width / heads, tables.rotary_dim());
    let half = rotary_dim / 2;
    let (cos, sin) = tables.on_device(x.device())?; // [N, 1, R/2]
    let by_head = x.reshape((tokens, heads, head_dim))?;
    let (a, b) = (by_head.narrow(2, 0, half)?, by_head.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let rest = by_head.narrow(2, rotary_dim, head_dim - rotary_dim)?;
    let parts = if rotary_dim < head_dim { vec![first, second, rest] } else { vec![first, second] };
    Tensor::cat(&parts, 2)?.reshape((tokens, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, random_tensor};

    fn by_kernel(x: Tensor, heads: usize, tables: &Arc<RopeTables>) -> Tensor {
        rope(&Value::constant(x), heads, tables, Precision::Exact).unwrap().tensor().clone()
    }

    /// Two pairs at three positions.
    fn three_positions() -> Arc<RopeTables> {
        let angles: Vec<f32> = (0..6).map(|i| i as f32 * 0.7).collect();
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        Arc::new(RopeTables::new(cos, sin, 4))
    }

    #[test]
    fn rope_turns_a_unit_pair_by_its_angle() {
        let tables = Arc::new(RopeTables::new(vec![0.6], vec![0.8], 2));
        let x = Tensor::new(&[[1f32, 0.0]], &candle_core::Device::Cpu).unwrap();
        let y = by_kernel(x, 1, &tables).to_vec2::<f32>().unwrap();
        assert_eq!(y, vec![vec![0.6, 0.8]]);
    }

    #[test]
    fn the_composition_is_the_kernel_for_whole_and_partial_rotations() {
        let tables = three_positions();
        for width in [8, 12] {
            let x = random_tensor(3, &[3, width]);
            let values = |y: Tensor| y.to_vec2::<f32>().unwrap().concat();
            let ours = values(composed(&x, 2, &tables).unwrap());
            let theirs = values(by_kernel(x, 2, &tables));
            for (a, b) in ours.into_iter().zip(theirs) {
                assert!((a - b).abs() < 1e-6, "{width}: {a} {b}");
            }
        }
    }

    #[test]
    fn rope_backward_matches_central_differences() {
        let tables = three_positions();
        gradcheck(
            |inputs| rope(&inputs[0], 2, &tables, Precision::Exact),
            &[random_tensor(3, &[3, 12])],
            GradTolerance::default(),
        );
    }
}
