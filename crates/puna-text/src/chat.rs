//! Chat templates: a conversation to the text a model was trained on.
//!
//! Templates are Jinja, rendered as transformers renders them (`chat_template_utils.py`): blocks
//! trimmed, `tojson` as Python's `json.dumps` without ASCII escapes, values printed as Python
//! prints them. A template is foreign code: it runs with a budget of work and of memory, and sees
//! nothing but its input; the date comes from the caller.

pub(crate) mod builtin;
pub(crate) mod clock;
mod engine;
mod folder;
mod python;
pub(crate) mod vendor;

use serde_json::{Map, Value};

use self::builtin::Builtin;
use self::clock::CivilTime;
use crate::TextError;

/// Whether the prompt ends with the beginning of the assistant's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// The model is to answer.
    Add,
    /// The conversation is complete.
    Omit,
}

/// What a template is rendered with.
#[derive(Debug, Clone)]
pub struct RenderInput<'a> {
    /// The conversation: an array of objects with `role` and `content`.
    pub messages: &'a Value,
    /// Tool schemas, an array.
    pub tools: Option<&'a Value>,
    /// Whether to begin the assistant's turn.
    pub add_generation_prompt: GenerationPrompt,
    /// Text of the bos token; empty where the tokenizer has none.
    pub bos_token: &'a str,
    /// Text of the eos token.
    pub eos_token: &'a str,
    /// Further variables, such as `date_string`.
    pub variables: Map<String, Value>,
    /// The time that `strftime_now` tells. Without it there is no such function: Llama 3.2's
    /// templates then print their own fixed date, others fail.
    pub now: Option<CivilTime>,
}

impl<'a> RenderInput<'a> {
    /// A conversation to be answered, with nothing else set.
    pub fn new(messages: &'a Value) -> Self {
        Self {
            messages,
            tools: None,
            add_generation_prompt: GenerationPrompt::Add,
            bos_token: "",
            eos_token: "",
            variables: Map::new(),
            now: None,
        }
    }
}

/// A chat template, compiled once to know that it is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// By name; the first is the default.
    named: Vec<(String, String)>,
}

/// Name of the template that is used unless another is asked for.
const DEFAULT: &str = "default";
/// Name of the template that is used when there are tools, where a checkpoint has one.
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// A template from its Jinja source.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line if it does not compile.
    pub fn from_jinja(source: &str) -> Result<Self, TextError> {
        Self::from_named(vec![(DEFAULT.to_owned(), source.to_owned())])
    }

    /// One of the formats known by name.
    pub fn builtin(builtin: Builtin) -> Self {
        Self { named: vec![(DEFAULT.to_owned(), builtin.source().to_owned())] }
    }

    /// Templates by name; `default`, or else the first, is the default.
    pub(crate) fn from_named(mut named: Vec<(String, String)>) -> Result<Self, TextError> {
        for (_, source) in &named {
            engine::check(source)?;
        }
        if let Some(at) = named.iter().position(|(name, _)| name == DEFAULT) {
            named.swap(0, at);
        }
        Ok(Self { named })
    }

    /// The template of that name alone.
    ///
    /// # Errors
    /// [`TextError::UnknownTemplate`] with the names there are.
    pub fn named(&self, name: &str) -> Result<Self, TextError> {
        match self.named.iter().find(|(known, _)| known == name) {
            Some(found) => Ok(Self { named: vec![found.clone()] }),
            None => Err(TextError::UnknownTemplate {
                name: name.to_owned(),
                known: self.names().join(", "),
            }),
        }
    }

    /// Names of the templates; a single one is called `default`.
    pub fn names(&self) -> Vec<&str> {
        self.named.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Jinja source of the default template.
    pub fn source(&self) -> &str {
        self.named.first().map_or("", |(_, source)| source)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TextError::Raised`] with the template's own words if it refuses the conversation,
    /// [`TextError::Template`] if it fails or uses up its budget, [`TextError::Conversation`] if
    /// `messages` is not a list of objects with a role.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TextError> {
        check_messages(input.messages)?;
        let tool_use = self.named.iter().find(|(name, _)| name == TOOL_USE);
        let source = match tool_use {
            Some((_, source)) if input.tools.is_some() => source,
            _ => self.source(),
        };
        engine::render(source, input)
    }
}

/// Checks that each message is an object with a role.
fn check_messages(messages: &Value) -> Result<(), TextError> {
    let Some(list) = messages.as_array() else {
        return Err(TextError::invalid("messages", "a list of messages", kind_of(messages)));
    };
    for (index, message) in list.iter().enumerate() {
        if !message.get("role").is_some_and(Value::is_string) {
            let expected = "an object with a `role`";
            return Err(TextError::Conversation { index, expected, got: kind_of(message).into() });
        }
    }
    Ok(())
}

/// What a JSON value is, in a word.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object without it",
    }
}
