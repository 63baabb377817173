//! A sequence of tokens with the model's memory of it, and running what the memory lacks.
//!
//! Prefill, a decode step and the recomputation after a context shift are the same operation: some
//! sequences have tokens that their caches do not hold yet, and [`advance`] runs them, in as few
//! forward passes as the chunk size allows.

use crate::error::InferError;
use crate::model::{LanguageModel, Logits, Segment, SequenceCache};
use std::ops::ControlFlow;

/// Tokens of one sequence; the cache holds the first `cache.len()` of them.
#[derive(Debug, Clone)]
pub(crate) struct Sequence<C> {
    pub(crate) tokens: Vec<u32>,
    pub(crate) cache: C,
}

impl<C: SequenceCache> Sequence<C> {
    /// Tokens the cache does not hold yet.
    fn pending(&self) -> usize {
        self.tokens.len().saturating_sub(self.cache.len())
    }

    /// Shortens the cache to `len` tokens; one that cannot go back is emptied instead.
    pub(crate) fn rewind(&mut self, len: usize) {
        if len < self.cache.len() && self.cache.truncate(len).is_err() {
            self.cache.clear();
        }
    }

    /// Drops the older half of the tokens after the first `keep`.
    pub(crate) fn shift(&mut self, keep: usize) {
        self.rewind(keep);
        shift_tokens(&mut self.tokens, keep);
    }
}

/// Drops the older half of what comes after the first `keep` tokens.
pub(crate) fn shift_tokens(tokens: &mut Vec<u32>, keep: usize) {
    let dropped = tokens.len().saturating_sub(keep) / 2;
    tokens.drain(keep..keep + dropped);
}

/// Told after each forward pass: sequence, its tokens run, its tokens to run.
pub(crate) type Progress<'a> = dyn FnMut(usize, usize, usize) -> ControlFlow<()> + 'a;

/// Runs every pending token, at most `chunk` per forward pass over all sequences.
///
/// # Shapes
/// Returns `[N, V]`, row `i` for the last token of sequence `i`; `None` if `progress` broke off.
/// Every sequence must have a pending token.
pub(crate) fn advance<M: LanguageModel>(
    model: &M,
    sequences: &mut [&mut Sequence<M::Cache>],
    chunk: usize,
    progress: &mut Progress<'_>,
) -> Result<Option<Vec<f32>>, InferError> {
    let vocab_size = model.vocab_size();
    let totals: Vec<usize> = sequences.iter().map(|s| s.pending()).collect();
    let mut logits = vec![0.0; sequences.len() * vocab_size]; // [N, V]
    loop {
        let planned = plan(sequences, chunk);
        if planned.is_empty() {
            return Ok(Some(logits));
        }
        let finishes = planned.iter().any(|p| p.finishes);
        let rows = forward(model, sequences, &planned, finishes)?; // [planned, V] or []
        if finishes {
            let expected = planned.len() * vocab_size;
            if rows.len() != expected {
                return Err(InferError::LogitCount { expected, got: rows.len() });
            }
            for (p, row) in planned.iter().zip(rows.chunks_exact(vocab_size)) {
                logits[p.sequence * vocab_size..][..vocab_size].copy_from_slice(row);
            }
        }
        for p in &planned {
            let total = totals[p.sequence];
            let done = total - sequences[p.sequence].pending();
            if progress(p.sequence, done, total).is_break() {
                return Ok(None);
            }
        }
    }
}

/// Tokens of one sequence in the next forward pass.
struct Planned {
    sequence: usize,
    tokens: usize,
    /// Whether they are the sequence's last.
    finishes: bool,
}

/// Shares `chunk` tokens among the sequences, first come, first served.
fn plan<C: SequenceCache>(sequences: &[&mut Sequence<C>], chunk: usize) -> Vec<Planned> {
    let mut budget = chunk;
    let mut planned = Vec::new();
    for (sequence, s) in sequences.iter().enumerate() {
        let pending = s.pending();
        let tokens = pending.min(budget);
        if tokens > 0 {
            planned.push(Planned { sequence, tokens, finishes: tokens == pending });
            budget -= tokens;
        }
    }
    planned
}

fn forward<M: LanguageModel>(
    model: &M,
    sequences: &mut [&mut Sequence<M::Cache>],
    planned: &[Planned],
    finishes: bool,
) -> Result<Vec<f32>, InferError> {
    let mut planned = planned.iter().peekable();
    let mut segments = Vec::new();
    for (index, sequence) in sequences.iter_mut().enumerate() {
        let Some(p) = planned.next_if(|p| p.sequence == index) else { continue };
        let Sequence { tokens, cache } = &mut **sequence;
        let start = cache.len();
        segments.push(Segment {
            tokens: &tokens[start..start + p.tokens],
            cache,
            total_len: tokens.len(),
        });
    }
    let logits = if finishes { Logits::Last } else { Logits::None };
    model.forward(&mut segments, logits).map_err(InferError::Model)
}
