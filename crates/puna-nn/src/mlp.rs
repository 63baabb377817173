//! The feed-forward part: a gated MLP, or a mixture of them.

use puna_config::Activation;
use puna_kernels::{GateActivation, InputBuffers, Output};

use crate::projection::Projection;
use crate::workspace::{FfnWorkspace, apply, sized};
use crate::{Context, Linear, Moe, NnError, Pass, Precision, Value, Workspace, ops};

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
    pub fn forward(&self, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        if let Some(parts) = self.projections(x, pass) {
            return ops::feed_forward(x, parts, self.gate_activation(), pass.precision);
        }
        let gate = self.gate.forward(x, pass)?; // [N, F]
        let up = self.up.forward(x, pass)?; // [N, F]
        let hidden = ops::gated(self.gate_activation(), &gate, &up, pass.precision)?; // [N, F]
        self.down.forward(&hidden, pass) // [N, C]
    }

    /// The layers as one operation of training takes them, if it can be that.
    fn projections(&self, x: &Value, pass: &Pass) -> Option<[Projection; 3]> {
        let x = x.tensor();
        let on_cpu = x.device().is_cpu() && x.elem_count() > 0;
        let of = |layer: &Linear| layer.projection(pass);
        match on_cpu && pass.like_training {
            true => Some([of(&self.gate)?, of(&self.up)?, of(&self.down)?]),
            false => None,
        }
    }

    /// [`Mlp::forward`] on slices, into `out` `[N, C]`.
    pub(crate) fn infer(
        &self,
        x: &[f32],
        out: Output<'_>,
        (ws, buffers): (&mut FfnWorkspace, &mut InputBuffers),
        precision: Precision,
    ) -> Result<(), NnError> {
        let tokens = x.len() / self.gate.weight().cols().max(1);
        let width = tokens * self.gate.weight().rows();
        let gate = sized(&mut ws.gate, width); // [N, F]
        let up = sized(&mut ws.up, width); // [N, F]
        let mut layers = [(&self.gate, Output::Set(gate)), (&self.up, Output::Set(up))];
        apply(x, buffers, &mut layers, precision)?;
        puna_kernels::gate_in_place(self.gate_activation(), gate, up); // [N, F]
        apply(gate, buffers, &mut [(&self.down, out)], precision)
    }

    pub(crate) fn gate_activation(&self) -> GateActivation {
        match self.activation {
            Activation::Silu => GateActivation::Silu,
            Activation::GeluTanh => GateActivation::GeluTanh,
            Activation::GeluErf => GateActivation::GeluErf,
        }
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
    pub fn forward(&self, x: &Value, ctx: &mut Context<'_, '_>) -> Result<Value, NnError> {
        match self {
            FeedForward::Dense(mlp) => mlp.forward(x, &ctx.pass),
            FeedForward::Moe(moe) => moe.forward(x, &ctx.pass, ctx.balance.as_mut()),
        }
    }

    /// Applies the part to `x` `[N, C]`: `out = …` or `out += …`, `[N, C]`.
    ///
    /// # Errors
    /// If widths do not agree or a weight is a tensor.
    pub fn infer(
        &self,
        x: &[f32],
        out: Output<'_>,
        ws: &mut Workspace,
        precision: Precision,
    ) -> Result<(), NnError> {
        match self {
            FeedForward::Dense(mlp) => mlp.infer(x, out, (&mut ws.ffn, &mut ws.buffers), precision),
            FeedForward::Moe(moe) => moe.infer(x, out, ws, precision),
        }
    }
}
