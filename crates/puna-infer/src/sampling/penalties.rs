//! What is done to logits before the temperature: bias, penalties, forbidden n-grams.
//!
//! All of them change `logits` in place and look at `history`, the tokens before the one to be
//! chosen (prompt included, as transformers and llama.cpp count). Order: bias, repetition, presence
//! and frequency, n-grams: transformers' order, with OpenAI's penalties after its own.

use crate::error::InferError;
use crate::sampling::SamplingParams;

/// Applies bias, penalties and the n-gram ban of `params`.
///
/// # Shapes
/// `logits: [V]`.
///
/// # Errors
/// [`InferError::TokenOutOfRange`] if a biased token is beyond `V`.
pub(crate) fn apply(
    params: &SamplingParams,
    logits: &mut [f32],
    history: &[u32],
) -> Result<(), InferError> {
    let vocab_size = logits.len();
    for (position, &(token, bias)) in params.logit_bias.iter().enumerate() {
        let logit = logits.get_mut(token as usize).ok_or(InferError::TokenOutOfRange {
            position,
            token,
            vocab_size,
        })?;
        *logit += bias;
    }
    let changes_seen = params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0;
    if changes_seen {
        let window = params.repeat_last_n.unwrap_or(history.len()).min(history.len());
        penalize_seen(params, logits, &history[history.len() - window..]);
    }
    if let Some(size) = params.no_repeat_ngram_size {
        forbid_ngrams(logits, history, size);
    }
    Ok(())
}

/// Repetition (Keskar et al. 2019, "CTRL", section 4.1, with transformers' division of positive and
/// multiplication of negative logits), then OpenAI's
/// `logit -= count * frequency_penalty + presence_penalty` for every token seen in `window`.
fn penalize_seen(params: &SamplingParams, logits: &mut [f32], window: &[u32]) {
    let mut seen = window.to_vec();
    seen.sort_unstable();
    for run in seen.chunk_by(|a, b| a == b) {
        let Some(logit) = logits.get_mut(run[0] as usize) else { continue };
        if *logit > 0.0 {
            *logit /= params.repetition_penalty;
        } else {
            *logit *= params.repetition_penalty;
        }
        *logit -= run.len() as f32 * params.frequency_penalty + params.presence_penalty;
    }
}

/// Excludes every token that would repeat an n-gram of `size` tokens already in `history`.
fn forbid_ngrams(logits: &mut [f32], history: &[u32], size: usize) {
    if history.len() + 1 < size {
        return;
    }
    let prefix = &history[history.len() + 1 - size..];
    for gram in history.windows(size) {
        if gram[..size - 1] == *prefix
            && let Some(logit) = logits.get_mut(gram[size - 1] as usize)
        {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::apply;
    use crate::sampling::SamplingParams;

    #[test]
    fn repetition_divides_positive_and_multiplies_negative_logits_once() {
        let params = SamplingParams { repetition_penalty: 2.0, ..Default::default() };
        let mut logits = [4.0, -4.0, 1.0];
        apply(&params, &mut logits, &[0, 1, 0]).unwrap();
        assert_eq!(logits, [2.0, -8.0, 1.0]);
    }

    #[test]
    fn frequency_counts_and_presence_does_not() {
        let params =
            SamplingParams { frequency_penalty: 0.5, presence_penalty: 0.25, ..Default::default() };
        let mut logits = [1.0, 1.0, 1.0];
        apply(&params, &mut logits, &[0, 1, 0]).unwrap();
        assert_eq!(logits, [-0.25, 0.25, 1.0]);
    }

    #[test]
    fn only_the_last_n_tokens_count() {
        let params =
            SamplingParams { presence_penalty: 1.0, repeat_last_n: Some(1), ..Default::default() };
        let mut logits = [1.0, 1.0];
        apply(&params, &mut logits, &[0, 1]).unwrap();
        assert_eq!(logits, [1.0, 0.0]);
    }

    #[test]
    fn a_bigram_seen_before_is_forbidden() {
        let params = SamplingParams { no_repeat_ngram_size: Some(2), ..Default::default() };
        let mut logits = [0.0; 4];
        apply(&params, &mut logits, &[1, 2, 3, 1]).unwrap();
        assert_eq!(logits, [0.0, 0.0, f32::NEG_INFINITY, 0.0]);
    }

    #[test]
    fn bias_is_added_and_checked_against_the_vocabulary() {
        let params = SamplingParams { logit_bias: vec![(1, 5.0)], ..Default::default() };
        let mut logits = [0.0; 2];
        apply(&params, &mut logits, &[]).unwrap();
        assert_eq!(logits, [0.0, 5.0]);
        assert!(apply(&params, &mut logits[..1], &[]).is_err());
    }
}
