//! `y = x · r · w`, `r = 1 / sqrt(mean(x²) + eps)` (arXiv:1910.07467, eq. 4).
//!
//! Backward, per row of length `C`: `dx = r · (w·dy) − x · r³ / C · Σ(w·dy·x)` and
//! `dw = Σ_rows dy · x · r`.

use candle_core::{D, DType, Device, Result, Tensor};

use super::with_f32;
use crate::device_products::{factors, no_kernel};
use crate::value::Sum;
use crate::{NnError, Precision, Value, Vector};

/// Normalizes rows of the weight's length, for a product of some precision: on a GPU the result is rounded
/// as that would do.
///
/// # Shapes
/// `x` `[.., n·C]`, `w` `[C]` → the shape of `x`
///
/// # Errors
/// If the last axis is not a multiple of `C`.
pub fn rms_norm(
    x: &Value,
    w: &Vector,
    eps: f32,
    product: Precision,
) -> std::result::Result<Value, NnError> {
    let (width, last) = (w.len(), x.tensor().dim(D::Minus1)?);
    if width == 0 || !last.is_multiple_of(width) {
        return Err(NnError::Shape { what: "width of a norm", expected: width, got: last });
    }
    if !x.tensor().device().is_cpu() {
        return on_device(x, w, eps, factors(product));
    }
    let y = w.with(|w| with_f32(x.tensor(), |x| puna_kernels::rms_norm_new(x, w, eps)))??;
    let shape = x.tensor().shape().clone();
    let y = Tensor::from_vec(y, shape.clone(), &Device::Cpu)?;
    let (saved, w) = (x.tensor().clone(), w.clone());
    Ok(Value::derived_adding(y, &[x], move |dy, before| {
        let mut dw = vec![0f32; if w.is_trained() { width } else { 0 }];
        let mut back = |before: Option<&[f32]>| {
            with_f32(&saved, |x| {
                with_f32(dy, |dy| {
                    w.with(|w| puna_kernels::rms_norm_backward((x, w, eps), dy, before, &mut dw))
                })
            })
        };
        let dx = match before {
            None => back(None),
            Some(before) => with_f32(&before.into_tensor(), |before| back(Some(before)))?,
        }???;
        w.add_gradient(&dw);
        Ok(vec![Some(Sum::own(Tensor::from_vec(dx, shape, &Device::Cpu)?))])
    }))
}

fn on_device(x: &Value, w: &Vector, eps: f32, dtype: DType) -> std::result::Result<Value, NnError> {
    let Some(weight) = w.on_device()? else { return Err(no_kernel()) };
    let saved = x.tensor().to_dtype(DType::F32)?.contiguous()?;
    let norm = puna_cuda::Norm { weight: &weight, eps };
    let Some(y) = puna_cuda::rms_norm(&saved, norm, dtype)? else {
        let weight = match w {
            Vector::Fixed(weight) => Value::constant(weight.clone()),
            Vector::Trained(parameter) => Value::of_parameter(parameter)?,
        };
        return Value::by_candle(&[x, &weight], move |x| composed(&x[0], &x[1], eps));
    };
    let w = w.clone();
    Ok(Value::derived_adding(y.reshape(saved.shape())?, &[x], move |dy, before| {
        let before = before.map(Sum::into_tensor);
        let dy = dy.to_dtype(DType::F32)?.contiguous()?;
        let norm = puna_cuda::Norm { weight: &weight, eps };
        let back = |dw: Option<(&Tensor, bool)>| {
            puna_cuda::rms_norm_back((&saved, &dy), norm, before.as_ref(), dw)
        };
        let mut dx = None;
        match &w {
            Vector::Fixed(_) => dx = back(None)?,
            Vector::Trained(parameter) => parameter.add_device_gradient(|dw, adds| {
                dx = back(Some((dw, adds)))?;
                Ok(())
            })?,
        }
        Ok(vec![Some(Sum::own(dx.ok_or_else(no_kernel)?))])
    }))
}

fn composed(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let width = w.elem_count();
    let rows = x.reshape((x.elem_count() / width, width))?;
    let mean_square = (rows.sqr()?.sum_keepdim(D::Minus1)? / width as f64)?; // [rows, 1]
    let root = (mean_square + f64::from(eps))?.sqrt()?;
    rows.broadcast_div(&root)?.broadcast_mul(w)?.reshape(x.shape())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameter;
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, gradcheck_by, random_tensor};
    use std::sync::Arc;

    fn norm(x: Tensor, w: Tensor, eps: f32) -> Tensor {
        rms_norm(&Value::constant(x), &Vector::Fixed(w), eps, Precision::Exact)
            .unwrap()
            .tensor()
            .clone()
    }

    #[test]
    fn rms_norm_of_three_and_four_divides_by_their_root_mean_square() {
        let device = candle_core::Device::Cpu;
        let x = Tensor::new(&[[3f32, 4.0]], &device).unwrap();
        let w = Tensor::new(&[1f32, 2.0], &device).unwrap();
        let y = norm(x, w, 0.0).to_vec2::<f32>().unwrap();
        let rms = 12.5f32.sqrt();
        assert!((y[0][0] - 3.0 / rms).abs() < 1e-6 && (y[0][1] - 8.0 / rms).abs() < 1e-6);
    }

    #[test]
    fn the_composition_is_the_kernel() {
        let (x, w) = (random_tensor(1, &[3, 8]), random_tensor(2, &[4]));
        let values = |y: Tensor| y.to_vec2::<f32>().unwrap().concat();
        let (ours, theirs) = (composed(&x, &w, 1e-5).unwrap(), norm(x, w, 1e-5));
        for (a, b) in values(ours).into_iter().zip(values(theirs)) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn rms_norm_backward_matches_central_differences() {
        let w = Vector::Fixed(random_tensor(2, &[4]));
        gradcheck(
            |inputs| rms_norm(&inputs[0], &w, 1e-5, Precision::Exact),
            &[random_tensor(1, &[3, 8])],
            GradTolerance::default(),
        );
    }

    #[test]
    fn the_gradient_of_a_trained_norm_matches_central_differences() {
        let x = random_tensor(1, &[3, 8]);
        let trained = |w: &Tensor| {
            let parameter = Arc::new(Parameter::new("w", &[4], w.to_vec1().unwrap()));
            (Arc::clone(&parameter), Vector::Trained(parameter))
        };
        gradcheck_by(
            |w| Ok(norm(x.clone(), w[0].clone(), 1e-5)),
            |w, seed| {
                let (parameter, w) = trained(&w[0]);
                let y = rms_norm(&Value::leaf(x.clone()), &w, 1e-5, Precision::Exact);
                let y = y.map_err(candle_core::Error::wrap)?;
                y.backward(seed.clone()).map_err(candle_core::Error::wrap)?;
                let gradient = parameter.with_gradient(|g| g.unwrap().to_vec());
                Ok(vec![Some(Tensor::from_vec(gradient, 4, &Device::Cpu)?)])
            },
            &[random_tensor(2, &[4])],
            GradTolerance::default(),
        );
    }
}
