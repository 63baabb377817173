//! The feed-forward part: a gated MLP, or a mixture of them.

use candle_core::Tensor;
use puna_config::Activation;
use puna_kernels::GateActivation;

use crate::{Linear, Moe, NnError, Precision, ops};

/// `down(act(gate(x)) · up(x))` (arXiv:2002.05202).
#[derive(Clone, Debug)]
pub struct Mlp {
    /// `[F, C]`
    pub gate: Linear,
    /// `[F, C]`
    pub up: Linear,
    /// `[C, F]`
    pub down: Linear,
    /// The gate's nonlinearity.
    pub activation: Activation,
}

impl Mlp {
    /// Applies the part.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, C]`
    ///
    /// # Errors
    /// If widths do not agree.
    pub fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor, NnError> {
        let gate = self.gate.forward(x, precision)?; // [N, F]
        let up = self.up.forward(x, precision)?; // [N, F]
        let activation = match self.activation {
            Activation::Silu => GateActivation::Silu,
            Activation::GeluTanh => GateActivation::GeluTanh,
            Activation::GeluErf => GateActivation::GeluErf,
        };
        let hidden = ops::gated(activation, &gate, &up)?; // [N, F]
        self.down.forward(&hidden, precision) // [N, C]
    }
}

/// A block's feed-forward part.
#[derive(Clone, Debug)]
pub enum FeedForward {
    /// One MLP.
    Dense(Mlp),
    /// Several, of which each token uses some.
    Moe(Moe),
}

impl FeedForward {
    /// Applies the part.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, C]`
    ///
    /// # Errors
    /// If widths do not agree.
    pub fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor, NnError> {
        match self {
            FeedForward::Dense(mlp) => mlp.forward(x, precision),
            FeedForward::Moe(moe) => moe.forward(x, precision),
        }
    }
}
