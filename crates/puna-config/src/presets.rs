//! Published models by name: their configs without their files.
//!
//! `presets.json` is data: each entry is a `config.json` with what the parser reads and nothing
//! else, so a preset is checked by the same code as a downloaded file.

use crate::ModelConfig;
use crate::error::Result;
use serde_json::Value;

const PRESETS: &str = include_str!("presets.json");

fn presets() -> Result<Value> {
    Ok(serde_json::from_str(PRESETS)?)
}

/// Names of the presets, sorted.
///
/// # Errors
/// Never for the embedded file; tests read all of it.
pub fn preset_names() -> Result<Vec<String>> {
    let presets = presets()?;
    Ok(presets.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default())
}

/// The config of a published model, `None` if there is no preset of that name.
///
/// # Errors
/// Never for the embedded file; tests read all of it.
///
/// # Examples
/// ```
/// let config = puna_config::preset("llama-3.2-1b")?.unwrap();
/// assert_eq!(config.decoder.parameters().total, 1_235_814_400);
/// # Ok::<(), puna_config::ConfigError>(())
/// ```
pub fn preset(name: &str) -> Result<Option<ModelConfig>> {
    match presets()?.get(name) {
        Some(value) => ModelConfig::from_hf_value(value).map(Some),
        None => Ok(None),
    }
}
