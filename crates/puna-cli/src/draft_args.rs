//! Options of `chat` and `generate` for speculative decoding: who guesses, and how much.

use anyhow::{Context, bail};
use clap::Args;
use puna_infer::{DraftModel, Drafter, PromptLookup};
use puna_model::Decoder;

use crate::args::RunSettings;
use crate::loaded::Loaded;
use crate::model_ref;

/// Speculative decoding.
#[derive(Debug, Args)]
#[command(next_help_heading = "Speculative decoding (the same tokens in fewer passes)")]
pub(crate) struct DraftArgs {
    /// Guess up to N tokens from what followed the same words before: for answers that repeat parts
    /// of the prompt
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        default_missing_value = "8",
        value_parser = clap::value_parser!(u32).range(1..=64),
        conflicts_with = "draft_model"
    )]
    prompt_lookup: Option<u32>,
    /// A smaller model with the same vocabulary that guesses
    #[arg(long, value_name = "MODEL")]
    draft_model: Option<String>,
    /// Tokens that the draft model guesses per pass, at most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        requires = "draft_model",
        value_parser = clap::value_parser!(u32).range(1..=64)
    )]
    draft_max: u32,
}

/// Who guesses.
pub(crate) enum Draft {
    Off,
    Lookup(usize),
    Model(Box<Decoder>, usize),
}

impl DraftArgs {
    /// Loads the draft model, if one is named, and checks that it speaks the same tokens.
    pub(crate) fn load(&self, settings: &RunSettings, target: &Loaded) -> anyhow::Result<Draft> {
        if let Some(max) = self.prompt_lookup {
            return Ok(Draft::Lookup(max as usize));
        }
        let Some(name) = &self.draft_model else { return Ok(Draft::Off) };
        let model = model_ref::resolve(Some(name))?;
        let draft = Loaded::load(&RunSettings { model, ..settings.clone() })
            .with_context(|| format!("draft model {name}"))?;
        let sizes = [target, &draft].map(|l| l.model.decoder.config().vocab_size);
        if let (Some(ours), Some(theirs)) = (&target.tokenizer, &draft.tokenizer) {
            let shared = sizes[0].min(sizes[1]) as u32;
            if let Some(id) = (0..shared).find(|&id| ours.token(id) != theirs.token(id)) {
                bail!(
                    "draft model {name}: its token {id} is {:?}, that of {} is {:?}; a draft model \
                     needs the same tokenizer",
                    theirs.token(id),
                    target.origin,
                    ours.token(id)
                );
            }
        } else if sizes[0] != sizes[1] {
            bail!("draft model {name} has {} tokens, {} has {}", sizes[1], target.origin, sizes[0]);
        }
        Ok(Draft::Model(Box::new(draft.model.decoder), self.draft_max as usize))
    }
}

impl Draft {
    /// A drafter for one sequence, and how much it may guess.
    pub(crate) fn drafter(&self) -> Option<(Box<dyn Drafter + '_>, usize)> {
        match self {
            Self::Off => None,
            Self::Lookup(max) => Some((Box::new(PromptLookup::default()), *max)),
            Self::Model(decoder, max) => Some((Box::new(DraftModel::new(&**decoder)), *max)),
        }
    }
}
