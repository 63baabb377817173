//! LoRA (arXiv:2106.09685): `y += s B A x` beside a linear layer, with `s = α / r`, or `α / √r`
//! (rsLoRA, arXiv:2312.03732).

mod dora;
mod embedding;
mod layer;
mod loftq;
mod start;

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
use dora::Dora;
use embedding::LoraEmbedding;
use layer::{Initial, LoraLayer, add_product};
use start::{Start, dense, leading};

pub use loftq::{LoftQ, loftq, loftq_from};

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
    /// How the matrices begin: `true` (LoRA's own way), `false` (both random), `gaussian`, `pissa`,
    /// `pissa_niter_N`, `loftq`.
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
        let start = Start::parse(&self.init_lora_weights)?;
        if self.use_dora && matches!(start, Start::Pissa { .. }) {
            return setting("use_dora", "true".to_owned(), "false beside pissa");
        }
        Ok(())
    }

    /// What peft reads where matrices had begun as a part of the base: twice the rank, the same scale.
    fn twice_the_rank(&self) -> Self {
        let factor = if self.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
        let mut config = self.clone();
        config.r *= 2;
        config.lora_alpha *= factor;
        config.rank_pattern.values_mut().for_each(|r| *r *= 2);
        config.alpha_pattern.values_mut().for_each(|alpha| *alpha *= factor);
        config.init_lora_weights = Value::Bool(true);
        config
    }

    fn is_meant(&self, path: &str, layer: Option<usize>) -> Result<bool, PeftError> {
        let layers = self.layers_to_transform.as_deref();
        is_meant((path, layer), layers, self.exclude_modules.as_ref())
    }
}

/// Whether a target is adapted: in one of some blocks, and not excluded.
pub(crate) fn is_meant(
    (path, layer): (&str, Option<usize>),
    layers: Option<&[usize]>,
    excluded: Option<&Targets>,
) -> Result<bool, PeftError> {
    if let Some(layers) = layers
        && !layer.is_some_and(|layer| layers.contains(&layer))
    {
        return Ok(false);
    }
    match excluded {
        Some(excluded) => Ok(!excluded.has(path)?),
        None => Ok(true),
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
    Random(Box<Random>),
    /// LoftQ's way: weights of the same model as they were before they were quantized.
    Original(Base<'a>),
    File(&'a Tensors),
    /// A file with twice the rank: behind the matrices is what they began as.
    Converted(&'a Tensors),
}

/// Where a configuration of twice the rank keeps that of the training; peft passes over it.
const BEFORE: &str = "puna_before_conversion";

impl Lora {
    /// Fresh matrices: `B` is zero.
    pub(crate) fn new(config: &LoraConfig, base: &Base<'_>, seed: u64) -> Result<Self, PeftError> {
        Self::build(config, base, Source::Random(Box::new(Random::new(seed))))
    }

    /// What a quantized base has lost, as far as the rank goes.
    pub(crate) fn loftq(
        config: &LoraConfig,
        base: &Base<'_>,
        original: &Base<'_>,
    ) -> Result<Self, PeftError> {
        Self::build(config, base, Source::Original(*original))
    }

    /// From a folder of peft's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let path = dir.join("adapter_config.json");
        let tensors = Tensors::open(dir, &["adapter_model.safetensors", "adapter_model.bin"])?;
        if let Some(Value::Object(before)) = json.get(BEFORE) {
            let config: LoraConfig = known_fields(before, &path)?;
            return Self::build(&config, base, Source::Converted(&tensors));
        }
        let config: LoraConfig = known_fields(json, &path)?;
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
                let mut layer = layer_of(config, &module, &mut source)?;
                if config.use_dora {
                    let dora = dora_of(&module, layer.matrices(), &source)?;
                    layer = layer.with_dora(dora);
                }
                layers.push((module.path.clone(), module.slot, Arc::new(layer)));
            }
        }
        let path = base.embedding_path();
        let embedding = match config.target_modules.has(&path)? && config.is_meant(&path, None)? {
            true => {
                let (rank, scale) = config.of_module(&path)?;
                let sizes = &base.config.decoder;
                let shapes = ([rank, sizes.vocab_size], [sizes.hidden_size, rank]);
                if config.use_dora {
                    let (value, expected) = ("true".to_owned(), "targets without the embedding");
                    let expected = expected.to_owned();
                    return Err(PeftError::Setting { key: "use_dora", value, expected });
                }
                let start = Start::parse(&config.init_lora_weights)?;
                let names = (".lora_embedding_A", ".lora_embedding_B");
                let (a, b) = (key(&path, names.0), key(&path, names.1));
                let values = match &mut source {
                    Source::File(tensors) | Source::Converted(tensors) => {
                        (tensors.values(&a, &shapes.0)?, tensors.values(&b, &shapes.1)?)
                    }
                    Source::Random(random) => start.random(shapes, true, random)?,
                    Source::Original(_) => start.random(shapes, true, &mut Random::new(0))?,
                };
                let parameters =
                    (parameter(a, shapes.0, values.0), parameter(b, shapes.1, values.1));
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
            Source::Random(_) | Source::Original(_) => None,
            Source::File(tensors) | Source::Converted(tensors) => Some(tensors),
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
    let path = module.path.as_str();
    let (a, b) = (key(path, ".lora_A.weight"), key(path, ".lora_B.weight"));
    let start = Start::parse(&config.init_lora_weights)?;
    let weight = module.linear.weight();
    if let Source::Converted(tensors) = source {
        let (values, part) = halves(tensors, (&a, &b), shapes)?;
        let (a, b) = (parameter(a, shapes.0, values.0), parameter(b, shapes.1, values.1));
        let initial = Some(Initial::new(part, rank, scale)?);
        let matrices = LowRank { a, b, scale };
        return Ok(LoraLayer::new(matrices, config.lora_dropout as f32, path).less(initial));
    }
    let part = match start {
        Start::Pissa { iterations } => {
            Some(leading(&dense(weight)?, (out, width), (rank, scale), iterations, path))
        }
        _ => None,
    };
    let values = match (source, &part) {
        (Source::File(tensors) | Source::Converted(tensors), _) => {
            (tensors.values(&a, &shapes.0)?, tensors.values(&b, &shapes.1)?)
        }
        (Source::Original(original), _) => {
            let lost = lost(module, original)?;
            leading(&lost, (out, width), (rank, scale), LOFTQ_ITERATIONS, path)
        }
        (Source::Random(_), Some(part)) => part.clone(),
        (Source::Random(random), None) => start.random(shapes, false, random)?,
    };
    let matrices =
        LowRank { a: parameter(a, shapes.0, values.0), b: parameter(b, shapes.1, values.1), scale };
    let initial = part.map(|part| Initial::new(part, rank, scale)).transpose()?;
    Ok(LoraLayer::new(matrices, config.lora_dropout as f32, path).less(initial))
}

type Matrices = (Vec<f32>, Vec<f32>);

/// The matrices of a file of twice the rank, and what they began as: what [`with_initial`] has put
/// together.
fn halves(
    tensors: &Tensors,
    (a, b): (&str, &str),
    shapes: ([usize; 2], [usize; 2]),
) -> Result<(Matrices, Matrices), PeftError> {
    let ([rank, width], [out, _]) = shapes;
    let mut first_a = tensors.values(a, &[2 * rank, width])?;
    let second_a = first_a.split_off(rank * width);
    let both = tensors.values(b, &[out, 2 * rank])?;
    let rows = || both.chunks_exact(2 * rank);
    let first_b = rows().flat_map(|row| row[..rank].iter().copied()).collect();
    let second_b = rows().flat_map(|row| row[rank..].iter().map(|b| -b)).collect();
    Ok(((first_a, first_b), (second_a, second_b)))
}

/// Iterations of the SVD that LoftQ begins from.
const LOFTQ_ITERATIONS: usize = 16;

/// What quantization has taken from a layer: `W − Q`.
fn lost(module: &Module<'_>, original: &Base<'_>) -> Result<Vec<f32>, PeftError> {
    let same = |other: &Module<'_>| other.slot == module.slot && other.shape() == module.shape();
    let Some(before) = original.modules().into_iter().find(same) else {
        let problem = format!("the original model has no {} of this shape", module.path);
        return Err(PeftError::Combination { problem });
    };
    let mut lost = dense(before.linear.weight())?;
    let quantized = dense(module.linear.weight())?;
    lost.iter_mut().zip(quantized).for_each(|(w, q)| *w -= q);
    Ok(lost)
}

/// The magnitudes of a layer: the norms of its rows, or from a file.
fn dora_of(module: &Module<'_>, of: &LowRank, source: &Source<'_>) -> Result<Dora, PeftError> {
    let (name, shape) = (key(&module.path, ".lora_magnitude_vector"), [module.shape().0]);
    let weight = Arc::clone(module.linear.weight());
    let dora = |values| Dora::new(Arc::new(Parameter::new(name.as_str(), &shape, values)), weight);
    if let Source::File(tensors) | Source::Converted(tensors) = source {
        return Ok(dora(tensors.values(&name, &shape)?));
    }
    let dora = dora(vec![0.0; shape[0]]);
    dora.begin(of)?;
    Ok(dora)
}

fn parameter(name: String, shape: [usize; 2], values: Vec<f32>) -> Arc<Parameter> {
    Arc::new(Parameter::new(name, &shape, values))
}

/// Key of a tensor in peft's files.
pub(crate) fn key(path: &str, suffix: &str) -> String {
    format!("base_model.model.{path}{suffix}")
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        for (_, slot, layer) in &self.layers {
            let adapted = set.linears.entry(*slot).or_default();
            adapted.adapters.push(Arc::new(layer.scaled(scale)?));
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
            all.extend(layer.dora().map(|dora| Trained::new(dora.magnitude())));
        }
        if let Some((_, embedding)) = &self.embedding {
            all.extend(embedding.parameters().map(Trained::new));
        }
        all.extend(self.extras.trained());
        all
    }

    fn low_rank(&self) -> Result<Vec<(Slot, LowRank)>, PeftError> {
        let more = [
            ("weights split by DoRA", self.layers.iter().any(|(_, _, l)| l.dora().is_some())),
            (
                "a weight that is less its beginning (PiSSA)",
                self.layers.iter().any(|(_, _, l)| l.initial().is_some()),
            ),
            ("an adapted embedding", self.embedding.is_some()),
            ("trained biases or whole modules", !self.extras.is_empty()),
        ];
        if let Some((what, _)) = more.iter().find(|(_, there)| *there) {
            let problem = format!("{what}: GGUF has no place for that; merge the adapter instead");
            return Err(PeftError::Combination { problem });
        }
        Ok(self.layers.iter().map(|(_, slot, l)| (*slot, l.matrices().clone())).collect())
    }

    fn files(&self) -> Result<Files, PeftError> {
        let saved = |parameter: &Parameter| SavedTensor::of(parameter.name(), parameter);
        let layers = self.layers.iter().flat_map(|(_, _, layer)| {
            let LowRank { a, b, .. } = layer.matrices();
            let matrices = match layer.initial() {
                None => [saved(a), saved(b)],
                Some(initial) => with_initial(a, b, initial),
            };
            let magnitude = layer.dora().map(|dora| saved(dora.magnitude()));
            matrices.into_iter().chain(magnitude)
        });
        let embedding = self.embedding.iter().flat_map(|(_, e)| e.parameters().map(|p| saved(p)));
        let tensors = layers.chain(embedding).chain(self.extras.saved()).collect();
        let twice = self.layers.iter().any(|(_, _, layer)| layer.initial().is_some());
        let config = if twice { self.config.twice_the_rank() } else { self.config.clone() };
        let mut config = peft_config("LORA", &config);
        if let Some(fields) = config.as_object_mut() {
            // Not peft's; a continued training needs it where it says something.
            if self.config.loraplus_lr_ratio == 1.0 {
                fields.remove("loraplus_lr_ratio");
            }
            if twice {
                fields.insert(BEFORE.to_owned(), serde_json::json!(self.config));
            }
        }
        Ok(Files {
            config: ("adapter_config.json", config),
            tensors: ("adapter_model.safetensors", tensors),
            more: Vec::new(),
        })
    }
}

/// Matrices of twice the rank with the same product as `B A − B₀ A₀`: `[A; A₀]` and `[B, −B₀]`, which
/// peft loads beside the base as it is (its `path_initial_model_for_weight_conversion`).
fn with_initial(a: &Parameter, b: &Parameter, initial: &Initial) -> [SavedTensor; 2] {
    let (rank, width, out) = (a.shape()[0], a.shape()[1], b.shape()[0]);
    let rows = b.values();
    let rows = rows.chunks_exact(rank).zip(initial.b.chunks_exact(rank));
    let rows = rows.flat_map(|(b, first)| b.iter().copied().chain(first.iter().map(|b| -b)));
    let tensor = |p: &Parameter, shape: [usize; 2], values| SavedTensor {
        name: p.name().to_owned(),
        shape: shape.to_vec(),
        values,
    };
    [
        tensor(a, [2 * rank, width], [a.values().as_slice(), &initial.a].concat()),
        tensor(b, [out, 2 * rank], rows.collect()),
    ]
}
