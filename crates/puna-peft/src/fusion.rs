//! AdapterFusion (arXiv:2005.00247): adapters that were trained alone, combined by attention.
//!
//! Behind every place that has bottlenecks, with their outputs `δ_t` and what they read, `x`
//! (section 3.2): `p = softmax_t((Q x + b_q)ᵀ (K δ_t + b_k))`, and the branch becomes
//! `m + Σ_t p_t V δ_t`. `V` begins as the identity and stays near it by a term `0.01 ‖V − I‖²` of the
//! loss, as in the library. Only `Q`, `K` and `V` are trained.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use puna_nn::ops::{add_bias, linear};
use puna_nn::{AdapterSet, Branch, BranchAdapter, NnError, Parameter, Pass, Value, Vector, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::files::Tensors;
use crate::hub::{
    About, Bottleneck, Builder, Hub, Init, LinearInit, Source, parse_union, union_to_json,
};
use crate::{Base, Files, Method, PeftError, Trained};

/// Which adapters are combined. A folder that is saved has the adapters too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionConfig {
    /// Folders of adapters that have bottlenecks and nothing else, at the same places.
    pub adapters: Vec<PathBuf>,
    /// Factor of the term that keeps `V` near the identity.
    #[serde(default = "library_regularization")]
    pub regularization: f64,
}

fn library_regularization() -> f64 {
    0.01
}

/// Configuration and tensors of a fusion's folder.
pub(crate) const CONFIG_FILE: &str = "adapter_fusion_config.json";
pub(crate) const TENSOR_FILES: [&str; 2] =
    ["model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin"];

/// The library's "dynamic" fusion.
const SETTINGS: [(&str, bool); 8] = [
    ("query", true),
    ("key", true),
    ("value", true),
    ("query_before_ln", false),
    ("residual_before", false),
    ("temperature", false),
    ("value_before_softmax", true),
    ("value_initialized", true),
];

/// A fusion and its adapters.
#[derive(Debug)]
pub(crate) struct Fusion {
    members: Vec<Hub>,
    places: Vec<Arc<Place>>,
    regularization: f32,
    about: About,
}

/// The fusion of one branch of one block.
#[derive(Debug, Clone)]
struct Place {
    layer: usize,
    branch: Branch,
    members: Vec<Bottleneck>,
    query: (Arc<Parameter>, Arc<Parameter>),
    key: (Arc<Parameter>, Arc<Parameter>),
    value: Arc<Parameter>,
}

impl Fusion {
    /// A fresh fusion of adapters from their folders.
    pub(crate) fn new(
        config: &FusionConfig,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        let mut members = Vec::new();
        for dir in &config.adapters {
            let json = crate::files::read_json(&dir.join("adapter_config.json"))?;
            members.push(Hub::load(dir, &json, base)?);
        }
        let source = Source::random(seed);
        Self::build(members, config.regularization as f32, base, source)
    }

    /// From a folder with its members in the same files.
    pub(crate) fn load(dir: &Path, base: &Base<'_>) -> Result<Self, PeftError> {
        let path = dir.join(CONFIG_FILE);
        let json = crate::files::read_json(&path)?;
        let tensors = Tensors::open(dir, &TENSOR_FILES)?;
        let wrong =
            |problem: &str| PeftError::Config { path: path.clone(), problem: problem.to_owned() };
        let listed = json.get("members").and_then(Json::as_array).ok_or_else(|| {
            wrong("has no members: name the adapters' folders in a recipe's adapter.adapters")
        })?;
        let mut members = Vec::new();
        for member in listed {
            let name = member.get("name").and_then(Json::as_str);
            let config = member.get("config").and_then(Json::as_object);
            let (Some(name), Some(config)) = (name, config) else {
                return Err(wrong("a member has no name or no config"));
            };
            let config = parse_union(config, &path)?;
            let builder = Builder::new(base, name, Source::File(&tensors));
            members.push(Hub::build("member", config, 0, builder)?);
        }
        let settings = json.get("config").and_then(Json::as_object);
        let settings = settings.ok_or_else(|| wrong("config is not an object with settings"))?;
        for (key, expected) in SETTINGS {
            if settings.get(key).is_some_and(|value| *value != Json::Bool(expected)) {
                return Err(wrong(&format!("only {key} = {expected} is supported")));
            }
        }
        let regularization = match settings.get("regularization") {
            Some(Json::Bool(false)) => 0.0,
            Some(Json::Number(factor)) => factor.as_f64().unwrap_or_default(),
            _ => library_regularization(),
        } as f32;
        Self::build(members, regularization, base, Source::File(&tensors))
    }

    fn build(
        members: Vec<Hub>,
        regularization: f32,
        base: &Base<'_>,
        source: Source<'_>,
    ) -> Result<Self, PeftError> {
        let combination = |problem: String| Err(PeftError::Combination { problem });
        let names: Vec<&str> = members.iter().map(|m| m.about().name.as_str()).collect();
        if names.len() < 2 {
            return combination("a fusion needs at least two adapters".to_owned());
        }
        if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            return combination(format!("two adapters of a fusion have the name {}", twice.1));
        }
        let mut lists = Vec::new();
        for member in &members {
            let Some(all) = member.bottlenecks() else {
                let name = &member.about().name;
                return combination(format!("{name} has more than bottlenecks to be fused"));
            };
            if member.is_gated() {
                let name = &member.about().name;
                return combination(format!("{name} has gates, which a fusion would leave out"));
            }
            lists.push(all);
        }
        let place = |bottleneck: &Bottleneck| (bottleneck.layer, bottleneck.branch);
        let first: Vec<_> = lists[0].iter().map(place).collect();
        if lists.iter().any(|list| list.iter().map(place).ne(first.iter().copied())) {
            return combination(format!("the adapters {names:?} are not at the same places"));
        }
        let name = names.join(",");
        let mut builder = Builder::new(base, &name, source);
        let mut places = Vec::new();
        for (index, at) in first.into_iter().enumerate() {
            let members: Vec<Bottleneck> =
                lists.iter().map(|list| list[index].frozen()).collect::<Result<_, _>>()?;
            places.push(Arc::new(Place::new(at, members, &mut builder)?));
        }
        let about = About::new(&name, base.config);
        Ok(Self { members, places, regularization, about })
    }
}

impl Place {
    fn new(
        (layer, branch): (usize, Branch),
        members: Vec<Bottleneck>,
        builder: &mut Builder<'_>,
    ) -> Result<Self, PeftError> {
        let place = match branch {
            Branch::Attention => "attention_adapters",
            Branch::Ffn => "output_adapters",
        };
        let block = builder.block(layer);
        let path = format!("{block}.{place}.adapter_fusion_layer.{}", builder.adapter);
        let width = builder.hidden();
        let query = builder.linear(&format!("{path}.query"), [width; 2], LinearInit::Bert)?;
        let key = builder.linear(&format!("{path}.key"), [width; 2], LinearInit::Bert)?;
        let name = format!("{path}.value.weight");
        let value = builder.trained(&name, &[width; 2], Init::Identity)?;
        Ok(Self { layer, branch, members, query, key, value })
    }

    fn parameters(&self) -> [&Arc<Parameter>; 5] {
        [&self.query.0, &self.query.1, &self.key.0, &self.key.1, &self.value]
    }
}

impl BranchAdapter for Place {
    fn forward(&self, residual: &Value, branch: Value, pass: &Pass) -> Result<Value, NnError> {
        let Some(last) = self.members.last() else { return Ok(branch) };
        let trained = |parameter: &Arc<Parameter>| Arc::new(Weight::Trained(Arc::clone(parameter)));
        let project = |x: &Value, (weight, bias): &(Arc<Parameter>, Arc<Parameter>)| {
            let y = linear(x, &trained(weight), pass.precision)?;
            add_bias(&y, &Vector::Trained(Arc::clone(bias)))
        };
        let query = project(&last.input(residual, &branch)?, &self.query)?; // [N, C]
        // The members are not trained: no dropout, no gradients of their own.
        let frozen = Pass { seed: None, ..pass.clone() };
        let value = trained(&self.value);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for member in &self.members {
            let delta = member.delta(&member.input(residual, &branch)?, &frozen)?; // [N, C]
            keys.push(project(&delta, &self.key)?);
            values.push(linear(&delta, &value, pass.precision)?);
        }
        let count = keys.len();
        let arguments: Vec<&Value> = std::iter::once(&query).chain(&keys).chain(&values).collect();
        let fused = Value::by_candle(&arguments, move |t| attend(t, count))?;
        branch.add(&fused)
    }
}

/// `Σ_t softmax_t(q · k_t) v_t`, `[N, C]`, for a query, `count` keys and as many values `[N, C]`.
fn attend(t: &[Tensor], count: usize) -> candle_core::Result<Tensor> {
    let (query, rest) = (&t[0], &t[1..]);
    let (keys, values) = rest.split_at(count);
    let scores = keys.iter().map(|key| (query * key)?.sum_keepdim(1));
    let scores = Tensor::cat(&scores.collect::<candle_core::Result<Vec<_>>>()?, 1)?; // [N, T]
    // The largest is a constant: the softmax does not change with it.
    let exp = scores.broadcast_sub(&scores.max_keepdim(1)?.detach())?.exp()?;
    let weights = exp.broadcast_div(&exp.sum_keepdim(1)?)?; // [N, T]
    let mut sum = values[0].broadcast_mul(&weights.narrow(1, 0, 1)?)?;
    for (index, value) in values.iter().enumerate().skip(1) {
        sum = (sum + value.broadcast_mul(&weights.narrow(1, index, 1)?)?)?;
    }
    Ok(sum)
}

impl Method for Fusion {
    fn name(&self) -> &'static str {
        "fusion"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        if (scale - 1.0).abs() > f32::EPSILON {
            let problem = "a fusion has scale 1 only".to_owned();
            return Err(PeftError::Combination { problem });
        }
        for place in &self.places {
            let at = (place.layer, place.branch);
            set.branches.entry(at).or_default().push(Arc::clone(place) as _);
        }
        Ok(())
    }

    fn trained(&self) -> Vec<Trained> {
        self.places.iter().flat_map(|place| place.parameters()).map(Trained::new).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let members: Vec<Json> = self
            .members
            .iter()
            .map(|m| json!({"name": m.about().name, "config": union_to_json(m.config())}))
            .collect();
        let settings = SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        let mut config: serde_json::Map<String, Json> = settings.collect();
        config.insert("regularization".to_owned(), json!(self.regularization));
        config.insert("dropout_prob".to_owned(), Json::Null);
        let mut json = self.about.to_json(Json::Object(config));
        if let Some(fields) = json.as_object_mut() {
            fields.insert("members".to_owned(), Json::Array(members));
        }
        let own = self.places.iter().flat_map(|place| place.parameters());
        let mut tensors: Vec<_> = own.map(|p| crate::SavedTensor::of(p.name(), p)).collect();
        tensors.extend(self.members.iter().flat_map(|member| member.tensors().saved()));
        Ok(Files {
            config: (CONFIG_FILE, json),
            tensors: (TENSOR_FILES[0], tensors),
            more: Vec::new(),
        })
    }

    /// `0.01 ‖V − I‖²` of every place.
    fn regularize(&self, weight: f32) -> Result<f64, PeftError> {
        let mut term = 0.0;
        for place in self.places.iter().filter(|_| self.regularization > 0.0) {
            let width = place.value.shape()[0];
            let values = place.value.values();
            let off = |i: usize| values[i] - if i.is_multiple_of(width + 1) { 1.0 } else { 0.0 };
            place.value.add_to_gradient(|gradient| {
                for (i, g) in gradient.iter_mut().enumerate() {
                    *g += 2.0 * weight * self.regularization * off(i);
                }
            });
            let squares: f64 = (0..values.len()).map(|i| f64::from(off(i)).powi(2)).sum();
            term += f64::from(self.regularization) * squares;
        }
        Ok(term)
    }
}

/// Whether a folder holds a fusion.
pub(crate) fn is_fusion(dir: &Path) -> bool {
    dir.join(CONFIG_FILE).is_file()
}
