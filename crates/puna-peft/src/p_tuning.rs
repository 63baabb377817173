//! P-Tuning (arXiv:2103.10385): embeddings before every sequence, made in training by a network so that
//! they depend on each other, `h_i = MLP([LSTM→(h_0…h_i) : LSTM←(h_i…h_m)])` (equation 5), or by an MLP
//! alone. As in peft they stand before the sequence, not inside a template.

use std::path::Path;
use std::sync::Arc;

use puna_nn::AdapterSet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::encoder::{Activation, Encoder, Network, Source};
use crate::init::Random;
use crate::lstm::Lstm;
use crate::prompt::Prompt;
use crate::virtual_tokens::{self as common, Layout};
use crate::{Base, Files, Method, PeftError, Trained};

/// What makes the embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromptEncoderType {
    /// Three dense layers.
    #[default]
    Mlp,
    /// A bidirectional LSTM and two dense layers.
    Lstm,
}

/// Settings of P-Tuning, in peft's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PTuningConfig {
    /// Number of embeddings (`P`).
    pub num_virtual_tokens: usize,
    /// What makes them.
    pub encoder_reparameterization_type: PromptEncoderType,
    /// Its inner width; the model's if absent.
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the LSTM; an MLP has its three, and 2 here.
    pub encoder_num_layers: usize,
    /// Share of values left out between the LSTM's layers in training.
    pub encoder_dropout: f64,
}

impl Default for PTuningConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            encoder_reparameterization_type: PromptEncoderType::Mlp,
            encoder_hidden_size: None,
            encoder_num_layers: 2,
            encoder_dropout: 0.0,
        }
    }
}

impl PTuningConfig {
    fn check(&self) -> Result<(), PeftError> {
        common::check_len(self.num_virtual_tokens)?;
        common::check_positive("encoder_num_layers", self.encoder_num_layers)?;
        if let Some(hidden) = self.encoder_hidden_size {
            common::check_positive("encoder_hidden_size", hidden)?;
        }
        if !(0.0..1.0).contains(&self.encoder_dropout) {
            return Err(PeftError::Setting {
                key: "encoder_dropout",
                value: self.encoder_dropout.to_string(),
                expected: "at least 0 and below 1".to_owned(),
            });
        }
        Ok(())
    }

    /// Refuses what an MLP would ignore.
    fn check_used(&self) -> Result<(), PeftError> {
        let default = Self::default();
        let is_mlp = self.encoder_reparameterization_type == PromptEncoderType::Mlp;
        let unused = |key, value: String| {
            let expected = "no value, or encoder_reparameterization_type = \"LSTM\"".to_owned();
            Err(PeftError::Setting { key, value, expected })
        };
        if is_mlp && self.encoder_num_layers != default.encoder_num_layers {
            return unused("encoder_num_layers", self.encoder_num_layers.to_string());
        }
        if is_mlp && self.encoder_dropout > 0.0 {
            return unused("encoder_dropout", self.encoder_dropout.to_string());
        }
        Ok(())
    }

    fn network(&self, layout: &Layout, source: &mut Source<'_>) -> Result<Encoder, PeftError> {
        let width = layout.token_dim;
        let hidden = self.encoder_hidden_size.unwrap_or(width);
        let (lstm, widths) = match self.encoder_reparameterization_type {
            PromptEncoderType::Mlp => (None, vec![width, hidden, hidden, width]),
            PromptEncoderType::Lstm => {
                let sizes = (width, hidden, self.encoder_num_layers);
                let lstm = Lstm::new(sizes, self.encoder_dropout as f32, source)?;
                (Some(lstm), vec![2 * hidden, 2 * hidden, width])
            }
        };
        let network =
            Network { widths, activation: Activation::Relu, stack: "mlp_head", zero_last: false };
        Encoder::network([self.num_virtual_tokens, width], lstm, &network, source)
    }
}

/// P-Tuning on a model.
#[derive(Debug)]
pub(crate) struct PTuning {
    config: PTuningConfig,
    layout: Layout,
    prompt: Arc<Prompt>,
}

impl PTuning {
    /// A fresh network.
    pub(crate) fn new(
        config: &PTuningConfig,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        config.check()?;
        config.check_used()?;
        let layout = Layout::of_embeddings(base);
        let encoder = config.network(&layout, &mut Source::Random(&mut Random::new(seed)))?;
        Ok(Self { config: config.clone(), layout, prompt: Arc::new(Prompt(encoder)) })
    }

    /// From a folder of peft's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let layout = Layout::of_embeddings(base);
        let config: PTuningConfig = layout.read(dir, json)?;
        config.check()?;
        let shape = [config.num_virtual_tokens, layout.token_dim];
        let build = |source: &mut Source<'_>| config.network(&layout, source);
        let encoder = Encoder::load(dir, shape, Some(&build))?;
        Ok(Self { prompt: Arc::new(Prompt(encoder)), config, layout })
    }
}

impl Method for PTuning {
    fn name(&self) -> &'static str {
        "p_tuning"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        common::apply_prompt(&self.prompt, set, scale)
    }

    fn trained(&self) -> Vec<Trained> {
        self.prompt.0.parameters().into_iter().map(Trained::new).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let mut config = self.config.clone();
        config.encoder_hidden_size.get_or_insert(self.layout.token_dim);
        self.layout.files("P_TUNING", &config, &self.prompt.0)
    }
}
