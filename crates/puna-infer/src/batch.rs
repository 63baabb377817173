//! Several prompts, and several completions of each, in one batch.

use crate::error::InferError;
use crate::generate::{Engine, Sink};
use crate::model::{LanguageModel, SequenceCache};
use crate::options::{BatchGeneration, Completion, Event, GenerateOptions};
use crate::prefix::common;
use crate::sequence::Sequence;
use crate::stats::Timings;
use crate::text::Detokenizer;
use std::ops::ControlFlow;
use std::time::Instant;

/// Tokens of a common beginning below which it is not run on its own: a pass of few tokens costs
/// about as much as one of this many, because both read all weights.
const LEAST_BEGINNING: usize = 32;

/// Continues every prompt `options.completions` times.
///
/// Prompts may differ in length; each is run once, and its cache is cloned for its completions. So
/// is what all prompts begin with, where that is worth a pass of its own.
/// Every forward pass takes one token of each active sequence. The tokens are those that each
/// completion would have got alone, with seed `seed + c` for completion `c`.
///
/// `sink` gets the sequence's index (`prompt * completions + completion`) and the event; breaking
/// cancels all sequences.
///
/// # Errors
/// As [`crate::Session::generate`]; an error in one sequence ends the batch.
pub fn generate_batch<M: LanguageModel, T: Detokenizer>(
    model: &M,
    detokenizer: &T,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    mut sink: impl FnMut(usize, Event) -> ControlFlow<()>,
) -> Result<BatchGeneration, InferError> {
    let engine = Engine::new(model, detokenizer, options)?;
    let started = Instant::now();
    let mut timings = Timings::default();
    let completions = options.completions;
    let mut sequences = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let tokens = engine.fit(index, prompt)?;
        sequences.push(Sequence { tokens, cache: model.new_cache() });
    }
    let cancelled = |timings| {
        let completions = vec![Completion::empty(); prompts.len() * completions];
        Ok(BatchGeneration { completions, timings })
    };

    let mut texts = Vec::with_capacity(prompts.len() * completions);
    for index in 0..prompts.len() * completions {
        let prompt = &sequences[index / completions].tokens;
        let (text, flow) = engine.text(index, prompt, &mut sink)?;
        if flow.is_break() {
            return cancelled(timings);
        }
        texts.push(text);
    }
    let Some(shared) = run_beginning(&engine, model, &mut sequences, &mut sink)? else {
        return cancelled(timings);
    };
    let mut borrowed: Vec<_> = sequences.iter_mut().collect();
    let logits = engine.prefill(&mut borrowed, &mut sink)?; // [prompts, V]
    timings.prefill = started.elapsed();
    timings.reused_tokens = shared;
    timings.prefill_tokens = sequences.iter().map(|s| s.cache.len()).sum::<usize>() - shared;
    let Some(logits) = logits else { return cancelled(timings) };

    let started = Instant::now();
    let rows = repeat_rows(&logits, model.vocab_size(), completions); // [prompts * completions, V]
    let mut forks = fork(sequences, completions);
    let mut slots = Vec::with_capacity(forks.len());
    for (index, (sequence, text)) in forks.iter_mut().zip(texts).enumerate() {
        slots.push(engine.slot(index, index % completions, sequence, text)?);
    }
    let completions = engine.decode(slots, rows, &mut sink)?;
    timings.decode = started.elapsed();
    timings.decode_tokens = completions.iter().map(|c| c.token_ids.len()).sum();
    Ok(BatchGeneration { completions, timings })
}

/// Runs what all sequences begin with once and gives each a fork of it. Returns the tokens that were
/// thereby not run; `None` if the consumer broke off.
fn run_beginning<M: LanguageModel, T: Detokenizer>(
    engine: &Engine<'_, M, T>,
    model: &M,
    sequences: &mut [Sequence<M::Cache>],
    sink: &mut Sink<'_>,
) -> Result<Option<usize>, InferError> {
    let Some((first, others)) = sequences.split_first() else { return Ok(Some(0)) };
    // Every sequence keeps a token of its own to run, for its logits.
    let usable = |s: &Sequence<M::Cache>| s.tokens.len() - 1;
    let shared =
        others.iter().map(|s| common(&first.tokens, &s.tokens).min(usable(s))).min().unwrap_or(0);
    let shared = shared.min(usable(first));
    let tokens = first.tokens[..shared].to_vec();
    let mut beginning = Sequence { tokens, cache: model.new_cache() };
    let fits = |s: &Sequence<M::Cache>| model.can_continue(&beginning.cache, s.tokens.len());
    if shared < LEAST_BEGINNING || others.is_empty() || !sequences.iter().all(fits) {
        return Ok(Some(0));
    }
    if engine.prefill(&mut [&mut beginning], sink)?.is_none() {
        return Ok(None);
    }
    let reused = shared * (sequences.len() - 1);
    sequences.iter_mut().for_each(|sequence| sequence.cache = beginning.cache.clone());
    Ok(Some(reused))
}

/// `times` copies of each sequence, the last of which is the original.
fn fork<C: SequenceCache>(sequences: Vec<Sequence<C>>, times: usize) -> Vec<Sequence<C>> {
    sequences.into_iter().flat_map(|sequence| std::iter::repeat_n(sequence, times)).collect()
}

fn repeat_rows(rows: &[f32], width: usize, times: usize) -> Vec<f32> {
    let repeated = rows.chunks_exact(width).flat_map(|row| std::iter::repeat_n(row, times));
    repeated.flatten().copied().collect()
}
