//! AdaLoRA (arXiv:2303.10512): `ΔW = P Λ Q` with singular values `Λ` that are pruned in training, so
//! that important layers keep a higher rank.
//!
//! In peft's words `P` is `lora_B`, `Λ` `lora_E` and `Q` `lora_A`. Its scale is
//! `α / (init_r + 1e-5)`, whatever the rank is after pruning: so it is here.

mod allocator;
mod layer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use puna_nn::{AdapterSet, Parameter, Slot};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::extras::{Extras, ExtrasConfig};
use crate::files::Tensors;
use crate::init::Random;
use crate::json::{known_fields, peft_config};
use crate::lora::{is_meant, key};
use crate::{Base, Bias, Files, Method, Module, PeftError, SavedTensor, Targets, Trained};
use allocator::{Allocator, Importance, OfLayer};
use layer::{AdaLoraLayer, Triplets};

/// AdaLoRA's settings, in peft's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaLoraConfig {
    /// Rank of every layer at first.
    pub init_r: usize,
    /// Mean rank at last.
    pub target_r: usize,
    /// Updates before pruning begins.
    pub tinit: u64,
    /// Updates after the last pruning.
    pub tfinal: u64,
    /// Updates between two prunings.
    #[serde(rename = "deltaT")]
    pub delta_t: u64,
    /// Smoothing of the sensitivity (eq. 9).
    pub beta1: f32,
    /// Smoothing of the uncertainty (eq. 10).
    pub beta2: f32,
    /// Factor of the orthogonality term (`γ`, eq. 8 and 12).
    pub orth_reg_weight: f64,
    /// Updates of the whole training; those of the run if absent.
    pub total_step: Option<u64>,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Share of the input's values that is left out in training.
    pub lora_dropout: f64,
    /// Adapted layers.
    pub target_modules: Targets,
    /// Layers that are not adapted although they are targets.
    pub exclude_modules: Option<Targets>,
    /// Numbers of the adapted blocks; all if absent.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Name before the block's number in paths.
    pub layers_pattern: Option<String>,
    /// Trained biases.
    pub bias: Bias,
    /// Modules that are trained as a whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Which of a layer's singular values are left, by the name of its `lora_E`; a result.
    pub rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
}

impl Default for AdaLoraConfig {
    fn default() -> Self {
        Self {
            init_r: 12,
            target_r: 8,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            total_step: None,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Targets::names(&["q_proj", "v_proj"]),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            bias: Bias::None,
            modules_to_save: None,
            rank_pattern: None,
        }
    }
}

impl AdaLoraConfig {
    fn check(&self) -> Result<(), PeftError> {
        let setting = |key, value: String, expected: &str| {
            Err(PeftError::Setting { key, value, expected: expected.to_owned() })
        };
        if self.init_r == 0 {
            return setting("init_r", "0".to_owned(), "at least 1");
        }
        if self.target_r > self.init_r {
            return setting("target_r", self.target_r.to_string(), "at most init_r");
        }
        if self.delta_t == 0 {
            return setting("deltaT", "0".to_owned(), "at least 1");
        }
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                return setting(key, beta.to_string(), "between 0 and 1");
            }
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return setting("lora_dropout", self.lora_dropout.to_string(), "from 0 to below 1");
        }
        match self.total_step {
            Some(total) if self.tinit + self.tfinal >= total => {
                setting("total_step", total.to_string(), "more than tinit + tfinal")
            }
            _ => Ok(()),
        }
    }

    /// `α / (init_r + 1e-5)`; peft takes an `α` that is not positive as `init_r`.
    fn scale(&self) -> f32 {
        let rank = self.init_r as f64;
        let alpha = if self.lora_alpha > 0.0 { self.lora_alpha } else { rank };
        (alpha / (rank + 1e-5)) as f32
    }
}

/// AdaLoRA on a model.
#[derive(Debug)]
pub(crate) struct AdaLora {
    config: AdaLoraConfig,
    layers: Vec<(String, Slot, Arc<AdaLoraLayer>)>,
    allocator: Mutex<Allocator>,
    extras: Extras,
}

impl AdaLora {
    /// Singular values of zero between random vectors.
    pub(crate) fn new(
        config: &AdaLoraConfig,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        let mut random = Random::new(seed);
        let r = config.init_r;
        let fresh = |_: &Module<'_>, (out, width): (usize, usize)| {
            Ok(Values {
                a: random.normal(r * width, 0.02),
                e: vec![0.0; r],
                b: random.normal(out * r, 0.02),
                kept: None,
                importance: OfLayer::default(),
            })
        };
        Self::build(config, base, None, fresh)
    }

    /// From a folder of peft's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, serde_json::Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let path = dir.join("adapter_config.json");
        let mut json = json.clone();
        // LoRA's rank, which peft writes and does not read, and how the matrices began.
        for unread in ["r", "init_lora_weights"] {
            json.remove(unread);
        }
        let config: AdaLoraConfig = known_fields(&json, &path)?;
        let tensors = Tensors::open(dir, &["adapter_model.safetensors", "adapter_model.bin"])?;
        let patterns: BTreeMap<&str, &Vec<bool>> = config
            .rank_pattern
            .iter()
            .flatten()
            .map(|(name, kept)| (module_of(name), kept))
            .collect();
        if let Some((name, _)) = patterns.iter().find(|(_, kept)| kept.len() != config.init_r) {
            let problem = format!("rank_pattern of {name} does not have init_r values");
            return Err(PeftError::Config { path, problem });
        }
        let state = match dir.join(STATE).is_file() {
            true => Some(Tensors::open(dir, &[STATE])?),
            false => None,
        };
        let from_file = |module: &Module<'_>, shape: (usize, usize)| {
            let kept = patterns.get(module.path.as_str()).copied();
            let pruned = Values::load(&tensors, module, shape, (config.init_r, kept))?;
            match &state {
                None => Ok(pruned),
                Some(state) => pruned.unfinished(state, module, shape),
            }
        };
        Self::build(&config, base, Some(&tensors), from_file)
    }

    fn build(
        config: &AdaLoraConfig,
        base: &Base<'_>,
        tensors: Option<&Tensors>,
        mut values: impl FnMut(&Module<'_>, (usize, usize)) -> Result<Values, PeftError>,
    ) -> Result<Self, PeftError> {
        config.check()?;
        let (r, scale) = (config.init_r, config.scale());
        let (mut layers, mut left, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for module in config.target_modules.of(base)? {
            let (path, of) = (&module.path, config.layers_to_transform.as_deref());
            if !is_meant((path, module.layer()), of, config.exclude_modules.as_ref())? {
                continue;
            }
            let (out, width) = module.shape();
            let Values { a, e, b, kept, importance } = values(&module, (out, width))?;
            let parameter = |suffix, shape: [usize; 2], values| {
                Arc::new(Parameter::new(key(path, suffix), &shape, values))
            };
            let triplets = Triplets {
                a: parameter(".lora_A", [r, width], a),
                e: parameter(".lora_E", [r, 1], e),
                b: parameter(".lora_B", [out, r], b),
            };
            let layer = AdaLoraLayer::new(triplets, (scale, config.lora_dropout as f32), path);
            layers.push((path.clone(), module.slot, Arc::new(layer)));
            left.push(kept);
            states.push(importance);
        }
        let wanted = ExtrasConfig {
            bias: config.bias,
            modules_to_save: config.modules_to_save.clone().unwrap_or_default(),
            adapted: layers.iter().map(|(path, ..)| path.clone()).collect(),
        };
        let extras = Extras::new(&wanted, base, tensors)?;
        let allocator = Mutex::new(Allocator::new(config, left, states));
        Ok(Self { config: config.clone(), layers, allocator, extras })
    }

    fn triplets(&self) -> impl Iterator<Item = &Triplets> {
        self.layers.iter().map(|(_, _, layer)| layer.triplets())
    }

    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The module that an entry of a rank pattern is about. peft names the parameter, older versions with
/// the adapter's name behind it.
fn module_of(name: &str) -> &str {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    name.split_once(".lora_E").map_or(name, |(module, _)| module)
}

/// Values of one layer.
struct Values {
    a: Vec<f32>,
    e: Vec<f32>,
    b: Vec<f32>,
    /// Which singular values are left, once some were pruned.
    kept: Option<Vec<bool>>,
    importance: OfLayer,
}

/// What an unfinished training needs and inference does not: the values of pruned places, which may
/// grow again, and the importance of all.
const STATE: &str = "adalora_state.safetensors";

/// The parts of a layer in the order of [`OfLayer`].
const PARTS: [&str; 3] = [".lora_A", ".lora_E", ".lora_B"];

impl Values {
    /// Pruned matrices get zeros where something was pruned, so that training goes on as it was.
    fn load(
        tensors: &Tensors,
        module: &Module<'_>,
        (out, width): (usize, usize),
        (init_r, kept): (usize, Option<&Vec<bool>>),
    ) -> Result<Self, PeftError> {
        let places: Vec<usize> = match kept {
            None => (0..init_r).collect(),
            Some(kept) => (0..init_r).filter(|&i| kept[i]).collect(),
        };
        let rank = places.len();
        let read =
            |suffix: &str, shape: [usize; 2]| tensors.values(&key(&module.path, suffix), &shape);
        let stored_a = read(".lora_A", [rank, width])?;
        let stored_e = read(".lora_E", [rank, 1])?;
        let stored_b = read(".lora_B", [out, rank])?;
        let (mut a, mut e) = (vec![0.0; init_r * width], vec![0.0; init_r]);
        let mut b = vec![0.0; out * init_r];
        for (from, &to) in places.iter().enumerate() {
            a[to * width..][..width].copy_from_slice(&stored_a[from * width..][..width]);
            e[to] = stored_e[from];
            for row in 0..out {
                b[row * init_r + to] = stored_b[row * rank + from];
            }
        }
        Ok(Self { a, e, b, kept: kept.cloned(), importance: OfLayer::default() })
    }

    /// With what the training had besides.
    fn unfinished(
        self,
        state: &Tensors,
        module: &Module<'_>,
        (out, width): (usize, usize),
    ) -> Result<Self, PeftError> {
        let r = self.e.len();
        let shapes = [[r, width], [r, 1], [out, r]];
        let read = |index: usize, suffix: &str| {
            let name = format!("{}{suffix}", key(&module.path, PARTS[index]));
            state.values(&name, &shapes[index])
        };
        let e = read(1, "")?;
        let kept = |i: usize| self.kept.as_ref().is_none_or(|kept| kept[i]);
        if (0..r).any(|i| kept(i) && e[i].to_bits() != self.e[i].to_bits()) {
            let tensor = key(&module.path, PARTS[1]);
            let problem = "is not that of the adapter beside it".to_owned();
            return Err(PeftError::Tensor { path: state.path.clone(), tensor, problem });
        }
        let mut importance = OfLayer::default();
        for (index, importance) in importance.iter_mut().enumerate() {
            // Absent right after the last pruning.
            if state.has(&format!("{}.sensitivity", key(&module.path, PARTS[index]))) {
                let sensitivity = read(index, ".sensitivity")?;
                *importance = Importance { sensitivity, uncertainty: read(index, ".uncertainty")? };
            }
        }
        Ok(Self { a: read(0, "")?, e, b: read(2, "")?, kept: self.kept, importance })
    }
}

impl Method for AdaLora {
    fn name(&self) -> &'static str {
        "adalora"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        for (_, slot, layer) in &self.layers {
            let adapted = set.linears.entry(*slot).or_default();
            adapted.adapters.push(Arc::new(layer.scaled(scale)));
        }
        self.extras.apply(set, scale)
    }

    fn trained(&self) -> Vec<Trained> {
        let triplets = self.triplets().flat_map(|t| [&t.a, &t.e, &t.b].map(Trained::new));
        triplets.chain(self.extras.trained()).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let allocator = self.allocator();
        let mut config = self.config.clone();
        config.total_step = config.total_step.or(allocator.steps());
        config.rank_pattern = None;
        let (mut tensors, mut state) = (Vec::new(), Vec::new());
        for (index, (path, _, layer)) in self.layers.iter().enumerate() {
            let kept = allocator.kept(index);
            if let Some(kept) = kept {
                let pattern = config.rank_pattern.get_or_insert_default();
                pattern.insert(format!("{path}.lora_E"), kept.to_vec());
            }
            tensors.extend(layer.triplets().saved(kept));
            if let Some(importance) = allocator.unfinished(index) {
                state.extend(state_of(layer.triplets(), importance));
            }
        }
        tensors.extend(self.extras.saved());
        Ok(Files {
            config: ("adapter_config.json", peft_config("ADALORA", &config)),
            tensors: ("adapter_model.safetensors", tensors),
            more: if state.is_empty() { Vec::new() } else { vec![(STATE, state)] },
        })
    }

    /// `γ / n Σ ‖PᵀP − I‖ + ‖QQᵀ − I‖` over the `n` matrices: as the authors' code and peft have it,
    /// with norms where the paper's eq. 8 has their squares.
    fn regularize(&self, weight: f32) -> Result<f64, PeftError> {
        let matrices = 2 * self.layers.len();
        let factor = f64::from(weight) * self.config.orth_reg_weight / matrices as f64;
        Ok(self.triplets().map(|triplets| triplets.regularize(factor)).sum())
    }

    /// As in peft, which refuses to load an adapter that was trained for too few.
    fn check_steps(&self, steps: u64) -> Result<(), PeftError> {
        let AdaLoraConfig { tinit, tfinal, .. } = self.config;
        let total = self.config.total_step.unwrap_or(steps);
        if tinit.saturating_add(tfinal) < total {
            return Ok(());
        }
        Err(PeftError::Setting {
            key: "tinit, tfinal",
            value: format!("{tinit}, {tfinal} of {total} steps"),
            expected: "less than the steps together: ranks are reduced in between".to_owned(),
        })
    }

    fn after_update(&self, step: u64, steps: u64) {
        let triplets: Vec<&Triplets> = self.triplets().collect();
        self.allocator().after_update(&triplets, step, steps);
    }
}

/// A tensor under a parameter's name.
fn saved(parameter: &Parameter, shape: [usize; 2], values: Vec<f32>) -> SavedTensor {
    SavedTensor { name: parameter.name().to_owned(), shape: shape.to_vec(), values }
}

/// A layer's part of [`STATE`].
fn state_of(triplets: &Triplets, importance: &OfLayer) -> Vec<SavedTensor> {
    let mut state = Vec::new();
    for (parameter, of) in [&triplets.a, &triplets.e, &triplets.b].into_iter().zip(importance) {
        state.push(SavedTensor::of(parameter.name(), parameter));
        if of.sensitivity.is_empty() {
            continue;
        }
        for (suffix, values) in [("sensitivity", &of.sensitivity), ("uncertainty", &of.uncertainty)]
        {
            let (name, shape) =
                (format!("{}.{suffix}", parameter.name()), parameter.shape().to_vec());
            state.push(SavedTensor { name, shape, values: values.clone() });
        }
    }
    state
}
