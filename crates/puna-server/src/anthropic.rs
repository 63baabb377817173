//! Anthropic's `POST /v1/messages`, and `/v1/messages/count_tokens`.

mod answer;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted};
use crate::fields::Fields;
use crate::generation::{self, Ask, Eos};
use crate::model::Opened;
use crate::openai::model_name;
use crate::prompt::{self, Conversation};
use crate::sampling;
use crate::tools::{Calls, Choice, Offer, Tool, Toolbox};
use answer::Answer;

/// A conversation and its tools.
struct Asked {
    conversation: Conversation,
    toolbox: Option<Toolbox>,
}

/// Answers a conversation.
pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, client } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let model = app.registry.open(&name).await?;
    let engine = Arc::clone(&model.engine);
    let stream = fields.switch("stream")?;
    let Asked { mut conversation, toolbox } = asked(&mut fields)?;
    let max_tokens = fields.count("max_tokens", 1..=usize::MAX)?;
    let max_tokens = max_tokens.ok_or_else(|| ApiError::missing("max_tokens"))?;
    let stop = sampling::stop(&mut fields, "stop_sequences")?;
    let client = client_for(&mut fields, client)?;
    refuse(&mut fields)?;
    let sampling = sampling::read(&mut fields, &engine.served.generation)?;
    fields.finish()?;
    let offer = Offer::new(&engine, toolbox.as_ref(), &mut conversation, None)?;
    let prompt = prompt::render(&app, &engine, conversation).await?;
    let ask = Ask {
        max_tokens: generation::room(&engine, prompt.len(), Some(max_tokens), "max_tokens")?,
        prompt,
        choices: 1,
        sampling,
        stop,
        eos: Eos::End,
        top_logprobs: None,
        prompt_logprobs: None,
        grammar: offer.grammar,
        visible_specials: offer.visible_specials,
        client,
    };
    let running = generation::start(&app, &model, ask).await?;
    let answer = Answer { id: app.id("msg_"), model: model.name.clone(), tools: offer.format };
    match stream {
        true => Ok(answer::stream(answer, running)),
        false => answer::whole(&answer, running).await,
    }
}

/// Counts a conversation's tokens.
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, .. } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let Opened { engine, .. } = app.registry.open(&name).await?;
    let Asked { mut conversation, toolbox } = asked(&mut fields)?;
    refuse(&mut fields)?;
    fields.finish()?;
    Offer::new(&engine, toolbox.as_ref(), &mut conversation, None)?;
    let prompt = prompt::render(&app, &engine, conversation).await?;
    Ok(body::json(&json!({ "input_tokens": prompt.len() })))
}

fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    fields.refuse(
        "thinking",
        &[json!({ "type": "disabled" })],
        "this model does not think apart",
    )?;
    fields.refuse("service_tier", &[json!("auto"), json!("standard_only")], "there is one tier")?;
    fields.refuse("container", &[], "there are no containers")?;
    fields.refuse("mcp_servers", &[json!([])], "this server calls no others")?;
    fields.refuse("context_management", &[], "conversations are never cut")
}

/// `metadata.user_id` makes a client of its own.
fn client_for(fields: &mut Fields, client: String) -> Result<String, ApiError> {
    let Some(metadata) = fields.value("metadata") else { return Ok(client) };
    let within = |error: ApiError| error.within("metadata");
    let mut metadata = Fields::of(metadata, "metadata")?;
    let user: Option<String> = metadata.take("user_id").map_err(within)?;
    metadata.finish().map_err(within)?;
    Ok(user.map_or(client.clone(), |user| {
        format!("{client} {}", user.chars().take(100).collect::<String>())
    }))
}

fn asked(fields: &mut Fields) -> Result<Asked, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.value("system") {
        let text = prompt::content(system).map_err(|error| error.within("system"))?;
        messages.push(json!({ "role": "system", "content": text }));
    }
    let list: Vec<Value> = fields.need("messages")?;
    if list.is_empty() {
        return Err(ApiError::field("messages", "there is no message"));
    }
    for (index, value) in list.into_iter().enumerate() {
        let place = format!("messages[{index}]");
        let read = Fields::of(value, &place).and_then(|fields| message(fields, &mut messages));
        read.map_err(|error| error.within(&place))?;
    }
    let toolbox = toolbox(fields)?;
    Ok(Asked { conversation: Conversation::new(messages), toolbox })
}

/// A message's blocks as messages: results of tools stand apart from text.
fn message(mut fields: Fields, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let role: String = fields.need("role")?;
    if role != "user" && role != "assistant" {
        return Err(ApiError::field("role", "expected user or assistant"));
    }
    let content = fields.value("content").ok_or_else(|| ApiError::missing("content"))?;
    fields.finish()?;
    let Value::Array(blocks) = content else {
        messages.push(json!({ "role": role, "content": prompt::content(content)? }));
        return Ok(());
    };
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    for (index, block) in blocks.into_iter().enumerate() {
        let place = format!("content[{index}]");
        let within = |error: ApiError| error.within(&place);
        match block.get("type").and_then(Value::as_str) {
            Some("tool_use") if role == "assistant" => {
                calls.push(tool_use(Fields::of(block, "")?).map_err(within)?);
            }
            Some("tool_result") if role == "user" => {
                messages.push(tool_result(Fields::of(block, "")?).map_err(within)?);
            }
            _ => texts.push(block),
        }
    }
    if texts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let content = if texts.is_empty() { String::new() } else { prompt::content(texts.into())? };
    let mut message = json!({ "role": role, "content": content });
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    messages.push(message);
    Ok(())
}

fn tool_use(mut fields: Fields) -> Result<Value, ApiError> {
    fields.value("type");
    fields.value("cache_control");
    let id: String = fields.need("id")?;
    let name: String = fields.need("name")?;
    let input: Map<String, Value> = fields.need("input")?;
    fields.finish()?;
    Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": input } }))
}

fn tool_result(mut fields: Fields) -> Result<Value, ApiError> {
    fields.value("type");
    fields.value("cache_control");
    let id: String = fields.need("tool_use_id")?;
    let content = fields.value("content").map(prompt::content).transpose()?.unwrap_or_default();
    let content = match fields.switch("is_error")? {
        true => format!("Error: {content}"),
        false => content,
    };
    fields.finish()?;
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": content }))
}

fn toolbox(fields: &mut Fields) -> Result<Option<Toolbox>, ApiError> {
    let list = fields.take::<Vec<Value>>("tools")?.unwrap_or_default();
    let read = |(index, value): (usize, Value)| {
        let place = format!("tools[{index}]");
        let tool = || -> Result<Tool, ApiError> {
            let mut tool = Fields::of(value, "")?;
            tool.refuse("type", &[json!("custom")], "tools are functions of the client's own")?;
            tool.value("cache_control");
            Tool::read(tool, "input_schema")
        };
        tool().map_err(|error| error.within(&place))
    };
    let tools = list.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let (mut choice, mut calls) = (Choice::Auto, Calls::Many);
    if let Some(value) = fields.value("tool_choice") {
        let within = |error: ApiError| error.within("tool_choice");
        let mut wanted = Fields::of(value, "tool_choice")?;
        choice = match wanted.need::<String>("type").map_err(within)?.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "any" => Choice::Required,
            "tool" => Choice::Named(wanted.need("name").map_err(within)?),
            _ => {
                return Err(ApiError::field(
                    "tool_choice.type",
                    "expected auto, any, tool or none",
                ));
            }
        };
        if wanted.switch("disable_parallel_tool_use").map_err(within)? {
            calls = Calls::One;
        }
        wanted.finish().map_err(within)?;
    }
    Toolbox::new(tools, choice, calls)
}
