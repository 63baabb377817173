//! Adapters of AdapterHub's `adapters` library: bottlenecks, Compacter, prefixes, LoRA, (IA)³, and
//! unions of them.
//!
//! A folder has `adapter_config.json` with `config` (one method, or a union) and `name`, which is a
//! part of its tensors' names, and `adapter.safetensors` or `pytorch_adapter.bin`.

mod activation;
mod bottleneck;
mod builder;
mod compacter;
mod drop;
mod gate;
mod lora;
mod prefix;
mod presets;
mod settings;

pub use activation::NonLinearity;
pub use drop::drop_first_layers;
pub use presets::{BottleneckOptions, MamConfig, UnipeltConfig};
pub use settings::{
    Composition, HubIa3Config, HubLoraConfig, HubPrefixConfig, InitWeights, Reduction, Scaling,
};

use std::path::Path;
use std::sync::Arc;

use puna_config::{Family, ModelConfig};
use puna_model::Slot;
use puna_nn::AdapterSet;
use serde_json::{Map, Value, json};

pub(crate) use bottleneck::{Bottleneck, Projection, Reads, times};
pub(crate) use builder::{Builder, HubTensors, Init, LinearInit, Source};
pub(crate) use drop::draw;
pub(crate) use settings::{BottleneckConfig, PartConfig, union_to_json};

use crate::files::Tensors;
use crate::json::known_fields;
use crate::{Base, Files, Method, PeftError, SavedTensor, Trained};
use lora::HubLora;
use prefix::HubPrefix;

/// What the files of an adapter are called.
pub(crate) const TENSOR_FILES: [&str; 2] = ["adapter.safetensors", "pytorch_adapter.bin"];

/// The format that is written.
const VERSION: &str = "adapters.1.3.0";

/// One method, or several as a union.
#[derive(Debug)]
pub(crate) struct Hub {
    method: &'static str,
    config: Vec<PartConfig>,
    parts: Vec<Part>,
    tensors: HubTensors,
    about: About,
}

#[derive(Debug)]
enum Part {
    Bottlenecks(Vec<Bottleneck>),
    Prefix(Arc<HubPrefix>),
    Lora(Vec<(Slot, Arc<HubLora>)>),
}

/// What `adapter_config.json` says beside the method.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// The adapter's name.
    pub(crate) name: String,
    hidden_size: usize,
    family: Family,
}

impl About {
    pub(crate) fn new(name: &str, model: &ModelConfig) -> Self {
        let hidden_size = model.decoder.hidden_size;
        Self { name: name.to_owned(), hidden_size, family: model.family }
    }

    /// The whole configuration; the model's path is added when it is written.
    pub(crate) fn to_json(&self, config: Value) -> Value {
        let family = format!("{:?}", self.family);
        json!({
            "config": config,
            "hidden_size": self.hidden_size,
            "model_class": format!("{family}ForCausalLM"),
            "model_name": "",
            "model_type": family.to_lowercase(),
            "name": self.name,
            "version": VERSION,
        })
    }
}

impl Hub {
    /// A fresh adapter.
    pub(crate) fn new(
        method: &'static str,
        config: Vec<PartConfig>,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        let source = Source::random(seed);
        Self::build(method, config, 0, Builder::new(base, method, source))
    }

    /// Bottlenecks as a method has them, but for some settings.
    pub(crate) fn of_options(
        (method, config): (&'static str, BottleneckConfig),
        options: &BottleneckOptions,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        let layers = base.config.decoder.num_layers;
        let dropped = options.drop_layers.max(options.drop_random);
        if dropped > layers {
            let expected = format!("at most {layers}, the model's blocks");
            let value = dropped.to_string();
            return Err(PeftError::Setting { key: "drop_layers", value, expected });
        }
        let builder = Builder::new(base, method, Source::random(seed));
        let config = vec![PartConfig::Bottleneck(options.over(config))];
        Self::build(method, config, options.drop_random, builder)
    }

    /// From a folder of AdapterHub's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let path = dir.join("adapter_config.json");
        let wrong =
            |problem: &str| PeftError::Config { path: path.clone(), problem: problem.to_owned() };
        let name = json.get("name").and_then(Value::as_str).ok_or_else(|| wrong("has no name"))?;
        let config = json.get("config").and_then(Value::as_object);
        let config = config.ok_or_else(|| wrong("config is not an object with settings"))?;
        let config = parse_union(config, &path)?;
        let hidden = base.config.decoder.hidden_size;
        if let Some(got) = json.get("hidden_size").and_then(Value::as_u64)
            && got != hidden as u64
        {
            let problem = format!("hidden_size is {got}, the model's is {hidden}");
            return Err(wrong(&problem));
        }
        let tensors = Tensors::open(dir, &TENSOR_FILES)?;
        Self::build(method_of(&config), config, 0, Builder::new(base, name, Source::File(&tensors)))
    }

    pub(crate) fn build(
        method: &'static str,
        config: Vec<PartConfig>,
        drop_random: usize,
        mut builder: Builder<'_>,
    ) -> Result<Self, PeftError> {
        let mut parts = Vec::new();
        for part in &config {
            parts.push(match part {
                PartConfig::Bottleneck(config) => {
                    Part::Bottlenecks(Bottleneck::all(config, drop_random, &mut builder)?)
                }
                PartConfig::Prefix(config) => {
                    Part::Prefix(Arc::new(HubPrefix::new(config, &mut builder)?))
                }
                PartConfig::Lora(config) => Part::Lora(lora::layers(config, &mut builder)?),
            });
        }
        let about = About::new(&builder.adapter, builder.base.config);
        Ok(Self { method, config, parts, tensors: builder.tensors, about })
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> &[PartConfig] {
        &self.config
    }

    /// Its name and model.
    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    /// Its tensors.
    pub(crate) fn tensors(&self) -> &HubTensors {
        &self.tensors
    }

    /// Its bottlenecks; `None` if it has anything else.
    pub(crate) fn bottlenecks(&self) -> Option<&[Bottleneck]> {
        match self.parts.as_slice() {
            [Part::Bottlenecks(all)] => Some(all),
            _ => None,
        }
    }

    /// Whether a token's result depends on tokens behind it.
    pub(crate) fn is_gated(&self) -> bool {
        self.config.iter().any(|part| match part {
            PartConfig::Bottleneck(config) => config.use_gating,
            PartConfig::Prefix(config) => config.use_gating,
            PartConfig::Lora(config) => config.use_gating,
        })
    }
}

impl HubTensors {
    /// Everything under the library's names.
    pub(crate) fn saved(&self) -> Vec<SavedTensor> {
        let own = self.trained.iter().chain(&self.fixed).map(|p| SavedTensor::of(p.name(), p));
        own.chain(self.copies.iter().map(|(name, p)| SavedTensor::of(name, p))).collect()
    }
}

/// The methods of a `config`.
pub(crate) fn parse_union(
    json: &Map<String, Value>,
    path: &Path,
) -> Result<Vec<PartConfig>, PeftError> {
    let wrong = |problem: String| PeftError::Config { path: path.to_path_buf(), problem };
    let mut fields = json.clone();
    fields.remove("architecture");
    Ok(vec![match json.get("architecture").and_then(Value::as_str) {
        Some("union") => {
            let configs = json.get("configs").and_then(Value::as_array);
            let configs = configs.ok_or_else(|| wrong("a union has no configs".to_owned()))?;
            let mut all = Vec::new();
            for config in configs {
                let config = config.as_object();
                let config = config.ok_or_else(|| wrong("configs are no objects".to_owned()))?;
                all.extend(parse_union(config, path)?);
            }
            return Ok(all);
        }
        // Bottlenecks have none.
        None => PartConfig::Bottleneck(known_fields(&fields, path)?),
        Some("prefix_tuning") => PartConfig::Prefix(known_fields(&fields, path)?),
        Some("lora") => {
            fields.retain(|key, value| !(key == "dtype" && value.as_str() == Some("float32")));
            PartConfig::Lora(known_fields(&fields, path)?)
        }
        Some(other) => return Err(wrong(format!("architecture {other} is not supported"))),
    }])
}

/// What recipes call it.
fn method_of(config: &[PartConfig]) -> &'static str {
    match config {
        [PartConfig::Bottleneck(config)] => match (config.phm_layer, config.mh_adapter) {
            (true, true) => "compacter",
            (true, false) => "compacter_plus",
            (false, _) if config.is_parallel => "parallel",
            (false, true) => "houlsby",
            (false, false) => "pfeiffer",
        },
        [PartConfig::Prefix(_)] => "hub_prefix_tuning",
        [PartConfig::Lora(config)] if config.composition_mode == Composition::Scale => "hub_ia3",
        [PartConfig::Lora(_)] => "hub_lora",
        [PartConfig::Prefix(_), PartConfig::Bottleneck(_)] => "mam",
        _ => "unipelt",
    }
}

impl Method for Hub {
    fn name(&self) -> &'static str {
        self.method
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        let refused = |problem: &str| PeftError::Combination { problem: problem.to_owned() };
        for part in &self.parts {
            match part {
                Part::Bottlenecks(all) => {
                    for bottleneck in all {
                        let at = (bottleneck.layer, bottleneck.branch);
                        let scaled = Arc::new(bottleneck.scaled(scale));
                        set.branches.entry(at).or_default().push(scaled);
                    }
                }
                Part::Prefix(prefix) => {
                    if (scale - 1.0).abs() > f32::EPSILON {
                        return Err(refused("a prefix has scale 1 only"));
                    }
                    if set.prefix.is_some() || set.prompt.is_some() {
                        return Err(refused("two adapters have something before the sequence"));
                    }
                    set.prefix = Some(Arc::clone(prefix) as _);
                }
                Part::Lora(layers) => {
                    for (slot, layer) in layers {
                        let scaled = layer.scaled(scale);
                        let scaled = scaled.ok_or_else(|| refused("(IA)³ has scale 1 only"))?;
                        let adapters = &mut set.linears.entry(*slot).or_default().adapters;
                        adapters.push(Arc::new(scaled));
                    }
                }
            }
        }
        set.whole_sequence |= self.is_gated();
        Ok(())
    }

    fn trained(&self) -> Vec<Trained> {
        self.tensors.trained.iter().map(Trained::new).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let config = self.about.to_json(union_to_json(&self.config));
        Ok(Files {
            config: ("adapter_config.json", config),
            tensors: (TENSOR_FILES[0], self.tensors.saved()),
            more: Vec::new(),
        })
    }
}
