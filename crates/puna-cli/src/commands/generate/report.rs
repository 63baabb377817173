//! The JSON of `puna generate --json`: a contract that scripts rely on.

use puna_infer::{Completion, Timings};
use puna_kernels::peak_rss_bytes;
use serde::Serialize;

/// The object: the first completion's fields, and all completions where there are several.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    #[serde(flatten)]
    first: CompletionReport<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    completions: Vec<CompletionReport<'a>>,
    timings: TimingsReport,
}

/// One text.
#[derive(Debug, Clone, Serialize)]
struct CompletionReport<'a> {
    /// The new tokens.
    token_ids: &'a [u32],
    /// Their log-probabilities under the model's unmodified logits, in nats.
    logprobs: &'a [f32],
    text: &'a str,
    /// `length`, `stop` or `cancelled`.
    finish_reason: &'static str,
}

/// Seconds and tokens of the phases.
#[derive(Debug, Serialize)]
struct TimingsReport {
    load_seconds: f64,
    prefill_tokens: usize,
    prefill_seconds: f64,
    decode_tokens: usize,
    decode_seconds: f64,
    peak_rss_bytes: Option<u64>,
    /// With speculative decoding: tokens guessed, guesses drawn, passes after the prompt's.
    #[serde(skip_serializing_if = "Option::is_none")]
    speculated: Option<SpeculatedReport>,
}

/// What speculative decoding did.
#[derive(Debug, Serialize)]
struct SpeculatedReport {
    drafted_tokens: usize,
    accepted_tokens: usize,
    passes: usize,
}

pub(super) fn report<'a>(
    completions: &'a [Completion],
    timings: &Timings,
    load_seconds: f64,
) -> Report<'a> {
    let mut all: Vec<CompletionReport<'a>> = completions.iter().map(completion).collect();
    let nothing =
        CompletionReport { token_ids: &[], logprobs: &[], text: "", finish_reason: "cancelled" };
    let first = all.first().cloned().unwrap_or(nothing);
    if all.len() == 1 {
        all.clear();
    }
    let timings = TimingsReport {
        load_seconds,
        prefill_tokens: timings.prefill_tokens,
        prefill_seconds: timings.prefill.as_secs_f64(),
        decode_tokens: timings.decode_tokens,
        decode_seconds: timings.decode.as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
        speculated: timings.speculated.map(|done| SpeculatedReport {
            drafted_tokens: done.drafted,
            accepted_tokens: done.accepted,
            passes: done.passes,
        }),
    };
    Report { first, completions: all, timings }
}

fn completion(completion: &Completion) -> CompletionReport<'_> {
    CompletionReport {
        token_ids: &completion.token_ids,
        logprobs: &completion.logprobs,
        text: &completion.text,
        finish_reason: completion.finish.as_str(),
    }
}
