//! A SentencePiece model as a GGUF vocabulary and as a tokenizer.json.
//!
//! The conversion to tokenizer.json is transformers' (`convert_slow_tokenizer.py`,
//! `LlamaConverter`): a merge for every way to cut a piece into two, ordered by
//! score.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::proto::{ModelType, Piece, PieceKind};
use super::{SPACE, SentencePiece};
use crate::TextError;
use crate::gguf::GgufVocab;
use crate::tokenizer::{Roles, template_processing};

impl SentencePiece {
    /// Checks that this is a model as the LLaMA family has them. Others segment or normalize text
    /// in ways that neither format reproduces exactly: measured on random text, the usual
    /// conversions of NFKC and of removed whitespace change ids.
    fn check_expressible(&self, target: &'static str) -> Result<(), TextError> {
        let spec = self.normalizer_spec();
        let plain = spec.charsmap.is_empty()
            && !spec.remove_extra_whitespaces
            && spec.escape_whitespaces
            && !self.normalizer.whitespace_as_suffix;
        if self.model_type == ModelType::Bpe && self.has_byte_fallback() && plain {
            return Ok(());
        }
        let reason = "only BPE with byte fallback and without text normalization converts exactly";
        Err(TextError::Inexpressible { target, reason })
    }

    /// `tokenizer.ggml.model = llama`; the roles are set by the caller.
    pub(crate) fn to_gguf_vocab(&self) -> Result<GgufVocab, TextError> {
        self.check_expressible("a GGUF vocabulary")?;
        Ok(GgufVocab {
            model: "llama".into(),
            pre: Some("default".into()),
            tokens: self.pieces.iter().map(|p| p.text.clone()).collect(),
            scores: Some(self.pieces.iter().map(|p| p.score).collect()),
            token_types: Some(self.pieces.iter().map(|p| p.kind as i32).collect()),
            add_space_prefix: Some(self.adds_space_prefix()),
            ..GgufVocab::default()
        })
    }
}

/// The text of a tokenizer.json.
pub(crate) fn to_json(model: &SentencePiece, roles: &Roles) -> Result<String, TextError> {
    model.check_expressible("tokenizer.json")?;
    let token = |id: u32| model.piece(id).map(|p| p.text.clone()).unwrap_or_default();
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(model),
        "normalizer": normalizer(model),
        "pre_tokenizer": null,
        "post_processor": template_processing(&roles.frame, token),
        "decoder": decoder(model),
        "model": bpe(model),
    });
    Ok(document.to_string())
}

fn added_tokens(model: &SentencePiece) -> Vec<Value> {
    let special = |kind| matches!(kind, PieceKind::Unknown | PieceKind::Control);
    let added = |p: &&Piece| special(p.kind) || p.kind == PieceKind::UserDefined;
    let pieces = model.pieces.iter().zip(0u32..);
    let pieces = pieces.filter(|(p, _)| !p.text.is_empty() && added(p));
    pieces
        .map(|(piece, id)| {
            json!({
                "id": id,
                "content": piece.text,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                // a piece with a mark for the space is only found once spaces are marked
                "normalized": piece.kind == PieceKind::UserDefined && piece.text.contains(SPACE),
                "special": special(piece.kind),
            })
        })
        .collect()
}

fn normalizer(model: &SentencePiece) -> Value {
    let mut steps = Vec::new();
    if model.adds_space_prefix() {
        steps.push(json!({ "type": "Prepend", "prepend": SPACE.to_string() }));
    }
    let pattern = json!({ "String": " " });
    steps.push(json!({ "type": "Replace", "pattern": pattern, "content": SPACE.to_string() }));
    json!({ "type": "Sequence", "normalizers": steps })
}

fn decoder(model: &SentencePiece) -> Value {
    let pattern = json!({ "String": SPACE.to_string() });
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": pattern, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if model.adds_space_prefix() {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

fn bpe(model: &SentencePiece) -> Value {
    let unknown = model.pieces.get(model.unknown as usize).map(|p| p.text.clone());
    let mut vocab = Map::new();
    for (piece, id) in model.pieces.iter().zip(0u32..).filter(|(p, _)| !p.text.is_empty()) {
        vocab.entry(piece.text.clone()).or_insert(json!(id));
    }
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": model.has_byte_fallback(),
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges(model),
    })
}

/// Every way to cut a piece into two pieces, the highest score first.
fn merges(model: &SentencePiece) -> Vec<[&str; 2]> {
    let mergeable = |p: &&Piece| matches!(p.kind, PieceKind::Normal | PieceKind::Unused);
    let ids: HashMap<&str, usize> = model
        .pieces
        .iter()
        .enumerate()
        .rev() // of equal texts the first one stays
        .filter(|(_, p)| mergeable(p))
        .map(|(id, p)| (p.text.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for piece in model.pieces.iter().filter(mergeable) {
        let text = piece.text.as_str();
        let cut = |(at, _): (usize, char)| {
            let (left, right) = text.split_at(at);
            Some((ids.get(left)?, ids.get(right)?, [left, right]))
        };
        let mut cuts: Vec<_> = text.char_indices().skip(1).filter_map(cut).collect();
        cuts.sort();
        merges.extend(cuts.into_iter().map(|(_, _, halves)| (piece.score, halves)));
    }
    // stable: pieces of one score stay in the order of their ids
    merges.sort_by(|a: &(f32, _), b| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)));
    merges.into_iter().map(|(_, halves)| halves).collect()
}
