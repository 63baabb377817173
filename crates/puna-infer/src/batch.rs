//! Several prompts, and several completions of each, in one batch.

use crate::error::InferError;
use crate::generate::Engine;
use crate::model::{LanguageModel, SequenceCache};
use crate::options::{BatchGeneration, Completion, Event, GenerateOptions};
use crate::sequence::Sequence;
use crate::stats::Timings;
use crate::text::Detokenizer;
use std::ops::ControlFlow;
use std::time::Instant;

/// Continues every prompt `options.completions` times.
///
/// Prompts may differ in length; each is run once, and its cache is cloned for its completions.
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
    let mut borrowed: Vec<_> = sequences.iter_mut().collect();
    let logits = engine.prefill(&mut borrowed, &mut sink)?; // [prompts, V]
    timings.prefill = started.elapsed();
    timings.prefill_tokens = sequences.iter().map(|s| s.cache.len()).sum();
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

/// `times` copies of each sequence, the last of which is the original.
fn fork<C: SequenceCache>(sequences: Vec<Sequence<C>>, times: usize) -> Vec<Sequence<C>> {
    sequences.into_iter().flat_map(|sequence| std::iter::repeat_n(sequence, times)).collect()
}

fn repeat_rows(rows: &[f32], width: usize, times: usize) -> Vec<f32> {
    let repeated = rows.chunks_exact(width).flat_map(|row| std::iter::repeat_n(row, times));
    repeated.flatten().copied().collect()
}
