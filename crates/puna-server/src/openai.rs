//! OpenAI's endpoints.

pub(crate) mod chat;
mod chat_answer;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod logprobs;
pub(crate) mod models;
pub(crate) mod responses;
mod responses_answer;

pub(crate) use logprobs::token_text;

use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::fields::Fields;
use crate::generation::Finished;

/// `finish_reason` of a text.
fn finish_reason(end: Option<&crate::generation::End>) -> &'static str {
    match end {
        Some(crate::generation::End::Length) => "length",
        _ => "stop",
    }
}

/// `usage` of an answer.
pub(crate) fn usage(prompt_tokens: usize, completion_tokens: usize, reused_tokens: usize) -> Value {
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": { "cached_tokens": reused_tokens },
    })
}

/// New tokens of all choices, and the prompt's remembered ones.
pub(crate) fn sums(choices: &[Finished]) -> (usize, usize) {
    let new = choices.iter().map(|choice| choice.usage.completion_tokens).sum();
    let reused = choices.first().map_or(0, |choice| choice.usage.reused_tokens);
    (new, reused)
}

/// `stream` and `stream_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Whole,
    Stream,
    /// With the numbers of tokens at the end.
    StreamWithUsage,
}

impl Delivery {
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.switch("stream")?;
        let Some(options) = fields.value("stream_options") else {
            return Ok(if stream { Self::Stream } else { Self::Whole });
        };
        if !stream {
            return Err(ApiError::field("stream_options", "only with `stream`: true"));
        }
        let within = |error: ApiError| error.within("stream_options");
        let mut options = Fields::of(options, "stream_options")?;
        let usage = options.switch("include_usage").map_err(within)?;
        options
            .refuse("include_obfuscation", &[json!(false)], "events are not padded")
            .map_err(within)?;
        options.finish().map_err(within)?;
        Ok(if usage { Self::StreamWithUsage } else { Self::Stream })
    }
}

/// The model's name; the first model where there is none.
pub(crate) fn model_name(fields: &mut Fields, first: &str) -> Result<String, ApiError> {
    Ok(fields.take("model")?.unwrap_or_else(|| first.to_owned()))
}

/// Fields that mean something to OpenAI's own service only: their harmless values pass.
fn refuse_service_fields(fields: &mut Fields) -> Result<(), ApiError> {
    let tier = [json!("auto"), json!("default")];
    fields.refuse("service_tier", &tier, "there is one tier")?;
    fields.refuse("store", &[json!(false)], "nothing is stored")?;
    fields.refuse("metadata", &[json!({})], "nothing is stored")?;
    fields.refuse("safety_identifier", &[], "there is no moderation")?;
    fields.refuse("prompt_cache_key", &[], "prompts are remembered by their tokens")?;
    fields.refuse("prompt_cache_retention", &[], "prompts are remembered while memory lasts")
}

/// Whom a request is for: the key or address, and the `user` it names.
fn client_of(fields: &mut Fields, client: String) -> Result<String, ApiError> {
    match fields.take::<String>("user")? {
        Some(user) => Ok(format!("{client} {}", user.chars().take(100).collect::<String>())),
        None => Ok(client),
    }
}
