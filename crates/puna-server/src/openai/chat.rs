//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use puna_text::GenerationPrompt;
use serde_json::{Map, Value};

use super::chat_answer::{self, Answer};
use super::{Delivery, client_of, model_name, refuse_service_fields};
use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted};
use crate::fields::Fields;
use crate::generation::{self, Ask, Eos};
use crate::model::Opened;
use crate::prompt::{self, Conversation};
use crate::sampling::{self, MOST_CHOICES, MOST_LOGPROBS};
use crate::tools::{Calls, Choice, Format, Offer, Tool, Toolbox};

/// Answers a conversation.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, client } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let model = app.registry.open(&name).await?;
    let wanted = read(&app, &model, fields, client).await?;
    let running = generation::start(&app, &model, wanted.ask).await?;
    let answer =
        Answer { id: app.id("chatcmpl-"), model, logprobs: wanted.logprobs, tools: wanted.tools };
    match wanted.delivery {
        Delivery::Whole => chat_answer::whole(&answer, running).await,
        delivery => Ok(chat_answer::stream(answer, running, delivery)),
    }
}

/// What a request wants.
struct Wanted {
    ask: Ask,
    delivery: Delivery,
    logprobs: Logprobs,
    tools: Option<Format>,
}

/// Whether tokens come with their log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logprobs {
    Hidden,
    Shown,
}

async fn read(
    app: &Arc<App>,
    model: &Opened,
    mut fields: Fields,
    client: String,
) -> Result<Wanted, ApiError> {
    let engine = &model.engine;
    let delivery = Delivery::read(&mut fields)?;
    let messages = fields.value("messages").ok_or_else(|| ApiError::missing("messages"))?;
    let mut conversation = Conversation::new(prompt::messages(messages, "messages")?);
    conversation.variables =
        fields.take::<Map<String, Value>>("chat_template_kwargs")?.unwrap_or_default();
    if fields.take("add_generation_prompt")? == Some(false) {
        conversation.generation_prompt = GenerationPrompt::Omit;
    }
    let toolbox = toolbox(&mut fields)?;
    let grammar = sampling::grammar(&mut fields)?;
    let sampling = sampling::read(&mut fields, &engine.served.generation)?;
    let stop = sampling::stop(&mut fields, "stop")?;
    let choices = fields.count("n", 1..=MOST_CHOICES)?.unwrap_or(1);
    let (logprobs, top_logprobs) = logprobs(&mut fields)?;
    let (max_tokens, param) = max_tokens(&mut fields)?;
    let eos = if fields.switch("ignore_eos")? { Eos::Forbid } else { Eos::End };
    let client = client_of(&mut fields, client)?;
    refuse(&mut fields)?;
    fields.finish()?;
    let offer = Offer::new(engine, toolbox.as_ref(), &mut conversation, grammar)?;
    let prompt = prompt::render(app, engine, conversation).await?;
    let max_tokens = generation::room(engine, prompt.len(), max_tokens, param)?;
    let ask = Ask {
        prompt,
        choices,
        sampling,
        max_tokens,
        stop,
        eos,
        top_logprobs,
        prompt_logprobs: None,
        grammar: offer.grammar,
        visible_specials: offer.visible_specials,
        client,
    };
    Ok(Wanted { ask, delivery, logprobs, tools: offer.format })
}

/// `logprobs` and `top_logprobs`.
fn logprobs(fields: &mut Fields) -> Result<(Logprobs, Option<usize>), ApiError> {
    let shown = fields.switch("logprobs")?;
    let top = fields.count("top_logprobs", 0..=MOST_LOGPROBS)?;
    match (shown, top) {
        (false, Some(1..)) => Err(ApiError::field("top_logprobs", "only with `logprobs`: true")),
        (false, _) => Ok((Logprobs::Hidden, None)),
        (true, top) => Ok((Logprobs::Shown, Some(top.unwrap_or(0)))),
    }
}

/// `max_completion_tokens`, or its older name.
fn max_tokens(fields: &mut Fields) -> Result<(Option<usize>, &'static str), ApiError> {
    let new = fields.count("max_completion_tokens", 1..=usize::MAX)?;
    let old = fields.count("max_tokens", 1..=usize::MAX)?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            Err(ApiError::field("max_tokens", "differs from max_completion_tokens"))
        }
        (Some(_), _) => Ok((new, "max_completion_tokens")),
        (None, old) => Ok((old, "max_tokens")),
    }
}

fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    refuse_service_fields(fields)?;
    let text = [serde_json::json!(["text"])];
    fields.refuse("modalities", &text, "answers are text")?;
    fields.refuse("audio", &[], "answers are text")?;
    fields.refuse("prediction", &[], "there are no predicted outputs")?;
    fields.refuse("reasoning_effort", &[], "this model does not reason apart from its answer")?;
    fields.refuse("verbosity", &[], "say so in the prompt")?;
    fields.refuse("web_search_options", &[], "this server does not search the web")?;
    fields.refuse("functions", &[], "use `tools`")?;
    fields.refuse("function_call", &[], "use `tool_choice`")
}

/// `tools`, `tool_choice` and `parallel_tool_calls`.
fn toolbox(fields: &mut Fields) -> Result<Option<Toolbox>, ApiError> {
    let mut tools = Vec::new();
    for (index, value) in
        fields.take::<Vec<Value>>("tools")?.unwrap_or_default().into_iter().enumerate()
    {
        let place = format!("tools[{index}]");
        let mut tool = Fields::of(value, &place)?;
        let read = |tool: &mut Fields| {
            if tool.need::<String>("type")? != "function" {
                return Err(ApiError::unsupported("type", "tools are functions"));
            }
            let function = Fields::of(tool.need("function")?, "function")?;
            Tool::read(function, "parameters").map_err(|error| error.within("function"))
        };
        tools.push(read(&mut tool).map_err(|error| error.within(&place))?);
        tool.finish().map_err(|error| error.within(&place))?;
    }
    let choice = match fields.value("tool_choice") {
        None => Choice::Auto,
        Some(value) => tool_choice(value)?,
    };
    let calls = match fields.take("parallel_tool_calls")? {
        Some(false) => Calls::One,
        _ => Calls::Many,
    };
    Toolbox::new(tools, choice, calls)
}

fn tool_choice(value: Value) -> Result<Choice, ApiError> {
    let name = "tool_choice";
    match value {
        Value::String(word) => match word.as_str() {
            "none" => Ok(Choice::None),
            "auto" => Ok(Choice::Auto),
            "required" => Ok(Choice::Required),
            _ => Err(ApiError::field(name, "expected none, auto, required or a function")),
        },
        other => {
            let within = |error: ApiError| error.within(name);
            let mut fields = Fields::of(other, name)?;
            if fields.need::<String>("type").map_err(within)? != "function" {
                return Err(ApiError::unsupported("tool_choice.type", "tools are functions"));
            }
            let function: Value = fields.need("function").map_err(within)?;
            fields.finish().map_err(within)?;
            let mut function = Fields::of(function, "tool_choice.function")?;
            let within = |error: ApiError| error.within("tool_choice.function");
            let named = function.need("name").map_err(within)?;
            function.finish().map_err(within)?;
            Ok(Choice::Named(named))
        }
    }
}
