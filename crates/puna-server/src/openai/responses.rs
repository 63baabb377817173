//! `POST /v1/responses`, the stateless part: nothing is stored, so an answer cannot be referred to.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::responses_answer::{self, Answer};
use super::{client_of, model_name};
use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted};
use crate::fields::Fields;
use crate::generation::{self, Ask, Eos};
use crate::model::Grammar;
use crate::prompt::{self, Conversation};
use crate::sampling;
use crate::tools::{Calls, Choice, Offer, Tool, Toolbox};

/// Answers an input.
pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, client } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let model = app.registry.open(&name).await?;
    let engine = Arc::clone(&model.engine);
    let stream = fields.switch("stream")?;
    let instructions: Option<String> = fields.take("instructions")?;
    let input = fields.value("input").ok_or_else(|| ApiError::missing("input"))?;
    let metadata = fields.take::<Map<String, Value>>("metadata")?.unwrap_or_default();
    let mut messages: Vec<Value> = Vec::new();
    if let Some(text) = &instructions {
        messages.push(json!({ "role": "system", "content": text }));
    }
    messages.extend(items(input)?);
    let mut conversation = Conversation::new(messages);
    let toolbox = toolbox(&mut fields)?;
    let grammar = text_format(&mut fields)?;
    let sampling = sampling::read(&mut fields, &engine.served.generation)?;
    let max_tokens = fields.count("max_output_tokens", 1..=usize::MAX)?;
    let client = client_of(&mut fields, client)?;
    refuse(&mut fields)?;
    fields.finish()?;
    let grammar = grammar.map(|grammar| (grammar, "text.format"));
    let offer = Offer::new(&engine, toolbox.as_ref(), &mut conversation, grammar)?;
    let temperature = sampling.temperature;
    let top_p = sampling.top_p;
    let prompt = prompt::render(&app, &engine, conversation).await?;
    let room = generation::room(&engine, prompt.len(), max_tokens, "max_output_tokens")?;
    let ask = Ask {
        prompt,
        choices: 1,
        sampling,
        max_tokens: room,
        stop: Vec::new(),
        eos: Eos::End,
        top_logprobs: None,
        prompt_logprobs: None,
        grammar: offer.grammar,
        visible_specials: offer.visible_specials,
        client,
    };
    let running = generation::start(&app, &model, ask).await?;
    let echoed = json!({
        "instructions": instructions, "max_output_tokens": max_tokens, "metadata": metadata,
        "temperature": temperature, "top_p": top_p.unwrap_or(1.0), "tool_choice": "auto",
        "tools": toolbox.as_ref().map_or_else(|| json!([]), |toolbox| flat_tools(&toolbox.tools)),
        "parallel_tool_calls": true,
    });
    let answer =
        Answer { id: app.id("resp_"), model: model.name.clone(), tools: offer.format, echoed };
    // The model stays loaded for as long as its jobs run: each holds it.
    match stream {
        true => Ok(responses_answer::stream(answer, running)),
        false => responses_answer::whole(&answer, running).await,
    }
}

fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    let stateless = "nothing is stored; send the whole conversation as `input`";
    fields.refuse("previous_response_id", &[], stateless)?;
    fields.refuse("conversation", &[], stateless)?;
    fields.refuse("store", &[json!(false)], "nothing is stored")?;
    fields.refuse("background", &[json!(false)], "nothing is stored")?;
    fields.refuse("truncation", &[json!("disabled")], "inputs are never cut")?;
    fields.refuse("include", &[json!([])], "there is nothing further to include")?;
    fields.refuse("reasoning", &[], "this model does not reason apart from its answer")?;
    fields.refuse("top_logprobs", &[json!(0)], "use /v1/chat/completions")?;
    fields.refuse("prompt", &[], "there are no stored prompts")?;
    fields.refuse("max_tool_calls", &[], "there are no tools of the server's own")?;
    fields.refuse("service_tier", &[json!("auto"), json!("default")], "there is one tier")?;
    fields.refuse("safety_identifier", &[], "there is no moderation")?;
    fields.refuse("prompt_cache_key", &[], "prompts are remembered by their tokens")
}

/// The input's items as messages.
fn items(input: Value) -> Result<Vec<Value>, ApiError> {
    let list = match input {
        Value::String(text) => return Ok(vec![json!({ "role": "user", "content": text })]),
        Value::Array(list) if !list.is_empty() => list,
        _ => return Err(ApiError::field("input", "expected text or a list of items")),
    };
    let mut messages: Vec<Value> = Vec::with_capacity(list.len());
    for (index, item) in list.into_iter().enumerate() {
        let place = format!("input[{index}]");
        let fields = Fields::of(item, &place)?;
        item_message(fields, &mut messages).map_err(|error| error.within(&place))?;
    }
    Ok(messages)
}

fn item_message(mut fields: Fields, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let kind: Option<String> = fields.take("type")?;
    // Clients send back what they were given.
    let _: Option<String> = fields.take("id")?;
    let _: Option<String> = fields.take("status")?;
    match kind.as_deref().unwrap_or("message") {
        "message" => {
            let role: String = fields.need("role")?;
            let role = match role.as_str() {
                "system" | "developer" => "system",
                "user" => "user",
                "assistant" => "assistant",
                _ => {
                    let expected = "expected system, developer, user or assistant";
                    return Err(ApiError::field("role", expected));
                }
            };
            let content = fields.value("content").ok_or_else(|| ApiError::missing("content"))?;
            messages.push(json!({ "role": role, "content": prompt::content(content)? }));
        }
        "function_call" => {
            let id: String = fields.need("call_id")?;
            let name: String = fields.need("name")?;
            let text: String = fields.need("arguments")?;
            let call = json!({
                "id": id, "type": "function",
                "function": { "name": name, "arguments": prompt::arguments(&text, "arguments")? },
            });
            // Calls that follow each other belong to one message.
            match messages.last_mut().and_then(|last| last["tool_calls"].as_array_mut()) {
                Some(calls) => calls.push(call),
                None => messages
                    .push(json!({ "role": "assistant", "content": "", "tool_calls": [call] })),
            }
        }
        "function_call_output" => {
            let id: String = fields.need("call_id")?;
            let output = fields.value("output").ok_or_else(|| ApiError::missing("output"))?;
            let content = prompt::content(output)?;
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
        }
        _ => {
            let reason = "items are messages, function calls and their outputs";
            return Err(ApiError::unsupported("type", reason));
        }
    }
    fields.finish()
}

/// `text.format`.
fn text_format(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let Some(text) = fields.value("text") else { return Ok(None) };
    let mut text = Fields::of(text, "text")?;
    let format = text.value("format");
    let verbosity = text.refuse("verbosity", &[json!("medium")], "say so in the prompt");
    verbosity.and_then(|()| text.finish()).map_err(|error| error.within("text"))?;
    let Some(format) = format else { return Ok(None) };
    let mut format = Fields::of(format, "text.format")?;
    let read = |format: &mut Fields| match format.need::<String>("type")?.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(sampling::any_object())),
        "json_schema" => sampling::named_schema(format).map(Some),
        _ => Err(ApiError::field("type", "expected text, json_object or json_schema")),
    };
    let within = |error: ApiError| error.within("text.format");
    let grammar = read(&mut format).map_err(within)?;
    format.finish().map_err(within)?;
    Ok(grammar)
}

/// Tools, which lie flat here.
fn toolbox(fields: &mut Fields) -> Result<Option<Toolbox>, ApiError> {
    let list = fields.take::<Vec<Value>>("tools")?.unwrap_or_default();
    let read = |(index, value): (usize, Value)| {
        let place = format!("tools[{index}]");
        let tool = || -> Result<Tool, ApiError> {
            let mut tool = Fields::of(value, "")?;
            if tool.need::<String>("type")? != "function" {
                return Err(ApiError::unsupported("type", "tools are functions"));
            }
            Tool::read(tool, "parameters")
        };
        tool().map_err(|error| error.within(&place))
    };
    let tools = list.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let choice = match fields.value("tool_choice") {
        None => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" => Choice::Required,
            _ => return Err(ApiError::field("tool_choice", "expected none, auto or required")),
        },
        Some(other) => {
            let within = |error: ApiError| error.within("tool_choice");
            let mut choice = Fields::of(other, "tool_choice")?;
            if choice.need::<String>("type").map_err(within)? != "function" {
                return Err(ApiError::unsupported("tool_choice.type", "tools are functions"));
            }
            let name = choice.need("name").map_err(within)?;
            choice.finish().map_err(within)?;
            Choice::Named(name)
        }
    };
    let calls = match fields.take("parallel_tool_calls")? {
        Some(false) => Calls::One,
        _ => Calls::Many,
    };
    Toolbox::new(tools, choice, calls)
}

fn flat_tools(tools: &[Tool]) -> Value {
    let flat = |tool: &Tool| {
        json!({
            "type": "function", "name": tool.name, "description": tool.description,
            "parameters": tool.parameters, "strict": false,
        })
    };
    tools.iter().map(flat).collect()
}
