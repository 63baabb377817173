//! LoRA (arXiv:2106.09685) and (IA)³ (arXiv:2205.05638) as AdapterHub writes them.
//!
//! Beside peft's there is a gate (UniPELT), which takes the place of the factor `α / r`, and (IA)³
//! multiplies the output of the feed-forward part's last layer, where the paper has its input.

use std::sync::Arc;

use puna_kernels::{Elements, MatRef, Write, gemm};
use puna_model::{LayerSlot, Slot};
use puna_nn::ops::{LowRank, dropout, linear, low_rank};
use puna_nn::{Expert, Linear, LinearAdapter, NnError, Parameter, Pass, Value, Weight};

use super::bottleneck::times;
use super::builder::{Builder, Init, LinearInit};
use super::gate::Gate;
use super::settings::{Composition, HubLoraConfig, InitWeights, setting};
use crate::PeftError;
use crate::init::seed_of;

/// What changes one layer.
#[derive(Debug, Clone)]
pub(super) enum HubLora {
    /// `y + g s B A dropout(x)`
    Add { matrices: LowRank, dropout: f32, seed: u64, gate: Option<Gate> },
    /// `y ∘ (g s l)`
    Scale { factors: Arc<Parameter>, scale: f32, gate: Option<Gate> },
}

/// All adapted layers, in the order of the blocks.
pub(super) fn layers(
    config: &HubLoraConfig,
    builder: &mut Builder<'_>,
) -> Result<Vec<(Slot, Arc<HubLora>)>, PeftError> {
    check(config)?;
    let attention = [("q", LayerSlot::Query), ("k", LayerSlot::Key), ("v", LayerSlot::Value)];
    let is_meant = |name: &str| config.attn_matrices.iter().any(|wanted| wanted == name);
    let attention =
        attention.into_iter().filter(|(name, _)| config.selfattn_lora && is_meant(name));
    let mut slots: Vec<LayerSlot> = attention.map(|(_, slot)| slot).collect();
    slots.extend(config.output_lora.then_some(LayerSlot::Up(Expert::Dense)));
    slots.extend(config.intermediate_lora.then_some(LayerSlot::Down(Expert::Dense)));
    let mut all = Vec::new();
    for layer in (0..builder.layers()).filter(|layer| !config.leave_out.contains(layer)) {
        for &slot in &slots {
            let Some(module) = builder.module(layer, slot).cloned() else {
                return Err(PeftError::NoTarget {
                    targets: format!("{slot:?}"),
                    known: "that place only in a fused layer or among experts".to_owned(),
                });
            };
            let path = format!("{}.loras.{}", module.path, builder.adapter);
            let adapter = HubLora::new(config, &path, module.shape(), builder)?;
            all.push((module.slot, Arc::new(adapter)));
        }
    }
    Ok(all)
}

fn check(config: &HubLoraConfig) -> Result<(), PeftError> {
    if config.r == 0 {
        return Err(setting("r", "0", "at least 1"));
    }
    if !(0.0..1.0).contains(&config.dropout) {
        return Err(setting("dropout", &config.dropout.to_string(), "from 0 to below 1"));
    }
    if let Some(other) =
        config.attn_matrices.iter().find(|m| !["q", "k", "v"].contains(&m.as_str()))
    {
        return Err(setting("attn_matrices", other, "q, k or v"));
    }
    if config.composition_mode == Composition::Scale && config.r != 1 {
        return Err(setting("r", &config.r.to_string(), "1, where composition_mode is scale"));
    }
    Ok(())
}

impl HubLora {
    fn new(
        config: &HubLoraConfig,
        path: &str,
        (out, width): (usize, usize),
        builder: &mut Builder<'_>,
    ) -> Result<Self, PeftError> {
        let rank = config.r;
        let (first, second) = match config.init_weights {
            InitWeights::Lora => (Init::linear(width), Init::Constant(0.0)),
            InitWeights::Bert => (Init::Normal(0.02), Init::Normal(0.02)),
            InitWeights::Ia3 => (Init::Constant(1.0), Init::Constant(1.0)),
            InitWeights::MamAdapter => {
                return Err(setting("init_weights", "mam_adapter", "lora, bert or ia3"));
            }
        };
        let scale = (config.alpha / rank as f64) as f32;
        // With a gate the library leaves the factor α / r out.
        let scale = if config.use_gating { 1.0 } else { scale };
        let (a, b) = (format!("{path}.lora_A"), format!("{path}.lora_B"));
        match config.composition_mode {
            Composition::Add => {
                let a = builder.trained(&a, &[rank, width], first)?;
                let b = builder.trained(&b, &[out, rank], second)?;
                let gate = gate(config, path, width, builder)?;
                let matrices = LowRank { a, b, scale };
                let dropout = config.dropout as f32;
                Ok(HubLora::Add { matrices, dropout, seed: seed_of(path), gate })
            }
            Composition::Scale => {
                let factors = builder.trained(&b, &[out, 1], second)?;
                let gate = gate(config, path, width, builder)?;
                Ok(HubLora::Scale { factors, scale, gate })
            }
        }
    }

    /// What it adds, times a number; `None` where it multiplies.
    pub(super) fn scaled(&self, by: f32) -> Option<Self> {
        match self {
            HubLora::Add { matrices, dropout, seed, gate } => {
                let matrices = LowRank { scale: matrices.scale * by, ..matrices.clone() };
                let (dropout, seed, gate) = (*dropout, *seed, gate.clone());
                Some(HubLora::Add { matrices, dropout, seed, gate })
            }
            HubLora::Scale { .. } => ((by - 1.0).abs() <= f32::EPSILON).then(|| self.clone()),
        }
    }

    /// `g s B A x`, `[N, out]`.
    fn gated(
        of: &LowRank,
        gate: &Gate,
        (dropped, x): (&Value, &Value),
        pass: &Pass,
    ) -> Result<Value, NnError> {
        let weight = |parameter: &Arc<Parameter>| Arc::new(Weight::Trained(Arc::clone(parameter)));
        let inner = linear(dropped, &weight(&of.a), pass.precision)?; // [N, R]
        let delta = linear(&inner, &weight(&of.b), pass.precision)?; // [N, out]
        let gated = gate.scale(&delta, x, pass)?;
        match (of.scale - 1.0).abs() <= f32::EPSILON {
            true => Ok(gated),
            false => times(&gated, of.scale),
        }
    }
}

fn gate(
    config: &HubLoraConfig,
    path: &str,
    width: usize,
    builder: &mut Builder<'_>,
) -> Result<Option<Gate>, PeftError> {
    match config.use_gating {
        true => {
            Ok(Some(Gate::new(&format!("{path}.gate"), [1, width], LinearInit::Gate, builder)?))
        }
        false => Ok(None),
    }
}

impl LinearAdapter for HubLora {
    fn output(&self, x: &Value, y: Value, _layer: &Linear, pass: &Pass) -> Result<Value, NnError> {
        match self {
            HubLora::Add { matrices, dropout: share, seed, gate } => {
                let dropped = match pass.seed {
                    Some(of_pass) if *share > 0.0 => dropout(x, *share, of_pass ^ seed)?,
                    _ => x.clone(),
                };
                match gate {
                    None => low_rank(&dropped, y, matrices, pass.precision),
                    Some(gate) => y.add(&Self::gated(matrices, gate, (&dropped, x), pass)?),
                }
            }
            HubLora::Scale { factors, scale, gate } => {
                let (factors, scale) = (pass.parameter(factors)?, f64::from(*scale));
                let y = Value::by_candle(&[&y, &factors], move |t| {
                    t[0].broadcast_mul(&(t[1].reshape((1, ()))? * scale)?)
                })?;
                match gate {
                    None => Ok(y),
                    Some(gate) => gate.scale(&y, x, pass),
                }
            }
        }
    }

    fn low_rank(&self, pass: &Pass) -> Option<&LowRank> {
        match self {
            HubLora::Add { matrices, dropout, gate: None, .. }
                if pass.seed.is_none() || *dropout == 0.0 =>
            {
                Some(matrices)
            }
            _ => None,
        }
    }

    fn merge(&self, weight: &mut [f32], bias: Option<&mut [f32]>) -> Result<bool, NnError> {
        match self {
            HubLora::Add { matrices: LowRank { a, b, scale }, gate: None, .. } => {
                let (rank, width) = (a.shape()[0], a.shape()[1]);
                let b: Vec<f32> = b.values().iter().map(|b| b * scale).collect();
                let a = a.values();
                let operands = (MatRef::rows(&b, rank), MatRef::rows(&a, width));
                let shape = (b.len() / rank, width, rank);
                gemm(shape, operands, (weight, width), Write::Add, Elements::F32);
                Ok(true)
            }
            HubLora::Scale { factors, scale, gate: None } => {
                let factors: Vec<f32> = factors.values().iter().map(|l| l * scale).collect();
                let width = weight.len() / factors.len().max(1);
                for (row, factor) in weight.chunks_mut(width.max(1)).zip(&factors) {
                    row.iter_mut().for_each(|w| *w *= factor);
                }
                if let Some(bias) = bias {
                    bias.iter_mut().zip(&factors).for_each(|(b, factor)| *b *= factor);
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
