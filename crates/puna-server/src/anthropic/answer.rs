//! The answers of `POST /v1/messages`: content blocks, whole and as events.

use axum::response::Response;
use serde_json::{Value, json};

use crate::api_error::{ApiError, Dialect};
use crate::body::{self, EventWriter, Framing, Gone};
use crate::generation::{End, Happening, Running};
use crate::tools::{CallEvent, Format, Reader, split};

/// What all parts of an answer share.
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) tools: Option<Format>,
}

impl Answer {
    fn tool_id(&self, index: usize) -> String {
        format!("toolu_{}_{index}", self.id.trim_start_matches("msg_"))
    }

    fn message(&self, content: Vec<Value>, usage: Value) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": content, "stop_reason": null, "stop_sequence": null, "usage": usage,
        })
    }
}

/// `stop_reason` and `stop_sequence`.
fn stop(end: &End, calls: usize) -> (&'static str, Option<&str>) {
    match end {
        End::Length => ("max_tokens", None),
        End::Stop(text) => ("stop_sequence", Some(text)),
        End::Eos if calls > 0 => ("tool_use", None),
        End::Eos => ("end_turn", None),
    }
}

fn usage(input: usize, output: usize, reused: usize) -> Value {
    json!({
        "input_tokens": input - reused.min(input), "output_tokens": output,
        "cache_read_input_tokens": reused, "cache_creation_input_tokens": 0,
    })
}

/// The answer at once.
pub(super) async fn whole(answer: &Answer, running: Running) -> Result<Response, ApiError> {
    let prompt_tokens = running.prompt_tokens;
    let choice = running.finish().await?.pop().unwrap_or_default();
    let (text, calls) = split(answer.tools, choice.text);
    let mut content = Vec::new();
    if !text.is_empty() {
        content.push(json!({ "type": "text", "text": text }));
    }
    let mut whole_calls = 0;
    for (index, call) in calls.iter().enumerate() {
        // A call that was cut by the length is no value: `max_tokens` says so.
        let Ok(input) = serde_json::from_str::<Value>(&call.arguments) else { continue };
        whole_calls += 1;
        let id = answer.tool_id(index);
        content.push(json!({ "type": "tool_use", "id": id, "name": call.name, "input": input }));
    }
    let counts = usage(prompt_tokens, choice.usage.completion_tokens, choice.usage.reused_tokens);
    let mut message = answer.message(content, counts);
    let end = choice.end.unwrap_or(End::Eos);
    let (reason, sequence) = stop(&end, whole_calls);
    message["stop_reason"] = json!(reason);
    message["stop_sequence"] = json!(sequence);
    Ok(body::json(&message))
}

/// The answer as it comes.
pub(super) fn stream(answer: Answer, running: Running) -> Response {
    body::stream(Framing::Sse, move |events| async move {
        Teller { events, answer, blocks: 0, open: None, calls: 0 }.tell(running).await
    })
}

/// The kind of the block that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Call,
}

struct Teller {
    events: EventWriter,
    answer: Answer,
    blocks: usize,
    open: Option<Open>,
    calls: usize,
}

impl Teller {
    async fn event(&self, kind: &str, mut event: Value) -> Result<(), Gone> {
        event["type"] = json!(kind);
        self.events.named(kind, &event).await
    }

    async fn tell(mut self, mut running: Running) -> Result<(), Gone> {
        let message = self.answer.message(Vec::new(), usage(running.prompt_tokens, 0, 0));
        self.event("message_start", json!({ "message": message })).await?;
        let mut reader = Reader::new(self.answer.tools);
        while let Some(happening) = self.events.waiting(running.next()).await? {
            match happening {
                Happening::Prompt { .. } => {}
                Happening::Text { text, .. } => {
                    self.found(reader.push(text)).await?;
                }
                Happening::End { end, usage: counts, .. } => {
                    self.found(reader.finish()).await?;
                    self.close().await?;
                    let (reason, sequence) = stop(&end, self.calls);
                    let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
                    let usage = json!({ "output_tokens": counts.completion_tokens });
                    self.event("message_delta", json!({ "delta": delta, "usage": usage })).await?;
                    self.event("message_stop", json!({})).await?;
                }
                Happening::Failed(error) => {
                    return self.event("error", error.body(Dialect::Anthropic)).await;
                }
            }
        }
        Ok(())
    }

    async fn found(&mut self, found: Vec<CallEvent>) -> Result<(), Gone> {
        for event in found {
            let delta = match event {
                CallEvent::Text(text) => {
                    if self.open != Some(Open::Text) {
                        self.begin(Open::Text, json!({ "type": "text", "text": "" })).await?;
                    }
                    json!({ "type": "text_delta", "text": text })
                }
                CallEvent::Begin { name } => {
                    let id = self.answer.tool_id(self.calls);
                    self.calls += 1;
                    let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                    self.begin(Open::Call, block).await?;
                    continue;
                }
                CallEvent::Arguments(more) => {
                    json!({ "type": "input_json_delta", "partial_json": more })
                }
            };
            let index = self.blocks.saturating_sub(1);
            self.event("content_block_delta", json!({ "index": index, "delta": delta })).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, kind: Open, block: Value) -> Result<(), Gone> {
        self.close().await?;
        let index = self.blocks;
        self.blocks += 1;
        self.open = Some(kind);
        let event = json!({ "index": index, "content_block": block });
        self.event("content_block_start", event).await
    }

    async fn close(&mut self) -> Result<(), Gone> {
        if self.open.take().is_none() {
            return Ok(());
        }
        let index = self.blocks.saturating_sub(1);
        self.event("content_block_stop", json!({ "index": index })).await
    }
}
