//! Finds the chat template of a Hugging Face folder.
//!
//! As transformers: `chat_template.jinja` comes before `chat_template.json` and both before the
//! `chat_template` of `tokenizer_config.json`, which is a text or a list of named ones.

use std::path::Path;

use serde_json::Value;

use super::ChatTemplate;
use crate::TextError;
use crate::tokenizer::{read_file, read_object};

impl ChatTemplate {
    /// The template of a folder; `None` where it has none.
    ///
    /// # Errors
    /// If there is one and it is malformed; the file is named.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, TextError> {
        let path = folder.join("chat_template.jinja");
        if path.is_file() {
            let source = String::from_utf8(read_file(&path)?).map_err(|e| {
                TextError::invalid("chat template", "text in UTF-8", e).in_file(&path)
            })?;
            return Self::from_jinja(&source).map(Some).map_err(|e| e.in_file(&path));
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = folder.join(name);
            let Some(config) = read_object(&path)? else { continue };
            if let Some(value) = config.get("chat_template").filter(|v| !v.is_null()) {
                let named = named(value).map_err(|e| e.in_file(&path))?;
                return Self::from_named(named).map(Some).map_err(|e| e.in_file(&path));
            }
        }
        Ok(None)
    }
}

/// The templates of a `chat_template` value, by name.
fn named(value: &Value) -> Result<Vec<(String, String)>, TextError> {
    let invalid = || {
        let expected = "a text or a list of {name, template}";
        TextError::invalid("chat_template", expected, value)
    };
    if let Some(source) = value.as_str() {
        return Ok(vec![(super::DEFAULT.to_owned(), source.to_owned())]);
    }
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(invalid)?;
    let pair = |entry: &Value| {
        let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
        Some((text("name")?, text("template")?))
    };
    list.iter().map(|entry| pair(entry).ok_or_else(invalid)).collect()
}
