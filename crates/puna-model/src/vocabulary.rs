//! The tokenizer and chat template that belong to a checkpoint, wherever it keeps them, and the
//! vocabulary as GGUF metadata.

use puna_io::{Checkpoint, GgufValue};
use puna_text::{ChatTemplate, GgufVocab, Tokenizer};

use crate::ModelError;

/// Type that llama.cpp gives to tokens that only fill the vocabulary up.
const UNUSED_TOKEN: i32 = 5;
const NORMAL_TOKEN: i32 = 1;

/// The tokenizer of a checkpoint; `None` where it has none.
///
/// # Errors
/// If there is one and it is broken.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>, ModelError> {
    if let Some(vocab) = gguf_vocab(checkpoint) {
        return Ok(Some(Tokenizer::from_gguf(&vocab)?));
    }
    if checkpoint.gguf().is_some() {
        return Ok(None);
    }
    let root = checkpoint.root();
    let present = ["tokenizer.json", "tokenizer.model"].iter().any(|f| root.join(f).exists());
    Ok(if present { Some(Tokenizer::from_path(root)?) } else { None })
}

/// The chat template of a checkpoint; `None` where it has none.
///
/// # Errors
/// If there is one and it is broken.
pub fn chat_template(checkpoint: &Checkpoint) -> Result<Option<ChatTemplate>, ModelError> {
    if let Some(gguf) = checkpoint.gguf() {
        let source = gguf.metadata().get_str("tokenizer.chat_template");
        return Ok(source.map(ChatTemplate::from_jinja).transpose()?);
    }
    Ok(ChatTemplate::from_folder(checkpoint.root())?)
}

/// The vocabulary inside a GGUF.
fn gguf_vocab(checkpoint: &Checkpoint) -> Option<GgufVocab> {
    let meta = checkpoint.gguf()?.metadata();
    let id = |name: &str| {
        meta.get_u64(&format!("tokenizer.ggml.{name}_token_id")).and_then(|v| u32::try_from(v).ok())
    };
    let model = meta.get_str("tokenizer.ggml.model")?;
    if model == "no_vocab" {
        return None;
    }
    let types = meta.get_i64s("tokenizer.ggml.token_type");
    let extra = ["eot", "eom", "eog"].iter().filter_map(|name| id(name)).collect();
    Some(GgufVocab {
        model: model.to_owned(),
        pre: meta.get_str("tokenizer.ggml.pre").map(str::to_owned),
        tokens: meta.get_strings("tokenizer.ggml.tokens")?.to_vec(),
        scores: meta.get_f32s("tokenizer.ggml.scores").map(<[f32]>::to_vec),
        token_types: types.map(|t| t.into_iter().map(|v| v as i32).collect()),
        merges: meta.get_strings("tokenizer.ggml.merges").map(<[String]>::to_vec),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unknown"),
        pad: id("padding"),
        add_bos: meta.get_bool("tokenizer.ggml.add_bos_token"),
        add_eos: meta.get_bool("tokenizer.ggml.add_eos_token"),
        add_space_prefix: meta.get_bool("tokenizer.ggml.add_space_prefix"),
        extra_eos: extra,
        tokenizer_json: meta.get_str("puna.tokenizer.json").map(str::to_owned),
    })
}

/// A vocabulary as GGUF metadata, filled up to the embedding's `rows`.
pub(crate) fn gguf_entries(vocab: GgufVocab, rows: usize) -> Vec<(String, GgufValue)> {
    let mut entries = Vec::new();
    let mut add =
        |key: &str, value: GgufValue| entries.push((format!("tokenizer.ggml.{key}"), value));
    let known = vocab.tokens.len();
    let mut tokens = vocab.tokens;
    tokens.extend((known..rows).map(|id| format!("[PAD{id}]")));
    let mut types = vocab.token_types.unwrap_or_else(|| vec![NORMAL_TOKEN; known]);
    types.resize(rows.max(known), UNUSED_TOKEN);
    add("model", GgufValue::String(vocab.model));
    if let Some(pre) = vocab.pre {
        add("pre", GgufValue::String(pre));
    }
    add("tokens", GgufValue::strings(tokens));
    if let Some(mut scores) = vocab.scores {
        scores.resize(rows.max(known), -10_000.0); // as convert_hf_to_gguf scores fillers
        add("scores", GgufValue::f32s(scores));
    }
    add("token_type", GgufValue::i32s(types));
    if let Some(merges) = vocab.merges {
        add("merges", GgufValue::strings(merges));
    }
    let ids =
        [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unk), ("padding", vocab.pad)];
    let extra = ["eot", "eom", "eog"].into_iter().zip(vocab.extra_eos.into_iter().map(Some));
    for (name, id) in ids.into_iter().chain(extra) {
        if let Some(id) = id {
            add(&format!("{name}_token_id"), GgufValue::U32(id));
        }
    }
    let flags = [
        ("add_bos_token", vocab.add_bos),
        ("add_eos_token", vocab.add_eos),
        ("add_space_prefix", vocab.add_space_prefix),
    ];
    for (name, flag) in flags {
        if let Some(flag) = flag {
            add(name, GgufValue::Bool(flag));
        }
    }
    if let Some(json) = vocab.tokenizer_json {
        entries.push(("puna.tokenizer.json".into(), GgufValue::String(json)));
    }
    entries
}
