//! A bidirectional LSTM over virtual tokens (Hochreiter and Schmidhuber 1997), as torch computes and
//! stores it: the gates `i, f, g, o` are behind one another in `weight_ih [4H, in]`, `weight_hh [4H, H]`
//! and two biases, a layer's output is both directions' states side by side.
//!
//! `c_t = σ(f) c_{t−1} + σ(i) tanh(g)`, `h_t = σ(o) tanh(c_t)`.
//!
//! Steps are composed of candle operations: an LSTM runs once a pass over a few dozen tokens.

use std::sync::Arc;

use candle_core::{Result as CandleResult, Tensor};
use puna_nn::ops::dropout;
use puna_nn::{NnError, Parameter, Pass, Value};

use crate::PeftError;
use crate::encoder::{Begin, Source};
use crate::init::seed_of;

/// Layers of it.
#[derive(Debug)]
pub(crate) struct Lstm {
    /// Forward and backward direction of each layer: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
    layers: Vec<[[Arc<Parameter>; 4]; 2]>,
    dropout: f32,
}

impl Lstm {
    /// `layers` of them, the first one with inputs of width `input`; torch's initial values: uniform
    /// within `1 / √H`.
    pub(crate) fn new(
        (input, hidden, layers): (usize, usize, usize),
        dropout: f32,
        source: &mut Source<'_>,
    ) -> Result<Self, PeftError> {
        let begin = Begin::Uniform { bound: 1.0 / (hidden as f32).sqrt() };
        let mut all = Vec::new();
        for layer in 0..layers {
            let width = if layer == 0 { input } else { 2 * hidden };
            let mut direction = |end: &str| -> Result<[Arc<Parameter>; 4], PeftError> {
                let mut add = |what: &str, shape: &[usize]| {
                    source.parameter(&format!("lstm_head.{what}_l{layer}{end}"), shape, begin)
                };
                Ok([
                    add("weight_ih", &[4 * hidden, width])?,
                    add("weight_hh", &[4 * hidden, hidden])?,
                    add("bias_ih", &[4 * hidden])?,
                    add("bias_hh", &[4 * hidden])?,
                ])
            };
            all.push([direction("")?, direction("_reverse")?]);
        }
        Ok(Self { layers: all, dropout })
    }

    /// Both directions' states.
    ///
    /// # Shapes
    /// `x` `[P, in]` → `[P, 2·H]`
    pub(crate) fn forward(&self, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        let mut x = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            // torch: on the output of every layer but the last.
            if let Some(seed) = pass.seed.filter(|_| index > 0 && self.dropout > 0.0) {
                x = dropout(&x, self.dropout, seed ^ seed_of(&format!("lstm_head.{index}")))?;
            }
            let parameters = layer.iter().flatten().map(|parameter| pass.parameter(parameter));
            let parameters = parameters.collect::<Result<Vec<_>, _>>()?;
            let arguments: Vec<&Value> = std::iter::once(&x).chain(&parameters).collect();
            x = Value::by_candle(&arguments, |tensors| {
                let forward = states(&tensors[0], &tensors[1..5], false)?;
                let backward = states(&tensors[0], &tensors[5..9], true)?;
                Tensor::cat(&[forward, backward], 1) // [P, 2·H]
            })?;
        }
        Ok(x)
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.layers.iter().flatten().flatten()
    }
}

/// The states of one direction, `[P, H]`, in the order of the tokens.
fn states(x: &Tensor, parameters: &[Tensor], reverse: bool) -> CandleResult<Tensor> {
    let [weight_ih, weight_hh, bias_ih, bias_hh] = parameters else {
        candle_core::bail!("an LSTM has four tensors, not {}", parameters.len())
    };
    let tokens = x.dim(0)?;
    let hidden = weight_hh.dim(1)?;
    let bias = (bias_ih + bias_hh)?;
    let of_inputs = x.matmul(&weight_ih.t()?)?.broadcast_add(&bias)?; // [P, 4·H]
    let recurrent = weight_hh.t()?;
    let mut h = Tensor::zeros((1, hidden), x.dtype(), x.device())?;
    let mut c = h.clone();
    let mut all = vec![h.clone(); tokens];
    for step in 0..tokens {
        let at = if reverse { tokens - 1 - step } else { step };
        let gates = (of_inputs.narrow(0, at, 1)? + h.matmul(&recurrent)?)?; // [1, 4·H]
        let gate = |index: usize| gates.narrow(1, index * hidden, hidden);
        let new = (sigmoid(&gate(0)?)? * gate(2)?.tanh()?)?;
        c = ((sigmoid(&gate(1)?)? * c)? + new)?;
        h = (sigmoid(&gate(3)?)? * c.tanh()?)?;
        all[at] = h.clone();
    }
    Tensor::cat(&all, 0)
}

/// `σ(x) = (1 + tanh(x / 2)) / 2`
fn sigmoid(x: &Tensor) -> CandleResult<Tensor> {
    ((x / 2.0)?.tanh()? + 1.0)? / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// One step of one unit, by hand.
    #[test]
    fn a_step_is_the_equations() {
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        let parameters = [
            tensor(&[0.5, -0.5, 1.0, 2.0], &[4, 1]),
            tensor(&[0.1, 0.2, 0.3, 0.4], &[4, 1]),
            tensor(&[0.0, 0.1, 0.0, 0.0], &[4]),
            tensor(&[0.0, 0.1, 0.0, 0.0], &[4]),
        ];
        let x = tensor(&[1.0, -2.0], &[2, 1]);
        let all: Vec<f32> =
            states(&x, &parameters, false).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let c1 = sigmoid(0.5) * 1f32.tanh();
        let h1 = sigmoid(2.0) * c1.tanh();
        let c2 = sigmoid(1.2 + 0.2 * h1) * c1 + sigmoid(-1.0 + 0.1 * h1) * (-2.0 + 0.3 * h1).tanh();
        let h2 = sigmoid(-4.0 + 0.4 * h1) * c2.tanh();
        assert!((all[0] - h1).abs() < 1e-6 && (all[1] - h2).abs() < 1e-6, "{all:?} {h1} {h2}");
        let turned = tensor(&[-2.0, 1.0], &[2, 1]);
        let back: Vec<f32> =
            states(&turned, &parameters, true).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(back, [all[1], all[0]]);
    }
}
