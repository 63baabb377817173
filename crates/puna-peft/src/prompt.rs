//! Prompt tuning (arXiv:2104.08691): `P` trained embeddings before every sequence,
//! `[P_e; X_e]` in the paper's section 2. The sequence's positions follow theirs.
//!
//! The embeddings go into the first block as they are. Gemma multiplies the embeddings of tokens with
//! `√C`; transformers 5 does so in its embedding, which peft's embeddings do not pass, so neither do
//! ours (transformers 4 multiplied them too in Gemma 1 and 2). What is taken from the vocabulary at
//! the beginning has the factor.

use std::path::Path;
use std::sync::Arc;

use puna_nn::ops::with_f32;
use puna_nn::{AdapterSet, NnError, Pass, PromptAdapter, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::encoder::Encoder;
use crate::init::Random;
use crate::virtual_tokens::{self as common, Layout};
use crate::{Base, Files, Method, PeftError, Trained};

/// How the embeddings begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromptTuningInit {
    /// Normally distributed.
    #[default]
    Random,
    /// Those of a text's tokens, repeated or cut.
    Text,
    /// Those of random tokens.
    SampleVocab,
}

/// Settings of prompt tuning, in peft's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTuningConfig {
    /// Number of embeddings (`P`).
    pub num_virtual_tokens: usize,
    /// How they begin.
    pub prompt_tuning_init: PromptTuningInit,
    /// The text for [`PromptTuningInit::Text`].
    pub prompt_tuning_init_text: Option<String>,
    /// The text's tokens: this crate has no tokenizer. Not in peft's files.
    pub prompt_tuning_init_tokens: Option<Vec<u32>>,
    /// What peft tokenizes the text with; kept for peft.
    pub tokenizer_name_or_path: Option<String>,
    /// Arguments for it.
    pub tokenizer_kwargs: Option<serde_json::Value>,
}

impl Default for PromptTuningConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            prompt_tuning_init: PromptTuningInit::Random,
            prompt_tuning_init_text: None,
            prompt_tuning_init_tokens: None,
            tokenizer_name_or_path: None,
            tokenizer_kwargs: None,
        }
    }
}

impl PromptTuningConfig {
    /// Tokens whose embeddings are taken; `None`: random ones.
    fn tokens(
        &self,
        vocabulary: usize,
        random: &mut Random,
    ) -> Result<Option<Vec<u32>>, PeftError> {
        let len = self.num_virtual_tokens;
        match self.prompt_tuning_init {
            PromptTuningInit::Random => Ok(None),
            PromptTuningInit::SampleVocab => {
                Ok(Some((0..len).map(|_| random.below(vocabulary as u32)).collect()))
            }
            PromptTuningInit::Text => {
                let given = self.prompt_tuning_init_tokens.as_deref().unwrap_or(&[]);
                if given.is_empty() {
                    return Err(PeftError::Setting {
                        key: "prompt_tuning_init_tokens",
                        value: "[]".to_owned(),
                        expected: "the tokens of prompt_tuning_init_text for \
                                   prompt_tuning_init = \"TEXT\""
                            .to_owned(),
                    });
                }
                Ok(Some(given.iter().copied().cycle().take(len).collect()))
            }
        }
    }
}

/// Prompt tuning on a model.
#[derive(Debug)]
pub(crate) struct PromptTuning {
    config: PromptTuningConfig,
    layout: Layout,
    embeddings: Arc<Prompt>,
}

impl PromptTuning {
    /// Fresh embeddings.
    pub(crate) fn new(
        config: &PromptTuningConfig,
        base: &Base<'_>,
        seed: u64,
    ) -> Result<Self, PeftError> {
        common::check_len(config.num_virtual_tokens)?;
        let layout = Layout::of_embeddings(base);
        let mut random = Random::new(seed);
        let shape = [config.num_virtual_tokens, layout.token_dim];
        let values = match config.tokens(base.config.decoder.vocab_size, &mut random)? {
            None => random.normal(shape.iter().product(), 1.0),
            Some(tokens) => {
                let rows = base.decoder.embedding().forward(&tokens)?; // [P, C]
                with_f32(&rows, <[f32]>::to_vec)?
            }
        };
        let embeddings = Arc::new(Prompt(Encoder::table(shape, values)));
        Ok(Self { config: config.clone(), layout, embeddings })
    }

    /// From a folder of peft's.
    pub(crate) fn load(
        dir: &Path,
        json: &Map<String, serde_json::Value>,
        base: &Base<'_>,
    ) -> Result<Self, PeftError> {
        let layout = Layout::of_embeddings(base);
        let config: PromptTuningConfig = layout.read(dir, json)?;
        common::check_len(config.num_virtual_tokens)?;
        let shape = [config.num_virtual_tokens, layout.token_dim];
        let embeddings = Arc::new(Prompt(Encoder::load(dir, shape, None)?));
        Ok(Self { config, layout, embeddings })
    }
}

impl Method for PromptTuning {
    fn name(&self) -> &'static str {
        "prompt_tuning"
    }

    fn apply(&self, set: &mut AdapterSet, scale: f32) -> Result<(), PeftError> {
        common::apply_prompt(&self.embeddings, set, scale)
    }

    fn trained(&self) -> Vec<Trained> {
        self.embeddings.0.parameters().into_iter().map(Trained::new).collect()
    }

    fn files(&self) -> Result<Files, PeftError> {
        let mut config = self.config.clone();
        config.prompt_tuning_init_tokens = None;
        let readable =
            config.prompt_tuning_init_text.is_some() && config.tokenizer_name_or_path.is_some();
        if config.prompt_tuning_init == PromptTuningInit::Text && !readable {
            // peft refuses to read `TEXT` without both, though it is of no use any more, and
            // arguments for a tokenizer without `TEXT`.
            config.prompt_tuning_init = PromptTuningInit::Random;
            config.tokenizer_kwargs = None;
        }
        let mut files = self.layout.files("PROMPT_TUNING", &config, &self.embeddings.0)?;
        if let Some(fields) = files.config.1.as_object_mut() {
            fields.remove("prompt_tuning_init_tokens");
        }
        Ok(files)
    }
}

/// Embeddings before every sequence.
#[derive(Debug)]
pub(crate) struct Prompt(pub(crate) Encoder);

impl PromptAdapter for Prompt {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn embeddings(&self, pass: &Pass) -> Result<Value, NnError> {
        self.0.encode(pass)
    }
}
