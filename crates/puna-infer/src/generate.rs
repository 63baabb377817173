//! The loop that turns logits into sequences, for one sequence as for many.
//!
//! All active sequences take one step per forward pass; one that ends leaves the batch. Because the
//! model's results do not depend on what else is in the batch, neither do the tokens. A single
//! generation is a batch of one: there is no second loop.

use crate::error::InferError;
use crate::model::{LanguageModel, check_tokens};
use crate::options::{Completion, ContextPolicy, Event, GenerateOptions, PromptText};
use crate::sampling::{Sampler, SamplingParams};
use crate::sequence::{Progress, Sequence, advance, shift_tokens};
use crate::stop::FinishReason;
use crate::text::{Detokenizer, Shown, TextPipeline};
use std::ops::ControlFlow;

/// Receives events: sequence and event; breaking cancels everything.
pub(crate) type Sink<'a> = dyn FnMut(usize, Event) -> ControlFlow<()> + 'a;

/// Model, tokenizer and options of one request, checked.
pub(crate) struct Engine<'a, M, T> {
    model: &'a M,
    detokenizer: &'a T,
    pub(crate) options: &'a GenerateOptions,
    /// Tokens the context holds.
    pub(crate) context: usize,
}

/// What belongs to one active sequence.
pub(crate) struct Slot<'s, C, S> {
    index: usize,
    sequence: &'s mut Sequence<C>,
    sampler: Sampler,
    text: TextPipeline<S>,
    completion: Completion,
}

/// A slot, with its types taken from model and tokenizer.
pub(crate) type SlotOf<'s, 'a, M, T> =
    Slot<'s, <M as LanguageModel>::Cache, <T as Detokenizer>::Stream<'a>>;

impl<'a, M: LanguageModel, T: Detokenizer> Engine<'a, M, T> {
    pub(crate) fn new(
        model: &'a M,
        detokenizer: &'a T,
        options: &'a GenerateOptions,
    ) -> Result<Self, InferError> {
        options.validate()?;
        if let Some(beams) = options.beams
            && beams.num_beams > 1
        {
            return Err(InferError::BeamsCannotStream { num_beams: beams.num_beams });
        }
        if !T::GIVES_TEXT && !options.stop.strings.is_empty() {
            return Err(InferError::InvalidOption {
                field: "stop.strings",
                value: format!("{:?}", options.stop.strings),
                expected: "none where there is no tokenizer",
            });
        }
        let context = model.max_seq_len().min(options.context_tokens.unwrap_or(usize::MAX));
        if let ContextPolicy::Shift { keep } = options.context
            && keep.saturating_add(2) > context
        {
            return Err(InferError::InvalidOption {
                field: "context.keep",
                value: keep.to_string(),
                expected: "at least two tokens fewer than the context",
            });
        }
        Ok(Self { model, detokenizer, options, context })
    }

    /// Checks a prompt and makes it fit the context, as the policy says.
    pub(crate) fn fit(&self, sequence: usize, prompt: &[u32]) -> Result<Vec<u32>, InferError> {
        if prompt.is_empty() {
            return Err(InferError::EmptyPrompt { sequence });
        }
        check_tokens(prompt, self.model.vocab_size())?;
        let mut tokens = prompt.to_vec();
        let max_new = self.options.max_new_tokens.unwrap_or(1);
        let needed = |len: usize| len.saturating_add(max_new.min(1));
        match self.options.context {
            ContextPolicy::Error if needed(tokens.len()) > self.context => {
                let (prompt, context) = (prompt.len(), self.context);
                return Err(InferError::ContextOverflow { prompt, max_new, context });
            }
            ContextPolicy::Error => {}
            ContextPolicy::Shift { keep } => {
                while needed(tokens.len()) > self.context {
                    shift_tokens(&mut tokens, keep);
                }
            }
        }
        Ok(tokens)
    }

    /// The text stages of one sequence; hands the prompt's text over if that is wanted.
    pub(crate) fn text(
        &self,
        index: usize,
        prompt: &[u32],
        sink: &mut Sink<'_>,
    ) -> Result<(TextPipeline<T::Stream<'a>>, ControlFlow<()>), InferError> {
        let stream = self.detokenizer.stream();
        let mut text = TextPipeline::new(stream, &self.options.stop.strings, self.options.flow);
        if self.options.prompt_text == PromptText::Emit {
            for &token in prompt {
                if let Some(piece) = text.push_prompt(token)?
                    && sink(index, Event::PromptText(piece)).is_break()
                {
                    return Ok((text, ControlFlow::Break(())));
                }
            }
        }
        Ok((text, ControlFlow::Continue(())))
    }

    /// A slot for completion number `completion` of its prompt.
    pub(crate) fn slot<'s>(
        &self,
        index: usize,
        completion: usize,
        sequence: &'s mut Sequence<M::Cache>,
        text: TextPipeline<T::Stream<'a>>,
    ) -> Result<SlotOf<'s, 'a, M, T>, InferError> {
        let sampling = &self.options.sampling;
        let seed = sampling.seed.wrapping_add(completion as u64);
        let sampler = Sampler::new(SamplingParams { seed, ..sampling.clone() })?;
        Ok(Slot { index, sequence, sampler, text, completion: Completion::empty() })
    }

    /// Runs the pending tokens of `sequences` and reports each pass. Sequence `i` is reported as
    /// `i * completions`, its first completion. `None` if the consumer broke off.
    pub(crate) fn prefill(
        &self,
        sequences: &mut [&mut Sequence<M::Cache>],
        sink: &mut Sink<'_>,
    ) -> Result<Option<Vec<f32>>, InferError> {
        let completions = self.options.completions;
        let mut progress = |sequence: usize, done, total| {
            sink(sequence * completions, Event::Prefill { done, total })
        };
        self.advance(sequences, &mut progress)
    }

    /// See [`advance`].
    pub(crate) fn advance(
        &self,
        sequences: &mut [&mut Sequence<M::Cache>],
        progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<f32>>, InferError> {
        advance(self.model, sequences, self.options.prefill_chunk, progress)
    }

    pub(crate) fn model(&self) -> &'a M {
        self.model
    }

    /// Rows of the vocabulary (`V`).
    pub(crate) fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Steps all slots until each has ended; completions in the order of the slots' indices.
    ///
    /// # Shapes
    /// `logits: [N, V]`, row `i` for slot `i`.
    pub(crate) fn decode(
        &self,
        mut active: Vec<SlotOf<'_, 'a, M, T>>,
        mut logits: Vec<f32>,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Completion>, InferError> {
        let mut ended = Vec::with_capacity(active.len());
        let mut flow = ControlFlow::Continue(());
        while !active.is_empty() {
            let mut next = Vec::with_capacity(active.len());
            let rows = logits.chunks_exact_mut(self.model.vocab_size());
            for (mut slot, row) in active.into_iter().zip(rows) {
                if flow.is_continue() {
                    flow = self.step(&mut slot, row, sink)?;
                }
                let goes_on = slot.completion.finish == FinishReason::Cancelled;
                if goes_on && flow.is_continue() { next.push(slot) } else { ended.push(slot) }
            }
            active = next;
            if active.is_empty() {
                break;
            }
            let mut sequences: Vec<_> = active.iter_mut().map(|s| &mut *s.sequence).collect();
            self.make_room(&mut sequences);
            let run_on = &mut |_, _, _| ControlFlow::Continue(());
            let Some(rows) = self.advance(&mut sequences, run_on)? else {
                ended.extend(active);
                break;
            };
            logits = rows;
        }
        ended.sort_unstable_by_key(|slot| slot.index);
        Ok(ended.into_iter().map(Slot::into_completion).collect())
    }

    /// Chooses one token. The slot's finish stays `Cancelled` while it goes on.
    pub(crate) fn step(
        &self,
        slot: &mut SlotOf<'_, 'a, M, T>,
        row: &mut [f32],
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, InferError> {
        if self.options.max_new_tokens == Some(0) {
            slot.completion.finish = FinishReason::Length;
            return Ok(sink(slot.index, Event::Done(FinishReason::Length)));
        }
        let sampled = slot.sampler.sample(row, &slot.sequence.tokens)?;
        let id = sampled.token;
        slot.sequence.tokens.push(id);
        slot.completion.token_ids.push(id);
        slot.completion.logprobs.push(sampled.logprob);

        let stopped = self.options.stop.token_reason(id);
        // The text of a token that stops is not part of the answer.
        let shown = if stopped.is_some() { Shown::default() } else { slot.text.push(id)? };
        let (text, finish) = self.conclude(slot, shown, stopped)?;
        if let Some(reason) = &finish {
            slot.completion.finish = reason.clone();
        }
        let flow = sink(slot.index, Event::Token { id, logprob: sampled.logprob, text });
        match finish {
            Some(reason) if flow.is_continue() => Ok(sink(slot.index, Event::Done(reason))),
            _ => Ok(flow),
        }
    }

    /// Decides whether the sequence ends here; if so, gives up the text held back.
    fn conclude(
        &self,
        slot: &mut SlotOf<'_, 'a, M, T>,
        shown: Shown,
        stopped: Option<FinishReason>,
    ) -> Result<(Option<String>, Option<FinishReason>), InferError> {
        let enough =
            self.options.max_new_tokens.is_some_and(|n| slot.completion.token_ids.len() >= n);
        let full = self.options.context == ContextPolicy::Error
            && slot.sequence.tokens.len() >= self.context;
        if stopped.is_none() && shown.stop.is_none() && !enough && !full {
            return Ok((shown.text, None));
        }
        let last = slot.text.finish(shown)?;
        let by_string = last.stop.map(FinishReason::StopString);
        let reason = stopped.or(by_string).unwrap_or(FinishReason::Length);
        Ok((last.text, Some(reason)))
    }

    /// Shifts the sequences that fill the context.
    fn make_room(&self, sequences: &mut [&mut Sequence<M::Cache>]) {
        if let ContextPolicy::Shift { keep } = self.options.context {
            for sequence in sequences.iter_mut().filter(|s| s.tokens.len() >= self.context) {
                sequence.shift(keep);
            }
        }
    }
}

impl<C, S> Slot<'_, C, S> {
    pub(crate) fn sequence(&self) -> &Sequence<C> {
        self.sequence
    }

    pub(crate) fn sequence_mut(&mut self) -> &mut Sequence<C> {
        self.sequence
    }

    /// Why it ended; `Cancelled` while it goes on.
    pub(crate) fn finish(&self) -> &FinishReason {
        &self.completion.finish
    }

    pub(crate) fn new_tokens(&self) -> usize {
        self.completion.token_ids.len()
    }

    pub(crate) fn into_completion(self) -> Completion {
        Completion { text: self.text.text, ..self.completion }
    }
}

impl Completion {
    /// A sequence with no token yet; it is cancelled unless it comes to another end.
    pub(crate) fn empty() -> Self {
        Self {
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            text: String::new(),
            finish: FinishReason::Cancelled,
        }
    }
}
