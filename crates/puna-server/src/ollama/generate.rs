//! `POST /api/chat` and `POST /api/generate`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::Response;
use puna_text::SpecialTokens;
use serde_json::{Map, Value, json};

use super::answer::{self, Answer, Shape};
use super::options::Options;
use super::{format, keep_alive, model_name};
use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted};
use crate::fields::Fields;
use crate::generation::{self, Ask, Eos};
use crate::model::{Grammar, KeepAlive, Opened};
use crate::prompt::{self, Conversation};
use crate::sampling::MOST_LOGPROBS;
use crate::tools::{Calls, Choice, Offer, Tool, Toolbox};

/// What both endpoints share.
struct Common {
    started: Instant,
    model: Opened,
    keep: Option<KeepAlive>,
    options: Options,
    grammar: Option<(Grammar, &'static str)>,
    stream: bool,
    top_logprobs: Option<usize>,
    client: String,
}

async fn common(app: &Arc<App>, fields: &mut Fields, client: String) -> Result<Common, ApiError> {
    let started = Instant::now();
    let name = model_name(fields, app.registry.first())?;
    let keep = keep_alive(fields)?;
    let model = app.registry.open(&name).await?;
    let engine = &model.engine;
    let options = Options::read(fields, &engine.served.generation, engine.context_tokens)?;
    let grammar = format(fields)?;
    let stream = fields.take("stream")?.unwrap_or(true);
    let shown = fields.switch("logprobs")?;
    let top = fields.count("top_logprobs", 0..=MOST_LOGPROBS)?;
    let top_logprobs = match (shown, top) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, _) => {
            return Err(ApiError::field("top_logprobs", "only with `logprobs`: true"));
        }
    };
    fields.refuse("think", &[json!(false)], "this model does not think apart from its answer")?;
    Ok(Common { started, model, keep, options, grammar, stream, top_logprobs, client })
}

/// Answers a conversation.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, client } = body::read(&app, request).await?;
    let mut common = common(&app, &mut fields, client).await?;
    let list = fields.take::<Vec<Value>>("messages")?.unwrap_or_default();
    let tools = tools(&mut fields)?;
    fields.finish()?;
    if list.is_empty() {
        return Ok(loaded(&app, &common, Shape::Chat));
    }
    let messages = list.into_iter().enumerate().map(message).collect::<Result<_, _>>()?;
    let mut conversation = Conversation::new(messages);
    let toolbox = Toolbox::new(tools, Choice::Auto, Calls::Many)?;
    let grammar = common.grammar.take();
    let engine = &common.model.engine;
    let offer = Offer::new(engine, toolbox.as_ref(), &mut conversation, grammar)?;
    let prompt = prompt::render(&app, engine, conversation).await?;
    respond(&app, common, prompt, Shape::Chat, offer).await
}

/// Continues a prompt.
pub(crate) async fn generate(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, client } = body::read(&app, request).await?;
    let mut common = common(&app, &mut fields, client).await?;
    let text: String = fields.take("prompt")?.unwrap_or_default();
    let system: Option<String> = fields.take("system")?;
    let raw = fields.switch("raw")?;
    fields.refuse("suffix", &[json!("")], "text is continued, not filled in")?;
    fields.refuse("images", &[json!([])], "this model reads text only")?;
    fields.refuse("template", &[json!("")], "the model's own template is used")?;
    fields.refuse("context", &[json!([])], "use /api/chat for conversations")?;
    fields.finish()?;
    if text.is_empty() {
        return Ok(loaded(&app, &common, Shape::Generate));
    }
    let engine = &common.model.engine;
    let prompt = if raw {
        if system.is_some() {
            return Err(ApiError::field("system", "has no place in a raw prompt"));
        }
        prompt::encode(&app, engine, text, SpecialTokens::Add).await?
    } else {
        let system = system.filter(|system| !system.is_empty());
        let mut messages: Vec<Value> = system
            .map(|system| json!({ "role": "system", "content": system }))
            .into_iter()
            .collect();
        messages.push(json!({ "role": "user", "content": text }));
        prompt::render(&app, engine, Conversation::new(messages)).await?
    };
    let offer = Offer::text(common.grammar.take());
    respond(&app, common, prompt, Shape::Generate, offer).await
}

async fn respond(
    app: &Arc<App>,
    common: Common,
    prompt: Vec<u32>,
    shape: Shape,
    offer: Offer,
) -> Result<Response, ApiError> {
    let Common { started, model, keep, options, stream, top_logprobs, client, .. } = common;
    let engine = &model.engine;
    let room = generation::room(engine, prompt.len(), None, "prompt")?;
    let ask = Ask {
        prompt,
        choices: 1,
        sampling: options.sampling,
        max_tokens: options.max_tokens.map_or(room, |wanted| wanted.min(room)),
        stop: options.stop,
        eos: Eos::End,
        top_logprobs,
        prompt_logprobs: None,
        grammar: offer.grammar,
        visible_specials: offer.visible_specials,
        client,
    };
    let running = generation::start(app, &model, ask).await?;
    app.registry.keep(&model.name, keep);
    let answer = Answer { model, shape, started, tools: offer.format, top_logprobs };
    match stream {
        true => Ok(answer::stream(answer, running)),
        false => answer::whole(&answer, running).await,
    }
}

/// Without a prompt the model is only loaded, or unloaded with a `keep_alive` of 0.
fn loaded(app: &App, common: &Common, shape: Shape) -> Response {
    let reason = match common.keep {
        Some(KeepAlive::For(Duration::ZERO)) => "unload",
        _ => "load",
    };
    app.registry.keep(&common.model.name, common.keep);
    body::json(&answer::empty(&common.model.name, shape, reason))
}

/// Ollama's messages: arguments of calls are values, and results name their tool.
fn message((index, value): (usize, Value)) -> Result<Value, ApiError> {
    let place = format!("messages[{index}]");
    let read = || -> Result<Value, ApiError> {
        let mut fields = Fields::of(value, "")?;
        let role: String = fields.need("role")?;
        if !["system", "user", "assistant", "tool"].contains(&role.as_str()) {
            return Err(ApiError::field("role", "expected system, user, assistant or tool"));
        }
        let content: String = fields.take("content")?.unwrap_or_default();
        fields.refuse("images", &[json!([])], "this model reads text only")?;
        fields.refuse(
            "thinking",
            &[json!("")],
            "this model does not think apart from its answer",
        )?;
        let mut message = json!({ "role": role, "content": content });
        if let Some(calls) = fields.take::<Vec<Map<String, Value>>>("tool_calls")? {
            message["tool_calls"] = calls
                .into_iter()
                .map(|call| json!({ "type": "function", "function": call.get("function") }))
                .collect();
        }
        for name in ["tool_name", "tool_call_id"] {
            if let Some(tool) = fields.take::<String>(name)? {
                message["name"] = json!(tool);
            }
        }
        fields.finish()?;
        Ok(message)
    };
    read().map_err(|error| error.within(&place))
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
    let list = fields.take::<Vec<Value>>("tools")?.unwrap_or_default();
    let read = |(index, value): (usize, Value)| {
        let place = format!("tools[{index}]");
        let tool = || -> Result<Tool, ApiError> {
            let mut tool = Fields::of(value, "")?;
            if tool.take::<String>("type")?.is_some_and(|kind| kind != "function") {
                return Err(ApiError::unsupported("type", "tools are functions"));
            }
            let function = Fields::of(tool.need("function")?, "function")?;
            tool.finish()?;
            Tool::read(function, "parameters").map_err(|error| error.within("function"))
        };
        tool().map_err(|error| error.within(&place))
    };
    list.into_iter().enumerate().map(read).collect()
}
