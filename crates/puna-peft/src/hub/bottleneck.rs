//! Bottlenecks beside the branches of a block: `A(x) = s · up(f(down(x)))`.
//!
//! With the residual stream `r` and the branch `m`, Houlsby et al. (arXiv:1902.00751, figure 2) have
//! `r + m + A(m)` behind attention and behind the feed-forward part, Pfeiffer et al. (arXiv:2005.00247)
//! `r + m + A(m + r)` behind the feed-forward part, and the parallel form (arXiv:2110.04366, equation
//! of table 1) `r + m + A(r)`. AdapterHub tells them apart by `original_ln_before` and `is_parallel`.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::BlockFormat;
use puna_nn::ops::{add_bias, dropout, linear, with_f32};
use puna_nn::{
    BlockWeight, Branch, BranchAdapter, NnError, Parameter, Pass, Value, Vector, Weight,
};

use super::activation::NonLinearity;
use super::builder::{Builder, Init, LinearInit};
use super::compacter::{Phm, PhmLayer};
use super::drop::is_dropped;
use super::gate::Gate;
use super::settings::{BottleneckConfig, Scaling};
use crate::PeftError;
use crate::init::seed_of;

/// One of the two projections.
#[derive(Debug, Clone)]
pub(crate) enum Projection {
    /// `W` `[out, in]` and a bias.
    Dense(Arc<Weight>, Vector),
    /// A sum of Kronecker products.
    Phm(PhmLayer),
}

impl Projection {
    pub(crate) fn dense((weight, bias): (Arc<Parameter>, Arc<Parameter>)) -> Self {
        Projection::Dense(Arc::new(Weight::Trained(weight)), Vector::Trained(bias))
    }

    /// The same without gradients of its own. Other values have none in a pass without a seed.
    fn frozen(&self) -> Result<Self, NnError> {
        let Projection::Dense(weight, bias) = self else { return Ok(self.clone()) };
        let bytes = with_f32(&weight.dequantize()?, |values| {
            values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()
        })?;
        let (rows, cols) = (weight.rows(), weight.cols());
        let weight = BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(bytes))?;
        let bias = bias.with(|bias| Tensor::new(bias, &Device::Cpu))??;
        Ok(Projection::Dense(Arc::new(Weight::Block(weight)), Vector::Fixed(bias)))
    }

    pub(crate) fn forward(&self, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        match self {
            Projection::Dense(weight, bias) => add_bias(&linear(x, weight, pass.precision)?, bias),
            Projection::Phm(layer) => layer.forward(x, pass),
        }
    }
}

/// What a bottleneck reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    /// The branch, `m`.
    Branch,
    /// What the residual stream would be, `m + r`.
    Sum,
    /// The residual stream, `r`.
    Residual,
}

/// The number or the parameter that an output is multiplied with.
#[derive(Debug, Clone)]
enum Factor {
    Fixed(f32),
    Learned(Arc<Parameter>, f32),
}

/// A bottleneck of one branch of one block.
#[derive(Debug, Clone)]
pub(crate) struct Bottleneck {
    pub(crate) layer: usize,
    pub(crate) branch: Branch,
    pub(crate) reads: Reads,
    down: Projection,
    activation: NonLinearity,
    up: Projection,
    factor: Factor,
    gate: Option<Gate>,
    dropout: f32,
    /// Of its dropout masks, beside the pass's.
    seed: u64,
    /// AdapterDrop in training: at most so many blocks are left out.
    drop_random: usize,
}

impl Bottleneck {
    /// The adapter's bottlenecks, in the order of the blocks.
    pub(super) fn all(
        config: &BottleneckConfig,
        drop_random: usize,
        builder: &mut Builder<'_>,
    ) -> Result<Vec<Self>, PeftError> {
        config.check()?;
        let rule = Phm::new(config, builder)?;
        let places = [
            (config.mh_adapter, Branch::Attention, "attention_adapters"),
            (config.output_adapter, Branch::Ffn, "output_adapters"),
        ];
        let mut all = Vec::new();
        for layer in (0..builder.layers()).filter(|layer| !config.leave_out.contains(layer)) {
            for (_, branch, place) in places.iter().filter(|(wanted, ..)| *wanted) {
                let path = format!("{}.{place}.adapters.{}", builder.block(layer), builder.adapter);
                let at = (layer, *branch, path.as_str());
                let bottleneck = Self::new(config, at, rule.as_ref(), builder)?;
                all.push(Self { drop_random, ..bottleneck });
            }
        }
        Ok(all)
    }

    fn new(
        config: &BottleneckConfig,
        (layer, branch, path): (usize, Branch, &str),
        phm: Option<&Phm>,
        builder: &mut Builder<'_>,
    ) -> Result<Self, PeftError> {
        let hidden = builder.hidden();
        let width = config.reduction_factor.width(hidden, layer)?;
        let (down, up) = (format!("{path}.adapter_down.0"), format!("{path}.adapter_up"));
        let (down, up) = match phm {
            Some(phm) => (
                Projection::Phm(phm.layer(&down, [hidden, width], builder)?),
                Projection::Phm(phm.layer(&up, [width, hidden], builder)?),
            ),
            None => {
                let init = LinearInit::of_bottleneck(config.init_weights);
                let down = builder.linear(&down, [width, hidden], init.0)?;
                (
                    Projection::dense(down),
                    Projection::dense(builder.linear(&up, [hidden, width], init.1)?),
                )
            }
        };
        let factor = match config.scaling {
            Scaling::Fixed(factor) => Factor::Fixed(factor as f32),
            Scaling::Named(_) => {
                let name = format!("{path}.scaling");
                Factor::Learned(builder.trained(&name, &[1], Init::Constant(1.0))?, 1.0)
            }
        };
        let gate = match config.use_gating {
            true => {
                Some(Gate::new(&format!("{path}.gate"), [1, hidden], LinearInit::Bert, builder)?)
            }
            false => None,
        };
        let reads = match (config.is_parallel, config.original_ln_before) {
            (true, _) => Reads::Residual,
            (false, true) => Reads::Sum,
            (false, false) => Reads::Branch,
        };
        let (activation, dropout) = (config.non_linearity, config.dropout as f32);
        let seed = seed_of(path);
        Ok(Self {
            layer,
            branch,
            reads,
            down,
            activation,
            up,
            factor,
            gate,
            dropout,
            seed,
            drop_random: 0,
        })
    }

    /// What it adds, times a number.
    pub(super) fn scaled(&self, by: f32) -> Self {
        let factor = match &self.factor {
            Factor::Fixed(factor) => Factor::Fixed(factor * by),
            Factor::Learned(parameter, factor) => {
                Factor::Learned(Arc::clone(parameter), factor * by)
            }
        };
        Self { factor, ..self.clone() }
    }

    /// The same without gradients of its own, in passes without a seed.
    pub(crate) fn frozen(&self) -> Result<Self, NnError> {
        let (down, up) = (self.down.frozen()?, self.up.frozen()?);
        Ok(Self { down, up, drop_random: 0, ..self.clone() })
    }

    /// Its input, `[N, C]`.
    pub(crate) fn input(&self, residual: &Value, branch: &Value) -> Result<Value, NnError> {
        self.reads.of(residual, branch)
    }

    /// `g · s · up(f(down(x)))` for its input `x`, `[N, C]`.
    pub(crate) fn delta(&self, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        let hidden = self.activation.forward(&self.down.forward(x, pass)?)?; // [N, width]
        let mut y = self.up.forward(&hidden, pass)?; // [N, C]
        y = match &self.factor {
            Factor::Fixed(factor) if (factor - 1.0).abs() <= f32::EPSILON => y,
            Factor::Fixed(factor) => times(&y, *factor)?,
            Factor::Learned(parameter, factor) => {
                let (by, factor) = (pass.parameter(parameter)?, f64::from(*factor));
                Value::by_candle(&[&y, &by], move |t| t[0].broadcast_mul(&(&t[1] * factor)?))?
            }
        };
        if let Some(seed) = pass.seed
            && self.dropout > 0.0
        {
            y = dropout(&y, self.dropout, seed ^ self.seed)?;
        }
        match &self.gate {
            Some(gate) => gate.scale(&y, x, pass),
            None => Ok(y),
        }
    }
}

impl Reads {
    /// What is read, `[N, C]`.
    pub(crate) fn of(self, residual: &Value, branch: &Value) -> Result<Value, NnError> {
        match self {
            Reads::Branch => Ok(branch.clone()),
            Reads::Sum => branch.add(residual),
            Reads::Residual => Ok(residual.clone()),
        }
    }
}

impl BranchAdapter for Bottleneck {
    fn forward(&self, residual: &Value, branch: Value, pass: &Pass) -> Result<Value, NnError> {
        if is_dropped(self.layer, self.drop_random, pass) {
            return Ok(branch);
        }
        let x = self.input(residual, &branch)?;
        branch.add(&self.delta(&x, pass)?)
    }
}

/// `s x`
pub(crate) fn times(x: &Value, factor: f32) -> Result<Value, NnError> {
    Value::by_candle(&[x], move |x| &x[0] * f64::from(factor))
}
