//! Speculative decoding: several tokens per forward pass where somebody guessed them right.
//!
//! A [`Drafter`] proposes how the sequence might go on; one pass runs the last token and the
//! proposals and gives the logits after each. Then tokens are drawn exactly as without proposals, by
//! the sequence's own sampler from the model's own logits, for as long as what is drawn is what was
//! proposed. The pass computes each position bitwise as a single step would, so the tokens are *the
//! same* as plain decoding's, with any sampling settings and the same seed, and penalties and
//! mirostat need no thought. The alternative, accepting a proposal with probability min(1, p / q)
//! (Leviathan et al. 2023, arXiv:2211.17192), accepts sampled proposals a little more often, but only
//! keeps the distribution, not the text.

use crate::error::InferError;
use crate::generate::{Engine, Sink, SlotOf};
use crate::model::{LanguageModel, Logits, Segment, SequenceCache};
use crate::options::{Completion, ContextPolicy};
use crate::sequence::{Sequence, advance};
use crate::stop::FinishReason;
use crate::text::Detokenizer;
use std::ops::ControlFlow;

/// Proposals of the first pass; doubled after a pass that took all of them, halved after one that
/// took none, so that text without repetition costs little.
const FIRST_DRAFT: usize = 4;

/// Guesses how a sequence goes on.
pub trait Drafter {
    /// Up to `max` tokens that might follow `tokens`; fewer, or none, where it has no idea.
    ///
    /// # Errors
    /// Whatever a model reports.
    fn draft(&mut self, tokens: &[u32], max: usize) -> Result<Vec<u32>, InferError>;
}

/// Prompt lookup (Saxena 2023): what followed the last tokens when they stood in the sequence before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptLookup {
    /// Longest run of last tokens that is looked for; shorter ones follow.
    pub max_ngram: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self { max_ngram: 4 }
    }
}

impl Drafter for PromptLookup {
    fn draft(&mut self, tokens: &[u32], max: usize) -> Result<Vec<u32>, InferError> {
        for length in (1..=self.max_ngram.min(tokens.len().saturating_sub(1))).rev() {
            let last = &tokens[tokens.len() - length..];
            // The latest place whose continuation has begun.
            let found = tokens[..tokens.len() - 1].windows(length).rposition(|run| run == last);
            if let Some(at) = found {
                // What follows may run into the proposal itself, as when a short period repeats.
                let mut draft = Vec::with_capacity(max);
                for source in at + length..at + length + max {
                    let known = tokens.get(source);
                    draft.push(*known.unwrap_or_else(|| &draft[source - tokens.len()]));
                }
                return Ok(draft);
            }
        }
        Ok(Vec::new())
    }
}

/// A smaller model with the same vocabulary that guesses greedily.
pub struct DraftModel<'m, M: LanguageModel> {
    model: &'m M,
    sequence: Sequence<M::Cache>,
}

impl<'m, M: LanguageModel> DraftModel<'m, M> {
    /// A drafter for one sequence at a time.
    pub fn new(model: &'m M) -> Self {
        Self { model, sequence: Sequence { tokens: Vec::new(), cache: model.new_cache() } }
    }
}

impl<M: LanguageModel> Drafter for DraftModel<'_, M> {
    fn draft(&mut self, tokens: &[u32], max: usize) -> Result<Vec<u32>, InferError> {
        let held = &self.sequence.tokens[..self.sequence.cache.len()];
        let common = held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.sequence.rewind(common.min(tokens.len().saturating_sub(1)));
        self.sequence.tokens = tokens.to_vec();
        let mut draft = Vec::with_capacity(max);
        let room = self.model.max_seq_len().saturating_sub(tokens.len());
        while draft.len() < max.min(room) {
            let chunk = crate::DEFAULT_PREFILL_CHUNK;
            let go_on = &mut |_, _, _| ControlFlow::Continue(());
            let rows = advance(self.model, &mut [&mut self.sequence], chunk, go_on)?;
            let logits = rows.unwrap_or_default();
            let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let Some((token, _)) = best else { break };
            draft.push(token as u32);
            self.sequence.tokens.push(token as u32);
        }
        Ok(draft)
    }
}

/// What speculation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speculated {
    /// Tokens proposed.
    pub drafted: usize,
    /// Proposals that were drawn.
    pub accepted: usize,
    /// Forward passes after the prompt's.
    pub passes: usize,
}

/// A drafter and the length of its next proposal.
struct Speculation<'d> {
    drafter: &'d mut dyn Drafter,
    length: usize,
    max: usize,
    /// Whether proposals can be taken back; a window that has moved on may not let them.
    reversible: bool,
    done: Speculated,
}

impl<'a, M: LanguageModel, T: Detokenizer> Engine<'a, M, T> {
    /// [`Engine::decode`] of one sequence with proposals of up to `max` tokens.
    pub(crate) fn decode_drafted(
        &self,
        mut slot: SlotOf<'_, 'a, M, T>,
        mut logits: Vec<f32>,
        (drafter, max): (&mut dyn Drafter, usize),
        sink: &mut Sink<'_>,
    ) -> Result<(Completion, Speculated), InferError> {
        if self.model().depends_on_length() {
            return Err(InferError::InvalidOption {
                field: "speculation",
                value: "on".to_owned(),
                expected: "off: this model's rotary scaling depends on the sequence's length, so \
                           that several tokens at once are not the same as one by one",
            });
        }
        let length = FIRST_DRAFT.min(max);
        let mut speculation =
            Speculation { drafter, length, max, reversible: true, done: Speculated::default() };
        let mut draft: Vec<u32> = Vec::new();
        loop {
            let ended = self.take_rows(&mut slot, &mut logits, &draft, &mut speculation, sink)?;
            // What was run beyond the tokens is taken back; the last one drawn was never run.
            let keep = slot.sequence().tokens.len() - 1;
            if slot.sequence().cache.len() > keep {
                slot.sequence_mut().rewind(keep);
                speculation.reversible &= slot.sequence().cache.len() == keep;
            }
            if ended {
                return Ok((slot.into_completion(), speculation.done));
            }
            draft = self.propose(&slot, &mut speculation)?;
            speculation.done.passes += 1;
            speculation.done.drafted += draft.len();
            let Some(rows) = self.run_with(&mut slot, &draft)? else {
                return Ok((slot.into_completion(), speculation.done));
            };
            logits = rows;
        }
    }

    /// Draws a token from each row while they are those proposed; whether the sequence has ended.
    fn take_rows(
        &self,
        slot: &mut SlotOf<'_, 'a, M, T>,
        logits: &mut [f32],
        draft: &[u32],
        speculation: &mut Speculation<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<bool, InferError> {
        let mut accepted = 0;
        let mut ended = false;
        for row in logits.chunks_exact_mut(self.vocab_size()) {
            let flow = self.step(slot, row, sink)?;
            ended = flow.is_break() || slot.finish() != &FinishReason::Cancelled;
            let drawn = slot.sequence().tokens.last();
            if draft.get(accepted) != drawn || drawn.is_none() {
                break;
            }
            accepted += 1;
            if ended {
                break;
            }
        }
        speculation.done.accepted += accepted;
        if !draft.is_empty() && accepted == draft.len() {
            speculation.length = (2 * speculation.length).min(speculation.max);
        } else if !draft.is_empty() && accepted == 0 {
            speculation.length = (speculation.length / 2).max(1);
        }
        Ok(ended)
    }

    /// Proposals that fit the context and what is still wanted.
    fn propose(
        &self,
        slot: &SlotOf<'_, 'a, M, T>,
        speculation: &mut Speculation<'_>,
    ) -> Result<Vec<u32>, InferError> {
        let tokens = &slot.sequence().tokens;
        let wanted = self.options.max_new_tokens.unwrap_or(usize::MAX);
        // The token after the last proposal comes from the same pass.
        let still = wanted.saturating_sub(slot.new_tokens() + 1);
        let room = self.context.saturating_sub(tokens.len());
        let max = speculation.length.min(still).min(room);
        if !speculation.reversible || max == 0 {
            return Ok(Vec::new());
        }
        let mut draft = speculation.drafter.draft(tokens, max)?;
        draft.truncate(max);
        let vocab_size = self.vocab_size();
        let known = draft.iter().take_while(|&&token| (token as usize) < vocab_size).count();
        draft.truncate(known);
        Ok(draft)
    }

    /// Runs what the cache lacks and the proposals; rows of the last token and of each proposal.
    fn run_with(
        &self,
        slot: &mut SlotOf<'_, 'a, M, T>,
        draft: &[u32],
    ) -> Result<Option<Vec<f32>>, InferError> {
        let sequence = slot.sequence_mut();
        let held = sequence.cache.len();
        if draft.is_empty() {
            return self.advance(&mut [sequence], &mut |_, _, _| ControlFlow::Continue(()));
        }
        let run: Vec<u32> = sequence.tokens[held..].iter().chain(draft).copied().collect();
        self.forward_all(&mut sequence.cache, &run).map(Some)
    }

    fn forward_all(&self, cache: &mut M::Cache, tokens: &[u32]) -> Result<Vec<f32>, InferError> {
        let total_len = cache.len() + tokens.len();
        let segment = Segment { tokens, cache, total_len };
        let rows = self.model().forward(&mut [segment], Logits::All).map_err(InferError::Model)?;
        let expected = tokens.len() * self.vocab_size();
        if rows.len() != expected {
            return Err(InferError::LogitCount { expected, got: rows.len() });
        }
        Ok(rows)
    }

    /// Whether speculation makes sense of the options.
    pub(crate) fn check_speculation(&self) -> Result<(), InferError> {
        match self.options.context {
            ContextPolicy::Error => Ok(()),
            ContextPolicy::Shift { .. } => {
                Err(InferError::ConflictingOptions { field: "speculation", other: "context shift" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Drafter, PromptLookup};

    #[test]
    fn the_longest_and_latest_match_is_continued() {
        let mut lookup = PromptLookup::default();
        // 2 3 stood before 4 and, later, before 5.
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 2, 3, 5, 6, 2, 3], 3).unwrap(), [5, 6, 2]);
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 2, 3, 5, 1, 2, 3], 1).unwrap(), [4]);
        assert_eq!(lookup.draft(&[7, 7, 7], 4).unwrap(), [7, 7, 7, 7]);
        assert_eq!(lookup.draft(&[8, 7, 8, 7], 3).unwrap(), [8, 7, 8]);
        assert!(lookup.draft(&[1, 2, 3], 4).unwrap().is_empty());
        assert!(lookup.draft(&[1], 4).unwrap().is_empty());
        assert!(lookup.draft(&[], 4).unwrap().is_empty());
    }
}
