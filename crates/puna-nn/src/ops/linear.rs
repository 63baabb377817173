//! `y[n, o] = Σ_i x[n, i] w[o, i]`.
//!
//! Backward: `dx = dy W` for every stored form (the weight is dequantized), and `dW += dyᵀ x` where
//! the weight is trained. A frozen quantized base with trained adapters (QLoRA) needs nothing else.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::{Elements, MatRef, Write, gemm};

use super::with_f32;
use crate::{NnError, Parameter, Precision, Value, Weight};

/// Multiplies by a weight in any stored form.
///
/// # Shapes
/// `x` `[N, in]`, weight `[out, in]` → `[N, out]`
///
/// # Errors
/// If the widths differ or `x` is not float32.
pub fn linear(x: &Value, weight: &Arc<Weight>, precision: Precision) -> Result<Value, NnError> {
    let (_, width) = x.tensor().dims2()?;
    if width != weight.cols() {
        return Err(NnError::Shape { what: "input width", expected: weight.cols(), got: width });
    }
    match &**weight {
        Weight::Dense(weight) => {
            // In the type of the weight, which on a GPU may be bfloat16.
            let weight = weight.clone();
            Value::by_candle(&[x], move |x| {
                let y = x[0].to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
                y.to_dtype(x[0].dtype())
            })
        }
        Weight::Trained(parameter) => trained(x, parameter, elements(precision)),
        _ => frozen(x, weight, precision),
    }
}

/// What products of trained weights are computed with.
pub(super) fn elements(precision: Precision) -> Elements {
    match precision {
        Precision::Exact => Elements::F32,
        Precision::Fast => Elements::Bf16,
    }
}

fn frozen(x: &Value, weight: &Arc<Weight>, precision: Precision) -> Result<Value, NnError> {
    let tokens = x.tensor().dims2()?.0;
    let mut y = puna_kernels::zeros(tokens * weight.rows());
    if let Some(matrix) = weight.matrix() {
        with_f32(x.tensor(), |x| puna_kernels::matmul(&matrix, x, &mut y, precision))?;
    }
    let y = Tensor::from_vec(y, (tokens, weight.rows()), &Device::Cpu)?;
    let weight = Arc::clone(weight);
    Ok(Value::derived(y, &[x], move |dy| {
        let shape = (weight.rows(), weight.cols());
        let dense = weight.dequantize()?; // [out, in]
        let dx = with_f32(&dense, |w| input_gradient(dy, w, shape, elements(precision)))??;
        Ok(vec![Some(dx)]) // [N, in]
    }))
}

fn trained(x: &Value, parameter: &Arc<Parameter>, elements: Elements) -> Result<Value, NnError> {
    let (rows, cols) = matrix_shape(parameter);
    let tokens = x.tensor().dims2()?.0;
    let mut y = puna_kernels::zeros(tokens * rows);
    {
        let w = parameter.values();
        with_f32(x.tensor(), |x| {
            let operands = (MatRef::rows(x, cols), MatRef::rows(&w, cols).t());
            gemm((tokens, rows, cols), operands, (&mut y, rows), Write::Set, elements);
        })?;
    }
    let y = Tensor::from_vec(y, (tokens, rows), &Device::Cpu)?;
    let (saved, parameter) = (x.tensor().clone(), Arc::clone(parameter));
    Ok(Value::derived(y, &[x], move |dy| {
        let dx = input_gradient(dy, &parameter.values(), (rows, cols), elements)?;
        with_f32(&saved, |x| {
            with_f32(dy, |dy| {
                weight_gradient(&parameter, MatRef::rows(dy, rows), x, elements);
            })
        })??;
        Ok(vec![Some(dx)])
    }))
}

fn matrix_shape(parameter: &Parameter) -> (usize, usize) {
    (parameter.shape()[0], parameter.shape()[1..].iter().product())
}

/// `dx = dy W` for `W` `[rows, cols]`.
fn input_gradient(
    dy: &Tensor,
    w: &[f32],
    (rows, cols): (usize, usize),
    elements: Elements,
) -> Result<Tensor, NnError> {
    let tokens = dy.dims2()?.0;
    let mut dx = puna_kernels::zeros(tokens * cols);
    with_f32(dy, |dy| {
        let operands = (MatRef::rows(dy, rows), MatRef::rows(w, cols));
        gemm((tokens, cols, rows), operands, (&mut dx, cols), Write::Set, elements);
    })?;
    Ok(Tensor::from_vec(dx, (tokens, cols), &Device::Cpu)?)
}

/// `dW += dyᵀ x`.
pub(super) fn weight_gradient(
    parameter: &Parameter,
    dy: MatRef<'_>,
    x: &[f32],
    elements: Elements,
) {
    let (rows, cols) = matrix_shape(parameter);
    let tokens = x.len() / cols.max(1);
    parameter.add_gradient(|dw, write| {
        let operands = (dy.t(), MatRef::rows(x, cols));
        gemm((rows, cols, tokens), operands, (dw, cols), write, elements);
    });
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

    fn block_weight(values: &[f32], rows: usize, cols: usize) -> Arc<Weight> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let block = BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(bytes)).unwrap();
        Arc::new(Weight::Block(block))
    }

    fn trained_weight(w: &Tensor) -> (Arc<Parameter>, Arc<Weight>) {
        let parameter = Arc::new(Parameter::new("w", w.dims(), flat(w)));
        (Arc::clone(&parameter), Arc::new(Weight::Trained(parameter)))
    }

    #[test]
    fn linear_of_a_two_by_two_weight_is_the_product_by_hand() {
        let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let x = Value::constant(Tensor::new(&[[1f32, -1.0]], &Device::Cpu).unwrap());
        for weight in [block_weight(&flat(&w), 2, 2), trained_weight(&w).1] {
            let y = linear(&x, &weight, Precision::Exact).unwrap();
            assert_eq!(y.tensor().to_vec2::<f32>().unwrap(), vec![vec![-1.0, -1.0]]);
        }
    }

    #[test]
    fn linear_backward_matches_central_differences_for_frozen_and_trained_weights() {
        let w = random_tensor(7, &[5, 6]);
        for weight in [block_weight(&flat(&w), 5, 6), trained_weight(&w).1] {
            gradcheck(
                |inputs| linear(&inputs[0], &weight, Precision::Exact),
                &[random_tensor(8, &[3, 6])],
                GradTolerance::default(),
            );
        }
    }

    #[test]
    fn the_gradient_of_a_trained_weight_matches_central_differences() {
        let x = random_tensor(8, &[3, 6]);
        let product = |w: &[Tensor], leaf: bool| {
            let (parameter, weight) = trained_weight(&w[0]);
            let x = if leaf { Value::leaf(x.clone()) } else { Value::constant(x.clone()) };
            (parameter, linear(&x, &weight, Precision::Exact).unwrap())
        };
        gradcheck_by(
            |w| Ok(product(w, false).1.tensor().clone()),
            |w, seed| {
                let (parameter, y) = product(w, true);
                y.backward(seed.clone()).map_err(candle_core::Error::wrap)?;
                let gradient = parameter.with_gradient(|g| g.unwrap().to_vec());
                Ok(vec![Some(Tensor::from_vec(gradient, (5, 6), &Device::Cpu)?)])
            },
            &[random_tensor(7, &[5, 6])],
            GradTolerance::default(),
        );
    }
}
