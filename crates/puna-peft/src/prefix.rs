//! Prefix tuning (arXiv:2101.00190): trained keys and values before those of every sequence in each
//! layer, `head = Attn(q, concat(P_k, K), concat(P_v, V))`, made in training by a network of two layers,
//! `P_θ[i] = MLP(P'_θ[i])` (section 4.3), or trained themselves, which is P-Tuning v2's way
//! (arXiv:2110.07602, section 3.2). Keys are not rotated, and the sequence's positions follow the prefix.
//!
//! peft's file has for each virtual token the layers, of each layer its key and then its value, and in
//! these the heads behind one another: the order that the decoder takes.

use std::path::Path;
use std::sync::Arc;

use puna_nn::{AdapterSet, NnError, Pass, PrefixAdapter, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::encoder::{Activation, Encoder, Network, Source};
use crate::init::Random;
use crate::virtual_tokens::{self as common, Layout};
use crate::{Base, Files, Method, PeftError, Trained};

/// Settings of prefix tuning, in peft's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixTuningConfig {
    /// Number of keys (`P`).
    pub num_virtual_tokens: usize,
    /// Whether a network makes them in training.
    pub prefix_projection: bool,
    /// Its inner width; a layer's width of keys if absent.
    pub encoder_hidden_size: Option<usize>,
    /// How keys and values begin.
    pub init_weights: Option<PrefixInit>,
}

impl Default for PrefixTuningConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            prefix_projection: false,
            encoder_hidden_size: None,
            init_weights: None,
        }
    }
}

/// How keys and values begin, if not at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixInit {
    /// All zero.
    Zero,
}

/// Settings of P-Tuning v2. Its files are those of prefix tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PTuningV2Config {
    /// Number of keys (`P`).
    pub num_virtual_tokens: usize,
    /// How keys and values begin.
    pub init_weights: Option<PrefixInit>,
}

impl Default for PTuningV2Config {
    fn default() -> Self {
        Self { num_virtual_tokens: 20, init_weights: None }
    }
}

/// Prefix tuning on a model.
#[derive(Debug)]
pub(crate) struct PrefixTuning {
    name: &'static str,
    config: PrefixTuningConfig,
    layout: Layout,
    prefix: Arc<Prefix>,
}

impl PrefixTuning {
    /// Fresh keys and values.
    pub(crate) fn new(
        config: &PrefixTuningConfig,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        common::check_len(config.num_virtual_tokens)?;
        let layout = Layout::of_keys(base);
        let mut random = Random::new(seed);
        let encoder = match (config.prefix_projection, config.init_weights) {
            (true, _) => network(config, &layout, &mut Source::Random(&mut random))?,
            (false, init) => {
                let shape = shape(config, &layout);
                let len = shape.iter().product();
                let values = match init {
                    None => random.normal(len, 1.0),
                    Some(PrefixInit::Zero) => vec![0.0; len],
                };
                Encoder::table(shape, values)
            }
        };
        let (config, prefix) = (config.clone(), Arc::new(Prefix(encoder)));
        Ok(Self { name: "prefix_tuning", config, layout, prefix })
    }

    /// Fresh keys and values, trained without a network.
    pub(crate) fn p_tuning_v2(
        config: &PTuningV2Config,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        let config = PrefixTuningConfig {
            num_virtual_tokens: config.num_virtual_tokens,
            init_weights: config.init_weights,
            ..PrefixTuningConfig::default()
        };
        Ok(Self { name: "p_tuning_v2", ..Self::new(&config, base, seed)? })
    }

    /// From a folder of peft's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, serde_json::Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let layout = Layout::of_keys(base);
        let config: PrefixTuningConfig = layout.read(dir, json)?;
        common::check_len(config.num_virtual_tokens)?;
        let build = |source: &mut Source<'_>| network(&config, &layout, source);
        let build = config.prefix_projection.then_some(&build as _);
        let prefix = Encoder::load(dir, shape(&config, &layout), build)?;
        Ok(Self { name: "prefix_tuning", prefix: Arc::new(Prefix(prefix)), config, layout })
    }
}

/// `[P, L·2·K·D]`
fn shape(config: &PrefixTuningConfig, layout: &Layout) -> [usize; 2] {
    [config.num_virtual_tokens, layout.num_layers * 2 * layout.token_dim]
}

fn network(
    config: &PrefixTuningConfig,
    layout: &Layout,
    source: &mut Source<'_>,
) -> Result<Encoder, PeftError> {
    let hidden = config.encoder_hidden_size.unwrap_or(layout.token_dim);
    common::check_positive("encoder_hidden_size", hidden)?;
    let [tokens, width] = shape(config, layout);
    let network = Network {
        widths: vec![layout.token_dim, hidden, width],
        activation: Activation::Tanh,
        stack: "transform",
        zero_last: config.init_weights == Some(PrefixInit::Zero),
    };
    Encoder::network([tokens, layout.token_dim], None, &network, source)
}

impl Method for PrefixTuning {
    fn name(&self) -> &'static str {
        self.name
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        common::check_scale(scale)?;
        if set.prefix.is_some() {
            return common::taken("two adapters put keys before sequences");
        }
        set.first_position += self.prefix.len();
        set.prefix = Some(Arc::clone(&self.prefix) as _);
        Ok(())
    }

    fn trained(&self) -> Vec<Trained> {
        self.prefix.0.parameters().into_iter().map(Trained::new).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let mut config = self.config.clone();
        config.encoder_hidden_size.get_or_insert(self.layout.token_dim);
        self.layout.files("PREFIX_TUNING", &config, &self.prefix.0)
    }
}

/// Keys and values before every sequence.
#[derive(Debug)]
struct Prefix(Encoder);

impl PrefixAdapter for Prefix {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn encode(&self, pass: &Pass) -> Result<Value, NnError> {
        self.0.encode(pass)
    }
}
