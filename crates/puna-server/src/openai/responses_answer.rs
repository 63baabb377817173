//! The answers of `POST /v1/responses`: output items, whole and as events.

use axum::response::Response;
use serde_json::{Value, json};

use crate::api_error::{ApiError, Dialect};
use crate::body::{self, EventWriter, Framing, Gone};
use crate::clock;
use crate::generation::{ChoiceUsage, End, Happening, Running};
use crate::tools::{CallEvent, Format, Reader, split};

/// What all parts of an answer share.
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) tools: Option<Format>,
    /// The request's settings, which the answer repeats.
    pub(super) echoed: Value,
}

/// An output item in the making.
enum Item {
    Message { id: String, text: String },
    Call { id: String, name: String, arguments: String },
}

impl Item {
    fn to_json(&self, status: &str) -> Value {
        match self {
            Self::Message { id, text } => json!({
                "id": id, "type": "message", "role": "assistant", "status": status,
                "content": [part(text)],
            }),
            Self::Call { id, name, arguments } => json!({
                "id": id, "type": "function_call", "status": status,
                "call_id": format!("call_{id}"), "name": name, "arguments": arguments,
            }),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Message { id, .. } | Self::Call { id, .. } => id,
        }
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

impl Answer {
    fn item_id(&self, kind: &str, index: usize) -> String {
        format!("{kind}_{}_{index}", self.id.trim_start_matches("resp_"))
    }

    fn response(&self, status: &str, created: u64, output: Vec<Value>) -> Value {
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": created, "status": status,
            "error": null, "incomplete_details": null, "model": self.model, "output": output,
            "previous_response_id": null, "store": false, "truncation": "disabled",
            "text": { "format": { "type": "text" } }, "usage": null,
        });
        if let (Some(to), Some(from)) = (response.as_object_mut(), self.echoed.as_object()) {
            to.extend(from.clone());
        }
        response
    }

    fn ended(&self, created: u64, output: Vec<Value>, end: &End, usage: Value) -> Value {
        let status = if *end == End::Length { "incomplete" } else { "completed" };
        let mut response = self.response(status, created, output);
        response["usage"] = usage;
        if *end == End::Length {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        response
    }
}

fn usage(prompt_tokens: usize, usage: ChoiceUsage) -> Value {
    json!({
        "input_tokens": prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.reused_tokens },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": prompt_tokens + usage.completion_tokens,
    })
}

/// The answer at once.
pub(super) async fn whole(answer: &Answer, running: Running) -> Result<Response, ApiError> {
    let prompt_tokens = running.prompt_tokens;
    let choice = running.finish().await?.pop().unwrap_or_default();
    let end = choice.end.unwrap_or(End::Eos);
    let (text, calls) = split(answer.tools, choice.text);
    let mut items = Vec::new();
    if !text.is_empty() || calls.is_empty() {
        items.push(Item::Message { id: answer.item_id("msg", 0), text });
    }
    for call in calls {
        let id = answer.item_id("fc", items.len());
        items.push(Item::Call { id, name: call.name, arguments: call.arguments });
    }
    let status = if end == End::Length { "incomplete" } else { "completed" };
    let output = items.iter().map(|item| item.to_json(status)).collect();
    let usage = usage(prompt_tokens, choice.usage);
    Ok(body::json(&answer.ended(clock::unix_secs(), output, &end, usage)))
}

/// The answer as it comes.
pub(super) fn stream(answer: Answer, running: Running) -> Response {
    body::stream(Framing::Sse, move |events| async move {
        let created = clock::unix_secs();
        Teller { events, answer, created, number: 0, items: Vec::new(), done: Vec::new() }
            .tell(running)
            .await
    })
}

/// Writes the events, each with its number.
struct Teller {
    events: EventWriter,
    answer: Answer,
    created: u64,
    number: u64,
    items: Vec<Item>,
    /// Items as they stand at the end.
    done: Vec<Value>,
}

impl Teller {
    async fn event(&mut self, kind: &str, mut event: Value) -> Result<(), Gone> {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.number);
        self.number += 1;
        self.events.named(kind, &event).await
    }

    async fn tell(mut self, mut running: Running) -> Result<(), Gone> {
        let begun = self.answer.response("in_progress", self.created, Vec::new());
        self.event("response.created", json!({ "response": begun })).await?;
        self.event("response.in_progress", json!({ "response": begun })).await?;
        let mut reader = Reader::new(self.answer.tools);
        while let Some(happening) = self.events.waiting(running.next()).await? {
            match happening {
                Happening::Prompt { .. } => {}
                Happening::Text { text, .. } => {
                    self.found(reader.push(text)).await?;
                }
                Happening::End { end, usage: counts, .. } => {
                    self.found(reader.finish()).await?;
                    if self.items.is_empty() {
                        self.begin_message().await?;
                    }
                    self.end_item(&end).await?;
                    let output = std::mem::take(&mut self.done);
                    let usage = usage(running.prompt_tokens, counts);
                    let response = self.answer.ended(self.created, output, &end, usage);
                    let kind = match end {
                        End::Length => "response.incomplete",
                        _ => "response.completed",
                    };
                    self.event(kind, json!({ "response": response })).await?;
                }
                Happening::Failed(error) => {
                    let body = error.body(Dialect::OpenAi);
                    let mut response = self.answer.response(
                        "failed",
                        self.created,
                        std::mem::take(&mut self.done),
                    );
                    response["error"] = json!({
                        "code": "server_error", "message": body["error"]["message"],
                    });
                    return self.event("response.failed", json!({ "response": response })).await;
                }
            }
        }
        Ok(())
    }

    async fn found(&mut self, found: Vec<CallEvent>) -> Result<(), Gone> {
        for event in found {
            match event {
                CallEvent::Text(more) => {
                    if !matches!(self.items.last(), Some(Item::Message { .. })) {
                        self.end_item(&End::Eos).await?;
                        self.begin_message().await?;
                    }
                    let index = self.items.len() - 1;
                    let id = self.items[index].id().to_owned();
                    if let Some(Item::Message { text, .. }) = self.items.last_mut() {
                        *text += &more;
                    }
                    let delta = json!({
                        "item_id": id, "output_index": index, "content_index": 0, "delta": more,
                        "logprobs": [],
                    });
                    self.event("response.output_text.delta", delta).await?;
                }
                CallEvent::Begin { name } => {
                    self.end_item(&End::Eos).await?;
                    let index = self.items.len();
                    let id = self.answer.item_id("fc", index);
                    let item = Item::Call { id, name, arguments: String::new() };
                    let shown = item.to_json("in_progress");
                    self.items.push(item);
                    let added = json!({ "output_index": index, "item": shown });
                    self.event("response.output_item.added", added).await?;
                }
                CallEvent::Arguments(more) => {
                    let index = self.items.len().saturating_sub(1);
                    let Some(Item::Call { id, arguments, .. }) = self.items.last_mut() else {
                        continue;
                    };
                    *arguments += &more;
                    let delta = json!({ "item_id": id, "output_index": index, "delta": more });
                    self.event("response.function_call_arguments.delta", delta).await?;
                }
            }
        }
        Ok(())
    }

    async fn begin_message(&mut self) -> Result<(), Gone> {
        let index = self.items.len();
        let id = self.answer.item_id("msg", index);
        let item = json!({
            "id": id, "type": "message", "role": "assistant", "status": "in_progress",
            "content": [],
        });
        self.items.push(Item::Message { id: id.clone(), text: String::new() });
        let added = json!({ "output_index": index, "item": item });
        self.event("response.output_item.added", added).await?;
        let added = json!({
            "item_id": id, "output_index": index, "content_index": 0, "part": part(""),
        });
        self.event("response.content_part.added", added).await
    }

    /// Ends the item that is open, if one is.
    async fn end_item(&mut self, end: &End) -> Result<(), Gone> {
        if self.done.len() == self.items.len() {
            return Ok(());
        }
        let index = self.items.len() - 1;
        let status = if *end == End::Length { "incomplete" } else { "completed" };
        let shown = self.items[index].to_json(status);
        let id = self.items[index].id().to_owned();
        let mut place = json!({ "item_id": id, "output_index": index });
        match &self.items[index] {
            Item::Message { text, .. } => {
                place["content_index"] = json!(0);
                let (mut all, mut whole) = (place.clone(), place);
                all["text"] = json!(text);
                all["logprobs"] = json!([]);
                whole["part"] = part(text);
                self.event("response.output_text.done", all).await?;
                self.event("response.content_part.done", whole).await?;
            }
            Item::Call { name, arguments, .. } => {
                place["name"] = json!(name);
                place["arguments"] = json!(arguments);
                self.event("response.function_call_arguments.done", place).await?;
            }
        }
        self.done.push(shown.clone());
        let done = json!({ "output_index": index, "item": shown });
        self.event("response.output_item.done", done).await
    }
}
