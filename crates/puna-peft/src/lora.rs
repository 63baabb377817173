//! LoRA (arXiv:2106.09685): `y += s B A x` beside a linear layer, with `s = α / r`, or `α / √r`
//! (rsLoRA, arXiv:2312.03732).

mod embedding;
mod layer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use puna_nn::ops::LowRank;
use puna_nn::{AdapterSet, Parameter, Slot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::extras::{Extras, ExtrasConfig};
use crate::files::Tensors;
use crate::init::Random;
use crate::json::{known_fields, peft_config};
use crate::targets::whole;
use crate::{Base, Files, Method, Module, PeftError, SavedTensor, Targets, Trained};
use embedding::LoraEmbedding;
use layer::LoraLayer;

/// Which biases are trained besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All that the model has.
    All,
    /// Those of adapted layers.
    LoraOnly,
}

/// LoRA's settings, in peft's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Share of the input's values that is left out in training.
    pub lora_dropout: f64,
    /// Adapted layers; may name the embedding and the head.
    pub target_modules: Targets,
    /// Layers that are not adapted although they are targets.
    pub exclude_modules: Option<Targets>,
    /// Numbers of the adapted blocks; all if absent.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Name before the block's number in paths.
    pub layers_pattern: Option<String>,
    /// Ranks of modules whose paths end in what a regular expression matches.
    pub rank_pattern: BTreeMap<String, usize>,
    /// The same for `lora_alpha`.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Scale `α / √r` instead of `α / r`.
    pub use_rslora: bool,
    /// Weights are split into magnitude and direction (DoRA, arXiv:2402.09353).
    pub use_dora: bool,
    /// How the matrices begin; `true`: LoRA's own way.
    pub init_lora_weights: Value,
    /// Trained biases.
    pub bias: Bias,
    /// Modules that are trained as a whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Learning rate of `B` over that of `A` (LoRA+, arXiv:2402.12354).
    pub loraplus_lr_ratio: f64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Targets::names(&["q_proj", "v_proj"]),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Value::Bool(true),
            bias: Bias::None,
            modules_to_save: None,
            loraplus_lr_ratio: 1.0,
        }
    }
}

impl LoraConfig {
    /// Rank and scale of a module.
    fn of_module(&self, path: &str) -> Result<(usize, f32), PeftError> {
        let rank = by_pattern(&self.rank_pattern, path)?.unwrap_or(self.r);
        let alpha = by_pattern(&self.alpha_pattern, path)?.unwrap_or(self.lora_alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / divisor) as f32))
    }

    fn check(&self) -> Result<(), PeftError> {
        let setting = |key, value: String, expected: &str| {
            Err(PeftError::Setting { key, value, expected: expected.to_owned() })
        };
        if self.r == 0 || self.rank_pattern.values().any(|&r| r == 0) {
            return setting("r", "0".to_owned(), "at least 1");
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            let value = self.lora_dropout.to_string();
            return setting("lora_dropout", value, "from 0 to below 1");
        }
        Ok(())
    }

    fn is_meant(&self, path: &str, layer: Option<usize>) -> Result<bool, PeftError> {
        if let (Some(layers), Some(layer)) = (&self.layers_to_transform, layer)
            && !layers.contains(&layer)
        {
            return Ok(false);
        }
        if self.layers_to_transform.is_some() && layer.is_none() {
            return Ok(false);
        }
        match &self.exclude_modules {
            Some(excluded) => Ok(!excluded.has(path)?),
            None => Ok(true),
        }
    }
}

/// The value of the first pattern that matches the end of a path.
fn by_pattern<T: Copy>(patterns: &BTreeMap<String, T>, path: &str) -> Result<Option<T>, PeftError> {
    for (pattern, value) in patterns {
        if whole(&format!(r"(?:.*\.)?(?:{pattern})"))?.is_match(path) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// LoRA on a model.
#[derive(Debug)]
pub(crate) struct Lora {
    config: LoraConfig,
    layers: Vec<(String, Slot, Arc<LoraLayer>)>,
    embedding: Option<(String, Arc<LoraEmbedding>)>,
    extras: Extras,
}

/// Where the matrices come from.
enum Source<'a> {
    Random(Random),
    File(&'a Tensors),
}

impl Lora {
    /// Fresh matrices: `B` is zero.
    pub(crate) fn new(config: &LoraConfig, base: &Base<'_>, seed: u64) -> Result<Self, PeftError> {
        Self::build(config, base, Source::Random(Random::new(seed)))
    }

    /// From a folder of peft's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let config: LoraConfig = known_fields(json, &dir.join("adapter_config.json"))?;
        let tensors = Tensors::open(dir, &["adapter_model.safetensors", "adapter_model.bin"])?;
        Self::build(&config, base, Source::File(&tensors))
    }

    fn build(
        config: &LoraConfig,
        base: &Base<'_>,
        mut source: Source<'_>,
    ) -> Result<Self, PeftError> {
        config.check()?;
        let mut layers = Vec::new();
        for module in config.target_modules.of(base)? {
            if config.is_meant(&module.path, module.layer())? {
                let layer = layer_of(config, &module, &mut source)?;
                layers.push((module.path.clone(), module.slot, Arc::new(layer)));
            }
        }
        let path = base.embedding_path();
        let embedding = match config.target_modules.has(&path)? && config.is_meant(&path, None)? {
            true => {
                let (rank, scale) = config.of_module(&path)?;
                let sizes = &base.config.decoder;
                let shapes = ([rank, sizes.vocab_size], [sizes.hidden_size, rank]);
                let parameters = matrices(
                    &path,
                    (".lora_embedding_A", ".lora_embedding_B"),
                    shapes,
                    &mut source,
                    // The other way round: the embedding's A is zero.
                    true,
                )?;
                Some((path, Arc::new(LoraEmbedding::new(parameters, scale))))
            }
            false => None,
        };
        let wanted = ExtrasConfig {
            bias: config.bias,
            modules_to_save: config.modules_to_save.clone().unwrap_or_default(),
            adapted: layers.iter().map(|(path, ..)| path.clone()).collect(),
        };
        let tensors = match source {
            Source::Random(_) => None,
            Source::File(tensors) => Some(tensors),
        };
        let extras = Extras::new(&wanted, base, tensors)?;
        Ok(Self { config: config.clone(), layers, embedding, extras })
    }
}

fn layer_of(
    config: &LoraConfig,
    module: &Module<'_>,
    source: &mut Source<'_>,
) -> Result<LoraLayer, PeftError> {
    let (rank, scale) = config.of_module(&module.path)?;
    let (out, width) = module.shape();
    let shapes = ([rank, width], [out, rank]);
    let names = (".lora_A.weight", ".lora_B.weight");
    let (a, b) = matrices(&module.path, names, shapes, source, false)?;
    Ok(LoraLayer::new(LowRank { a, b, scale }, config.lora_dropout as f32, &module.path))
}

/// Key of a tensor in peft's files.
pub(crate) fn key(path: &str, suffix: &str) -> String {
    format!("base_model.model.{path}{suffix}")
}

type Pair = (Arc<Parameter>, Arc<Parameter>);

/// `A` and `B`: random and zero (`swapped`: zero and normal), or from a file.
fn matrices(
    path: &str,
    suffixes: (&str, &str),
    shapes: ([usize; 2], [usize; 2]),
    source: &mut Source<'_>,
    swapped: bool,
) -> Result<Pair, PeftError> {
    let (first, second) = (key(path, suffixes.0), key(path, suffixes.1));
    let sizes = (shapes.0.iter().product(), shapes.1.iter().product());
    let (a, b) = match source {
        Source::File(tensors) => {
            (tensors.values(&first, &shapes.0)?, tensors.values(&second, &shapes.1)?)
        }
        Source::Random(random) if swapped => (vec![0.0; sizes.0], random.normal(sizes.1, 1.0)),
        // kaiming_uniform_(a = √5), as peft and LoRA's own code have it.
        Source::Random(random) => {
            let bound = 1.0 / (shapes.0[1] as f32).sqrt();
            (random.uniform(sizes.0, bound), vec![0.0; sizes.1])
        }
    };
    let parameter =
        |name, shape: [usize; 2], values| Arc::new(Parameter::new(name, &shape, values));
    Ok((parameter(first, shapes.0, a), parameter(second, shapes.1, b)))
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        for (_, slot, layer) in &self.layers {
            let adapted = set.linears.entry(*slot).or_default();
            adapted.adapters.push(Arc::new(layer.scaled(scale)));
        }
        if let Some((_, embedding)) = &self.embedding {
            if set.embedding.is_some() {
                let problem = "two adapters change the embedding".to_owned();
                return Err(PeftError::Combination { problem });
            }
            set.embedding = Some(Arc::new(embedding.scaled(scale)));
        }
        self.extras.apply(set, scale)
    }

    fn trained(&self) -> Vec<Trained> {
        let ratio = self.config.loraplus_lr_ratio;
        let mut all = Vec::new();
        for (_, _, layer) in &self.layers {
            all.push(Trained::new(&layer.matrices().a));
            all.push(Trained { lr_factor: ratio, ..Trained::new(&layer.matrices().b) });
        }
        if let Some((_, embedding)) = &self.embedding {
            all.extend(embedding.parameters().map(Trained::new));
        }
        all.extend(self.extras.trained());
        all
    }

    fn files(&self) -> Result<Files, PeftError> {
        let saved = |parameter: &Parameter| SavedTensor::of(parameter.name(), parameter);
        let matrices = self.layers.iter().flat_map(|(_, _, layer)| {
            let LowRank { a, b, .. } = layer.matrices();
            [saved(a), saved(b)]
        });
        let embedding = self.embedding.iter().flat_map(|(_, e)| e.parameters().map(|p| saved(p)));
        let tensors = matrices.chain(embedding).chain(self.extras.saved()).collect();
        let mut config = peft_config("LORA", &self.config);
        if let Some(fields) = config.as_object_mut() {
            fields.remove("loraplus_lr_ratio");
        }
        Ok(Files {
            config: ("adapter_config.json", config),
            tensors: ("adapter_model.safetensors", tensors),
            more: Vec::new(),
        })
    }
}
