//! `y[n, o] = Σ_i x[n, i] w[o, i]`.
//!
//! Backward: `dx = dy W` for every stored form (the weight is dequantized), and `dW += dyᵀ x` where
//! the weight is trained. A frozen quantized base with trained adapters (QLoRA) needs nothing else.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_cuda::Operand;
use puna_kernels::{
    BlockFormat, Elements, Factors, MatRef, Right, RoundedRows, Write, gemm, gemm_new, gemm_sum,
    gemm_sum_new, takes_rounded,
};

use super::with_f32;
use crate::device_products::{factors, no_kernel, operand, product, product_plus, write_product};
use crate::value::Sum;
use crate::{BlockOrder, NnError, Parameter, Precision, Value, Weight};

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
    if !x.tensor().device().is_cpu() {
        return multiplied_on_device(x, weight, precision);
    }
    match &**weight {
        Weight::Dense(weight) => {
            let weight = weight.clone();
            Value::by_candle(&[x], move |x| {
                let y = x[0].to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
                y.to_dtype(x[0].dtype())
            })
        }
        Weight::Trained(parameter) => trained(x, parameter, elements(precision)),
        _ => frozen(x, weight, precision, false),
    }
}

/// [`linear`] in training: frozen weights multiply as general products do, which round activations to
/// bfloat16 at most, where inference may take 8-bit ones; and a pass that is computed twice to save
/// memory is the same both times.
///
/// # Errors
/// As there.
pub fn linear_in_training(
    x: &Value,
    weight: &Arc<Weight>,
    precision: Precision,
) -> Result<Value, NnError> {
    match &**weight {
        Weight::Dense(_) | Weight::Trained(_) => linear(x, weight, precision),
        _ => frozen(x, weight, precision, true),
    }
}

/// What products of trained weights are computed with.
pub(super) fn elements(precision: Precision) -> Elements {
    match precision {
        Precision::Exact => Elements::F32,
        Precision::Fast => Elements::Bf16,
    }
}

fn frozen(
    x: &Value,
    weight: &Arc<Weight>,
    precision: Precision,
    training: bool,
) -> Result<Value, NnError> {
    let (tokens, elements) = (x.tensor().dims2()?.0, elements(precision));
    let shape = (tokens, weight.rows(), weight.cols());
    let y = if training {
        // Rounded once for all products of `x`.
        let x = Rows::of(x, elements)?;
        let (tokens, out, width) = shape;
        with_right(weight, elements, |_, w| {
            x.with(|x| gemm_sum_new((tokens, out), &[(x, w, width)], elements))
        })??
    } else {
        let mut y = puna_kernels::zeros(tokens * weight.rows());
        if let Some(matrix) = weight.matrix() {
            with_f32(x.tensor(), |x| puna_kernels::matmul(&matrix, x, &mut y, precision))?;
        }
        y
    };
    let y = Tensor::from_vec(y, (tokens, weight.rows()), &Device::Cpu)?;
    let weight = Arc::clone(weight);
    Ok(Value::derived_adding(y, &[x], move |dy, before| {
        let dy = Rows::of(&Value::constant(dy.clone()), elements)?;
        let dx = with_right(&weight, elements, |w, _| {
            dy.with(|dy| {
                let shape = (tokens, weight.cols());
                input_gradient(shape, &[(dy, w, weight.rows())], before, elements)
            })?
        })??;
        Ok(vec![Some(dx)]) // [N, in]
    })
    .fresh())
}

/// A weight that products with bfloat16 take as it is stored.
pub(crate) fn as_words(weight: &Weight, elements: Elements) -> Option<MatRef<'_>> {
    match weight {
        Weight::Block(w) if w.format() == BlockFormat::BF16 && w.order() == BlockOrder::Rows => {
            MatRef::bf16_rows(w.bytes(), weight.cols()).filter(|_| takes_rounded(elements))
        }
        _ => None,
    }
}

/// Lends a weight `[out, in]` as general products take it; dequantized where that is no stored form.
pub(crate) fn with_matrix<T>(
    weight: &Weight,
    elements: Elements,
    f: impl FnOnce(MatRef<'_>) -> T,
) -> Result<T, NnError> {
    if let Some(words) = as_words(weight, elements) {
        return Ok(f(words));
    }
    match weight {
        Weight::Trained(parameter) => Ok(f(MatRef::rows(&parameter.values(), weight.cols()))),
        _ => with_f32(&weight.dequantize()?, |values| f(MatRef::rows(values, weight.cols()))),
    }
}

/// Lends `W` `[out, in]` and `Wᵀ` as right operands.
pub(crate) fn with_right<T>(
    weight: &Weight,
    elements: Elements,
    f: impl FnOnce(Right<'_>, Right<'_>) -> T,
) -> Result<T, NnError> {
    match weight {
        Weight::Packed(w) if takes_rounded(elements) => {
            Ok(f(Right::PackedTransposed(w.packed()), Right::Packed(w.packed())))
        }
        _ => with_matrix(weight, elements, |w| f(w.into(), w.t().into())),
    }
}

fn trained(x: &Value, parameter: &Arc<Parameter>, elements: Elements) -> Result<Value, NnError> {
    let (rows, cols) = matrix_shape(parameter);
    let x_rows = Rows::of(x, elements)?;
    let tokens = x_rows.count()?;
    let y = {
        let w = parameter.values();
        let w = MatRef::rows(&w, cols).t();
        x_rows.with(|x| gemm_new((tokens, rows, cols), (x, w), elements))?
    };
    let y = Tensor::from_vec(y, (tokens, rows), &Device::Cpu)?;
    let parameter = Arc::clone(parameter);
    Ok(Value::derived_adding(y, &[x], move |dy, before| {
        let dy = Rows::of(&Value::constant(dy.clone()), elements)?;
        let dx = {
            let w = parameter.values();
            let w = MatRef::rows(&w, cols);
            dy.with(|dy| {
                input_gradient((tokens, cols), &[(dy, w.into(), rows)], before, elements)
            })??
        };
        x_rows.with(|x| dy.with(|dy| weight_gradient(&parameter, dy, (x, tokens), elements)))??;
        Ok(vec![Some(dx)])
    })
    .fresh())
}

/// The weight on the device of a pass, as products take it there: frozen ones in their type.
pub(super) fn on_device(weight: &Weight, precision: Precision) -> Result<Tensor, NnError> {
    let found = match weight {
        Weight::Dense(weight) => Some(weight.clone()),
        Weight::Trained(parameter) => parameter.device_operand(factors(precision))?,
        _ => None,
    };
    found.ok_or_else(no_kernel)
}

fn multiplied_on_device(
    x: &Value,
    weight: &Arc<Weight>,
    precision: Precision,
) -> Result<Value, NnError> {
    let w = on_device(weight, precision)?;
    let dtype = w.dtype();
    let x_rows = x.operand(dtype)?;
    let y = product(Operand::rows(&x_rows), Operand::transposed(&w))?;
    let weight = Arc::clone(weight);
    Ok(Value::derived_adding(y, &[x], move |dy, before| {
        let dy = operand(dy, dtype)?;
        let dx = product_plus(Operand::rows(&dy), Operand::rows(&w), before)?;
        if let Weight::Trained(parameter) = &*weight {
            parameter.add_device_gradient(|dw, adds| {
                write_product(Operand::transposed(&dy), Operand::rows(&x_rows), dw, adds)
            })?;
        }
        Ok(vec![Some(dx)])
    })
    .fresh())
}

/// Rows as products take them, kept for the way back.
pub(crate) enum Rows {
    Float(Tensor),
    /// Half the memory, and rounded once for all products.
    Rounded(Arc<RoundedRows>),
}

impl Rows {
    pub(crate) fn of(x: &Value, elements: Elements) -> Result<Self, NnError> {
        if takes_rounded(elements) && x.tensor().elem_count() > 0 {
            return Ok(Rows::Rounded(x.rounded()?));
        }
        Ok(Rows::Float(x.tensor().clone()))
    }

    /// New values of this shape.
    pub(super) fn of_values(
        values: Vec<f32>,
        shape: (usize, usize),
        elements: Elements,
    ) -> Result<Self, NnError> {
        let values = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Self::of(&Value::constant(values), elements)
    }

    /// The tensor, where they are float32.
    pub(super) fn floats(&self) -> Option<&Tensor> {
        match self {
            Rows::Float(x) => Some(x),
            Rows::Rounded(_) => None,
        }
    }

    /// The same rows, rounded if products take them so.
    pub(super) fn as_operand(&self, elements: Elements) -> Result<Self, NnError> {
        match self {
            Rows::Float(x) => Self::of(&Value::constant(x.clone()), elements),
            Rows::Rounded(x) => Ok(Rows::Rounded(Arc::clone(x))),
        }
    }

    fn count(&self) -> Result<usize, NnError> {
        match self {
            Rows::Float(x) => Ok(x.dims2()?.0),
            Rows::Rounded(x) => Ok(x.shape().0),
        }
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(MatRef<'_>) -> T) -> Result<T, NnError> {
        match self {
            Rows::Float(x) => {
                let cols = x.dims2()?.1;
                with_f32(x, |x| f(MatRef::rows(x, cols)))
            }
            Rows::Rounded(x) => Ok(f(x.as_mat())),
        }
    }
}

fn matrix_shape(parameter: &Parameter) -> (usize, usize) {
    (parameter.shape()[0], parameter.shape()[1..].iter().product())
}

/// The gradient `[N, in]` of a product's input, a sum of products, with what the input had before.
pub(crate) fn input_gradient(
    shape: (usize, usize),
    terms: &[Factors<'_>],
    before: Option<Sum>,
    elements: Elements,
) -> Result<Sum, NnError> {
    let before = match before {
        Some(own) if own.is_own() => {
            return own.write(|dx| gemm_sum(shape, terms, (dx, shape.1), Write::Add, elements));
        }
        other => other,
    };
    let dx = gemm_sum_new(shape, terms, elements);
    let dx = Sum::own(Tensor::from_vec(dx, shape, &Device::Cpu)?);
    match before {
        None => Ok(dx),
        Some(before) => dx.plus(before),
    }
}

/// `dW += dyᵀ x` for `tokens` rows.
pub(crate) fn weight_gradient(
    parameter: &Parameter,
    dy: MatRef<'_>,
    (x, tokens): (MatRef<'_>, usize),
    elements: Elements,
) {
    let (rows, cols) = matrix_shape(parameter);
    parameter.add_gradient(|dw, write| {
        gemm((rows, cols, tokens), (dy.t(), x), (dw, cols), write, elements);
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
