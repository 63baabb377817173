//! The `[adapter]` section of a recipe.

use serde::{Deserialize, Serialize};

use crate::{Base, LoraConfig, Method, PeftError, lora, p_tuning, prefix, prompt};
use crate::{PTuningConfig, PTuningV2Config, PrefixTuningConfig, PromptTuningConfig};
use crate::{Base, BitFitConfig, Ia3Config, LoraConfig, Method, PeftError};
use crate::{bitfit, ia3, lora};

/// A method and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum AdapterConfig {
    /// LoRA (arXiv:2106.09685).
    Lora(LoraConfig),
    /// Prompt tuning (arXiv:2104.08691).
    PromptTuning(PromptTuningConfig),
    /// P-Tuning (arXiv:2103.10385).
    PTuning(PTuningConfig),
    /// Prefix tuning (arXiv:2101.00190).
    PrefixTuning(PrefixTuningConfig),
    /// P-Tuning v2 (arXiv:2110.07602).
    PTuningV2(PTuningV2Config),
    /// IA³ (arXiv:2205.05638).
    Ia3(Ia3Config),
    /// BitFit (arXiv:2106.10199).
    #[serde(rename = "bitfit")]
    BitFit(BitFitConfig),
}

impl AdapterConfig {
    /// A fresh adapter of a model.
    ///
    /// # Errors
    /// If a setting is wrong, or nothing of the model is meant.
    pub fn build(&self, base: &Base<'_>, seed: u64) -> Result<Box<dyn Method>, PeftError> {
        match self {
            AdapterConfig::Lora(config) => Ok(Box::new(lora::Lora::new(config, base, seed)?)),
            AdapterConfig::PromptTuning(config) => {
                Ok(Box::new(prompt::PromptTuning::new(config, base, seed)?))
            }
            AdapterConfig::PTuning(config) => {
                Ok(Box::new(p_tuning::PTuning::new(config, base, seed)?))
            }
            AdapterConfig::PrefixTuning(config) => {
                Ok(Box::new(prefix::PrefixTuning::new(config, base, seed)?))
            }
            AdapterConfig::PTuningV2(config) => {
                Ok(Box::new(prefix::PrefixTuning::p_tuning_v2(config, base, seed)?))
            }
        }
    }

    /// Sets the size of a method (its rank, virtual tokens or bottleneck) and whatever follows from
    /// it; `false` if it has none.
    pub fn set_size(&mut self, size: usize, base: &Base<'_>) -> bool {
        let _ = base;
        match self {
            AdapterConfig::Lora(config) => {
                let ratio = config.lora_alpha / config.r.max(1) as f64;
                config.r = size;
                config.lora_alpha = ratio * size as f64;
                true
            }
            AdapterConfig::Ia3(config) => Ok(Box::new(ia3::Ia3::new(config, base)?)),
            AdapterConfig::BitFit(config) => Ok(Box::new(bitfit::BitFit::new(config, base)?)),
        }
    }
}
