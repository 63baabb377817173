//! What stands beside the tensors: configs, tokenizers, chat templates, metadata.

use std::path::Path;

use puna_config::{ConfigTokens, GgufValue as ConfigValue, ModelConfig};
use puna_io::gguf::Array;
use puna_io::write::ExtraFile;
use puna_io::{Checkpoint, Dtype, GgufValue, IoError};
use puna_text::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};

use crate::{ModelError, vocabulary};

/// Files of a Hugging Face folder that are carried over as they are.
const CARRIED: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
];

/// What a Hugging Face folder holds beside the weights: config, tokenizer, chat template. Says in
/// `notes` what could not be carried over.
///
/// # Errors
/// If a file cannot be read, or the family's config cannot express the model.
pub fn hf_files(
    source: &Checkpoint,
    config: &ModelConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<ExtraFile>, ModelError> {
    let hf = config.to_hf_json().map_err(|source| ModelError::Inexpressible {
        target: "config.json",
        source: Box::new(source),
    })?;
    let mut files = vec![json_file("config.json", &hf)];
    let root = source.root();
    if source.gguf().is_none() {
        for name in CARRIED {
            files.extend(carry(root, name)?);
        }
    }
    let has = |files: &[ExtraFile], name: &str| files.iter().any(|(file, _)| file == name);
    if !has(&files, "generation_config.json") {
        files.push(json_file("generation_config.json", &generation_config(&config.tokens)));
    }
    if !has(&files, "tokenizer.json") {
        match vocabulary::tokenizer(source)? {
            None => notes.push("the source has no tokenizer; none was written".into()),
            Some(tokenizer) => {
                tokenizer.check_vocab(config.decoder.vocab_size)?;
                let json = tokenizer.to_tokenizer_json()?;
                files.push(("tokenizer.json".into(), json.into_bytes()));
                if !has(&files, "tokenizer_config.json") {
                    let template = vocabulary::chat_template(source)?;
                    let config = tokenizer_config(&tokenizer, template.as_ref());
                    files.push(json_file("tokenizer_config.json", &config));
                }
            }
        }
    }
    Ok(files)
}

fn generation_config(tokens: &ConfigTokens) -> Value {
    let mut config = json!({ "_from_model_config": true });
    if let Some(bos) = tokens.bos {
        config["bos_token_id"] = bos.into();
    }
    match tokens.eos[..] {
        [] => {}
        [eos] => config["eos_token_id"] = eos.into(),
        _ => config["eos_token_id"] = json!(tokens.eos),
    }
    if let Some(pad) = tokens.pad {
        config["pad_token_id"] = pad.into();
    }
    config
}

fn tokenizer_config(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Value {
    let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
    let eos = tokenizer.eos().first().copied();
    let named =
        [("bos_token", tokenizer.bos()), ("eos_token", eos), ("pad_token", tokenizer.pad())];
    for (key, id) in named {
        if let Some(token) = id.and_then(|id| tokenizer.token(id)) {
            config[key] = token.into();
        }
    }
    if let Some(template) = template {
        config["chat_template"] = template.source().into();
    }
    config
}

/// Meta's `params.json` and what stands beside it.
pub(super) fn meta_files(
    source: &Checkpoint,
    config: &ModelConfig,
    notes: &mut Vec<String>,
) -> Result<(Vec<u8>, Vec<ExtraFile>), ModelError> {
    let params = config.to_meta_json().map_err(|source| ModelError::Inexpressible {
        target: "Meta params.json",
        source: Box::new(source),
    })?;
    let tokenizer = match source.gguf() {
        None => carry(source.root(), "tokenizer.model")?,
        Some(_) => None,
    };
    if tokenizer.is_none() {
        notes.push("the source has no tokenizer.model; Meta's folder is written without".into());
    }
    Ok((format!("{params:#}\n").into_bytes(), tokenizer.into_iter().collect()))
}

/// Metadata of a GGUF: the config, the vocabulary and the chat template.
pub(super) fn gguf_metadata(
    source: &Checkpoint,
    config: &ModelConfig,
    dtype: Dtype,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, GgufValue)>, ModelError> {
    let name = source.root().file_name().map(|n| n.to_string_lossy().into_owned());
    let described = config.to_gguf_metadata().map_err(|source| ModelError::Inexpressible {
        target: "GGUF metadata",
        source: Box::new(source),
    })?;
    let mut entries = Vec::with_capacity(described.len());
    for (key, value) in described {
        entries.push((key, from_config(value)?));
    }
    entries.push(("general.type".into(), GgufValue::String("model".into())));
    entries.push(("general.name".into(), GgufValue::String(name.unwrap_or_default())));
    entries.push(("general.file_type".into(), GgufValue::U32(file_type(dtype))));
    entries.push(("general.quantization_version".into(), GgufValue::U32(2)));
    match vocabulary::tokenizer(source)? {
        None => {
            notes.push("the source has no tokenizer; the GGUF says `no_vocab`".into());
            let none = GgufValue::String("no_vocab".into());
            entries.push(("tokenizer.ggml.model".into(), none));
        }
        Some(tokenizer) => {
            tokenizer.check_vocab(config.decoder.vocab_size)?;
            let mut vocab = tokenizer.to_gguf_vocab()?;
            vocab.bos = vocab.bos.or(config.tokens.bos);
            vocab.eos = vocab.eos.or(config.tokens.eos.first().copied());
            vocab.pad = vocab.pad.or(config.tokens.pad);
            entries.extend(vocabulary::gguf_entries(vocab, config.decoder.vocab_size));
        }
    }
    if let Some(template) = vocabulary::chat_template(source)? {
        let source = GgufValue::String(template.source().to_owned());
        entries.push(("tokenizer.chat_template".into(), source));
    }
    Ok(entries)
}

fn from_config(value: ConfigValue) -> Result<GgufValue, ModelError> {
    Ok(match value {
        ConfigValue::U32(v) => GgufValue::U32(v),
        ConfigValue::U64(v) => GgufValue::U64(v),
        ConfigValue::F32(v) => GgufValue::F32(v),
        ConfigValue::F64(v) => GgufValue::F64(v),
        ConfigValue::Bool(v) => GgufValue::Bool(v),
        ConfigValue::Str(v) => GgufValue::String(v),
        ConfigValue::F64s(v) => GgufValue::Array(Array::F64(v)),
        _ => return Err(ModelError::CannotWrite { dtype: "this kind of metadata" }),
    })
}

/// llama.cpp's number for "mostly this type".
fn file_type(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Q4_0 => 2,
        Dtype::Q4_1 => 3,
        Dtype::Q8_0 => 7,
        Dtype::Q5_0 => 8,
        Dtype::Q5_1 => 9,
        Dtype::Q2K => 10,
        Dtype::Q3K => 12,
        Dtype::Q4K => 15,
        Dtype::Q5K => 17,
        Dtype::Q6K => 18,
        Dtype::Iq4Nl => 25,
        Dtype::BF16 => 32,
        _ => 1024, // guessed
    }
}

fn carry(root: &Path, name: &str) -> Result<Option<ExtraFile>, ModelError> {
    let from = root.join(name);
    if !from.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(&from).map_err(IoError::os(&from, "read"))?;
    Ok(Some((name.to_owned(), bytes)))
}

fn json_file(name: &str, value: &Value) -> ExtraFile {
    (name.to_owned(), format!("{value:#}\n").into_bytes())
}
