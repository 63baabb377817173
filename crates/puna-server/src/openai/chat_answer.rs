//! The answers of `POST /v1/chat/completions`, whole and as a stream of chunks.

use axum::response::Response;
use puna_infer::TokenLogprob;
use serde_json::{Map, Value, json};

use super::chat::Logprobs;
use super::{Delivery, finish_reason, logprobs, sums, usage};
use crate::api_error::{ApiError, Dialect};
use crate::body::{self, EventWriter, Framing, Gone};
use crate::clock;
use crate::generation::{End, Happening, Running};
use crate::model::Opened;
use crate::tools::{CallEvent, Format, Reader, split};

/// What all parts of an answer share.
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) model: Opened,
    pub(super) logprobs: Logprobs,
    pub(super) tools: Option<Format>,
}

/// Id of call `index` of choice `choice`.
fn call_id(answer: &str, choice: usize, index: usize) -> String {
    format!("call_{}_{choice}_{index}", answer.trim_start_matches("chatcmpl-"))
}

impl Answer {
    fn scored(&self, tokens: &[TokenLogprob]) -> Value {
        match self.logprobs {
            Logprobs::Hidden => Value::Null,
            Logprobs::Shown => logprobs::of_chat(&self.model.engine.served.tokenizer, tokens),
        }
    }
}

/// The answer at once.
pub(super) async fn whole(answer: &Answer, running: Running) -> Result<Response, ApiError> {
    let prompt_tokens = running.prompt_tokens;
    let finished = running.finish().await?;
    let (new, reused) = sums(&finished);
    let mut choices = Vec::with_capacity(finished.len());
    for (index, choice) in finished.into_iter().enumerate() {
        let reason = finish_reason(choice.end.as_ref());
        let scored = answer.scored(&choice.tokens);
        let (text, calls) = split(answer.tools, choice.text);
        let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
        let mut reason = reason;
        if !calls.is_empty() {
            if text.is_empty() {
                message["content"] = Value::Null;
            }
            if reason == "stop" {
                reason = "tool_calls";
            }
            let calls = calls.into_iter().enumerate().map(|(at, call)| {
                json!({
                    "id": call_id(&answer.id, index, at), "type": "function",
                    "function": { "name": call.name, "arguments": call.arguments },
                })
            });
            message["tool_calls"] = calls.collect();
        }
        choices.push(json!({
            "index": index, "message": message, "logprobs": scored, "finish_reason": reason,
        }));
    }
    Ok(body::json(&json!({
        "id": answer.id, "object": "chat.completion", "created": clock::unix_secs(),
        "model": answer.model.name, "system_fingerprint": null, "choices": choices,
        "usage": usage(prompt_tokens, new, reused),
    })))
}

/// The answer as it comes.
pub(super) fn stream(answer: Answer, running: Running, delivery: Delivery) -> Response {
    body::stream(Framing::Sse, move |events| write(events, answer, running, delivery))
}

/// What the stream knows of a choice.
struct Spoken {
    reader: Reader,
    calls: usize,
}

async fn write(
    events: EventWriter,
    answer: Answer,
    mut running: Running,
    delivery: Delivery,
) -> Result<(), Gone> {
    let chunks = Chunks { answer: &answer, created: clock::unix_secs(), delivery };
    let mut spoken: Vec<Spoken> = (0..running.choices)
        .map(|_| Spoken { reader: Reader::new(answer.tools), calls: 0 })
        .collect();
    for choice in 0..running.choices {
        let delta = json!({ "role": "assistant", "content": "" });
        events.data(&chunks.chunk(choice, delta, Value::Null, None)).await?;
    }
    let (mut new, mut reused) = (0, 0);
    while let Some(happening) = events.waiting(running.next()).await? {
        match happening {
            Happening::Prompt { .. } => {}
            Happening::Text { choice, text, tokens } => {
                let mut scored = answer.scored(&tokens);
                for delta in deltas(&answer, choice, &mut spoken[choice], Some(text)) {
                    events.data(&chunks.chunk(choice, delta, scored.take(), None)).await?;
                }
                if !scored.is_null() {
                    events.data(&chunks.chunk(choice, json!({}), scored, None)).await?;
                }
            }
            Happening::End { choice, end, usage } => {
                for delta in deltas(&answer, choice, &mut spoken[choice], None) {
                    events.data(&chunks.chunk(choice, delta, Value::Null, None)).await?;
                }
                new += usage.completion_tokens;
                reused = reused.max(usage.reused_tokens);
                let reason = match (&end, spoken[choice].calls) {
                    (End::Length, _) | (_, 0) => finish_reason(Some(&end)),
                    _ => "tool_calls",
                };
                events.data(&chunks.chunk(choice, json!({}), Value::Null, Some(reason))).await?;
            }
            Happening::Failed(error) => {
                events.data(&error.body(Dialect::OpenAi)).await?;
                return events.done().await;
            }
        }
    }
    if delivery == Delivery::StreamWithUsage {
        events.data(&chunks.usage(usage(running.prompt_tokens, new, reused))).await?;
    }
    events.done().await
}

/// The deltas of a piece of text; `None` is the end.
fn deltas(answer: &Answer, choice: usize, spoken: &mut Spoken, text: Option<String>) -> Vec<Value> {
    let found = match text {
        Some(text) => spoken.reader.push(text),
        None => spoken.reader.finish(),
    };
    let mut deltas = Vec::with_capacity(found.len());
    for event in found {
        deltas.push(match event {
            CallEvent::Text(text) => json!({ "content": text }),
            CallEvent::Begin { name } => {
                let index = spoken.calls;
                spoken.calls += 1;
                json!({ "tool_calls": [{
                    "index": index, "id": call_id(&answer.id, choice, index), "type": "function",
                    "function": { "name": name, "arguments": "" },
                }] })
            }
            CallEvent::Arguments(more) => json!({ "tool_calls": [{
                "index": spoken.calls.saturating_sub(1), "function": { "arguments": more },
            }] }),
        });
    }
    deltas
}

/// Makes chunks.
struct Chunks<'a> {
    answer: &'a Answer,
    created: u64,
    delivery: Delivery,
}

impl Chunks<'_> {
    fn frame(&self, choices: Value) -> Map<String, Value> {
        let mut chunk = Map::new();
        chunk.insert("id".to_owned(), json!(self.answer.id));
        chunk.insert("object".to_owned(), json!("chat.completion.chunk"));
        chunk.insert("created".to_owned(), json!(self.created));
        chunk.insert("model".to_owned(), json!(self.answer.model.name));
        chunk.insert("system_fingerprint".to_owned(), Value::Null);
        chunk.insert("choices".to_owned(), choices);
        chunk
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, end: Option<&str>) -> Value {
        let mut chunk = self.frame(json!([{
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": end,
        }]));
        if self.delivery == Delivery::StreamWithUsage {
            chunk.insert("usage".to_owned(), Value::Null);
        }
        Value::Object(chunk)
    }

    fn usage(&self, usage: Value) -> Value {
        let mut chunk = self.frame(json!([]));
        chunk.insert("usage".to_owned(), usage);
        Value::Object(chunk)
    }
}
