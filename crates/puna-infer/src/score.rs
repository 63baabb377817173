//! Log-probabilities of given text, and what follows from them.
//!
//! Text longer than the window is cut into windows that do not overlap and each start with bos, so
//! that every token but the first is predicted exactly once. Overlapping (strided) windows give
//! lower perplexities that depend on the stride; the plain cut is what published numbers of small
//! models use and is cheaper by the factor of the overlap.

use crate::error::InferError;
use crate::logprob::log_prob;
use crate::model::{LanguageModel, Logits, Segment, check_tokens};
use crate::sampling::check;

/// How to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreOptions {
    /// Tokens per window, bos included; at least 2 and at most the model's context.
    pub window: usize,
    /// Starts every window after the first. `None`: the last token of the window before does, so
    /// that a text without bos still has each token predicted once.
    pub bos: Option<u32>,
    /// Tokens per forward pass; bounds the memory of activations and logits.
    pub chunk: usize,
}

impl ScoreOptions {
    /// Windows of the model's whole context, in chunks of 512 tokens.
    pub fn new<M: LanguageModel>(model: &M, bos: Option<u32>) -> Self {
        Self { window: model.max_seq_len(), bos, chunk: crate::DEFAULT_PREFILL_CHUNK }
    }
}

/// The log-probability in nats of each token given those before it in its window.
///
/// `logprobs[0]` is `None`: nothing predicts the first token. Where `ids` start with bos, window `k`
/// is bos and the tokens `1 + k (window - 1) ..` of the text.
///
/// `on_logits` gets a row of logits `[V]` for each of `ids`, in order: the logits *after* that token
/// in its window. (Rows of the windows' extra bos are left out.) A chunk is all that is held.
///
/// # Errors
/// [`InferError::EmptyPrompt`], [`InferError::TokenOutOfRange`], [`InferError::InvalidOption`] for a
/// window or chunk that cannot be, [`InferError::NonFiniteLogit`], [`InferError::Model`].
pub fn score<M: LanguageModel>(
    model: &M,
    ids: &[u32],
    options: &ScoreOptions,
    mut on_logits: impl FnMut(&[f32]),
) -> Result<Vec<Option<f32>>, InferError> {
    let Some((&first, body)) = ids.split_first() else {
        return Err(InferError::EmptyPrompt { sequence: 0 });
    };
    check_tokens(ids, model.vocab_size())?;
    check_tokens(options.bos.as_slice(), model.vocab_size())?;
    let fits = |window| (2..=model.max_seq_len()).contains(&window);
    check("window", options.window, fits, "at least 2 and at most the model's context")?;
    check("chunk", options.chunk, |n| n >= 1, "at least 1")?;

    let mut logprobs = vec![None];
    let mut start = first;
    let windows: Vec<&[u32]> = match body {
        [] => vec![body],
        _ => body.chunks(options.window - 1).collect(),
    };
    for (index, window) in windows.into_iter().enumerate() {
        let tokens: Vec<u32> = std::iter::once(start).chain(window.iter().copied()).collect();
        let shown_from = usize::from(index > 0);
        score_window(model, &tokens, options.chunk, |position, row| {
            if position >= shown_from {
                on_logits(row);
            }
            if let Some(&next) = tokens.get(position + 1) {
                logprobs.push(Some(log_prob(row, next)?));
            }
            Ok(())
        })?;
        start = options.bos.or(window.last().copied()).unwrap_or(first);
    }
    Ok(logprobs)
}

/// Runs one window and gives `on_row` each position's logits.
fn score_window<M: LanguageModel>(
    model: &M,
    tokens: &[u32],
    chunk: usize,
    mut on_row: impl FnMut(usize, &[f32]) -> Result<(), InferError>,
) -> Result<(), InferError> {
    let vocab_size = model.vocab_size();
    let mut cache = model.new_cache();
    let mut position = 0;
    for part in tokens.chunks(chunk) {
        let segment = Segment { tokens: part, cache: &mut cache, total_len: tokens.len() };
        let rows = model.forward(&mut [segment], Logits::All).map_err(InferError::Model)?;
        let expected = part.len() * vocab_size;
        if rows.len() != expected {
            return Err(InferError::LogitCount { expected, got: rows.len() });
        }
        for row in rows.chunks_exact(vocab_size) {
            on_row(position, row)?;
            position += 1;
        }
    }
    Ok(())
}

/// Sums of a scored text.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ScoreSummary {
    /// Tokens that have a log-probability.
    pub tokens: usize,
    /// Sum of their negative log-probabilities, in nats.
    pub nll_sum: f64,
}

impl ScoreSummary {
    /// Adds up in f64.
    pub fn new(logprobs: &[Option<f32>]) -> Self {
        let scored = logprobs.iter().flatten();
        Self {
            tokens: scored.clone().count(),
            nll_sum: scored.map(|&logprob| -f64::from(logprob)).sum(),
        }
    }

    /// Mean negative log-likelihood, nats per token; 0 for no token.
    pub fn mean_nll(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.nll_sum / self.tokens as f64 }
    }

    /// `exp(mean_nll)`.
    pub fn perplexity(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// `nll_sum / ln 2 / bytes`, for a text of `bytes` UTF-8 bytes; 0 for none. Unlike perplexity it
    /// compares across tokenizers.
    pub fn bits_per_byte(&self, bytes: usize) -> f64 {
        if bytes == 0 { 0.0 } else { self.nll_sum / std::f64::consts::LN_2 / bytes as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::ScoreSummary;

    #[test]
    fn a_fair_coin_has_perplexity_two_and_a_bit_per_token() {
        let summary = ScoreSummary::new(&[None, Some(0.5f32.ln()), Some(0.5f32.ln())]);
        assert_eq!(summary.tokens, 2);
        assert!((summary.perplexity() - 2.0).abs() < 1e-6);
        assert!((summary.bits_per_byte(4) - 0.5).abs() < 1e-6);
    }
}
