//! Settings of AdapterHub's `adapters` library, under its names and with its defaults.
//!
//! What a configuration says beyond what is here would change the numbers, so it is an error and not
//! ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::activation::NonLinearity;
use crate::PeftError;

/// A number for all blocks, or one for some of them and a `default`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reduction {
    /// The same everywhere.
    All(f64),
    /// By the block's number as a text; others have `default`.
    PerLayer(BTreeMap<String, f64>),
}

impl Reduction {
    /// Width of the bottleneck of a block: at least 1.
    pub(crate) fn width(&self, hidden: usize, layer: usize) -> Result<usize, PeftError> {
        let factor = match self {
            Reduction::All(factor) => Some(*factor),
            Reduction::PerLayer(factors) => {
                factors.get(&layer.to_string()).or(factors.get("default")).copied()
            }
        };
        match factor {
            // The library floors the quotient.
            Some(factor) if factor > 0.0 => Ok(((hidden as f64 / factor) as usize).max(1)),
            _ => Err(PeftError::Setting {
                key: "reduction_factor",
                value: format!("{self:?}"),
                expected: format!("a positive number for block {layer}"),
            }),
        }
    }
}

/// Factor of a bottleneck's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scaling {
    /// A number.
    Fixed(f64),
    /// `learned`: trained, from 1.
    Named(String),
}

/// How the matrices begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitWeights {
    /// Normal with a deviation of 0.02, biases 0.
    Bert,
    /// Down as a linear layer begins, up 0: the fresh adapter changes nothing.
    MamAdapter,
    /// LoRA's own way: `A` as a linear layer begins, `B` 0.
    Lora,
    /// Ones: nothing is scaled.
    Ia3,
}

/// A bottleneck with all that AdapterHub writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BottleneckConfig {
    pub(crate) mh_adapter: bool,
    pub(crate) output_adapter: bool,
    pub(crate) reduction_factor: Reduction,
    pub(crate) non_linearity: NonLinearity,
    pub(crate) original_ln_before: bool,
    pub(crate) original_ln_after: bool,
    pub(crate) ln_before: bool,
    pub(crate) ln_after: bool,
    pub(crate) init_weights: InitWeights,
    pub(crate) init_weights_seed: Option<u64>,
    pub(crate) is_parallel: bool,
    pub(crate) scaling: Scaling,
    pub(crate) use_gating: bool,
    pub(crate) residual_before_ln: Value,
    pub(crate) adapter_residual_before_ln: bool,
    pub(crate) inv_adapter: Option<String>,
    pub(crate) inv_adapter_reduction_factor: Option<f64>,
    pub(crate) cross_adapter: bool,
    pub(crate) leave_out: Vec<usize>,
    pub(crate) dropout: f64,
    pub(crate) stochastic_depth: f64,
    pub(crate) phm_layer: bool,
    pub(crate) phm_dim: usize,
    #[serde(rename = "factorized_phm_W")]
    pub(crate) factorized_phm_w: bool,
    #[serde(rename = "shared_W_phm")]
    pub(crate) shared_w_phm: bool,
    pub(crate) shared_phm_rule: bool,
    pub(crate) factorized_phm_rule: bool,
    pub(crate) phm_c_init: String,
    pub(crate) phm_init_range: f64,
    pub(crate) learn_phm: bool,
    pub(crate) hypercomplex_nonlinearity: String,
    pub(crate) phm_rank: usize,
    pub(crate) phm_bias: bool,
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        Self {
            mh_adapter: false,
            output_adapter: true,
            reduction_factor: Reduction::All(16.0),
            non_linearity: NonLinearity::Relu,
            original_ln_before: false,
            original_ln_after: true,
            ln_before: false,
            ln_after: false,
            init_weights: InitWeights::Bert,
            init_weights_seed: None,
            is_parallel: false,
            scaling: Scaling::Fixed(1.0),
            use_gating: false,
            residual_before_ln: Value::Bool(true),
            adapter_residual_before_ln: false,
            inv_adapter: None,
            inv_adapter_reduction_factor: None,
            cross_adapter: false,
            leave_out: Vec::new(),
            dropout: 0.0,
            stochastic_depth: 0.0,
            phm_layer: false,
            phm_dim: 4,
            factorized_phm_w: true,
            shared_w_phm: false,
            shared_phm_rule: true,
            factorized_phm_rule: false,
            phm_c_init: "normal".to_owned(),
            phm_init_range: 1e-4,
            learn_phm: true,
            hypercomplex_nonlinearity: "glorot-uniform".to_owned(),
            phm_rank: 1,
            phm_bias: true,
        }
    }
}

impl BottleneckConfig {
    /// What this crate does not compute is named.
    pub(crate) fn check(&self) -> Result<(), PeftError> {
        let unsupported = [
            ("ln_before", self.ln_before),
            ("ln_after", self.ln_after),
            ("cross_adapter", self.cross_adapter),
            ("shared_W_phm", self.shared_w_phm),
            ("factorized_phm_rule", self.factorized_phm_rule),
        ];
        if let Some((key, _)) = unsupported.iter().find(|(_, set)| *set) {
            return Err(setting(key, "true", "false (a decoder's bottlenecks have none)"));
        }
        if let Some(inv) = &self.inv_adapter {
            return Err(setting(
                "inv_adapter",
                inv,
                "null (invertible adapters are not supported)",
            ));
        }
        if !self.original_ln_after {
            let expected = "true: in a decoder this is the block's residual sum";
            return Err(setting("original_ln_after", "false", expected));
        }
        match &self.residual_before_ln {
            Value::Bool(true) => {}
            Value::Bool(false) if !self.original_ln_before || self.is_parallel => {}
            other => {
                let expected = "true: the residual stream would be added twice";
                return Err(setting("residual_before_ln", &other.to_string(), expected));
            }
        }
        if let Scaling::Named(name) = &self.scaling
            && name != "learned"
        {
            return Err(setting("scaling", name, "a number or \"learned\""));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(setting("dropout", &self.dropout.to_string(), "from 0 to below 1"));
        }
        if self.stochastic_depth != 0.0 {
            let value = self.stochastic_depth.to_string();
            return Err(setting("stochastic_depth", &value, "0 (AdapterDrop is drop_random)"));
        }
        if !self.mh_adapter && !self.output_adapter {
            return Err(setting("output_adapter", "false", "true, where mh_adapter is false"));
        }
        if !matches!(self.init_weights, InitWeights::Bert | InitWeights::MamAdapter) {
            let value = format!("{:?}", self.init_weights);
            return Err(setting("init_weights", &value, "bert or mam_adapter"));
        }
        Ok(())
    }
}

/// Prefix tuning as the library has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubPrefixConfig {
    /// Keys and values before every sequence.
    pub prefix_length: usize,
    /// Width of the hidden layer that makes them.
    pub bottleneck_size: usize,
    /// Activation of the hidden layer.
    pub non_linearity: NonLinearity,
    /// Whether they are trained as they are, without a hidden layer.
    pub flat: bool,
    /// Share of their values that is left out in training.
    pub dropout: f64,
    /// Whether a gate decides how much they count.
    pub use_gating: bool,
    /// One gate for keys and values.
    pub shared_gating: bool,
    /// Blocks without a prefix; must be empty here.
    pub leave_out: Vec<usize>,
    /// Of encoders; says nothing here.
    pub encoder_prefix: bool,
    /// Of cross-attention; says nothing here.
    pub cross_prefix: bool,
    /// The library's seed; says nothing here.
    pub init_weights_seed: Option<u64>,
}

impl Default for HubPrefixConfig {
    fn default() -> Self {
        Self {
            prefix_length: 30,
            bottleneck_size: 512,
            non_linearity: NonLinearity::Tanh,
            flat: false,
            dropout: 0.0,
            use_gating: false,
            shared_gating: true,
            leave_out: Vec::new(),
            encoder_prefix: true,
            cross_prefix: true,
            init_weights_seed: None,
        }
    }
}

/// How a [`HubLoraConfig`] changes an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Composition {
    /// `y + s B A x`: LoRA.
    Add,
    /// `y ∘ l`: (IA)³.
    Scale,
}

/// LoRA and (IA)³ as the library has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubLoraConfig {
    /// Whether attention is adapted.
    pub selfattn_lora: bool,
    /// Whether the feed-forward part's last layer is (in Llama `down_proj`).
    pub intermediate_lora: bool,
    /// Whether its first layer is (in Llama `up_proj`).
    pub output_lora: bool,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of the input's values that is left out in training.
    pub dropout: f64,
    /// Adapted matrices of attention: `q`, `k`, `v`.
    pub attn_matrices: Vec<String>,
    /// LoRA or (IA)³.
    pub composition_mode: Composition,
    /// How the matrices begin.
    pub init_weights: InitWeights,
    /// The library's seed; says nothing here.
    pub init_weights_seed: Option<u64>,
    /// Whether a gate decides how much it counts, in place of the scale.
    pub use_gating: bool,
    /// Blocks that are not adapted.
    pub leave_out: Vec<usize>,
}

impl Default for HubLoraConfig {
    fn default() -> Self {
        Self {
            selfattn_lora: true,
            intermediate_lora: false,
            output_lora: false,
            r: 8,
            alpha: 8.0,
            dropout: 0.0,
            attn_matrices: ["q", "v"].map(str::to_owned).to_vec(),
            composition_mode: Composition::Add,
            init_weights: InitWeights::Lora,
            init_weights_seed: None,
            use_gating: false,
            leave_out: Vec::new(),
        }
    }
}

/// (IA)³ as the library has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubIa3Config {
    /// Scaled outputs of attention: `q`, `k`, `v`.
    pub attn_matrices: Vec<String>,
    /// Whether the output of the feed-forward part's last layer is scaled.
    pub intermediate_lora: bool,
    /// Whether that of its first layer is.
    pub output_lora: bool,
    /// Blocks that are not adapted.
    pub leave_out: Vec<usize>,
}

impl Default for HubIa3Config {
    fn default() -> Self {
        Self {
            attn_matrices: ["k", "v"].map(str::to_owned).to_vec(),
            intermediate_lora: true,
            output_lora: false,
            leave_out: Vec::new(),
        }
    }
}

impl HubIa3Config {
    /// As the library's LoRA that scales.
    pub(crate) fn lora(&self) -> HubLoraConfig {
        HubLoraConfig {
            attn_matrices: self.attn_matrices.clone(),
            intermediate_lora: self.intermediate_lora,
            output_lora: self.output_lora,
            leave_out: self.leave_out.clone(),
            r: 1,
            alpha: 1.0,
            composition_mode: Composition::Scale,
            init_weights: InitWeights::Ia3,
            ..HubLoraConfig::default()
        }
    }
}

impl From<HubLoraConfig> for PartConfig {
    fn from(config: HubLoraConfig) -> Self {
        PartConfig::Lora(config)
    }
}

/// One method of an adapter.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "an adapter has one to three of them")]
pub(crate) enum PartConfig {
    Bottleneck(BottleneckConfig),
    Prefix(HubPrefixConfig),
    Lora(HubLoraConfig),
}

impl PartConfig {
    /// As `adapter_config.json` has it.
    pub(super) fn to_json(&self) -> Value {
        let (architecture, fields) = match self {
            PartConfig::Bottleneck(config) => (None, json!(config)),
            PartConfig::Prefix(config) => (Some("prefix_tuning"), json!(config)),
            PartConfig::Lora(config) => (Some("lora"), json!(config)),
        };
        let mut json = Map::new();
        if let Some(architecture) = architecture {
            json.insert("architecture".to_owned(), architecture.into());
        }
        if let Value::Object(fields) = fields {
            json.extend(fields);
        }
        Value::Object(json)
    }
}

/// The methods that an adapter's `config` names: one, or those of a union.
pub(crate) fn union_to_json(parts: &[PartConfig]) -> Value {
    match parts {
        [part] => part.to_json(),
        parts => {
            let configs: Vec<Value> = parts.iter().map(PartConfig::to_json).collect();
            json!({"architecture": "union", "configs": configs})
        }
    }
}

pub(super) fn setting(key: &'static str, value: &str, expected: &str) -> PeftError {
    PeftError::Setting { key, value: value.to_owned(), expected: expected.to_owned() }
}
