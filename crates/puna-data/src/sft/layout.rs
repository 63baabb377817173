//! Formats of records and the names of their keys.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Place, SftError};

/// How a record holds a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SftFormat {
    /// `instruction`, `input`, `output`, `system`, `history` (Stanford Alpaca, LLaMA-Factory).
    Alpaca,
    /// `conversations` of `from` and `value`, `system`, `tools` (ShareGPT, LLaMA-Factory).
    ShareGpt,
    /// `messages` of `role` and `content`, `tools` (OpenAI).
    Messages,
}

/// Names of keys that differ from those of the format.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// In place of `instruction`.
    pub instruction: Option<String>,
    /// In place of `input`.
    pub input: Option<String>,
    /// In place of `output`.
    pub output: Option<String>,
    /// In place of `history`.
    pub history: Option<String>,
    /// In place of `messages` and `conversations`.
    pub messages: Option<String>,
    /// In place of `role` and `from`.
    pub role: Option<String>,
    /// In place of `content` and `value`.
    pub content: Option<String>,
    /// In place of `system`.
    pub system: Option<String>,
    /// In place of `tools`.
    pub tools: Option<String>,
}

/// The name given, or the usual one.
pub(super) fn name<'a>(given: &'a Option<String>, usual: &'a str) -> &'a str {
    given.as_deref().unwrap_or(usual)
}

impl Columns {
    /// The key of a format's list of messages.
    pub(super) fn list(&self, format: SftFormat) -> &str {
        let usual = if format == SftFormat::ShareGpt { "conversations" } else { "messages" };
        name(&self.messages, usual)
    }

    /// The format of a record, from its keys.
    pub(super) fn detect(&self, record: &Value, place: &Place) -> Result<SftFormat, SftError> {
        let Some(object) = record.as_object() else {
            return Err(invalid(place, "record", "an object", record));
        };
        let lists = [SftFormat::Messages, SftFormat::ShareGpt];
        if let Some(format) = lists.into_iter().find(|&f| object.contains_key(self.list(f))) {
            return Ok(format);
        }
        if object.contains_key(name(&self.instruction, "instruction")) {
            return Ok(SftFormat::Alpaca);
        }
        let keys = object.keys().take(12).cloned().collect();
        Err(SftError::UnknownFormat { place: place.clone(), keys })
    }
}

/// What a JSON value is, in a word.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Shorthand for [`SftError::Invalid`] with the kind of what was found.
pub(super) fn invalid(
    place: &Place,
    key: impl Into<String>,
    expected: &'static str,
    got: &Value,
) -> SftError {
    SftError::Invalid { place: place.clone(), key: key.into(), expected, got: kind(got).into() }
}

/// Shorthand for [`SftError::Missing`].
pub(super) fn missing(place: &Place, key: impl Into<String>) -> SftError {
    SftError::Missing { place: place.clone(), key: key.into() }
}

/// The text under a key; `None` where it is absent or null.
pub(super) fn text<'a>(
    record: &'a Value,
    key: &str,
    place: &Place,
) -> Result<Option<&'a str>, SftError> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(invalid(place, key, "a text", other)),
    }
}

/// The text under a key that has to be there.
pub(super) fn required<'a>(
    record: &'a Value,
    key: &str,
    place: &Place,
) -> Result<&'a str, SftError> {
    text(record, key, place)?.ok_or_else(|| missing(place, key))
}
