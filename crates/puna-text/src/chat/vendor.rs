//! Conversations to ids as the models' makers build them, turn by turn.
//!
//! Meta's Llama 2 code and mistral-common tokenize each turn on its own and put control tokens by
//! id, so that text can never forge one and the ids can differ from those of a rendered template.
//! Sources: `generation.py` of meta-llama/llama; `instruct.py` of mistralai/mistral-common (v1
//! and v3 instruct tokenizers).

use serde_json::{Value, json};

use super::python::{JsonStyle, dumps};
use crate::tokenizer::{SpecialTokens, Tokenizer};
use crate::{TextError, chat};

/// A maker's own encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VendorFormat {
    /// Meta's Llama 2 chat.
    Llama2,
    /// mistral-common, instruct tokenizer v1 (Mistral 7B v0.1 and v0.2, Mixtral 8x7B).
    MistralV1,
    /// mistral-common, instruct tokenizer v3 (Mistral 7B v0.3, Mixtral 8x22B).
    MistralV3,
}

/// Ids of a conversation that the model is to answer.
///
/// # Errors
/// [`TextError::Conversation`] where the format has no place for a message, [`TextError::Invalid`]
/// where the tokenizer lacks a control token of the format.
pub fn encode_chat(
    tokenizer: &Tokenizer,
    format: VendorFormat,
    messages: &Value,
    tools: Option<&Value>,
) -> Result<Vec<u32>, TextError> {
    chat::check_messages(messages)?;
    let list = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    if tools.is_some() && format != VendorFormat::MistralV3 {
        let reason = "tools need Mistral's v3 tokenizer";
        return Err(TextError::Inexpressible { target: "this chat format", reason });
    }
    let writer = Writer { tokenizer, ids: vec![control(tokenizer.bos(), "bos")?] };
    match format {
        VendorFormat::Llama2 => writer.llama2(list),
        VendorFormat::MistralV1 => writer.mistral_v1(&turns(list)?),
        VendorFormat::MistralV3 => writer.mistral_v3(&turns(list)?, tools),
    }
}

fn control(id: Option<u32>, name: &str) -> Result<u32, TextError> {
    id.ok_or_else(|| TextError::invalid(format!("token {name}"), "a control token", "none"))
}

/// Ids in the making; begins with bos.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
}

impl Writer<'_> {
    fn text(&mut self, text: &str) -> Result<(), TextError> {
        self.ids.extend(self.tokenizer.encode(text, SpecialTokens::Omit)?);
        Ok(())
    }

    fn token(&mut self, name: &str) -> Result<(), TextError> {
        self.ids.push(control(self.tokenizer.id(name), name)?);
        Ok(())
    }

    fn eos(&mut self) -> Result<(), TextError> {
        let eos = self.tokenizer.eos().first().copied();
        self.ids.push(control(eos, "eos")?);
        Ok(())
    }

    fn llama2(mut self, messages: &[Value]) -> Result<Vec<u32>, TextError> {
        let (system, rest) = match messages {
            [first, rest @ ..] if role(first) == "system" => (Some(content(first, 0)?), rest),
            all => (None, all),
        };
        let skipped = messages.len() - rest.len();
        for (place, message) in rest.iter().enumerate() {
            let index = place + skipped;
            let expected = if place % 2 == 0 { "user" } else { "assistant" };
            expect_role(message, index, expected)?;
            let text = content(message, index)?;
            if expected == "assistant" {
                continue;
            }
            let system = system.as_ref().filter(|_| place == 0);
            let prompt = match system {
                Some(system) => format!("<<SYS>>\n{system}\n<</SYS>>\n\n{text}"),
                None => text,
            };
            if place > 0 {
                self.ids.push(control(self.tokenizer.bos(), "bos")?);
            }
            match rest.get(place + 1) {
                Some(answer) => {
                    let answer = content(answer, index + 1)?;
                    self.text(&format!("[INST] {} [/INST] {} ", prompt.trim(), answer.trim()))?;
                    self.eos()?;
                }
                None => self.text(&format!("[INST] {} [/INST]", prompt.trim()))?,
            }
        }
        expect_last(messages, rest.len() % 2 == 1, "a user's message at the end")?;
        Ok(self.ids)
    }

    fn mistral_v1(mut self, turns: &Turns) -> Result<Vec<u32>, TextError> {
        let mut system = turns.system.as_deref();
        for turn in &turns.list {
            match turn {
                Turn::User(text) => {
                    let text = with_system(system.take(), text);
                    self.text(&format!("[INST] {text} [/INST]"))?;
                }
                Turn::Assistant { text, calls } if calls.is_empty() => {
                    self.text(text)?;
                    self.eos()?;
                }
                _ => {
                    let reason = "tool calls need Mistral's v3 tokenizer";
                    return Err(TextError::Inexpressible { target: "this chat format", reason });
                }
            }
        }
        Ok(self.ids)
    }

    fn mistral_v3(mut self, turns: &Turns, tools: Option<&Value>) -> Result<Vec<u32>, TextError> {
        let is_user = |turn: &Turn| matches!(turn, Turn::User(_));
        let last_user = turns.list.iter().rposition(is_user);
        for (index, turn) in turns.list.iter().enumerate() {
            match turn {
                Turn::User(text) => {
                    let last = Some(index) == last_user;
                    if let Some(tools) = tools.filter(|_| last) {
                        self.token("[AVAILABLE_TOOLS]")?;
                        self.text(&python_json(tools))?;
                        self.token("[/AVAILABLE_TOOLS]")?;
                    }
                    let system = turns.system.as_deref().filter(|_| last);
                    self.token("[INST]")?;
                    self.text(&with_system(system, text))?;
                    self.token("[/INST]")?;
                }
                Turn::Assistant { text, calls } => {
                    self.text(text)?;
                    if !calls.is_empty() {
                        self.token("[TOOL_CALLS]")?;
                        self.text(&python_json(&Value::Array(calls.clone())))?;
                    }
                    self.eos()?;
                }
                Turn::Tool { content, id } => {
                    self.token("[TOOL_RESULTS]")?;
                    self.text(&python_json(&json!({ "content": content, "call_id": id })))?;
                    self.token("[/TOOL_RESULTS]")?;
                }
            }
        }
        Ok(self.ids)
    }
}

/// A turn after mistral-common's normalization.
enum Turn {
    User(String),
    Assistant { text: String, calls: Vec<Value> },
    Tool { content: Value, id: Value },
}

/// A normalized conversation.
struct Turns {
    system: Option<String>,
    list: Vec<Turn>,
}

/// Gathers system prompts, joins neighbors of one role with an empty line, and puts an empty
/// user's turn before a conversation that begins with the assistant.
fn turns(messages: &[Value]) -> Result<Turns, TextError> {
    let mut system: Vec<String> = Vec::new();
    let mut list: Vec<Turn> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        match role(message) {
            "system" => system.push(content(message, index)?),
            "user" => {
                let text = content(message, index)?;
                match list.last_mut() {
                    Some(Turn::User(before)) => *before = join(before, &text),
                    _ => list.push(Turn::User(text)),
                }
            }
            "assistant" => {
                if list.is_empty() {
                    list.push(Turn::User(String::new()));
                }
                let text = content(message, index)?;
                let new = calls(message, index)?;
                match list.last_mut() {
                    Some(Turn::Assistant { text: before, calls }) => {
                        *before = join(before, &text);
                        calls.extend(new);
                    }
                    _ => list.push(Turn::Assistant { text, calls: new }),
                }
            }
            "tool" => {
                let text = content(message, index)?;
                let content = serde_json::from_str(&text).unwrap_or(Value::String(text));
                let id = message.get("tool_call_id").cloned().unwrap_or_default();
                list.push(Turn::Tool { content, id });
            }
            other => {
                let expected = "the role system, user, assistant or tool";
                let got = other.to_owned();
                return Err(TextError::Conversation { index, expected, got });
            }
        }
    }
    let open = matches!(list.last(), Some(Turn::User(_) | Turn::Tool { .. }));
    expect_last(messages, open, "a user's or a tool's message at the end")?;
    let system = if system.is_empty() { None } else { Some(system.join("\n\n")) };
    Ok(Turns { system, list })
}

fn join(before: &str, after: &str) -> String {
    match (before.is_empty(), after.is_empty()) {
        (true, _) => after.to_owned(),
        (_, true) => before.to_owned(),
        _ => format!("{before}\n\n{after}"),
    }
}

fn with_system(system: Option<&str>, text: &str) -> String {
    match system {
        Some(system) => format!("{system}\n\n{text}"),
        None => text.to_owned(),
    }
}

/// The tool calls of a message as mistral-common writes them.
fn calls(message: &Value, index: usize) -> Result<Vec<Value>, TextError> {
    let Some(list) = message.get("tool_calls").and_then(Value::as_array) else {
        return Ok(Vec::new());
    };
    let call = |call: &Value| {
        let function = call.get("function")?;
        let arguments = match function.get("arguments")? {
            Value::String(text) => serde_json::from_str(text).ok()?,
            value => value.clone(),
        };
        let mut out = json!({ "name": function.get("name")?, "arguments": arguments });
        if let Some(id) = call.get("id").filter(|id| id.is_string() && *id != "null") {
            out["id"] = id.clone();
        }
        Some(out)
    };
    let expected = "tool calls with a function's name and arguments";
    let invalid = |got: &Value| TextError::Conversation { index, expected, got: got.to_string() };
    list.iter().map(|one| call(one).ok_or_else(|| invalid(one))).collect()
}

fn python_json(value: &Value) -> String {
    dumps(value, &JsonStyle::default())
}

fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// A message's text; nothing where there is none.
fn content(message: &Value, index: usize) -> Result<String, TextError> {
    match message.get("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) => Ok(String::new()),
        Some(other) => {
            let got = chat::kind_of(other).to_owned();
            Err(TextError::Conversation { index, expected: "`content` that is a text", got })
        }
    }
}

fn expect_role(message: &Value, index: usize, expected: &'static str) -> Result<(), TextError> {
    if role(message) == expected {
        return Ok(());
    }
    Err(TextError::Conversation { index, expected, got: role(message).to_owned() })
}

fn expect_last(messages: &[Value], good: bool, expected: &'static str) -> Result<(), TextError> {
    if good {
        return Ok(());
    }
    let got = messages.last().map_or("no message", role).to_owned();
    Err(TextError::Conversation { index: messages.len().saturating_sub(1), expected, got })
}
