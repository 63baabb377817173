//! Compacter (arXiv:2106.04647): projections that are sums of Kronecker products (equation 2),
//! `W = Σ_i A_i ⊗ (s_i t_i)`, with small matrices `A_i` that all layers share (equation 4).
//!
//! A layer from `in` to `out` has `n · r (in/n + out/n) = r (in + out)` values and a bias; the rule
//! `A` has `n³`, once. `W` is `[in, out]` here, as in the library: the product is `x W + b`.

use std::sync::Arc;

use candle_core::Tensor;
use puna_nn::{NnError, Parameter, Pass, Value};

use super::builder::{Builder, Init};
use super::settings::{BottleneckConfig, setting};
use crate::PeftError;

/// What the layers of an adapter share.
pub(super) struct Phm {
    config: BottleneckConfig,
    /// `[n, n, n]`
    shared: Option<Arc<Parameter>>,
}

/// The matrices that the rule multiplies, `[n, in/n, out/n]`.
#[derive(Debug, Clone)]
enum Factors {
    /// `[n, in/n, r]` and `[n, r, out/n]`.
    LowRank(Arc<Parameter>, Arc<Parameter>),
    Full(Arc<Parameter>),
}

/// One projection.
#[derive(Debug, Clone)]
pub(crate) struct PhmLayer {
    rule: Arc<Parameter>,
    /// Whether the rule is trained.
    learned: bool,
    factors: Factors,
    bias: Option<Arc<Parameter>>,
}

impl Phm {
    /// `None` if the configuration does not ask for it.
    pub(super) fn new(
        config: &BottleneckConfig,
        builder: &mut Builder<'_>,
    ) -> Result<Option<Self>, PeftError> {
        if !config.phm_layer {
            return Ok(None);
        }
        if config.phm_dim == 0 || config.phm_rank == 0 {
            let value = config.phm_dim.min(config.phm_rank).to_string();
            return Err(setting("phm_dim", &value, "at least 1, and so phm_rank"));
        }
        let name = format!("{}.shared_parameters.{}.phm_rule", builder.model(), builder.adapter);
        let shared = match config.shared_phm_rule {
            true => Some(rule(config, &name, builder)?),
            false => None,
        };
        Ok(Some(Self { config: config.clone(), shared }))
    }

    /// The projection at some path from `width` values to `out`.
    pub(super) fn layer(
        &self,
        path: &str,
        [width, out]: [usize; 2],
        builder: &mut Builder<'_>,
    ) -> Result<PhmLayer, PeftError> {
        let (n, rank) = (self.config.phm_dim, self.config.phm_rank);
        if width % n != 0 || out % n != 0 {
            let expected = format!("a divisor of {width} and {out}, the widths of {path}");
            return Err(setting("phm_dim", &n.to_string(), &expected));
        }
        let own = match &self.shared {
            Some(shared) => Arc::clone(shared),
            None => rule(&self.config, &format!("{path}.phm_rule"), builder)?,
        };
        let factors = if self.config.factorized_phm_w {
            let left = [n, width / n, rank];
            let right = [n, rank, out / n];
            Factors::LowRank(
                builder.trained(&format!("{path}.W_left"), &left, self.init(left[1..].iter())?)?,
                builder.trained(
                    &format!("{path}.W_right"),
                    &right,
                    self.init(right[1..].iter())?,
                )?,
            )
        } else {
            let shape = [n, width / n, out / n];
            let init = self.init(shape[1..].iter())?;
            Factors::Full(builder.trained(&format!("{path}.W"), &shape, init)?)
        };
        let bias = match self.config.phm_bias {
            true => Some(builder.trained(&format!("{path}.b"), &[out], Init::Constant(0.0))?),
            false => None,
        };
        Ok(PhmLayer { rule: own, learned: self.config.learn_phm, factors, bias })
    }

    /// How matrices of some widths begin: `√(6 / (a + b))`, or the normal of that variance.
    fn init<'a>(&self, widths: impl Iterator<Item = &'a usize>) -> Result<Init, PeftError> {
        let sum: f32 = widths.map(|&width| width as f32).sum();
        match self.config.hypercomplex_nonlinearity.as_str() {
            "glorot-uniform" => Ok(Init::Uniform((6.0 / sum).sqrt())),
            "glorot-normal" => Ok(Init::Normal((2.0 / sum).sqrt())),
            "normal" => Ok(Init::Normal(self.config.phm_init_range as f32)),
            other => {
                let expected = "glorot-uniform, glorot-normal or normal";
                Err(setting("hypercomplex_nonlinearity", other, expected))
            }
        }
    }
}

fn rule(
    config: &BottleneckConfig,
    name: &str,
    builder: &mut Builder<'_>,
) -> Result<Arc<Parameter>, PeftError> {
    let init = match config.phm_c_init.as_str() {
        "normal" => Init::Normal(config.phm_init_range as f32),
        "uniform" => Init::Uniform(1.0),
        other => return Err(setting("phm_c_init", other, "normal or uniform")),
    };
    let shape = [config.phm_dim; 3];
    match config.learn_phm {
        true => builder.trained(name, &shape, init),
        false => builder.fixed(name, &shape, init),
    }
}

impl PhmLayer {
    /// # Shapes
    /// `x` `[N, in]` → `[N, out]`
    pub(super) fn forward(&self, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        let rule = match self.learned {
            true => pass.parameter(&self.rule)?,
            false => Value::constant(Value::of_parameter(&self.rule)?.tensor().clone()),
        };
        let weight = match &self.factors {
            Factors::Full(w) => {
                let w = pass.parameter(w)?;
                Value::by_candle(&[&rule, &w], |t| kronecker_sum(&t[0], &t[1]))?
            }
            Factors::LowRank(left, right) => {
                let (left, right) = (pass.parameter(left)?, pass.parameter(right)?);
                Value::by_candle(&[&rule, &left, &right], |t| {
                    kronecker_sum(&t[0], &t[1].matmul(&t[2])?)
                })?
            }
        }; // [in, out]
        let y = Value::by_candle(&[x, &weight], |t| t[0].matmul(&t[1]))?; // [N, out]
        match &self.bias {
            None => Ok(y),
            Some(bias) => {
                let bias = pass.parameter(bias)?;
                Value::by_candle(&[&y, &bias], |t| t[0].broadcast_add(&t[1]))
            }
        }
    }
}

/// `Σ_i kron(A_i, W_i)` `[n·p, n·q]` of `A` `[n, n, n]` and `W` `[n, p, q]`: all products of values of
/// `A_i` and `W_i` are one product of matrices, and the rest is their order.
fn kronecker_sum(a: &Tensor, w: &Tensor) -> candle_core::Result<Tensor> {
    let (n, p, q) = w.dims3()?;
    let a = a.reshape((n, n * n))?.t()?; // [n·n, n]
    let products = a.matmul(&w.reshape((n, p * q))?)?; // [n·n, p·q]
    products.reshape((n, n, p, q))?.transpose(1, 2)?.reshape((n * p, n * q))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_sum_of_two_kronecker_products_is_that_by_hand() {
        let a = Tensor::new(&[[[1f32, 2.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]], &Device::Cpu);
        let w = Tensor::new(&[[[3f32, 4.0]], [[10.0, 20.0]]], &Device::Cpu).unwrap();
        let sum = kronecker_sum(&a.unwrap(), &w).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(sum, [[3.0, 4.0, 6.0, 8.0], [10.0, 20.0, 3.0, 4.0]]);
    }
}
