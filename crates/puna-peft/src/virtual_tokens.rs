//! What the methods with vectors before a sequence share: peft's common settings, and how they go into
//! a set.

use std::path::Path;
use std::sync::Arc;

use puna_nn::AdapterSet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::encoder::{ENCODER_FILE, Encoder};
use crate::json::{known_fields, peft_config};
use crate::prompt::Prompt;
use crate::{Base, Files, PeftError};

/// Sizes of the model, as peft's configurations repeat them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) num_layers: usize,
    /// Width of an embedding (`C`), or of a layer's keys (`K·D`).
    pub(crate) token_dim: usize,
    num_attention_heads: usize,
}

impl Layout {
    /// For embeddings.
    pub(crate) fn of_embeddings(base: &Base<'_>) -> Self {
        let sizes = &base.config.decoder;
        Self {
            num_layers: sizes.num_layers,
            token_dim: sizes.hidden_size,
            num_attention_heads: sizes.attention.num_heads,
        }
    }

    /// For keys and values.
    pub(crate) fn of_keys(base: &Base<'_>) -> Self {
        let sizes = &base.config.decoder;
        let (heads, dim) = (sizes.attention.num_kv_heads, sizes.attention.head_dim);
        let num_layers = sizes.num_layers;
        Self { num_layers, token_dim: heads * dim, num_attention_heads: heads }
    }

    fn fields(&self) -> [(&'static str, usize); 4] {
        [
            ("num_layers", self.num_layers),
            ("token_dim", self.token_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("num_transformer_submodules", 1),
        ]
    }

    /// A method's own settings in peft's configuration, whose common ones must be those of the model.
    pub(crate) fn read<T>(&self, dir: &Path, json: &Map<String, Value>) -> Result<T, PeftError>
    where
        T: Default + Serialize + DeserializeOwned,
    {
        let path = dir.join("adapter_config.json");
        let mut own = json.clone();
        for (key, expected) in self.fields() {
            match own.remove(key) {
                None | Some(Value::Null) => {}
                Some(value) if value.as_u64() == Some(expected as u64) => {}
                Some(value) => {
                    let problem = format!("{key} = {value}, the model wants {expected}");
                    return Err(PeftError::Config { path, problem });
                }
            }
        }
        known_fields(&own, &path)
    }

    /// An adapter's folder.
    pub(crate) fn files<T: Serialize>(
        &self,
        peft_type: &str,
        config: &T,
        encoder: &Encoder,
    ) -> Result<Files, PeftError> {
        let mut config = peft_config(peft_type, config);
        if let Some(fields) = config.as_object_mut() {
            fields.extend(self.fields().map(|(key, value)| (key.to_owned(), value.into())));
        }
        let (embeddings, network) = encoder.saved()?;
        Ok(Files {
            config: ("adapter_config.json", config),
            tensors: ("adapter_model.safetensors", vec![embeddings]),
            more: network.into_iter().map(|tensors| (ENCODER_FILE, tensors)).collect(),
        })
    }
}

/// Refuses a setting of none.
pub(crate) fn check_len(num_virtual_tokens: usize) -> Result<(), PeftError> {
    check_positive("num_virtual_tokens", num_virtual_tokens)
}

/// Refuses a size of nothing.
pub(crate) fn check_positive(key: &'static str, size: usize) -> Result<(), PeftError> {
    match size {
        0 => Err(PeftError::Setting {
            key,
            value: "0".to_owned(),
            expected: "at least 1".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Puts embeddings before sequences, whose positions then follow theirs.
pub(crate) fn apply_prompt(
    prompt: &Arc<Prompt>,
    set: &mut AdapterSet,
    scale: f32,
) -> Result<(), PeftError> {
    check_scale(scale)?;
    if set.prompt.is_some() {
        return taken("two adapters put embeddings before sequences");
    }
    set.first_position += prompt.0.len();
    set.prompt = Some(Arc::clone(prompt) as _);
    Ok(())
}

/// What is before a sequence is there or not.
pub(crate) fn check_scale(scale: f32) -> Result<(), PeftError> {
    match (scale - 1.0).abs() > f32::EPSILON {
        true => taken("an adapter with virtual tokens has scale 1 only"),
        false => Ok(()),
    }
}

pub(crate) fn taken(problem: &str) -> Result<(), PeftError> {
    Err(PeftError::Combination { problem: problem.to_owned() })
}
