//! IA³ (arXiv:2205.05638): keys, values and the inner activations of the feed-forward part are
//! multiplied by learned vectors, which begin as ones.
//!
//! As in peft, an output is scaled with its bias, and the input of a feed-forward module is scaled
//! instead of its output: `down_proj`'s input is the activation that eq. 1 of the paper scales.

use std::path::Path;
use std::sync::Arc;

use puna_nn::ops::{ColumnScale, scale_columns};
use puna_nn::{AdapterSet, Linear, LinearAdapter, NnError, Parameter, Pass, Slot, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::extras::{Extras, ExtrasConfig};
use crate::files::Tensors;
use crate::json::{known_fields, peft_config};
use crate::lora::key;
use crate::{Base, Bias, Files, Method, PeftError, SavedTensor, Targets, Trained};

/// IA³'s settings, in peft's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3Config {
    /// Scaled layers.
    pub target_modules: Targets,
    /// Layers that are not scaled although they are targets.
    pub exclude_modules: Option<Targets>,
    /// Which of them have their input scaled; the others their output.
    pub feedforward_modules: Targets,
    /// Modules that are trained as a whole.
    pub modules_to_save: Option<Vec<String>>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self {
            target_modules: Targets::names(&["k_proj", "v_proj", "down_proj"]),
            exclude_modules: None,
            feedforward_modules: Targets::names(&["down_proj"]),
            modules_to_save: None,
        }
    }
}

/// What of a layer is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Its input, by `[1, in]`.
    Input,
    /// Its output, by `[out, 1]`.
    Output,
}

/// The vector of one layer.
#[derive(Debug)]
struct Ia3Layer {
    side: Side,
    scale: ColumnScale,
}

/// IA³ on a model.
#[derive(Debug)]
pub(crate) struct Ia3 {
    config: Ia3Config,
    layers: Vec<(Slot, Arc<Ia3Layer>)>,
    extras: Extras,
}

impl Ia3 {
    /// Vectors of ones.
    pub(crate) fn new(config: &Ia3Config, base: &Base<'_>) -> Result<Self, PeftError> {
        Self::build(config, base, None)
    }

    /// From a folder of peft's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, serde_json::Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let config: Ia3Config = known_fields(json, &dir.join("adapter_config.json"))?;
        let tensors = Tensors::open(dir, &["adapter_model.safetensors", "adapter_model.bin"])?;
        Self::build(&config, base, Some(&tensors))
    }

    fn build(
        config: &Ia3Config,
        base: &Base<'_>,
        tensors: Option<&Tensors>,
    ) -> Result<Self, PeftError> {
        let mut layers = Vec::new();
        for module in config.target_modules.of(base)? {
            if let Some(excluded) = &config.exclude_modules
                && excluded.has(&module.path)?
            {
                continue;
            }
            let (out, width) = module.shape();
            let (side, shape) = match config.feedforward_modules.has(&module.path)? {
                true => (Side::Input, [1, width]),
                false => (Side::Output, [out, 1]),
            };
            let name = key(&module.path, ".ia3_l");
            let values = match tensors {
                Some(tensors) => tensors.values(&name, &shape)?,
                None => vec![1.0; shape[0] * shape[1]],
            };
            let factors = Arc::new(Parameter::new(name, &shape, values));
            let scale = ColumnScale { factors, divisor: None };
            layers.push((module.slot, Arc::new(Ia3Layer { side, scale })));
        }
        let modules_to_save = config.modules_to_save.clone().unwrap_or_default();
        let wanted = ExtrasConfig { bias: Bias::None, modules_to_save, adapted: Vec::new() };
        let extras = Extras::new(&wanted, base, tensors)?;
        Ok(Self { config: config.clone(), layers, extras })
    }

    fn parameters(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.layers.iter().map(|(_, layer)| &layer.scale.factors)
    }
}

impl LinearAdapter for Ia3Layer {
    fn input(&self, x: &Value, _pass: &Pass) -> Result<Option<Value>, NnError> {
        match self.side {
            Side::Input => scale_columns(x.clone(), &self.scale, None).map(Some),
            Side::Output => Ok(None),
        }
    }

    fn output(
        &self,
        _x: &Value,
        y: Value,
        _layer: &Linear,
        _pass: &Pass,
    ) -> Result<Value, NnError> {
        match self.side {
            Side::Input => Ok(y),
            Side::Output => scale_columns(y, &self.scale, None),
        }
    }

    fn merge(&self, weight: &mut [f32], bias: Option<&mut [f32]>) -> Result<bool, NnError> {
        let l = self.scale.values();
        if l.is_empty() || !weight.len().is_multiple_of(l.len()) {
            let (what, expected) = ("factors of a merged weight", weight.len());
            return Err(NnError::Shape { what, expected, got: l.len() });
        }
        match self.side {
            Side::Input => {
                let rows = weight.chunks_exact_mut(l.len());
                rows.for_each(|row| row.iter_mut().zip(&l).for_each(|(w, l)| *w *= l));
            }
            Side::Output => {
                let rows = weight.chunks_exact_mut(weight.len() / l.len());
                rows.zip(&l).for_each(|(row, l)| row.iter_mut().for_each(|w| *w *= l));
                let bias = bias.into_iter().flatten();
                bias.zip(&l).for_each(|(b, l)| *b *= l);
            }
        }
        Ok(true)
    }
}

impl Method for Ia3 {
    fn name(&self) -> &'static str {
        "ia3"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        if (scale - 1.0).abs() > f32::EPSILON {
            let problem = format!("IA3 multiplies and has scale 1 only, not {scale}");
            return Err(PeftError::Combination { problem });
        }
        for (slot, layer) in &self.layers {
            set.linears.entry(*slot).or_default().adapters.push(Arc::<Ia3Layer>::clone(layer));
        }
        self.extras.apply(set, scale)
    }

    fn trained(&self) -> Vec<Trained> {
        self.parameters().map(Trained::new).chain(self.extras.trained()).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let vectors = self.parameters().map(|p| SavedTensor::of(p.name(), p));
        Ok(Files {
            config: ("adapter_config.json", peft_config("IA3", &self.config)),
            tensors: ("adapter_model.safetensors", vectors.chain(self.extras.saved()).collect()),
            more: Vec::new(),
        })
    }
}
