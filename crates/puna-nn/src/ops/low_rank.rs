//! `y + s (x Aᵀ) Bᵀ`: what LoRA (arXiv:2106.09685) adds to a layer.
//!
//! Backward, with `h = s x Aᵀ`: `dB += dyᵀ h`, `dh = s dy B`, `dA += dhᵀ x`, `dx = dh A`; `dy` goes on
//! to the layer.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::{MatRef, Write, gemm, gemm_new};

use super::linear::{Rows, elements, input_gradient, weight_gradient};
use crate::value::Sum;
use crate::{NnError, Parameter, Precision, Value};

/// Two thin matrices.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `A` `[R, in]`
    pub a: Arc<Parameter>,
    /// `B` `[out, R]`
    pub b: Arc<Parameter>,
    /// `s`
    pub scale: f32,
}

/// Adds the product of the layer's input with two thin matrices to the layer's output, in the memory
/// of `y` if nothing else has that value.
///
/// # Shapes
/// `x` `[N, in]`, `y` `[N, out]` → `[N, out]`
///
/// # Errors
/// If widths do not agree.
pub fn low_rank(x: &Value, y: Value, of: &LowRank, precision: Precision) -> Result<Value, NnError> {
    let (LowRank { a, b, scale }, elements) = (of.clone(), elements(precision));
    let (rank, width) = (a.shape()[0], a.shape()[1]);
    let (tokens, out) = y.tensor().dims2()?;
    for (what, expected, got) in [
        ("width of A", x.tensor().dims2()?.1, width),
        ("rows of B", out, b.shape()[0]),
        ("rank of B", rank, b.shape()[1]),
        ("rows of an adapted layer", tokens, x.tensor().dims2()?.0),
    ] {
        if expected != got {
            return Err(NnError::Shape { what, expected, got });
        }
    }
    let x_rows = Rows::of(x, elements)?;
    let mut h = {
        let a = a.values();
        let a = MatRef::rows(&a, width).t();
        x_rows.with(|x| gemm_new((tokens, rank, width), (x, a), elements))?
    }; // [N, R]
    h.iter_mut().for_each(|h| *h *= scale);
    let base = y.take_or_copy()?;
    let sum = {
        let b = b.values();
        let operands = (MatRef::rows(&h, rank), MatRef::rows(&b, rank).t());
        base.write(|y| gemm((tokens, out, rank), operands, (y, out), Write::Add, elements))?
    };
    Ok(Value::derived_adding(sum.into_tensor(), &[x, &y], move |dy, before| {
        let dy_rows = Rows::of(&Value::constant(dy.clone()), elements)?;
        let mut d_h = {
            let b = b.values();
            let b = MatRef::rows(&b, rank);
            dy_rows.with(|dy| gemm_new((tokens, rank, out), (dy, b), elements))?
        }; // [N, R]
        d_h.iter_mut().for_each(|h| *h *= scale);
        dy_rows.with(|dy| weight_gradient(&b, dy, (MatRef::rows(&h, rank), tokens), elements))?;
        let d_h = Rows::Float(Tensor::from_vec(d_h, (tokens, rank), &Device::Cpu)?);
        d_h.with(|d_h| x_rows.with(|x| weight_gradient(&a, d_h, (x, tokens), elements)))??;
        let dx = {
            let a = a.values();
            input_gradient(&d_h, before, MatRef::rows(&a, width), (rank, width), elements)?
        };
        Ok(vec![Some(dx), Some(Sum::shared(dy.clone()))])
    })
    .fresh())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, gradcheck_by, random_tensor};

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn matrices(a: &Tensor, b: &Tensor) -> LowRank {
        let parameter = |x: &Tensor| Arc::new(Parameter::new("p", x.dims(), flat(x)));
        LowRank { a: parameter(a), b: parameter(b), scale: 0.5 }
    }

    #[test]
    fn two_vectors_add_their_outer_product_by_hand() {
        let of = matrices(
            &Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap(),
            &Tensor::new(&[[3f32], [4.0]], &Device::Cpu).unwrap(),
        );
        let x = Value::constant(Tensor::new(&[[5f32, 6.0]], &Device::Cpu).unwrap());
        let y = Value::constant(Tensor::new(&[[1f32, 1.0]], &Device::Cpu).unwrap());
        let kept = y.clone();
        let sum = low_rank(&x, y, &of, Precision::Exact).unwrap();
        assert_eq!(flat(sum.tensor()), [1.0 + 0.5 * 17.0 * 3.0, 1.0 + 0.5 * 17.0 * 4.0]);
        assert_eq!(flat(kept.tensor()), [1.0, 1.0], "another value of y keeps what it was");
    }

    #[test]
    fn gradients_of_inputs_and_matrices_match_central_differences() {
        let (a, b) = (random_tensor(1, &[3, 5]), random_tensor(2, &[4, 3]));
        let (x, y) = (random_tensor(3, &[6, 5]), random_tensor(4, &[6, 4]));
        let of = matrices(&a, &b);
        gradcheck(
            |v| low_rank(&v[0], v[1].clone(), &of, Precision::Exact),
            &[x.clone(), y.clone()],
            GradTolerance::default(),
        );
        let sum = |m: &[Tensor]| {
            let of = matrices(&m[0], &m[1]);
            let sum =
                low_rank(&Value::leaf(x.clone()), Value::leaf(y.clone()), &of, Precision::Exact);
            (of, sum.unwrap())
        };
        gradcheck_by(
            |m| Ok(sum(m).1.tensor().clone()),
            |m, seed| {
                let (of, y) = sum(m);
                y.backward(seed.clone()).map_err(candle_core::Error::wrap)?;
                let gradient = |p: &Parameter| {
                    let values = p.with_gradient(|g| g.unwrap().to_vec());
                    Tensor::from_vec(values, p.shape(), &Device::Cpu).map(Some)
                };
                Ok(vec![gradient(&of.a)?, gradient(&of.b)?])
            },
            &[a, b],
            GradTolerance::default(),
        );
    }
}
