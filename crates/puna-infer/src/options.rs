//! What a caller asks of the generator, and what it gives back.

use crate::beam::BeamOptions;
use crate::error::InferError;
use crate::sampling::{SamplingParams, check};
use crate::stats::Timings;
use crate::stop::{FinishReason, StopOptions};
use crate::text::TextFlow;

/// Tokens per forward pass of a prompt unless asked otherwise.
pub const DEFAULT_PREFILL_CHUNK: usize = 512;

/// What to do where the context is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContextPolicy {
    /// A prompt that leaves no room is an error; generation ends with the context.
    #[default]
    Error,
    /// Forget and go on: keep the first `keep` tokens, drop the older half of the others and run
    /// the rest again at its new positions, at the price of a prefill. The result is exactly that
    /// of a fresh prompt with the tokens left (with rotary scalings that depend on the length, of
    /// one whose first `keep` tokens were run before). The alternative, rotating cached keys to
    /// new positions as llama.cpp does, is cheaper and not exact.
    Shift {
        /// Tokens at the beginning that always stay (bos, system prompt).
        keep: usize,
    },
}

/// Whether the prompt's own text is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptText {
    /// Only the new text (`skip_prompt=True` of transformers' streamers).
    #[default]
    Skip,
    /// First the prompt's text, as [`Event::PromptText`].
    Emit,
}

/// How to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Largest number of new tokens; `None`: to the end of the context (with
    /// [`ContextPolicy::Shift`]: until a stop).
    pub max_new_tokens: Option<usize>,
    /// What ends the text.
    pub stop: StopOptions,
    /// Whether the prompt's text is handed over.
    pub prompt_text: PromptText,
    /// When text is handed over.
    pub flow: TextFlow,
    /// What happens at the end of the context.
    pub context: ContextPolicy,
    /// Tokens of the context, where fewer than the model's are wanted.
    pub context_tokens: Option<usize>,
    /// Tokens per forward pass of the prompts, over all sequences; bounds the memory of activations
    /// and the time until a cancel is noticed.
    pub prefill_chunk: usize,
    /// Independent completions per prompt, with seeds `seed`, `seed + 1`, …
    pub completions: usize,
    /// Settings for [`crate::beam_search`]; everything that streams refuses more than one beam.
    pub beams: Option<BeamOptions>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingParams::default(),
            max_new_tokens: None,
            stop: StopOptions::default(),
            prompt_text: PromptText::default(),
            flow: TextFlow::default(),
            context: ContextPolicy::default(),
            context_tokens: None,
            prefill_chunk: DEFAULT_PREFILL_CHUNK,
            completions: 1,
            beams: None,
        }
    }
}

impl GenerateOptions {
    /// Checks every value that can be checked without the model.
    ///
    /// # Errors
    /// [`InferError::InvalidOption`] and [`InferError::ConflictingOptions`] name the fields.
    pub fn validate(&self) -> Result<(), InferError> {
        self.sampling.validate()?;
        check("prefill_chunk", self.prefill_chunk, |n| n >= 1, "at least 1")?;
        check("completions", self.completions, |n| n >= 1, "at least 1")?;
        for string in &self.stop.strings {
            let shown = string.as_str();
            check("stop.strings", shown, |s| !s.is_empty(), "strings that are not empty")?;
        }
        Ok(())
    }
}

/// What happens during generation, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Text of the prompt (with [`PromptText::Emit`]).
    PromptText(String),
    /// `done` of `total` prompt tokens of this sequence have been run (those already in the cache
    /// not counted). In a batch the first completion of each prompt gets it.
    Prefill {
        /// Run so far.
        done: usize,
        /// To run.
        total: usize,
    },
    /// A new token.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probability under the model's unmodified logits, in nats.
        logprob: f32,
        /// Text that may be shown now; often none, sometimes of several tokens.
        text: Option<String>,
    },
    /// The sequence has ended; its last event.
    Done(FinishReason),
}

/// One finished sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The new tokens, the one that ended the sequence included.
    pub token_ids: Vec<u32>,
    /// Their log-probabilities under the model's unmodified logits, in nats.
    pub logprobs: Vec<f32>,
    /// The new text, without stop strings and without the text of stop tokens.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
}

/// What a session's turn gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The new tokens and their text.
    pub completion: Completion,
    /// How long it took.
    pub timings: Timings,
}

/// What a batch gave.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchGeneration {
    /// Completion `c` of prompt `p` stands at `p * completions + c`.
    pub completions: Vec<Completion>,
    /// How long it took, together.
    pub timings: Timings,
}
