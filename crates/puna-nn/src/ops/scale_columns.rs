//! `y[n, c] = l[c] (x[n, c] − b[c]) + b[c]` with `l = p ∘ 1/d`: trained factors of columns, as IA³
//! (arXiv:2205.05638), DoRA (arXiv:2402.09353) and AdaLoRA (arXiv:2303.10512) have them. Without `b`
//! it is `y = l ∘ x`; with it, a bias that a layer has added before stays what it is.
//!
//! Backward: `dx = l ∘ dy`, `dp = 1/d ∘ Σ_n dy ∘ (x − b)`, `db = (1 − l) ∘ Σ_n dy`. The divisor is
//! constant.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::with_f32;
use crate::value::Sum;
use crate::{NnError, Parameter, Value, Vector};

/// Factors `p / d` of columns.
#[derive(Debug, Clone)]
pub struct ColumnScale {
    /// `p`, as many values as there are columns.
    pub factors: Arc<Parameter>,
    /// `d` `[C]`, of which no gradient is wanted; 1 if absent.
    pub divisor: Option<Arc<[f32]>>,
}

impl ColumnScale {
    /// `l` `[C]`.
    #[must_use]
    pub fn values(&self) -> Vec<f32> {
        let mut l = self.factors.values().clone();
        if let Some(divisor) = &self.divisor {
            l.iter_mut().zip(divisor.iter()).for_each(|(l, d)| *l /= d);
        }
        l
    }
}

/// Rows per task of the way forward.
const ROWS: usize = 16;

/// Columns per task of the sums over rows.
const COLS: usize = 256;

/// Scales the columns of `x`, around a bias if there is one.
///
/// # Shapes
/// `x` `[N, C]`, factors `[C]`, `bias` `[C]` → `[N, C]`
///
/// # Errors
/// If the widths differ.
pub fn scale_columns(x: Value, by: &ColumnScale, bias: Option<&Vector>) -> Result<Value, NnError> {
    let (_, width) = x.tensor().dims2()?;
    let divisor_len = by.divisor.as_ref().map_or(width, |divisor| divisor.len());
    for (what, got) in [
        ("number of factors of columns", by.factors.len()),
        ("number of divisors of columns", divisor_len),
        ("width of a bias", bias.map_or(width, Vector::len)),
    ] {
        if got != width {
            return Err(NnError::Shape { what, expected: width, got });
        }
    }
    let l = by.values();
    // What stays whatever x is: not `l (x − b) + b`, so that factors of one change no bit.
    let rest = match bias {
        None => None,
        Some(bias) => Some(bias.with(|b| {
            let rest = b.iter().zip(&l).map(|(b, l)| (1.0 - l) * b);
            rest.collect::<Vec<f32>>()
        })?),
    };
    // Backward needs x, so only a pass without one may write to its memory.
    let y = if x.is_tracked() { Sum::own(x.tensor().copy()?) } else { x.take_or_copy()? };
    let y = y.write(|y| {
        puna_kernels::for_each_chunk_mut(y, ROWS * width, |_, rows| {
            for row in rows.chunks_exact_mut(width) {
                row.iter_mut().zip(&l).for_each(|(y, l)| *y *= l);
                if let Some(rest) = &rest {
                    row.iter_mut().zip(rest).for_each(|(y, rest)| *y += rest);
                }
            }
        });
    })?;
    let (by, bias, kept) = (by.clone(), bias.cloned(), x.clone());
    Ok(Value::derived(y.into_tensor(), &[&x], move |dy| {
        let l = by.values();
        with_f32(dy, |dy| with_f32(kept.tensor(), |x| gradients(&by, bias.as_ref(), &l, (x, dy)))?)?
            .map(|dx| vec![Some(dx)])
    })
    .fresh())
}

/// Adds the gradients of the factors and of the bias; `dx` `[N, C]`.
fn gradients(
    by: &ColumnScale,
    bias: Option<&Vector>,
    l: &[f32],
    (x, dy): (&[f32], &[f32]),
) -> Result<Tensor, NnError> {
    let width = l.len();
    let b = match bias {
        Some(bias) => bias.with(<[f32]>::to_vec)?,
        None => vec![0.0; width],
    };
    let mut d_factors = vec![0f32; width];
    puna_kernels::for_each_chunk_mut(&mut d_factors, COLS, |first, sums| {
        let cols = first..first + sums.len();
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            let terms = x[cols.clone()].iter().zip(&b[cols.clone()]).zip(&dy[cols.clone()]);
            sums.iter_mut().zip(terms).for_each(|(sum, ((x, b), dy))| *sum += dy * (x - b));
        }
    });
    if let Some(divisor) = &by.divisor {
        d_factors.iter_mut().zip(divisor.iter()).for_each(|(sum, d)| *sum /= d);
    }
    by.factors.add_to_gradient(|sum| puna_kernels::add_in_place(sum, &d_factors));
    if let Some(bias) = bias.filter(|bias| bias.is_trained()) {
        let mut d_bias = vec![0f32; width];
        for dy in dy.chunks_exact(width) {
            let terms = dy.iter().zip(l);
            d_bias.iter_mut().zip(terms).for_each(|(sum, (dy, l))| *sum += (1.0 - l) * dy);
        }
        bias.add_gradient(&d_bias);
    }
    let mut dx = dy.to_vec();
    puna_kernels::for_each_chunk_mut(&mut dx, ROWS * width, |_, rows| {
        for row in rows.chunks_exact_mut(width) {
            row.iter_mut().zip(l).for_each(|(dx, l)| *dx *= l);
        }
    });
    Ok(Tensor::from_vec(dx, (dy.len() / width, width), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, gradcheck_by, random_tensor};

    fn parameter(name: &str, values: &Tensor) -> Arc<Parameter> {
        let flat = values.flatten_all().unwrap().to_vec1().unwrap();
        Arc::new(Parameter::new(name, values.dims(), flat))
    }

    fn scale(factors: &Tensor) -> ColumnScale {
        let divisor = Some(Arc::from([2f32, 4.0, 0.5].as_slice()));
        ColumnScale { factors: parameter("l", factors), divisor }
    }

    #[test]
    fn columns_are_scaled_around_the_bias() {
        let by = scale(&Tensor::new(&[4f32, 4.0, 1.0], &Device::Cpu).unwrap());
        let x = Tensor::new(&[[1f32, 2.0, 3.0]], &Device::Cpu).unwrap();
        let y = scale_columns(Value::constant(x.clone()), &by, None).unwrap();
        assert_eq!(y.tensor().to_vec2::<f32>().unwrap(), [[2.0, 2.0, 6.0]]);
        let bias = Vector::Fixed(Tensor::new(&[1f32, 1.0, 1.0], &Device::Cpu).unwrap());
        let y = scale_columns(Value::constant(x.clone()), &by, Some(&bias)).unwrap();
        assert_eq!(y.tensor().to_vec2::<f32>().unwrap(), [[1.0, 2.0, 5.0]]);
        assert_eq!(x.to_vec2::<f32>().unwrap(), [[1.0, 2.0, 3.0]], "x keeps what it was");
    }

    #[test]
    fn gradients_of_inputs_factors_and_bias_match_central_differences() {
        let (l, b) = (random_tensor(1, &[3]), random_tensor(2, &[3]));
        let x = random_tensor(3, &[5, 3]);
        let by = scale(&l);
        let bias = Vector::Trained(parameter("b", &b));
        gradcheck(
            |v| scale_columns(v[0].clone(), &by, Some(&bias)),
            std::slice::from_ref(&x),
            GradTolerance::default(),
        );
        let scaled = |m: &[Tensor]| {
            let (by, bias) = (scale(&m[0]), parameter("b", &m[1]));
            let vector = Vector::Trained(Arc::clone(&bias));
            let y = scale_columns(Value::leaf(x.clone()), &by, Some(&vector)).unwrap();
            (by.factors, bias, y)
        };
        gradcheck_by(
            |m| Ok(scaled(m).2.tensor().clone()),
            |m, seed| {
                let (factors, bias, y) = scaled(m);
                y.backward(seed.clone()).map_err(candle_core::Error::wrap)?;
                let gradient = |p: &Parameter| {
                    let values = p.with_gradient(|g| g.unwrap().to_vec());
                    Tensor::from_vec(values, p.shape(), &Device::Cpu).map(Some)
                };
                Ok(vec![gradient(&factors)?, gradient(&bias)?])
            },
            &[l, b],
            GradTolerance::default(),
        );
    }
}
