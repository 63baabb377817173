//! Configurations of other libraries: what of them a method knows, and what it must not overlook.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::PeftError;

/// Fields of peft's configurations that say nothing about what an adapter computes.
const HARMLESS: [&str; 14] = [
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "fan_in_fan_out",
    "ensure_weight_tying",
    "init_ia3_weights",
    "puna",
];

/// Reads the fields that `T` has. Others must be absent or say nothing (`null`, `false`, empty).
///
/// # Errors
/// If a field has a wrong type, or says something that the method does not know.
pub(crate) fn known_fields<T>(json: &Map<String, Value>, path: &Path) -> Result<T, PeftError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let wrong = |problem: String| PeftError::Config { path: path.to_path_buf(), problem };
    let default = serde_json::to_value(T::default()).map_err(|e| wrong(e.to_string()))?;
    let mut known = Map::new();
    for (key, value) in json {
        if default.get(key).is_some() {
            if !value.is_null() {
                known.insert(key.clone(), value.clone());
            }
        } else if says_something(value) && !HARMLESS.contains(&key.as_str()) {
            return Err(wrong(format!("{key} = {value} is not supported")));
        }
    }
    serde_json::from_value(Value::Object(known)).map_err(|e| wrong(e.to_string()))
}

pub(crate) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Number(_) => true,
    }
}

/// A configuration as peft writes it, with the fields of `config`.
pub(crate) fn peft_config<T: Serialize>(peft_type: &str, config: &T) -> Value {
    let mut json = Map::new();
    json.insert("peft_type".to_owned(), peft_type.into());
    json.insert("task_type".to_owned(), "CAUSAL_LM".into());
    json.insert("inference_mode".to_owned(), true.into());
    if let Ok(Value::Object(fields)) = serde_json::to_value(config) {
        json.extend(fields);
    }
    Value::Object(json)
}
