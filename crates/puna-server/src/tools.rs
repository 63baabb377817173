//! Calls of tools: what a template's family writes for one, as a grammar and as a parser.
//!
//! The grammar keeps the model to it: with tools in the request the text is either free of calls or
//! every call is JSON that fits the tool's schema. The parser can therefore hand out the arguments as
//! they come, and together they are valid JSON. Formats: Nous Research's Hermes (Qwen uses it too),
//! Meta's "JSON based tool calling" (Llama 3.1 model card), Mistral's `[TOOL_CALLS]` (mistral-common).

mod offer;
mod parser;
mod reader;

use puna_text::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::fields::Fields;
use crate::model::Grammar;
pub(crate) use offer::Offer;
pub(crate) use parser::{CallEvent, CallParser};
pub(crate) use reader::{Call, Reader, gather, split};

/// Tools in one request.
const MOST_TOOLS: usize = 128;
const HERMES_BEGIN: &str = "<tool_call>";
const HERMES_END: &str = "</tool_call>";
const MISTRAL_BEGIN: &str = "[TOOL_CALLS]";

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`, text before it, several in a row.
    Hermes,
    /// The whole text is `{"name": …, "parameters": …}`.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}, …]`. The id is that of the control token.
    Mistral { marker: u32 },
}

impl Format {
    /// The format that a template's text shows; `None` where it knows no tools.
    pub(crate) fn of(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<Self> {
        let tool_use = template.named("tool_use").ok();
        let source = tool_use.as_ref().unwrap_or(template).source();
        if !source.contains("tools") {
            None
        } else if source.contains(HERMES_BEGIN) {
            Some(Self::Hermes)
        } else if source.contains(MISTRAL_BEGIN) {
            tokenizer.id(MISTRAL_BEGIN).map(|marker| Self::Mistral { marker })
        } else if source.contains("\"parameters\"") {
            Some(Self::Llama3)
        } else {
            None
        }
    }

    /// The key of a call's arguments.
    fn arguments_key(self) -> &'static str {
        match self {
            Self::Llama3 => "parameters",
            Self::Hermes | Self::Mistral { .. } => "arguments",
        }
    }

    /// Special tokens whose text the parser has to see.
    pub(crate) fn visible_specials(self, tokenizer: &Tokenizer) -> Vec<u32> {
        match self {
            Self::Mistral { marker } => vec![marker],
            Self::Hermes => {
                [HERMES_BEGIN, HERMES_END].iter().filter_map(|text| tokenizer.id(text)).collect()
            }
            Self::Llama3 => Vec::new(),
        }
    }
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) parameters: Value,
    strict: bool,
}

impl Tool {
    /// OpenAI's `{name, description, parameters, strict}`.
    pub(crate) fn read(mut fields: Fields, schema_key: &str) -> Result<Self, ApiError> {
        let name: String = fields.need("name")?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            return Err(ApiError::field("name", "1 to 64 letters, digits, `_`, `-` and `.`"));
        }
        let description = fields.take("description")?;
        let strict = fields.switch("strict")?;
        let mut parameters = fields.value(schema_key).unwrap_or_else(|| json!({}));
        fields.finish()?;
        let Value::Object(schema) = &mut parameters else {
            return Err(ApiError::field(schema_key, "expected a JSON schema"));
        };
        let kind = schema.entry("type").or_insert_with(|| json!("object"));
        if kind != "object" {
            return Err(ApiError::field(schema_key, "the arguments' type has to be `object`"));
        }
        Ok(Self { name, description, parameters, strict })
    }

    /// As templates are given it.
    pub(crate) fn to_json(&self) -> Value {
        let mut function = json!({ "name": self.name, "parameters": self.parameters });
        if let Some(description) = &self.description {
            function["description"] = json!(description);
        }
        json!({ "type": "function", "function": function })
    }

    /// The schema of a call.
    fn call_schema(&self, format: Format) -> Value {
        let key = format.arguments_key();
        let mut schema = json!({
            "type": "object",
            "properties": { "name": { "const": self.name } },
            "required": ["name", key],
            "additionalProperties": false,
        });
        schema["properties"][key] = self.parameters.clone();
        schema
    }
}

/// Which calls are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// None.
    None,
    /// Those that the model finds right.
    Auto,
    /// At least one.
    Required,
    /// One of this tool.
    Named(String),
}

/// The tools of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Toolbox {
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: Choice,
    pub(crate) calls: Calls,
}

/// How many calls an answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    One,
    Many,
}

impl Toolbox {
    /// Checks that the choice names a tool there is; without a tool there is no toolbox.
    pub(crate) fn new(
        tools: Vec<Tool>,
        choice: Choice,
        calls: Calls,
    ) -> Result<Option<Self>, ApiError> {
        if tools.len() > MOST_TOOLS {
            return Err(ApiError::field("tools", format!("at most {MOST_TOOLS} tools")));
        }
        for (index, tool) in tools.iter().enumerate() {
            if tools[..index].iter().any(|other| other.name == tool.name) {
                let param = format!("tools[{index}].function.name");
                return Err(ApiError::field(param, "another tool has this name"));
            }
        }
        match &choice {
            Choice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
                let message = format!("there is no tool `{name}` in this request");
                return Err(ApiError::field("tool_choice", message));
            }
            Choice::Required if tools.is_empty() => {
                return Err(ApiError::field("tool_choice", "there are no tools to call"));
            }
            _ => {}
        }
        Ok((!tools.is_empty()).then_some(Self { tools, choice, calls }))
    }

    /// The tools as templates are given them; `None` where none is to be called.
    pub(crate) fn for_template(&self) -> Option<Value> {
        let tools = || self.tools.iter().map(Tool::to_json).collect();
        (self.choice != Choice::None).then(tools).map(Value::Array)
    }

    /// What the text has to be so that calls can be parsed; `None` where none is to be called.
    pub(crate) fn grammar(&self, format: Format) -> Option<Grammar> {
        let wanted: Vec<&Tool> = match &self.choice {
            Choice::None => return None,
            Choice::Auto | Choice::Required => self.tools.iter().collect(),
            Choice::Named(name) => self.tools.iter().filter(|tool| tool.name == *name).collect(),
        };
        let calls: Vec<Value> = wanted.iter().map(|tool| tool.call_schema(format)).collect();
        let lenient = !wanted.iter().all(|tool| tool.strict);
        let style = json!({
            "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?",
            "lenient": lenient,
        });
        let many = self.calls == Calls::Many && !matches!(self.choice, Choice::Named(_));
        let text = match self.choice {
            Choice::Auto => Free::Allowed,
            _ => Free::Forbidden,
        };
        Some(Grammar::Lark(match format {
            Format::Hermes => hermes(&schema_of(calls, style), text, many),
            Format::Llama3 => llama3(&schema_of(calls, style), text, many),
            Format::Mistral { marker } => mistral(marker, (calls, style), text, many),
        }))
    }
}

/// Whether text without a call will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Free {
    Allowed,
    Forbidden,
}

fn schema_of(calls: Vec<Value>, style: Value) -> Value {
    json!({ "anyOf": calls, "x-guidance": style })
}

fn hermes(schema: &Value, text: Free, many: bool) -> String {
    let more = if many { "(\"\\n\"? call)*" } else { "" };
    let start = match text {
        Free::Allowed => format!(
            "start: TAIL | head rest {more}\n\
             head[lazy]: /(.|\\n)*{HERMES_BEGIN}/\n\
             TAIL: /(.|\\n)*/ & ~/(.|\\n)*{HERMES_BEGIN}(.|\\n)*/\n"
        ),
        Free::Forbidden => format!("start: call {more}\n"),
    };
    format!(
        "{start}call: \"{HERMES_BEGIN}\" rest\n\
         rest: \"\\n\"? json \"\\n\"? \"{HERMES_END}\"\n\
         json: %json {schema}\n"
    )
}

fn llama3(schema: &Value, text: Free, many: bool) -> String {
    let more = if many { "(\"; \" json)*" } else { "" };
    let start = match text {
        // Text that begins with a brace would be taken for a call.
        Free::Allowed => format!("start: | TEXT | json {more}\nTEXT: /[^{{](.|\\n)*/\n"),
        Free::Forbidden => format!("start: json {more}\n"),
    };
    format!("{start}json: %json {schema}\n")
}

fn mistral(marker: u32, (calls, style): (Vec<Value>, Value), text: Free, many: bool) -> String {
    let mut schema = json!({
        "type": "array", "minItems": 1, "items": { "anyOf": calls }, "x-guidance": style,
    });
    if !many {
        schema["maxItems"] = json!(1);
    }
    let start = match text {
        Free::Allowed => "start: TEXT | TEXT? calls\nTEXT: /(.|\\n)+/\n",
        Free::Forbidden => "start: calls\n",
    };
    format!("{start}calls: <[{marker}]> \" \"? json\njson: %json {schema}\n")
}
