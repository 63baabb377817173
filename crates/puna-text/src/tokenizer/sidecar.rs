//! The JSON files beside a tokenizer: which tokens are bos, eos and pad, and which were added.
//!
//! `tokenizer_config.json` comes first, then `special_tokens_map.json`; `added_tokens.json` and
//! `added_tokens_decoder` list tokens by id. Only what bears on ids is read.

use std::path::Path;

use serde_json::{Map, Value};

use super::load;
use crate::TextError;

/// A token beside a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) special: bool,
}

/// What the files beside a tokenizer say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) bos: Option<String>,
    pub(crate) eos: Option<String>,
    pub(crate) pad: Option<String>,
    pub(crate) unk: Option<String>,
    pub(crate) add_bos: Option<bool>,
    pub(crate) add_eos: Option<bool>,
    /// `tokenizer_class`.
    pub(crate) class: Option<String>,
    /// By id.
    pub(crate) added: Vec<AddedToken>,
}

impl Sidecar {
    /// Reads what there is in a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, TextError> {
        let mut sidecar = Self::default();
        if let Some(config) = object(&folder.join("tokenizer_config.json"))? {
            sidecar.names(&config);
            let flag = |key: &str| config.get(key).and_then(Value::as_bool);
            sidecar.add_bos = flag("add_bos_token");
            sidecar.add_eos = flag("add_eos_token");
            let class = config.get("tokenizer_class").and_then(Value::as_str);
            sidecar.class = class.map(str::to_owned);
            if let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) {
                let path = folder.join("tokenizer_config.json");
                sidecar.added_decoder(decoder).map_err(|e| e.in_file(&path))?;
            }
        }
        if let Some(map) = object(&folder.join("special_tokens_map.json"))? {
            sidecar.names(&map);
        }
        let path = folder.join("added_tokens.json");
        if let Some(added) = object(&path)? {
            for (text, id) in &added {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                    TextError::invalid(text.as_str(), "a token id", id).in_file(&path)
                })?;
                if !sidecar.added.iter().any(|token| token.id == id) {
                    let special = sidecar.names_token(text);
                    sidecar.added.push(AddedToken { id, text: text.clone(), special });
                }
            }
        }
        sidecar.added.sort_by_key(|token| token.id);
        Ok(sidecar)
    }

    /// Takes the names of the special tokens that are not known yet.
    fn names(&mut self, map: &Map<String, Value>) {
        let name = |key: &str| {
            let value = map.get(key)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        };
        self.bos = self.bos.take().or_else(|| name("bos_token"));
        self.eos = self.eos.take().or_else(|| name("eos_token"));
        self.pad = self.pad.take().or_else(|| name("pad_token"));
        self.unk = self.unk.take().or_else(|| name("unk_token"));
    }

    fn names_token(&self, text: &str) -> bool {
        [&self.bos, &self.eos, &self.pad, &self.unk].iter().any(|n| n.as_deref() == Some(text))
    }

    fn added_decoder(&mut self, decoder: &Map<String, Value>) -> Result<(), TextError> {
        for (id, token) in decoder {
            let key = || format!("added_tokens_decoder.{id}");
            let number = id.parse().map_err(|_| TextError::invalid(key(), "a token id", id))?;
            let text = token.get("content").and_then(Value::as_str);
            let text =
                text.ok_or_else(|| TextError::invalid(key(), "a `content` string", token))?;
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            self.added.push(AddedToken { id: number, text: text.to_owned(), special });
        }
        Ok(())
    }
}

/// A JSON object from a file; `None` where there is no file.
pub(crate) fn object(path: &Path) -> Result<Option<Map<String, Value>>, TextError> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = load::read(path)?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|e| TextError::from(e).in_file(path))?;
    match value {
        Value::Object(map) => Ok(Some(map)),
        other => Err(TextError::invalid("top level", "a JSON object", other).in_file(path)),
    }
}
