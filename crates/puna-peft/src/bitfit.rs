//! BitFit (arXiv:2106.10199): only biases are trained.
//!
//! Models of the Llama family have none, or few; where there are none at all, every linear layer but
//! the head gets one of zeros. No library has a format for it: the file holds the values that replace
//! the base's, under the names of the base checkpoint.

use std::path::Path;
use std::sync::Arc;

use puna_nn::{AdapterSet, Parameter, Slot, Vector};
use serde::{Deserialize, Serialize};

use crate::files::{Tensors, read_json};
use crate::{Base, Files, Method, Module, PeftError, SavedTensor, Targets, Trained};

/// BitFit's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BitFitConfig {
    /// Layers whose bias is trained, with a new one of zeros where a layer has none. If absent: the
    /// layers that have a bias; all but the head if none has.
    pub target_modules: Option<Targets>,
}

/// BitFit on a model.
#[derive(Debug)]
pub(crate) struct BitFit {
    biases: Vec<(Slot, Arc<Parameter>)>,
}

/// The configuration's file.
pub(crate) const CONFIG: &str = "bitfit_config.json";

/// The file of the values.
pub(crate) const TENSORS: &str = "bitfit.safetensors";

fn name_of(module: &Module<'_>) -> String {
    format!("{}.bias", module.path)
}

impl BitFit {
    /// Copies of what the model has, or zeros.
    pub(crate) fn new(config: &BitFitConfig, base: &Base<'_>) -> Result<Self, PeftError> {
        let modules = match &config.target_modules {
            Some(targets) => targets.of(base)?,
            None => {
                let all = base.modules();
                let any = all.iter().any(|module| module.linear.bias().is_some());
                let meant = |module: &Module<'_>| match any {
                    true => module.linear.bias().is_some(),
                    false => module.slot != Slot::Head,
                };
                all.into_iter().filter(meant).collect()
            }
        };
        let mut biases = Vec::new();
        for module in modules {
            refuse_head(&module)?;
            let values = match module.linear.bias() {
                Some(bias) => bias.with(<[f32]>::to_vec)?,
                None => vec![0.0; module.shape().0],
            };
            let parameter = Parameter::new(name_of(&module), &[values.len()], values);
            biases.push((module.slot, Arc::new(parameter)));
        }
        Ok(Self { biases })
    }

    /// From a folder.
    pub(crate) fn load(dir: &Path, base: &Base<'_>) -> Result<Self, PeftError> {
        let path = dir.join(CONFIG);
        let json = read_json(&path)?;
        for (field, expected) in [("method", "bitfit"), ("values", "replacement")] {
            let found = json.get(field).and_then(serde_json::Value::as_str);
            if found != Some(expected) {
                let problem = format!("{field} is {found:?}, expected {expected}");
                return Err(PeftError::Config { path, problem });
            }
        }
        let tensors = Tensors::open(dir, &[TENSORS])?;
        let mut unknown = tensors.names();
        let mut biases = Vec::new();
        for module in base.modules() {
            let name = name_of(&module);
            if !tensors.has(&name) {
                continue;
            }
            refuse_head(&module)?;
            let shape = [module.shape().0];
            let values = tensors.values(&name, &shape)?;
            unknown.retain(|other| *other != name);
            biases.push((module.slot, Arc::new(Parameter::new(name, &shape, values))));
        }
        match unknown.into_iter().next() {
            None => Ok(Self { biases }),
            Some(tensor) => {
                let problem = "is no bias of a linear layer of the model".to_owned();
                Err(PeftError::Tensor { path: tensors.path, tensor, problem })
            }
        }
    }
}

/// The head's products are fused with the loss, which knows no bias.
fn refuse_head(module: &Module<'_>) -> Result<(), PeftError> {
    if module.slot != Slot::Head {
        return Ok(());
    }
    let (value, expected) = (module.path.clone(), "layers other than the head".to_owned());
    Err(PeftError::Setting { key: "target_modules", value, expected })
}

impl Method for BitFit {
    fn name(&self) -> &'static str {
        "bitfit"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        if (scale - 1.0).abs() > f32::EPSILON {
            let problem = format!("BitFit replaces biases and has scale 1 only, not {scale}");
            return Err(PeftError::Combination { problem });
        }
        for (slot, parameter) in &self.biases {
            let adapted = set.linears.entry(*slot).or_default();
            if adapted.bias.replace(Vector::Trained(Arc::clone(parameter))).is_some() {
                let problem = "two adapters replace the same bias".to_owned();
                return Err(PeftError::Combination { problem });
            }
        }
        Ok(())
    }

    fn trained(&self) -> Vec<Trained> {
        self.biases.iter().map(|(_, parameter)| Trained::new(parameter)).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let config = serde_json::json!({
            "method": "bitfit",
            "base_model_name_or_path": null,
            "values": "replacement",
        });
        let tensors = self.biases.iter().map(|(_, p)| SavedTensor::of(p.name(), p)).collect();
        Ok(Files { config: (CONFIG, config), tensors: (TENSORS, tensors), more: Vec::new() })
    }
}
