//! Beam search, as transformers' `_beam_search` does it.
//!
//! `B` running beams; each step scores all their continuations by the sum of log-probabilities,
//! takes the best `max(2, 1 + number of stop tokens) · B` as candidates, keeps the `B` best that go
//! on, and enters those of the first `B` that ended into a list of the `B` best finished ones,
//! ranked by `score / new_tokens ^ length_penalty`. Running beams are a ragged batch like any other
//! and fork by cloning their caches.

mod search;

use crate::error::InferError;
use crate::generate::Engine;
use crate::model::LanguageModel;
use crate::options::{Completion, ContextPolicy, GenerateOptions, PromptText};
use crate::sampling::check;
use crate::sequence::Sequence;
use crate::stats::Timings;
use crate::text::{Detokenizer, TextFlow, TextPipeline};
use search::{Hypothesis, Search};
use std::ops::ControlFlow;
use std::time::Instant;

/// When a beam search may end before its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// As soon as there are as many finished sequences as beams (transformers' `true`).
    AllBeams,
    /// When the best running beam, scored at its present length, is no better than the worst finished
    /// one (transformers' `false`).
    #[default]
    Heuristic,
    /// When no running beam can become better at any length (transformers' `"never"`).
    Never,
}

/// Settings of the beam search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamOptions {
    /// Sequences followed at a time (`B`).
    pub num_beams: usize,
    /// Exponent of the length in the final score: above 0 favors longer, below 0 shorter sequences.
    pub length_penalty: f32,
    /// When the search may end early.
    pub early_stopping: EarlyStopping,
    /// Sequences wanted; at most `num_beams`.
    pub num_return_sequences: usize,
}

impl Default for BeamOptions {
    fn default() -> Self {
        Self {
            num_beams: 4,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            num_return_sequences: 1,
        }
    }
}

/// A finished sequence of the search.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamHypothesis {
    /// Its tokens and text. Log-probabilities are the model's own, without penalties.
    pub completion: Completion,
    /// Sum of log-probabilities (after penalties) over `new_tokens ^ length_penalty`.
    pub score: f64,
}

/// What a beam search gave.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamGeneration {
    /// The sequences wanted, best first; fewer where the vocabulary offers no more.
    pub hypotheses: Vec<BeamHypothesis>,
    /// How long it took. New tokens count in every beam.
    pub timings: Timings,
}

/// Searches for the most probable continuation of `prompt` with `options.beams`.
///
/// `options.sampling` gives bias and penalties, which act on log-probabilities as in transformers.
/// There is nothing to stream: which text will win is known at the end. `keep_going` is asked after
/// every step.
///
/// # Errors
/// [`InferError::InvalidOption`] for options that make no sense here: a temperature, stop strings,
/// context shift, several completions, prompt text, no `beams`; otherwise as
/// [`crate::Session::generate`].
pub fn beam_search<M: LanguageModel, T: Detokenizer>(
    model: &M,
    detokenizer: &T,
    prompt: &[u32],
    options: &GenerateOptions,
    mut keep_going: impl FnMut() -> ControlFlow<()>,
) -> Result<BeamGeneration, InferError> {
    let beams = checked(options)?;
    let options = &GenerateOptions { beams: None, ..options.clone() };
    let engine = Engine::new(model, detokenizer, options)?;
    let started = Instant::now();
    let mut root = Sequence { tokens: engine.fit(0, prompt)?, cache: model.new_cache() };
    let mut timings = Timings { prefill_tokens: root.tokens.len(), ..Default::default() };
    let logits = engine.prefill(&mut [&mut root], &mut |_, _| keep_going())?; // [1, V]
    timings.prefill = started.elapsed();
    let Some(logits) = logits else {
        return Ok(BeamGeneration { hypotheses: Vec::new(), timings });
    };

    let started = Instant::now();
    let room = engine.context - prompt.len();
    let max_new = options.max_new_tokens.unwrap_or(room).min(room);
    let mut search = Search::new(&engine, beams, max_new, root);
    search.run(logits, &mut keep_going)?;
    timings.decode_tokens = search.stepped_tokens;
    let mut hypotheses = Vec::new();
    for hypothesis in search.into_finished().into_iter().take(beams.num_return_sequences) {
        hypotheses.push(BeamHypothesis {
            score: hypothesis.score,
            completion: completion(hypothesis, detokenizer, options)?,
        });
    }
    timings.decode = started.elapsed();
    Ok(BeamGeneration { hypotheses, timings })
}

/// Checks what beam search cannot do, and its own settings.
fn checked(options: &GenerateOptions) -> Result<BeamOptions, InferError> {
    let Some(beams) = options.beams else {
        return Err(InferError::InvalidOption {
            field: "beams",
            value: "absent".to_string(),
            expected: "the settings of the beam search",
        });
    };
    check("num_beams", beams.num_beams, |n| n >= 1, "at least 1")?;
    let returned = |n| (1..=beams.num_beams).contains(&n);
    let expected = "at least 1 and at most num_beams";
    check("num_return_sequences", beams.num_return_sequences, returned, expected)?;
    check("length_penalty", beams.length_penalty, f32::is_finite, "a finite number")?;
    check("temperature", options.sampling.temperature, |t| t == 0.0, "0 with beam search")?;
    check("completions", options.completions, |n| n == 1, "1 with beam search")?;
    check("stop.strings", options.stop.strings.len(), |n| n == 0, "none with beam search")?;
    let unsupported = |field, expected| {
        let value = format!("{:?}, {:?}", options.context, options.prompt_text);
        Err(InferError::InvalidOption { field, value, expected })
    };
    if options.context != ContextPolicy::Error {
        return unsupported("context", "ContextPolicy::Error with beam search");
    }
    if options.prompt_text != PromptText::Skip {
        return unsupported("prompt_text", "PromptText::Skip with beam search");
    }
    Ok(beams)
}

fn completion<T: Detokenizer>(
    hypothesis: Hypothesis,
    detokenizer: &T,
    options: &GenerateOptions,
) -> Result<Completion, InferError> {
    let mut text = TextPipeline::new(detokenizer.stream(), &[], TextFlow::Tokens);
    for &token in &hypothesis.token_ids {
        if options.stop.token_reason(token).is_none() {
            text.push(token)?;
        }
    }
    text.finish(crate::text::Shown::default())?;
    Ok(Completion {
        token_ids: hypothesis.token_ids,
        logprobs: hypothesis.logprobs,
        text: text.text,
        finish: hypothesis.finish,
    })
}
