//! `y[n, c] = x[n, c] + b[c]`.
//!
//! Backward: `dx = dy`, `db = Σ_n dy`.

use candle_core::{DType, Device, Tensor};

use super::with_f32;
use crate::device_products::no_kernel;
use crate::{NnError, Value, Vector};

/// Adds a bias to every row.
///
/// # Shapes
/// `x` `[N, C]`, `b` `[C]` → `[N, C]`
///
/// # Errors
/// If the widths differ.
pub fn add_bias(x: &Value, bias: &Vector) -> Result<Value, NnError> {
    let (_, width) = x.tensor().dims2()?;
    if width != bias.len() {
        return Err(NnError::Shape { what: "width of a bias", expected: width, got: bias.len() });
    }
    if let (false, Vector::Trained(_)) = (x.tensor().device().is_cpu(), bias) {
        return on_device(x, bias);
    }
    let y = match bias {
        Vector::Fixed(bias) => x.tensor().broadcast_add(bias)?,
        Vector::Trained(_) => {
            let mut y = with_f32(x.tensor(), <[f32]>::to_vec)?;
            bias.with(|bias| {
                for row in y.chunks_exact_mut(width) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            })?;
            Tensor::from_vec(y, x.tensor().shape(), &Device::Cpu)?
        }
    };
    let bias = bias.clone();
    Ok(Value::derived_sharing(y, &[x], move |dy| {
        if bias.is_trained() {
            let mut sum = vec![0f32; width];
            with_f32(dy, |dy| {
                for row in dy.chunks_exact(width) {
                    sum.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
                }
            })?;
            bias.add_gradient(&sum);
        }
        Ok(vec![Some(dy.clone())])
    }))
}

fn on_device(x: &Value, bias: &Vector) -> Result<Value, NnError> {
    let Some(values) = bias.on_device()? else { return Err(no_kernel()) };
    let (y, bias) = (x.tensor().broadcast_add(&values)?, bias.clone());
    Ok(Value::derived_sharing(y, &[x], move |dy| {
        if let Vector::Trained(parameter) = &bias {
            let dy = dy.to_dtype(DType::F32)?.contiguous()?;
            parameter.add_device_gradient(|db, adds| {
                puna_cuda::row_sum(&dy, (db, adds))?.ok_or_else(no_kernel)
            })?;
        }
        Ok(vec![Some(dy.clone())])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameter;
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, random_tensor};
    use std::sync::Arc;

    #[test]
    fn add_bias_passes_gradients_on_and_sums_them_for_the_bias() {
        let parameter = Arc::new(Parameter::new("b", &[3], vec![1.0, 2.0, 3.0]));
        let bias = Vector::Trained(Arc::clone(&parameter));
        gradcheck(
            |x| add_bias(&x[0], &bias),
            &[random_tensor(1, &[2, 3])],
            GradTolerance::default(),
        );
        parameter.clear_gradient();
        let x =
            Value::leaf(Tensor::new(&[[0f32, 0.0, 1.0], [1.0, 0.0, 0.0]], &Device::Cpu).unwrap());
        let y = add_bias(&x, &bias).unwrap();
        let expected = [[1f32, 2.0, 4.0], [2.0, 2.0, 3.0]];
        assert_eq!(y.tensor().to_vec2::<f32>().unwrap(), expected);
        y.backward(y.tensor().clone()).unwrap();
        assert_eq!(parameter.with_gradient(|g| g.unwrap().to_vec()), [3.0, 4.0, 7.0]);
    }
}
