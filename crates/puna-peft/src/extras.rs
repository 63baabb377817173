//! What peft trains beside a method: biases, and modules as a whole.

use std::sync::Arc;

use puna_nn::ops::with_f32;
use puna_nn::{AdapterSet, Parameter, Slot, Vector, Weight};

use crate::files::Tensors;
use crate::lora::key;
use crate::{Base, Bias, PeftError, SavedTensor, Trained, matches_module};

/// What is wanted.
pub(crate) struct ExtrasConfig {
    pub(crate) bias: Bias,
    pub(crate) modules_to_save: Vec<String>,
    /// Paths of adapted layers.
    pub(crate) adapted: Vec<String>,
}

/// Replaced biases and weights.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    biases: Vec<(Slot, Arc<Parameter>)>,
    weights: Vec<(Slot, Arc<Parameter>)>,
}

impl Extras {
    /// Copies of what the model has, or from a file.
    pub(crate) fn new(
        config: &ExtrasConfig,
        base: &Base<'_>,
        tensors: Option<&Tensors>,
    ) -> Result<Self, PeftError> {
        let mut extras = Extras::default();
        for module in base.modules() {
            let adapted = config.adapted.contains(&module.path);
            let wanted = match config.bias {
                Bias::None => false,
                Bias::All => true,
                Bias::LoraOnly => adapted,
            };
            let Some(bias) = module.linear.bias().filter(|_| wanted) else { continue };
            let suffix = if adapted { ".base_layer.bias" } else { ".bias" };
            let name = key(&module.path, suffix);
            let values = match tensors {
                Some(tensors) => tensors.values(&name, &[bias.len()])?,
                None => bias.with(<[f32]>::to_vec)?,
            };
            let parameter = Arc::new(Parameter::new(name, &[values.len()], values));
            extras.biases.push((module.slot, parameter));
        }
        for wanted in &config.modules_to_save {
            extras.add_weight(wanted, base, tensors)?;
        }
        Ok(extras)
    }

    fn add_weight(
        &mut self,
        wanted: &str,
        base: &Base<'_>,
        tensors: Option<&Tensors>,
    ) -> Result<(), PeftError> {
        let embedding = base.embedding_path();
        let mut found: Vec<(Slot, String, &Arc<Weight>)> = Vec::new();
        if matches_module(wanted, &embedding) {
            found.push((Slot::Embedding, embedding, base.decoder.embedding().weight()));
        }
        let modules = base.modules();
        let meant = modules.iter().filter(|module| matches_module(wanted, &module.path));
        found.extend(meant.map(|m| (m.slot, m.path.clone(), m.linear.weight())));
        if found.is_empty() {
            return Err(PeftError::Setting {
                key: "modules_to_save",
                value: wanted.to_owned(),
                expected: "linear layers or the embedding of the model".to_owned(),
            });
        }
        for (slot, path, weight) in found {
            let shape = [weight.rows(), weight.cols()];
            let name = key(&path, ".weight");
            let values = match tensors {
                Some(tensors) => tensors.values(&name, &shape)?,
                None => with_f32(&weight.dequantize()?, <[f32]>::to_vec)?,
            };
            self.weights.push((slot, Arc::new(Parameter::new(name, &shape, values))));
        }
        Ok(())
    }

    pub(crate) fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        let nothing = self.biases.is_empty() && self.weights.is_empty();
        let taken = |problem: &str| Err(PeftError::Combination { problem: problem.to_owned() });
        if !nothing && (scale - 1.0).abs() > f32::EPSILON {
            return taken("an adapter with whole modules or biases has scale 1 only");
        }
        for (slot, parameter) in &self.biases {
            let adapted = set.linears.entry(*slot).or_default();
            if adapted.bias.replace(Vector::Trained(Arc::clone(parameter))).is_some() {
                return taken("two adapters replace the same bias");
            }
        }
        for (slot, parameter) in &self.weights {
            let weight = Some(Arc::new(Weight::Trained(Arc::clone(parameter))));
            let before = match slot {
                Slot::Embedding => std::mem::replace(&mut set.embedding_weight, weight),
                _ => std::mem::replace(&mut set.linears.entry(*slot).or_default().weight, weight),
            };
            if before.is_some() {
                return taken("two adapters replace the same module");
            }
        }
        Ok(())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.biases.is_empty() && self.weights.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.biases.iter().chain(&self.weights).map(|(_, parameter)| parameter)
    }

    pub(crate) fn trained(&self) -> Vec<Trained> {
        self.all().map(Trained::new).collect()
    }

    pub(crate) fn saved(&self) -> Vec<SavedTensor> {
        self.all().map(|parameter| SavedTensor::of(parameter.name(), parameter)).collect()
    }
}
