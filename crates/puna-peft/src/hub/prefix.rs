//! Prefix tuning (arXiv:2101.00190) as AdapterHub has it: keys and values before every sequence, made
//! by a network from trained embeddings, or trained as they are (flat).
//!
//! Tokens keep their positions from 0, unlike in peft. A gate (UniPELT) multiplies keys and values by
//! what the attention's input says of them.

use std::sync::Arc;

use puna_nn::ops::{add_bias, dropout, linear};
use puna_nn::{NnError, Parameter, Pass, PrefixAdapter, Value, Vector, Weight};

use super::activation::NonLinearity;
use super::builder::{Builder, Init, LinearInit};
use super::gate::{Gate, sequences};
use super::settings::{HubPrefixConfig, setting};
use crate::PeftError;
use crate::init::seed_of;

/// What makes keys and values.
#[derive(Debug)]
enum Encoder {
    /// `W₂ f(W₁ e + b₁) + b₂` for embeddings `e` `[P, C]`.
    Network {
        embeddings: Arc<Parameter>,
        first: (Arc<Weight>, Vector),
        activation: NonLinearity,
        second: (Arc<Weight>, Vector),
    },
    /// `[P·L·2·K·D]`
    Flat(Arc<Parameter>),
}

/// An adapter's prefix.
#[derive(Debug)]
pub(super) struct HubPrefix {
    len: usize,
    /// `L·2·K·D`
    width: usize,
    encoder: Encoder,
    /// Of each block.
    gates: Vec<Gate>,
    dropout: f32,
    seed: u64,
}

impl HubPrefix {
    pub(super) fn new(
        config: &HubPrefixConfig,
        builder: &mut Builder<'_>,
    ) -> Result<Self, PeftError> {
        if config.prefix_length == 0 {
            return Err(setting("prefix_length", "0", "at least 1"));
        }
        if !config.leave_out.is_empty() {
            let value = format!("{:?}", config.leave_out);
            return Err(setting("leave_out", &value, "nothing: a prefix is in all blocks"));
        }
        if !(0.0..1.0).contains(&config.dropout) {
            return Err(setting("dropout", &config.dropout.to_string(), "from 0 to below 1"));
        }
        let attention = &builder.base.config.decoder.attention;
        let width = builder.layers() * 2 * attention.num_kv_heads * attention.head_dim;
        let pool = format!("prefix_tuning.prefix_tunings.{}.self_prefix", builder.adapter);
        let in_block = |builder: &Builder<'_>, layer: usize| {
            let block = builder.block(layer);
            let pool = pool.replace("prefix_tuning.", "prefix_tuning.pool.");
            format!("{block}.self_attn.{pool}")
        };
        let whole = format!("{}.{pool}", builder.model());
        // The library writes the same tensors for the model and for each block; older files have only
        // those of the blocks.
        let first_tensor = if config.flat { ".control_trans" } else { ".wte.weight" };
        let path = match builder.has(&format!("{whole}{first_tensor}")) {
            true => whole,
            false => in_block(builder, 0),
        };
        let before = builder.tensors.trained.len();
        let encoder = Encoder::new(config, (&path, width), builder)?;
        let mut copies = Vec::new();
        for parameter in &builder.tensors.trained[before..] {
            let Some(name) = parameter.name().strip_prefix(&path) else { continue };
            let places = (0..builder.layers()).map(|layer| in_block(builder, layer));
            let names = places.map(|place| format!("{place}{name}"));
            let others = names.filter(|copy| copy != parameter.name());
            copies.extend(others.map(|copy| (copy, Arc::clone(parameter))));
        }
        builder.tensors.copies.extend(copies);
        let mut gates = Vec::new();
        for layer in (0..builder.layers()).filter(|_| config.use_gating) {
            let block = builder.block(layer);
            let path = format!("{block}.self_attn.prefix_tuning.prefix_gates.{}", builder.adapter);
            let outputs = if config.shared_gating { 1 } else { 2 };
            gates.push(Gate::new(&path, [outputs, builder.hidden()], LinearInit::Gate, builder)?);
        }
        Ok(Self {
            len: config.prefix_length,
            width,
            encoder,
            gates,
            dropout: config.dropout as f32,
            seed: seed_of(&path),
        })
    }
}

impl Encoder {
    fn new(
        config: &HubPrefixConfig,
        (path, width): (&str, usize),
        builder: &mut Builder<'_>,
    ) -> Result<Self, PeftError> {
        let (len, hidden) = (config.prefix_length, builder.hidden());
        if config.flat {
            let name = format!("{path}.control_trans");
            let Some(values) = len.checked_mul(width) else {
                return Err(setting("prefix_length", &len.to_string(), "a number of keys"));
            };
            return Ok(Encoder::Flat(builder.trained(&name, &[values], Init::Normal(1.0))?));
        }
        let inner = config.bottleneck_size;
        let name = format!("{path}.wte.weight");
        let embeddings = builder.trained(&name, &[len, hidden], Init::Normal(1.0))?;
        let mut layer = |name: &str, shape| {
            let path = format!("{path}.control_trans.{name}");
            let (weight, bias) = builder.linear(&path, shape, LinearInit::PyTorch)?;
            Ok::<_, PeftError>((Arc::new(Weight::Trained(weight)), Vector::Trained(bias)))
        };
        Ok(Encoder::Network {
            embeddings,
            first: layer("0", [inner, hidden])?,
            activation: config.non_linearity,
            second: layer("2", [width, inner])?,
        })
    }
}

impl PrefixAdapter for HubPrefix {
    fn len(&self) -> usize {
        self.len
    }

    fn encode(&self, pass: &Pass) -> Result<Value, NnError> {
        let kv = match &self.encoder {
            Encoder::Flat(parameter) => {
                let (kv, shape) = (pass.parameter(parameter)?, (self.len, self.width));
                Value::by_candle(&[&kv], move |t| t[0].reshape(shape))?
            }
            Encoder::Network { embeddings, first, activation, second } => {
                let x = pass.parameter(embeddings)?; // [P, C]
                let apply = |x: &Value, (weight, bias): &(Arc<Weight>, Vector)| {
                    add_bias(&linear(x, weight, pass.precision)?, bias)
                };
                let hidden = activation.forward(&apply(&x, first)?)?; // [P, inner]
                apply(&hidden, second)?
            }
        }; // [P, L·2·K·D]
        match pass.seed {
            Some(seed) if self.dropout > 0.0 => dropout(&kv, self.dropout, seed ^ self.seed),
            _ => Ok(kv),
        }
    }

    fn for_input(
        &self,
        layer: usize,
        kv: &Value,
        x: &Value,
        pass: &Pass,
    ) -> Result<Option<Value>, NnError> {
        let Some(gate) = self.gates.get(layer) else { return Ok(None) };
        let rows = sequences(x, pass)?;
        let gates = gate.of(x, pass)?; // [B, 1] or [B, 2]
        let own = Value::by_candle(&[kv, &gates], move |t| {
            let (len, width) = t[0].dims2()?;
            let parts = t[1].dim(1)?;
            let kv = t[0].reshape((1, len, parts, width / parts))?;
            let gated = kv.broadcast_mul(&t[1].reshape((rows, 1, parts, 1))?)?;
            gated.reshape((rows * len, width)) // [B·P, 2·K·D]
        })?;
        Ok(Some(own))
    }
}
