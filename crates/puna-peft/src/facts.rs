//! What an adapter's folder holds, without the model it belongs to.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::files::{Tensors, read_json};
use crate::{PeftError, bitfit, fusion, hub};

/// Weights of an adapter, of whichever program.
const PEFT_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// What a folder says of its adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFacts {
    /// peft's `peft_type`, the architecture that AdapterHub's library names, `bitfit` or
    /// `adapter_fusion`.
    pub method: String,
    /// The model it was trained for, as the folder names it.
    pub base: Option<String>,
    /// All settings that say something.
    pub settings: Map<String, Value>,
    /// What puna knew of base, data and recipe.
    pub metadata: BTreeMap<String, String>,
    /// Names and shapes of its tensors.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// Bytes of the file that holds them.
    pub bytes: u64,
}

impl AdapterFacts {
    /// Whether a folder is an adapter's.
    pub fn are_in(dir: &Path) -> bool {
        config_of(dir).is_some()
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// If it has no adapter, or one of its files cannot be read.
    pub fn read(dir: &Path) -> Result<Self, PeftError> {
        let name =
            config_of(dir).ok_or_else(|| PeftError::NoAdapter { path: dir.to_path_buf() })?;
        let mut settings = read_json(&dir.join(name))?;
        let metadata = match settings.remove("puna") {
            Some(Value::Object(known)) => known,
            _ => Map::new(),
        };
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let method = match name {
            fusion::CONFIG_FILE => Some("adapter_fusion".to_owned()),
            bitfit::CONFIG => Some("bitfit".to_owned()),
            _ => text(settings.remove("peft_type")).or_else(|| architecture(&settings)),
        };
        let base = ["base_model_name_or_path", "model_name"].map(|key| settings.remove(key));
        let files: Vec<&str> =
            [&PEFT_FILES[..], &hub::TENSOR_FILES, &fusion::TENSOR_FILES, &[bitfit::TENSORS]]
                .concat();
        let tensors = Tensors::open(dir, &files)?;
        let shape = |name: String| {
            let shape = tensors.shape(&name).unwrap_or_default().to_vec();
            (name, shape)
        };
        let size = std::fs::metadata(&tensors.path)
            .map_err(|source| PeftError::Read { path: tensors.path.clone(), source })?;
        settings.retain(|_, value| crate::json::says_something(value));
        Ok(Self {
            method: method.unwrap_or_else(|| "unknown".to_owned()),
            base: base.into_iter().find_map(text),
            settings,
            metadata: metadata
                .into_iter()
                .filter_map(|(key, value)| Some((key, text(Some(value))?)))
                .collect(),
            tensors: tensors.names().into_iter().map(shape).collect(),
            bytes: size.len(),
        })
    }

    /// Values of all tensors together.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }
}

/// The configuration that is there.
fn config_of(dir: &Path) -> Option<&'static str> {
    let names = [fusion::CONFIG_FILE, "adapter_config.json", bitfit::CONFIG];
    names.into_iter().find(|name| dir.join(name).is_file())
}

/// What AdapterHub's library calls a configuration: `lora`, `prefix_tuning`, `union`, or nothing for
/// bottlenecks.
fn architecture(settings: &Map<String, Value>) -> Option<String> {
    let config = settings.get("config")?;
    let name = config.get("architecture").and_then(Value::as_str).unwrap_or("bottleneck");
    Some(name.to_owned())
}
