//! Activations of bottlenecks, under the names that transformers gives them.

use candle_core::{Result, Tensor};
use puna_nn::{NnError, Value};
use serde::{Deserialize, Serialize};

/// An activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonLinearity {
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0) + 0.01 min(x, 0)`
    #[serde(rename = "leakyrelu", alias = "leaky_relu")]
    LeakyRelu,
    /// `x σ(x)`
    Silu,
    /// The same.
    Swish,
    /// `x Φ(x)`
    Gelu,
    /// `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// `tanh(x)`
    Tanh,
    /// `σ(x)`
    Sigmoid,
    /// `x`
    Linear,
}

impl NonLinearity {
    /// The activation of every value.
    pub(crate) fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            NonLinearity::Relu => x.relu(),
            NonLinearity::LeakyRelu => x.relu()? - (x.neg()?.relu()? * 0.01)?,
            NonLinearity::Silu | NonLinearity::Swish => x.silu(),
            NonLinearity::Gelu => x.gelu_erf(),
            NonLinearity::GeluNew => x.gelu(),
            NonLinearity::Tanh => x.tanh(),
            NonLinearity::Sigmoid => sigmoid(x),
            NonLinearity::Linear => Ok(x.clone()),
        }
    }

    /// [`Self::of`] with a way back.
    pub(crate) fn forward(self, x: &Value) -> std::result::Result<Value, NnError> {
        Value::by_candle(&[x], move |x| self.of(&x[0]))
    }
}

/// `σ(x) = ½ (1 + tanh(x / 2))`, which has no overflow on either side.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? + 1.0)? * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn activations_of_one_and_minus_one_are_those_of_pytorch() {
        let x = Tensor::new(&[1f32, -1.0], &Device::Cpu).unwrap();
        for (name, expected) in [
            ("relu", [1.0, 0.0]),
            ("leakyrelu", [1.0, -0.01]),
            ("swish", [0.731_058_6, -0.268_941_4]),
            ("silu", [0.731_058_6, -0.268_941_4]),
            ("gelu", [0.841_344_7, -0.158_655_2]),
            ("gelu_new", [0.841_192, -0.158_808]),
            ("tanh", [0.761_594_2, -0.761_594_2]),
            ("sigmoid", [0.731_058_6, 0.268_941_4]),
            ("linear", [1.0, -1.0]),
        ] {
            let f: NonLinearity = serde_json::from_value(name.into()).unwrap();
            let y: Vec<f32> = f.of(&x).unwrap().to_vec1().unwrap();
            for (y, expected) in y.iter().zip(expected) {
                assert!((y - expected).abs() < 2e-6, "{name}: {y} {expected}");
            }
        }
    }
}
