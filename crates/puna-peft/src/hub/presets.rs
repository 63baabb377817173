//! What recipes ask for: the library's configurations by their names, with the settings that are not
//! as there.

use serde::{Deserialize, Serialize};

use super::activation::NonLinearity;
use super::settings::{
    BottleneckConfig, HubLoraConfig, HubPrefixConfig, InitWeights, PartConfig, Reduction, Scaling,
};

/// Settings of a bottleneck; what is absent is as the method has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BottleneckOptions {
    /// Hidden size over the bottleneck's width, for all blocks or by block.
    pub reduction_factor: Option<Reduction>,
    /// Activation.
    pub non_linearity: Option<NonLinearity>,
    /// Factor of the output: a number, or `learned`.
    pub scaling: Option<Scaling>,
    /// How the matrices begin: `bert` or `mam_adapter`.
    pub init_weights: Option<InitWeights>,
    /// Share of the output's values that is left out in training.
    pub dropout: Option<f64>,
    /// Whether attention has a bottleneck.
    pub mh_adapter: Option<bool>,
    /// Whether the feed-forward part has one.
    pub output_adapter: Option<bool>,
    /// Whether a gate decides how much they count.
    pub use_gating: Option<bool>,
    /// Blocks without one.
    pub leave_out: Vec<usize>,
    /// AdapterDrop (arXiv:2010.11918): the first blocks have none.
    pub drop_layers: usize,
    /// AdapterDrop in training: in every step a random number of the first blocks, at most this one,
    /// goes without. Inference does not know of it, so it is not saved.
    pub drop_random: usize,
    /// Compacter: `n`, the number of Kronecker products.
    pub phm_dim: Option<usize>,
    /// Compacter: rank of the matrices `s_i t_i`.
    pub phm_rank: Option<usize>,
}

impl BottleneckOptions {
    /// A method's configuration with these settings.
    pub(crate) fn over(&self, method: BottleneckConfig) -> BottleneckConfig {
        let mut leave_out: Vec<usize> = (0..self.drop_layers).collect();
        leave_out.extend(self.leave_out.iter().filter(|&&layer| layer >= self.drop_layers));
        BottleneckConfig {
            reduction_factor: self.reduction_factor.clone().unwrap_or(method.reduction_factor),
            non_linearity: self.non_linearity.unwrap_or(method.non_linearity),
            scaling: self.scaling.clone().unwrap_or(method.scaling),
            init_weights: self.init_weights.unwrap_or(method.init_weights),
            dropout: self.dropout.unwrap_or(method.dropout),
            mh_adapter: self.mh_adapter.unwrap_or(method.mh_adapter),
            output_adapter: self.output_adapter.unwrap_or(method.output_adapter),
            use_gating: self.use_gating.unwrap_or(method.use_gating),
            leave_out,
            phm_dim: self.phm_dim.unwrap_or(method.phm_dim),
            phm_rank: self.phm_rank.unwrap_or(method.phm_rank),
            ..method
        }
    }
}

impl BottleneckConfig {
    /// `double_seq_bn` (arXiv:1902.00751).
    pub(crate) fn houlsby() -> Self {
        Self { mh_adapter: true, non_linearity: NonLinearity::Swish, ..Self::default() }
    }

    /// `seq_bn` (arXiv:2005.00247).
    pub(crate) fn pfeiffer() -> Self {
        Self { original_ln_before: true, ..Self::default() }
    }

    /// `par_bn` (arXiv:2110.04366).
    pub(crate) fn parallel() -> Self {
        Self {
            is_parallel: true,
            init_weights: InitWeights::MamAdapter,
            reduction_factor: Reduction::All(2.0),
            scaling: Scaling::Fixed(4.0),
            ..Self::default()
        }
    }

    /// `compacter` (arXiv:2106.04647).
    pub(crate) fn compacter() -> Self {
        Self {
            reduction_factor: Reduction::All(32.0),
            non_linearity: NonLinearity::Gelu,
            phm_layer: true,
            ..Self::houlsby()
        }
    }

    /// `compacter++`: only behind the feed-forward part.
    pub(crate) fn compacter_plus() -> Self {
        Self { mh_adapter: false, original_ln_before: true, ..Self::compacter() }
    }
}

/// MAM (arXiv:2110.04366): a prefix and a parallel bottleneck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MamConfig {
    /// The prefix.
    pub prefix: HubPrefixConfig,
    /// The bottleneck.
    pub adapter: BottleneckOptions,
}

impl Default for MamConfig {
    fn default() -> Self {
        let prefix = HubPrefixConfig { bottleneck_size: 800, ..HubPrefixConfig::default() };
        Self { prefix, adapter: BottleneckOptions::default() }
    }
}

impl MamConfig {
    pub(crate) fn parts(&self) -> Vec<PartConfig> {
        let adapter = self.adapter.over(BottleneckConfig::parallel());
        vec![PartConfig::Prefix(self.prefix.clone()), PartConfig::Bottleneck(adapter)]
    }
}

/// UniPELT (arXiv:2110.07577): a prefix, a bottleneck and LoRA, each with a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnipeltConfig {
    /// The prefix.
    pub prefix: HubPrefixConfig,
    /// The bottleneck.
    pub adapter: BottleneckOptions,
    /// LoRA.
    pub lora: HubLoraConfig,
    /// Whether the parts have gates; without them a result does not depend on tokens behind it.
    pub gating: bool,
}

impl Default for UnipeltConfig {
    fn default() -> Self {
        Self {
            prefix: HubPrefixConfig { prefix_length: 10, ..HubPrefixConfig::default() },
            adapter: BottleneckOptions::default(),
            lora: HubLoraConfig::default(),
            gating: true,
        }
    }
}

impl UnipeltConfig {
    pub(crate) fn parts(&self) -> Vec<PartConfig> {
        let use_gating = self.gating;
        let adapter =
            BottleneckConfig { use_gating, ..self.adapter.over(BottleneckConfig::pfeiffer()) };
        vec![
            PartConfig::Prefix(HubPrefixConfig { use_gating, ..self.prefix.clone() }),
            PartConfig::Bottleneck(adapter),
            PartConfig::Lora(HubLoraConfig { use_gating, ..self.lora.clone() }),
        ]
    }
}
