//! Ollama's answers: lines of JSON, the last with counts and durations.

use std::time::{Duration, Instant};

use axum::response::Response;
use puna_infer::TokenLogprob;
use serde_json::{Value, json};

use super::info::nanos;
use crate::api_error::{ApiError, Dialect};
use crate::body::{self, EventWriter, Framing, Gone};
use crate::clock;
use crate::generation::{ChoiceUsage, End, Happening, Running};
use crate::model::Opened;
use crate::openai::token_text;
use crate::tools::{Call, Format, Reader, gather, split};

/// Which endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `message: {role, content}`.
    Chat,
    /// `response`.
    Generate,
}

/// What all parts of an answer share.
pub(super) struct Answer {
    pub(super) model: Opened,
    pub(super) shape: Shape,
    pub(super) started: Instant,
    pub(super) tools: Option<Format>,
    pub(super) top_logprobs: Option<usize>,
}

impl Answer {
    /// A line with text; the end is added to the last.
    fn line(&self, text: &str, calls: Vec<Call>) -> Value {
        let mut line = frame(&self.model.name, self.shape, text);
        if !calls.is_empty() {
            line["message"]["tool_calls"] = calls.iter().map(call_json).collect();
        }
        line["done"] = json!(false);
        line
    }

    fn add_logprobs(&self, line: &mut Value, tokens: &[TokenLogprob]) {
        if self.top_logprobs.is_none() || tokens.is_empty() {
            return;
        }
        let tokenizer = &self.model.engine.served.tokenizer;
        let entry = |id, logprob: f32| {
            let (token, bytes) = token_text(tokenizer, id);
            json!({ "token": token, "logprob": logprob.max(-9999.0), "bytes": bytes })
        };
        let shown = tokens.iter().map(|token| {
            let mut shown = entry(token.id, token.logprob);
            shown["top_logprobs"] = token.top.iter().map(|&(id, p)| entry(id, p)).collect();
            shown
        });
        line["logprobs"] = shown.collect();
    }

    fn add_end(&self, line: &mut Value, end: &End, prompt_tokens: usize, usage: ChoiceUsage) {
        line["done"] = json!(true);
        line["done_reason"] = json!(if *end == End::Length { "length" } else { "stop" });
        let total = self.started.elapsed();
        line["total_duration"] = json!(nanos(total));
        line["load_duration"] = json!(nanos(self.model.load_time));
        line["prompt_eval_count"] = json!(prompt_tokens);
        line["prompt_eval_duration"] = json!(nanos(usage.prefill));
        line["eval_count"] = json!(usage.completion_tokens);
        // A text that ends with a stop string is ended here, before the model counts.
        let decode = match usage.decode {
            Duration::ZERO => total.saturating_sub(self.model.load_time),
            time => time,
        };
        line["eval_duration"] = json!(nanos(decode));
    }
}

fn frame(model: &str, shape: Shape, text: &str) -> Value {
    let mut line = json!({ "model": model, "created_at": clock::rfc3339() });
    match shape {
        Shape::Chat => line["message"] = json!({ "role": "assistant", "content": text }),
        Shape::Generate => line["response"] = json!(text),
    }
    line
}

fn call_json(call: &Call) -> Value {
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or(Value::Null);
    json!({ "function": { "name": call.name, "arguments": arguments } })
}

/// An answer to no question.
pub(super) fn empty(model: &str, shape: Shape, reason: &str) -> Value {
    let mut line = frame(model, shape, "");
    line["done"] = json!(true);
    line["done_reason"] = json!(reason);
    line
}

/// The answer at once.
pub(super) async fn whole(answer: &Answer, running: Running) -> Result<Response, ApiError> {
    let prompt_tokens = running.prompt_tokens;
    let choice = running.finish().await?.pop().unwrap_or_default();
    let (text, calls) = split(answer.tools, choice.text);
    let mut line = answer.line(&text, whole_calls(calls));
    answer.add_logprobs(&mut line, &choice.tokens);
    answer.add_end(&mut line, &choice.end.unwrap_or(End::Eos), prompt_tokens, choice.usage);
    Ok(body::json(&line))
}

/// Calls that were cut by the length have no place in this dialect.
fn whole_calls(calls: Vec<Call>) -> Vec<Call> {
    let is_whole = |call: &Call| serde_json::from_str::<Value>(&call.arguments).is_ok();
    calls.into_iter().filter(is_whole).collect()
}

/// The answer as it comes.
pub(super) fn stream(answer: Answer, running: Running) -> Response {
    body::stream(Framing::NdJson, move |events| write(events, answer, running))
}

async fn write(events: EventWriter, answer: Answer, mut running: Running) -> Result<(), Gone> {
    let mut reader = Reader::new(answer.tools);
    // A call is handed over whole: its arguments are a value here.
    let mut calls: Vec<Call> = Vec::new();
    while let Some(happening) = events.waiting(running.next()).await? {
        match happening {
            Happening::Prompt { .. } => {}
            Happening::Text { text, tokens, .. } => {
                let text = gather(reader.push(text), &mut calls);
                if !text.is_empty() || (answer.top_logprobs.is_some() && !tokens.is_empty()) {
                    let mut line = answer.line(&text, Vec::new());
                    answer.add_logprobs(&mut line, &tokens);
                    events.data(&line).await?;
                }
            }
            Happening::End { end, usage, .. } => {
                let text = gather(reader.finish(), &mut calls);
                let whole = whole_calls(std::mem::take(&mut calls));
                if !text.is_empty() || !whole.is_empty() {
                    events.data(&answer.line(&text, whole)).await?;
                }
                let mut line = answer.line("", Vec::new());
                answer.add_end(&mut line, &end, running.prompt_tokens, usage);
                events.data(&line).await?;
            }
            Happening::Failed(error) => return events.data(&error.body(Dialect::Ollama)).await,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::whole_calls;
    use crate::tools::{Format, Reader, gather};

    #[test]
    fn calls_are_handed_over_whole_and_cut_ones_are_not() {
        let mut reader = Reader::new(Some(Format::Hermes));
        let mut calls = Vec::new();
        let mut text = String::new();
        for piece in
            ["Well<tool_", "call>{\"name\": \"f\", \"arguments\": {\"x\"", ": 1}}</tool_call>"]
        {
            text += &gather(reader.push(piece.to_owned()), &mut calls);
        }
        let cut = "<tool_call>{\"name\": \"g\", \"arguments\": {\"x\"";
        text += &gather(reader.push(cut.to_owned()), &mut calls);
        assert_eq!((text.as_str(), calls.len()), ("Well", 2));
        let whole = whole_calls(calls);
        assert_eq!((whole.len(), whole[0].name.as_str()), (1, "f"));
        assert_eq!(whole[0].arguments, "{\"x\": 1}");
    }
}
