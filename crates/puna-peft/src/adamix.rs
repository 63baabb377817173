//! AdaMix (arXiv:2205.12410): several copies of each bottleneck's projections, of which a random one
//! works in every training step and their mean afterwards.
//!
//! The paper's consistency term (equation 5) is the divergence of the predictions of two passes with
//! different routing: in training every row goes through the model twice, the second time without a
//! target ([`AdapterSet::consistency`]). A factor of 0 spares that.

use std::sync::Arc;

use candle_core::Tensor;
use puna_nn::{AdapterSet, Branch, BranchAdapter, NnError, Parameter, Pass, Value};
use serde::{Deserialize, Serialize};

use crate::hub::{
    About, BottleneckConfig, BottleneckOptions, Builder, LinearInit, NonLinearity, PartConfig,
    Projection, Reads, Scaling, Source, TENSOR_FILES, draw, times, union_to_json,
};
use crate::init::seed_of;
use crate::{Base, Files, Method, PeftError, SavedTensor, Trained};

/// Where the bottlenecks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Behind both branches.
    Houlsby,
    /// Behind the feed-forward part.
    #[default]
    Pfeiffer,
    /// Beside the feed-forward part.
    Parallel,
}

/// Which projection has one copy only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// None.
    #[default]
    Nothing,
    /// That into the bottleneck.
    Down,
    /// That out of it.
    Up,
}

/// AdaMix's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamixConfig {
    /// Copies of each projection (`M`).
    pub copies: usize,
    /// Where the bottlenecks are.
    pub placement: Placement,
    /// Which projection is not copied.
    pub share: Share,
    /// Factor of the consistency term.
    pub consistency: f64,
    /// The bottlenecks.
    pub adapter: BottleneckOptions,
}

impl Default for AdamixConfig {
    fn default() -> Self {
        Self {
            copies: 4,
            placement: Placement::Pfeiffer,
            share: Share::Nothing,
            consistency: 1.0,
            adapter: BottleneckOptions::default(),
        }
    }
}

impl AdamixConfig {
    fn bottleneck(&self) -> Result<BottleneckConfig, PeftError> {
        let setting = |key, value: String, expected: &str| {
            Err(PeftError::Setting { key, value, expected: expected.to_owned() })
        };
        if self.copies == 0 {
            return setting("copies", "0".to_owned(), "at least 1");
        }
        if self.consistency.is_nan() || self.consistency < 0.0 {
            return setting("consistency", self.consistency.to_string(), "0 or more");
        }
        let config = self.adapter.over(match self.placement {
            Placement::Houlsby => BottleneckConfig::houlsby(),
            Placement::Pfeiffer => BottleneckConfig::pfeiffer(),
            Placement::Parallel => BottleneckConfig::parallel(),
        });
        if config.use_gating || config.dropout > 0.0 || self.adapter.drop_random > 0 {
            let key = "adapter";
            let value = "use_gating, dropout or drop_random".to_owned();
            return setting(key, value, "none of these: routing is AdaMix's only randomness");
        }
        Ok(config)
    }
}

type Linear = (Arc<Parameter>, Arc<Parameter>);

/// The copies of one branch of one block.
#[derive(Debug, Clone)]
struct Mixture {
    layer: usize,
    branch: Branch,
    reads: Reads,
    /// Path of the merged bottleneck's tensors.
    path: String,
    downs: Vec<Linear>,
    ups: Vec<Linear>,
    activation: NonLinearity,
    factor: f32,
    /// Of its routing, beside the pass's.
    seed: u64,
}

/// All mixtures of a model.
#[derive(Debug)]
pub(crate) struct Adamix {
    config: BottleneckConfig,
    mixtures: Vec<Arc<Mixture>>,
    trained: Vec<Arc<Parameter>>,
    consistency: Option<f32>,
    about: About,
}

/// Salts of the two routings.
const ROUTINGS: [u64; 2] = [0x6c62_272e_07bb_0142, 0x2545_f491_4f6c_dd1d];

impl Adamix {
    pub(crate) fn new(
        config: &AdamixConfig,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        let bottleneck = config.bottleneck()?;
        bottleneck.check()?;
        let consistency = Some(config.consistency as f32).filter(|&factor| factor > 0.0);
        let mut builder = Builder::new(base, "adamix", Source::random(seed));
        let mut mixtures = Vec::new();
        for layer in (0..builder.layers()).filter(|layer| !bottleneck.leave_out.contains(layer)) {
            for (wanted, branch, place) in [
                (bottleneck.mh_adapter, Branch::Attention, "attention_adapters"),
                (bottleneck.output_adapter, Branch::Ffn, "output_adapters"),
            ] {
                if wanted {
                    let path = format!("{}.{place}.adapters.adamix", builder.block(layer));
                    let at = (layer, branch, path);
                    let mixture = Mixture::new(config, &bottleneck, at, &mut builder)?;
                    mixtures.push(Arc::new(mixture));
                }
            }
        }
        let about = About::new("adamix", base.config);
        let trained = builder.tensors.trained;
        Ok(Self { config: bottleneck, mixtures, trained, consistency, about })
    }
}

impl Mixture {
    fn new(
        config: &AdamixConfig,
        bottleneck: &BottleneckConfig,
        (layer, branch, path): (usize, Branch, String),
        builder: &mut Builder<'_>,
    ) -> Result<Self, PeftError> {
        let Scaling::Fixed(factor) = bottleneck.scaling else {
            return Err(PeftError::Setting {
                key: "scaling",
                value: "learned".to_owned(),
                expected: "a number".to_owned(),
            });
        };
        let hidden = builder.hidden();
        let width = bottleneck.reduction_factor.width(hidden, layer)?;
        let init = LinearInit::of_bottleneck(bottleneck.init_weights);
        let mut copies = |name: &str, shape, init, shared: Share| {
            let count = if config.share == shared { 1 } else { config.copies };
            let copy = |i| builder.linear(&format!("{path}.copies.{i}.{name}"), shape, init);
            (0..count).map(copy).collect::<Result<Vec<Linear>, PeftError>>()
        };
        let downs = copies("adapter_down.0", [width, hidden], init.0, Share::Down)?;
        let ups = copies("adapter_up", [hidden, width], init.1, Share::Up)?;
        let reads = match (bottleneck.is_parallel, bottleneck.original_ln_before) {
            (true, _) => Reads::Residual,
            (false, true) => Reads::Sum,
            (false, false) => Reads::Branch,
        };
        Ok(Self {
            layer,
            branch,
            reads,
            seed: seed_of(&path),
            path,
            downs,
            ups,
            activation: bottleneck.non_linearity,
            factor: factor as f32,
        })
    }

    /// The copies that work in a pass.
    fn route(&self, seed: u64, salt: u64) -> (&Linear, &Linear) {
        let seed = seed ^ self.seed ^ salt;
        let down = draw(seed, self.downs.len());
        // Another number from the same seed.
        let up = draw(seed.rotate_left(32), self.ups.len());
        (&self.downs[down], &self.ups[up])
    }

    /// `s · up(f(down(x)))`, `[N, C]`.
    fn delta(
        &self,
        x: &Value,
        (down, up): (&Linear, &Linear),
        pass: &Pass,
    ) -> Result<Value, NnError> {
        let down = Projection::dense(down.clone()).forward(x, pass)?; // [N, width]
        let hidden = self.activation.forward(&down)?;
        let y = Projection::dense(up.clone()).forward(&hidden, pass)?; // [N, C]
        match (self.factor - 1.0).abs() <= f32::EPSILON {
            true => Ok(y),
            false => times(&y, self.factor),
        }
    }

    /// The means of all copies, under the names of one bottleneck's tensors.
    fn merged(&self) -> (Linear, Linear) {
        let linear = |copies: &[Linear], name: &str| {
            let weights: Vec<&Arc<Parameter>> = copies.iter().map(|copy| &copy.0).collect();
            let biases: Vec<&Arc<Parameter>> = copies.iter().map(|copy| &copy.1).collect();
            let path = format!("{}.{name}", self.path);
            (mean(&weights, &format!("{path}.weight")), mean(&biases, &format!("{path}.bias")))
        };
        (linear(&self.downs, "adapter_down.0"), linear(&self.ups, "adapter_up"))
    }
}

fn mean(copies: &[&Arc<Parameter>], name: &str) -> Arc<Parameter> {
    let shape = copies.first().map_or(&[][..], |copy| copy.shape());
    let mut sum = vec![0f32; shape.iter().product()];
    for copy in copies {
        sum.iter_mut().zip(copy.values().iter()).for_each(|(sum, value)| *sum += value);
    }
    sum.iter_mut().for_each(|sum| *sum /= copies.len() as f32);
    Arc::new(Parameter::new(name, shape, sum))
}

impl BranchAdapter for Mixture {
    fn forward(&self, residual: &Value, branch: Value, pass: &Pass) -> Result<Value, NnError> {
        let x = self.reads.of(residual, &branch)?;
        let delta = match pass.seed {
            Some(seed) if pass.twice => {
                let half = x.tensor().dims2()?.0 / 2;
                let part = |number: usize| {
                    let x = Value::by_candle(&[&x], move |t| t[0].narrow(0, number * half, half))?;
                    self.delta(&x, self.route(seed, ROUTINGS[number]), pass)
                };
                let parts = [part(0)?, part(1)?];
                Value::by_candle(&[&parts[0], &parts[1]], |t| Tensor::cat(t, 0))?
            }
            Some(seed) => self.delta(&x, self.route(seed, ROUTINGS[0]), pass)?,
            None => {
                let (down, up) = self.merged();
                self.delta(&x, (&down, &up), pass)?
            }
        };
        branch.add(&delta)
    }
}

impl Method for Adamix {
    fn name(&self) -> &'static str {
        "adamix"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        for mixture in &self.mixtures {
            let factor = mixture.factor * scale;
            let scaled = Mixture { factor, ..(**mixture).clone() };
            set.branches.entry((mixture.layer, mixture.branch)).or_default().push(Arc::new(scaled));
        }
        set.consistency = self.consistency;
        Ok(())
    }

    fn trained(&self) -> Vec<Trained> {
        self.trained.iter().map(Trained::new).collect()
    }

    /// The merged bottlenecks as AdapterHub's, and all copies beside them.
    fn files(&self) -> Result<Files, PeftError> {
        let part = PartConfig::Bottleneck(self.config.clone());
        let merged = self.mixtures.iter().flat_map(|mixture| {
            let (down, up) = mixture.merged();
            [down.0, down.1, up.0, up.1].map(|p| SavedTensor::of(p.name(), &p))
        });
        let copies = self.trained.iter().map(|p| SavedTensor::of(p.name(), p)).collect();
        Ok(Files {
            config: ("adapter_config.json", self.about.to_json(union_to_json(&[part]))),
            tensors: (TENSOR_FILES[0], merged.collect()),
            more: vec![("adamix.safetensors", copies)],
        })
    }
}
