//! `y + s (x Aᵀ) Bᵀ`: what LoRA (arXiv:2106.09685) adds to a layer.
//!
//! Backward, with `h = s x Aᵀ`: `dB += dyᵀ h`, `dh = s dy B`, `dA += dhᵀ x`, `dx = dh A`; `dy` goes on
//! to the layer.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use puna_cuda::Operand;
use puna_kernels::{Elements, MatRef, Write, gemm, gemm_new, gemm_sum_new, transpose};

use super::linear::{
    Rows, elements, input_gradient, linear_in_training, weight_gradient, with_right,
};
use crate::device_products::{factors, no_kernel, operand, product, product_plus, write_product};
use crate::value::Sum;
use crate::{NnError, Parameter, Precision, Value, Weight};

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

impl LowRank {
    pub(crate) fn check(
        &self,
        (tokens, width): (usize, usize),
        y: (usize, usize),
    ) -> Result<(), NnError> {
        for (what, expected, got) in [
            ("width of A", width, self.a.shape()[1]),
            ("rows of B", y.1, self.b.shape()[0]),
            ("rank of B", self.a.shape()[0], self.b.shape()[1]),
            ("rows of an adapted layer", y.0, tokens),
        ] {
            if expected != got {
                return Err(NnError::Shape { what, expected, got });
            }
        }
        Ok(())
    }

    pub(crate) fn rank(&self) -> usize {
        self.a.shape()[0]
    }

    /// `h = s x Aᵀ` `[N, R]`.
    pub(crate) fn inner(
        &self,
        x: MatRef<'_>,
        tokens: usize,
        elements: Elements,
    ) -> Result<Rows, NnError> {
        let (rank, width) = (self.rank(), self.a.shape()[1]);
        let a = self.a.values();
        let a = MatRef::rows(&a, width).t();
        self.scaled(gemm_new((tokens, rank, width), (x, a), elements), tokens, elements)
    }

    /// `dh = s dy B` `[N, R]`; adds the gradients of both matrices, `dB += dyᵀ h` and `dA += dhᵀ x`.
    pub(crate) fn backward(
        &self,
        (x, h): (&Rows, &Rows),
        (dy, tokens): (MatRef<'_>, usize),
        elements: Elements,
    ) -> Result<Rows, NnError> {
        let (rank, out) = (self.rank(), self.b.shape()[0]);
        let d_h = {
            let b = self.b.values();
            gemm_new((tokens, rank, out), (dy, MatRef::rows(&b, rank)), elements)
        };
        let d_h = self.scaled(d_h, tokens, elements)?;
        h.with(|h| {
            // The other way round a panel of B's few columns would be half empty.
            let d_b = gemm_new((rank, out, tokens), (h.t(), dy), elements); // [R, out]
            self.b.add_gradient(|to, write| transpose(&d_b, (rank, out), to, write));
        })?;
        d_h.with(|d_h| x.with(|x| weight_gradient(&self.a, d_h, (x, tokens), elements)))??;
        Ok(d_h)
    }

    fn scaled(&self, mut h: Vec<f32>, tokens: usize, elements: Elements) -> Result<Rows, NnError> {
        h.iter_mut().for_each(|h| *h *= self.scale);
        let h = Tensor::from_vec(h, (tokens, self.rank()), &Device::Cpu)?;
        Rows::of(&Value::constant(h), elements)
    }
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
    let (tokens, out) = y.tensor().dims2()?;
    of.check(x.tensor().dims2()?, (tokens, out))?;
    if !x.tensor().device().is_cpu() {
        return on_device(x, &y, of.clone(), factors(precision));
    }
    let (of, elements) = (of.clone(), elements(precision));
    let (rank, width) = (of.rank(), of.a.shape()[1]);
    let x_rows = Rows::of(x, elements)?;
    let h = x_rows.with(|x| of.inner(x, tokens, elements))??;
    let base = y.take_or_copy()?;
    let sum = h.with(|h| {
        let b = of.b.values();
        let operands = (h, MatRef::rows(&b, rank).t());
        base.write(|y| gemm((tokens, out, rank), operands, (y, out), Write::Add, elements))
    })??;
    Ok(Value::derived_adding(sum.into_tensor(), &[x, &y], move |dy, before| {
        let dy_rows = Rows::of(&Value::constant(dy.clone()), elements)?;
        let dx = dy_rows.with(|dy| {
            let d_h = of.backward((&x_rows, &h), (dy, tokens), elements)?;
            d_h.with(|d_h| {
                let a = of.a.values();
                let term = (d_h, MatRef::rows(&a, width).into(), rank);
                input_gradient((tokens, width), &[term], before, elements)
            })?
        })??;
        Ok(vec![Some(dx), Some(Sum::shared(dy.clone()))])
    })
    .fresh())
}

fn on_device(x: &Value, y: &Value, of: LowRank, dtype: DType) -> Result<Value, NnError> {
    let matrices = move |of: &LowRank| -> Result<(Tensor, Tensor), NnError> {
        let both = (of.a.device_operand(dtype)?, of.b.device_operand(dtype)?);
        both.0.zip(both.1).ok_or_else(no_kernel)
    };
    let scaled = move |h: Tensor, scale: f32| operand(&(h * f64::from(scale))?, dtype);
    let (a, b) = matrices(&of)?;
    let x_rows = x.operand(dtype)?;
    let h = product(Operand::rows(&x_rows), Operand::transposed(&a))?;
    let h = scaled(h, of.scale)?; // [N, R]
    let base = y.take_or_copy()?;
    let sum = product_plus(Operand::rows(&h), Operand::transposed(&b), Some(base))?;
    Ok(Value::derived_adding(sum.into_tensor(), &[x, y], move |dy, before| {
        let (a, b) = matrices(&of)?;
        let rows = operand(dy, dtype)?;
        let d_h = product(Operand::rows(&rows), Operand::rows(&b))?;
        let d_h = scaled(d_h, of.scale)?;
        for (parameter, left, right) in [(&of.b, &rows, &h), (&of.a, &d_h, &x_rows)] {
            parameter.add_device_gradient(|dw, adds| {
                write_product(Operand::transposed(left), Operand::rows(right), dw, adds)
            })?;
        }
        let dx = product_plus(Operand::rows(&d_h), Operand::rows(&a), before)?;
        Ok(vec![Some(dx), Some(Sum::shared(dy.clone()))])
    })
    .fresh())
}

/// [`low_rank`] of a frozen layer in training, with the layer's own product `x Wᵀ`: `y` and `dx` are
/// written once, and `dy` is rounded once.
///
/// # Shapes
/// `x` `[N, in]`, weight `[out, in]` → `[N, out]`
///
/// # Errors
/// If widths do not agree.
pub fn linear_with_low_rank(
    x: &Value,
    weight: &Arc<Weight>,
    of: &LowRank,
    precision: Precision,
) -> Result<Value, NnError> {
    if matches!(&**weight, Weight::Dense(_) | Weight::Trained(_)) {
        return low_rank(x, linear_in_training(x, weight, precision)?, of, precision);
    }
    let (of, weight, elements) = (of.clone(), Arc::clone(weight), elements(precision));
    let (tokens, width) = x.tensor().dims2()?;
    let (rank, out) = (of.rank(), weight.rows());
    if width != weight.cols() {
        return Err(NnError::Shape { what: "input width", expected: weight.cols(), got: width });
    }
    of.check((tokens, width), (tokens, out))?;
    let x_rows = Rows::of(x, elements)?;
    let h = x_rows.with(|x| of.inner(x, tokens, elements))??;
    let y = with_right(&weight, elements, |_, w| {
        x_rows.with(|x| {
            h.with(|h| {
                let b = of.b.values();
                let terms = [(x, w, width), (h, MatRef::rows(&b, rank).t().into(), rank)];
                gemm_sum_new((tokens, out), &terms, elements)
            })
        })?
    })??;
    let y = Tensor::from_vec(y, (tokens, out), &Device::Cpu)?;
    Ok(Value::derived_adding(y, &[x], move |dy, before| {
        let dy_rows = Rows::of(&Value::constant(dy.clone()), elements)?;
        let dx = dy_rows.with(|dy| {
            let d_h = of.backward((&x_rows, &h), (dy, tokens), elements)?;
            d_h.with(|d_h| {
                with_right(&weight, elements, |w, _| {
                    let a = of.a.values();
                    let terms = [(dy, w, out), (d_h, MatRef::rows(&a, width).into(), rank)];
                    input_gradient((tokens, width), &terms, before, elements)
                })?
            })?
        })??;
        Ok(vec![Some(dx)])
    })
    .fresh())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockWeight;
    use crate::value::tests::gradcheck;
    use puna_kernels::BlockFormat;
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

    fn frozen(w: &Tensor) -> Arc<Weight> {
        let bytes: Vec<u8> = flat(w).iter().flat_map(|v| v.to_le_bytes()).collect();
        let (rows, cols) = w.dims2().unwrap();
        let block = BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(bytes)).unwrap();
        Arc::new(Weight::Block(block))
    }

    #[test]
    fn gradients_of_inputs_and_matrices_match_central_differences() {
        let (x, y) = (random_tensor(3, &[6, 5]), random_tensor(4, &[6, 4]));
        matches_central_differences(&[x, y], |v, of| {
            low_rank(&v[0], v[1].clone(), of, Precision::Exact)
        });
        let (x, w) = (random_tensor(3, &[6, 5]), frozen(&random_tensor(5, &[4, 5])));
        matches_central_differences(&[x], |v, of| {
            linear_with_low_rank(&v[0], &w, of, Precision::Exact)
        });
    }

    #[test]
    fn with_the_layers_product_it_is_what_it_is_beside_it() {
        let (a, b) = (random_tensor(1, &[3, 5]), random_tensor(2, &[4, 3]));
        let (of, w) = (matrices(&a, &b), frozen(&random_tensor(5, &[4, 5])));
        let x = Value::constant(random_tensor(3, &[6, 5]));
        let fused = linear_with_low_rank(&x, &w, &of, Precision::Exact).unwrap();
        let y = linear_in_training(&x, &w, Precision::Exact).unwrap();
        let beside = low_rank(&x, y, &of, Precision::Exact).unwrap();
        for (fused, beside) in flat(fused.tensor()).iter().zip(flat(beside.tensor())) {
            assert!((fused - beside).abs() < 1e-5, "{fused} {beside}");
        }
    }

    /// Of an op on `inputs` with `A` `[3, 5]` and `B` `[4, 3]`.
    fn matches_central_differences(
        inputs: &[Tensor],
        op: impl Fn(&[Value], &LowRank) -> Result<Value, NnError>,
    ) {
        let (a, b) = (random_tensor(1, &[3, 5]), random_tensor(2, &[4, 3]));
        let of = matrices(&a, &b);
        gradcheck(|v| op(v, &of), inputs, GradTolerance::default());
        let sum = |m: &[Tensor]| {
            let of = matrices(&m[0], &m[1]);
            let inputs: Vec<Value> = inputs.iter().cloned().map(Value::leaf).collect();
            let sum = op(&inputs, &of).unwrap();
            (of, sum)
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
