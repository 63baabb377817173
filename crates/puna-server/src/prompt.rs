//! Conversations and texts to token ids.

use std::sync::Arc;

use puna_text::{CivilTime, GenerationPrompt, RenderInput, SpecialTokens, TextError};
use serde_json::{Map, Value, json};

use crate::api_error::ApiError;
use crate::app::App;
use crate::body::blocking;
use crate::config::PromptLog;
use crate::fields::Fields;
use crate::log;
use crate::model::Engine;

/// Messages in one conversation.
const MOST_MESSAGES: usize = 4096;

/// A conversation to be answered.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    /// As templates are given it: objects with `role` and `content`.
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Option<Value>,
    pub(crate) variables: Map<String, Value>,
    pub(crate) generation_prompt: GenerationPrompt,
}

impl Conversation {
    pub(crate) fn new(messages: Vec<Value>) -> Self {
        Self {
            messages,
            tools: None,
            variables: Map::new(),
            generation_prompt: GenerationPrompt::Add,
        }
    }
}

/// The ids of a text. Texts beyond what a context can hold are refused before they are encoded.
pub(crate) async fn encode(
    app: &App,
    engine: &Arc<Engine>,
    text: String,
    special: SpecialTokens,
) -> Result<Vec<u32>, ApiError> {
    log_prompt(app, &text);
    let engine = Arc::clone(engine);
    blocking(move || {
        engine.served.tokenizer.encode(&text, special).map_err(|error| inexpressible(&error))
    })
    .await
}

/// The ids of a conversation as the model's template writes it. Without a template its contents
/// are joined by blank lines.
pub(crate) async fn render(
    app: &Arc<App>,
    engine: &Arc<Engine>,
    conversation: Conversation,
) -> Result<Vec<u32>, ApiError> {
    let (app, engine) = (Arc::clone(app), Arc::clone(engine));
    blocking(move || {
        let text = rendered(&engine, &conversation)?;
        log_prompt(&app, &text);
        let tokenizer = &engine.served.tokenizer;
        let ids = match engine.served.template {
            Some(_) => tokenizer.encode_rendered(&text),
            None => tokenizer.encode(&text, SpecialTokens::Add),
        };
        ids.map_err(|error| inexpressible(&error))
    })
    .await
}

/// The text of a conversation.
pub(crate) fn rendered(engine: &Engine, conversation: &Conversation) -> Result<String, ApiError> {
    let tokenizer = &engine.served.tokenizer;
    let Some(template) = &engine.served.template else {
        if let Some(name) = conversation.variables.keys().next() {
            let param = format!("chat_template_kwargs.{name}");
            return Err(ApiError::unsupported(param, "this model has no chat template"));
        }
        let contents =
            conversation.messages.iter().filter_map(|message| message["content"].as_str());
        return Ok(contents.collect::<Vec<_>>().join("\n\n"));
    };
    let messages = Value::Array(conversation.messages.clone());
    let input = RenderInput {
        messages: &messages,
        tools: conversation.tools.as_ref(),
        add_generation_prompt: conversation.generation_prompt,
        bos_token: &tokenizer.bos_text(),
        eos_token: &tokenizer.eos_text(),
        variables: conversation.variables.clone(),
        now: Some(CivilTime::now_utc()),
    };
    template.render(&input).map_err(|error| match error {
        TextError::Raised { message } => ApiError::field("messages", message),
        error => ApiError::field("messages", error.to_string()),
    })
}

fn inexpressible(error: &TextError) -> ApiError {
    ApiError::invalid(format!("the prompt cannot be made into tokens: {error}"))
}

fn log_prompt(app: &App, text: &str) {
    if app.config.prompt_log == PromptLog::On {
        log::line(&format!("prompt {}", log::quoted(text)));
    }
}

/// OpenAI's messages as templates are given them: contents are text, arguments of calls are values.
pub(crate) fn messages(list: Value, param: &str) -> Result<Vec<Value>, ApiError> {
    let Value::Array(list) = list else {
        return Err(ApiError::field(param, "expected a list of messages"));
    };
    if list.is_empty() {
        return Err(ApiError::field(param, "there is no message"));
    }
    if list.len() > MOST_MESSAGES {
        return Err(ApiError::field(param, format!("at most {MOST_MESSAGES} messages")));
    }
    let read = |(index, value)| {
        let place = format!("{param}[{index}]");
        let fields = Fields::of(value, &place)?;
        message(fields).map_err(|error| error.within(&place))
    };
    list.into_iter().enumerate().map(read).collect()
}

fn message(mut fields: Fields) -> Result<Value, ApiError> {
    let role: String = fields.need("role")?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" | "tool" => role,
        "developer" => "system".to_owned(),
        _ => {
            let expected = "expected system, developer, user, assistant or tool";
            return Err(ApiError::field("role", expected));
        }
    };
    let calls = match fields.value("tool_calls") {
        Some(calls) if role == "assistant" => Some(tool_calls(calls)?),
        Some(_) => return Err(ApiError::field("tool_calls", "only assistants call tools")),
        None => None,
    };
    let content = fields.value("content").map(content).transpose()?;
    if content.is_none() && calls.is_none() {
        return Err(ApiError::missing("content"));
    }
    let mut message = json!({ "role": role, "content": content.unwrap_or_default() });
    if let Some(calls) = calls {
        message["tool_calls"] = calls;
    }
    if role == "tool" {
        let id: String = fields.need("tool_call_id")?;
        message["tool_call_id"] = json!(id);
    }
    if let Some(name) = fields.take::<String>("name")? {
        message["name"] = json!(name);
    }
    fields.refuse("refusal", &[], "answers here have no refusals apart from their text")?;
    fields.refuse("audio", &[], "there is no audio here")?;
    fields.finish()?;
    Ok(message)
}

/// A content: text, or parts of text.
pub(crate) fn content(value: Value) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        _ => return Err(ApiError::field("content", "expected text or a list of parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        let place = format!("content[{index}]");
        let mut fields = Fields::of(part, &place)?;
        let kind: String = fields.need("type").map_err(|error| error.within(&place))?;
        match kind.as_str() {
            "text" | "input_text" | "output_text" => {
                let text: String = fields.need("text").map_err(|error| error.within(&place))?;
                // Anthropic's cache marks and OpenAI's notes on outputs change no text.
                for harmless in ["cache_control", "annotations", "logprobs", "citations"] {
                    fields.value(harmless);
                }
                fields.finish().map_err(|error| error.within(&place))?;
                texts.push(text);
            }
            _ => {
                let shown: String = kind.chars().take(40).collect();
                return Err(ApiError::unsupported(
                    format!("{place}.type"),
                    &format!("`{shown}` cannot be read by this model; text can"),
                ));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// Calls with their arguments as values: templates write them as JSON themselves.
fn tool_calls(calls: Value) -> Result<Value, ApiError> {
    let Value::Array(calls) = calls else {
        return Err(ApiError::field("tool_calls", "expected a list"));
    };
    let read = |(index, call): (usize, Value)| {
        let place = format!("tool_calls[{index}]");
        let call = || -> Result<Value, ApiError> {
            let mut fields = Fields::of(call, "")?;
            let id: String = fields.need("id")?;
            let kind: Option<String> = fields.take("type")?;
            if kind.is_some_and(|kind| kind != "function") {
                return Err(ApiError::field("type", "expected function"));
            }
            let mut function = Fields::of(fields.need("function")?, "function")?;
            fields.finish()?;
            let name: String = function.need("name").map_err(|e| e.within("function"))?;
            let text: String = function.need("arguments").map_err(|e| e.within("function"))?;
            function.finish().map_err(|error| error.within("function"))?;
            let arguments = arguments(&text, "function.arguments")?;
            Ok(json!({
                "id": id, "type": "function",
                "function": { "name": name, "arguments": arguments },
            }))
        };
        call().map_err(|error| error.within(&place))
    };
    calls.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Value::Array)
}

/// The text of a call's arguments as a value.
pub(crate) fn arguments(text: &str, param: &str) -> Result<Value, ApiError> {
    let text = if text.is_empty() { "{}" } else { text };
    crate::json::object(text.as_bytes())
        .map(Value::Object)
        .map_err(|_| ApiError::field(param, "expected the text of a JSON object"))
}
