//! The `[adapter]` section of a recipe.

use serde::{Deserialize, Serialize};

use crate::adamix::Adamix;
use crate::fusion::Fusion;
use crate::hub::{BottleneckConfig, Hub, PartConfig, Reduction};
use crate::{
    AdaLoraConfig, Base, BitFitConfig, BottleneckOptions, HubLoraConfig, HubPrefixConfig, Ia3Config,
};
use crate::{
    AdamixConfig, FusionConfig, HubIa3Config, PrefixTuningConfig, PromptTuningConfig, UnipeltConfig,
};
use crate::{LoraConfig, MamConfig, Method, PTuningConfig, PTuningV2Config, PeftError};
use crate::{adalora, bitfit, ia3, lora, p_tuning, prefix, prompt};

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
    /// AdaLoRA (arXiv:2303.10512).
    #[serde(rename = "adalora")]
    AdaLora(AdaLoraConfig),
    /// IA³ (arXiv:2205.05638).
    Ia3(Ia3Config),
    /// BitFit (arXiv:2106.10199).
    #[serde(rename = "bitfit")]
    BitFit(BitFitConfig),
    /// Bottlenecks behind both branches (arXiv:1902.00751).
    Houlsby(BottleneckOptions),
    /// A bottleneck behind the feed-forward part (arXiv:2005.00247).
    Pfeiffer(BottleneckOptions),
    /// A bottleneck beside the feed-forward part (arXiv:2110.04366).
    Parallel(BottleneckOptions),
    /// Bottlenecks of Kronecker products behind both branches (arXiv:2106.04647).
    Compacter(BottleneckOptions),
    /// The same behind the feed-forward part only.
    CompacterPlus(BottleneckOptions),
    /// Prefix tuning as AdapterHub has it (arXiv:2101.00190).
    HubPrefixTuning(HubPrefixConfig),
    /// LoRA as AdapterHub has it.
    HubLora(HubLoraConfig),
    /// (IA)³ as AdapterHub has it (arXiv:2205.05638).
    HubIa3(HubIa3Config),
    /// A prefix and a parallel bottleneck (arXiv:2110.04366).
    Mam(MamConfig),
    /// A prefix, a bottleneck and LoRA with gates (arXiv:2110.07577).
    Unipelt(UnipeltConfig),
    /// Trained bottlenecks joined by attention (AdapterFusion, arXiv:2005.00247).
    Fusion(FusionConfig),
    /// Bottlenecks in several copies, drawn at random in training (AdaMix, arXiv:2205.12410).
    Adamix(AdamixConfig),
}

impl AdapterConfig {
    /// A fresh adapter of a model.
    ///
    /// # Errors
    /// If a setting is wrong, or nothing of the model is meant.
    pub fn build(&self, base: &Base<'_>, seed: u64) -> Result<Box<dyn Method>, PeftError> {
        type B = BottleneckConfig;
        let bottleneck = |method, config: B, options: &BottleneckOptions| {
            boxed(Hub::of_options((method, config), options, base, seed))
        };
        let union = |method, parts| boxed(Hub::new(method, parts, base, seed));
        match self {
            AdapterConfig::Lora(config) => boxed(lora::Lora::new(config, base, seed)),
            AdapterConfig::PromptTuning(config) => {
                boxed(prompt::PromptTuning::new(config, base, seed))
            }
            AdapterConfig::PTuning(config) => boxed(p_tuning::PTuning::new(config, base, seed)),
            AdapterConfig::PrefixTuning(config) => {
                boxed(prefix::PrefixTuning::new(config, base, seed))
            }
            AdapterConfig::PTuningV2(config) => {
                boxed(prefix::PrefixTuning::p_tuning_v2(config, base, seed))
            }
            AdapterConfig::AdaLora(config) => boxed(adalora::AdaLora::new(config, base, seed)),
            AdapterConfig::Ia3(config) => boxed(ia3::Ia3::new(config, base)),
            AdapterConfig::BitFit(config) => boxed(bitfit::BitFit::new(config, base)),
            AdapterConfig::Houlsby(options) => bottleneck("houlsby", B::houlsby(), options),
            AdapterConfig::Pfeiffer(options) => bottleneck("pfeiffer", B::pfeiffer(), options),
            AdapterConfig::Parallel(options) => bottleneck("parallel", B::parallel(), options),
            AdapterConfig::Compacter(options) => bottleneck("compacter", B::compacter(), options),
            AdapterConfig::CompacterPlus(options) => {
                bottleneck("compacter_plus", B::compacter_plus(), options)
            }
            AdapterConfig::HubPrefixTuning(config) => {
                union("hub_prefix_tuning", vec![PartConfig::Prefix(config.clone())])
            }
            AdapterConfig::HubLora(config) => union("hub_lora", vec![config.clone().into()]),
            AdapterConfig::HubIa3(config) => union("hub_ia3", vec![config.lora().into()]),
            AdapterConfig::Mam(config) => union("mam", config.parts()),
            AdapterConfig::Unipelt(config) => union("unipelt", config.parts()),
            AdapterConfig::Fusion(config) => boxed(Fusion::new(config, base, seed)),
            AdapterConfig::Adamix(config) => boxed(Adamix::new(config, base, seed)),
        }
    }
    /// The text whose embeddings a prompt is to begin as, if its tokens are not given.
    #[must_use]
    pub fn init_text(&self) -> Option<&str> {
        match self {
            AdapterConfig::PromptTuning(config) if config.prompt_tuning_init_tokens.is_none() => {
                config.prompt_tuning_init_text.as_deref()
            }
            _ => None,
        }
    }

    /// Gives the tokens of [`Self::init_text`], which this crate has no tokenizer for.
    pub fn set_init_tokens(&mut self, tokens: Vec<u32>) {
        if let AdapterConfig::PromptTuning(config) = self {
            config.prompt_tuning_init_tokens = Some(tokens);
        }
    }

    /// Without what a method does at certain steps of a training: to see in a few steps how long they
    /// take.
    pub fn clear_schedule(&mut self) {
        if let AdapterConfig::AdaLora(config) = self {
            (config.tinit, config.tfinal, config.total_step) = (0, 0, None);
        }
    }

    /// Sets the size of a method (its rank, virtual tokens or bottleneck) and whatever follows from
    /// it; `false` if it has none.
    pub fn set_size(&mut self, size: usize, base: &Base<'_>) -> bool {
        type C = AdapterConfig;
        match self {
            C::Lora(config) => {
                let ratio = config.lora_alpha / config.r.max(1) as f64;
                config.r = size;
                config.lora_alpha = ratio * size as f64;
            }
            C::AdaLora(config) => {
                config.init_r = size;
                config.target_r = (2 * size / 3).max(1);
            }
            C::PromptTuning(config) => config.num_virtual_tokens = size,
            C::PTuning(config) => config.encoder_hidden_size = Some(size),
            C::PrefixTuning(config) if config.prefix_projection => {
                config.encoder_hidden_size = Some(size);
            }
            C::PrefixTuning(config) => config.num_virtual_tokens = size,
            C::PTuningV2(config) => config.num_virtual_tokens = size,
            C::Houlsby(options) | C::Pfeiffer(options) | C::Parallel(options) => {
                bottleneck(options, size, base);
            }
            C::Adamix(config) => bottleneck(&mut config.adapter, size, base),
            C::HubPrefixTuning(config) => config.bottleneck_size = size,
            C::HubLora(config) => config.r = size,
            C::Mam(config) => config.prefix.bottleneck_size = size,
            C::Unipelt(config) => config.prefix.bottleneck_size = size,
            C::Ia3(_)
            | C::BitFit(_)
            | C::Compacter(_)
            | C::CompacterPlus(_)
            | C::HubIa3(_)
            | C::Fusion(_) => return false,
        }
        true
    }
}

/// Bottlenecks of `size` features.
fn bottleneck(options: &mut BottleneckOptions, size: usize, base: &Base<'_>) {
    let factor = base.config.decoder.hidden_size as f64 / size as f64;
    options.reduction_factor = Some(Reduction::All(factor));
}

fn boxed<M: Method + 'static>(method: Result<M, PeftError>) -> Result<Box<dyn Method>, PeftError> {
    Ok(Box::new(method?))
}
