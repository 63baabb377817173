//! What stands beside a model's weights: tokenizer, chat template, recommended generation options.
//!
//! Commands that only treat text need no weights: a folder with nothing but a tokenizer will do.

use std::path::Path;

use anyhow::{Context, anyhow};
use puna_infer::GenerationConfig;
use puna_io::Checkpoint;
use puna_text::{ChatTemplate, Tokenizer};

use crate::model_ref::ModelRef;
use crate::output;
use crate::report::Hint;

/// Files that make a folder one with a tokenizer.
const TOKENIZER_FILES: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// Files that may hold a chat template.
const TEMPLATE_FILES: [&str; 3] =
    ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"];

/// Tokenizer and chat template of a model, where it has them.
pub(crate) struct TextSide {
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
}

impl TextSide {
    /// Of a model whose weights are not needed.
    pub(crate) fn of_model(model: &ModelRef) -> anyhow::Result<Self> {
        let path = match model {
            ModelRef::BuiltIn(model) => return Self::of_checkpoint(&model.open()?),
            ModelRef::Path(path) => path,
        };
        if has_any(path, &TOKENIZER_FILES) {
            return Self::of_folder(path);
        }
        match Checkpoint::open(path) {
            Ok(checkpoint) => Self::of_checkpoint(&checkpoint),
            Err(_) if has_any(path, &TEMPLATE_FILES) => Self::of_folder(path),
            Err(error) => Err(error.into()),
        }
    }

    fn of_folder(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            tokenizer: has_any(path, &TOKENIZER_FILES)
                .then(|| Tokenizer::from_path(path))
                .transpose()?,
            template: ChatTemplate::from_folder(path)?,
        })
    }

    /// Of an open checkpoint.
    pub(crate) fn of_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        Ok(Self {
            tokenizer: puna_model::tokenizer(checkpoint)?,
            template: puna_model::chat_template(checkpoint)?,
        })
    }
}

fn has_any(folder: &Path, files: &[&str]) -> bool {
    files.iter().any(|name| folder.join(name).exists())
}

/// The tokenizer of MODEL, or of a file that is nothing but a tokenizer.
pub(crate) fn tokenizer(model: &ModelRef) -> anyhow::Result<Tokenizer> {
    required(TextSide::of_model(model)?.tokenizer, model)
}

/// What a model may lack but a command cannot do without.
pub(crate) fn required<T>(tokenizer: Option<T>, model: &ModelRef) -> anyhow::Result<T> {
    tokenizer
        .ok_or_else(|| {
            anyhow!("{model}: there is no tokenizer (no {})", TOKENIZER_FILES.join(", "))
        })
        .hint("give token ids with --token-ids, or put the tokenizer's files beside the weights")
}

/// The checkpoint's generation_config.json; empty where there is none. Keys that are not
/// understood are said, once.
pub(crate) fn generation_config(checkpoint: &Checkpoint) -> anyhow::Result<GenerationConfig> {
    if checkpoint.gguf().is_some() {
        return Ok(GenerationConfig::default());
    }
    let path = checkpoint.root().join("generation_config.json");
    if !path.exists() {
        return Ok(GenerationConfig::default());
    }
    let json = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let (config, ignored) =
        GenerationConfig::from_json(&json).with_context(|| format!("{}", path.display()))?;
    if !ignored.is_empty() {
        output::note(&format!(
            "warning: {}: keys without effect here: {}",
            path.display(),
            ignored.join(", ")
        ));
    }
    Ok(config)
}
