//! A model ready to run, with its text side.

use std::time::Instant;

use anyhow::Context;
use puna_infer::GenerationConfig;
use puna_io::Checkpoint;
use puna_model::Model;
use puna_text::{ChatTemplate, SpecialTokens, Tokenizer};

use crate::adapters;
use crate::args::RunSettings;
use crate::model_ref::ModelRef;
use crate::output;
use crate::progress::Spinner;
use crate::text_side::{self, TextSide};

/// A loaded model and what belongs to it.
pub(crate) struct Loaded {
    pub(crate) origin: ModelRef,
    pub(crate) model: Model,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) generation: GenerationConfig,
    pub(crate) load_seconds: f64,
}

impl Loaded {
    /// Loads the model of the settings and checks that its tokenizer fits.
    pub(crate) fn load(settings: &RunSettings) -> anyhow::Result<Self> {
        let started = Instant::now();
        let _spinner = Spinner::new(format!("loading {}", settings.model));
        let checkpoint = open(&settings.model)?;
        let generation = text_side::generation_config(&checkpoint)?;
        let TextSide { tokenizer, template } = TextSide::of_checkpoint(&checkpoint)?;
        let mut model = Model::from_checkpoint(checkpoint, &settings.load)?;
        adapters::apply(&settings.adapters, &mut model)?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer
                .check_vocab(model.config.decoder.vocab_size)
                .with_context(|| format!("{}", settings.model))?;
        }
        let loaded = Self {
            origin: settings.model.clone(),
            model,
            tokenizer,
            template,
            generation,
            load_seconds: started.elapsed().as_secs_f64(),
        };
        loaded.warn_of_unused();
        Ok(loaded)
    }

    fn warn_of_unused(&self) {
        let unused = &self.model.unused_tensors;
        if let Some(first) = unused.first() {
            output::note(&format!(
                "warning: {}: {} tensors have no place in this model and are not used (first: \
                 {first})",
                self.origin,
                unused.len()
            ));
        }
    }

    /// The tokenizer, or an error that says what to do without.
    pub(crate) fn tokenizer(&self) -> anyhow::Result<&Tokenizer> {
        text_side::required(self.tokenizer.as_ref(), &self.origin)
    }

    /// Ids that end a sequence: all that generation_config.json, config and tokenizer name.
    pub(crate) fn eos(&self) -> Vec<u32> {
        let mut eos = self.generation.eos.clone();
        eos.extend(&self.model.config.tokens.eos);
        eos.extend(self.tokenizer.iter().flat_map(|tokenizer| tokenizer.eos()));
        eos.sort_unstable();
        eos.dedup();
        eos
    }

    /// First token of a sequence, if this model has one.
    pub(crate) fn bos(&self) -> Option<u32> {
        let of_tokenizer = self.tokenizer.as_ref().and_then(Tokenizer::bos);
        of_tokenizer.or(self.generation.bos).or(self.model.config.tokens.bos)
    }

    /// Ids of a text, with the tokenizer's own bos and eos.
    pub(crate) fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        Ok(self.tokenizer()?.encode(text, SpecialTokens::Add)?)
    }
}

/// Opens a checkpoint; reads headers only.
pub(crate) fn open(model: &ModelRef) -> anyhow::Result<Checkpoint> {
    match model {
        ModelRef::BuiltIn(model) => model.open(),
        ModelRef::Path(path) => Ok(Checkpoint::open(path)?),
    }
}
