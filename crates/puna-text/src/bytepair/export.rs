//! A byte-level vocabulary as a GGUF vocabulary and as a tokenizer.json.
//!
//! A rank file lists no merges; transformers' (`TikTokenConverter`) are used: for each token every
//! way to cut it into two, in the order of the ranks.

use serde_json::{Map, Value, json};

use super::split::PreTokenizer;
use super::{BytePair, MergeOrder, alphabet};
use crate::TextError;
use crate::gguf::GgufVocab;
use crate::sentencepiece::proto::PieceKind;
use crate::tokenizer::{Roles, template_processing};

impl BytePair {
    /// Text of a token in the byte alphabet; special tokens as they are.
    fn text(&self, id: u32) -> String {
        match self.special(id) {
            Some(special) => special.text.clone(),
            None => alphabet::encode(self.tokens.get(id as usize).map_or(&[][..], Vec::as_slice)),
        }
    }

    /// The merges, the earliest first.
    fn merges(&self) -> Vec<(String, String)> {
        match &self.order {
            MergeOrder::Pairs(pairs) => {
                let mut list: Vec<_> = pairs.iter().collect();
                list.sort_by_key(|(_, (rank, _))| *rank);
                list.into_iter().map(|((l, r), _)| (self.text(*l), self.text(*r))).collect()
            }
            MergeOrder::Rank => {
                let mut list = Vec::new();
                for token in &self.tokens {
                    let cut = |at: usize| {
                        let (left, right) = token.split_at(at);
                        Some((*self.lookup.get(left)?, *self.lookup.get(right)?))
                    };
                    let mut cuts: Vec<_> = (1..token.len()).filter_map(cut).collect();
                    cuts.sort_unstable();
                    list.extend(cuts.into_iter().map(|(l, r)| (self.text(l), self.text(r))));
                }
                list
            }
        }
    }

    /// `tokenizer.ggml.model = gpt2`; the roles are set by the caller.
    pub(crate) fn to_gguf_vocab(&self) -> GgufVocab {
        let size = u32::try_from(self.vocab_size()).unwrap_or(u32::MAX);
        let kind = |id: u32| match self.special(id) {
            Some(special) if special.control => PieceKind::Control,
            Some(_) => PieceKind::UserDefined,
            None => PieceKind::Normal,
        };
        let merges = self.merges().into_iter().map(|(left, right)| format!("{left} {right}"));
        let pre = PreTokenizer::name_of(&self.patterns(), self.whole_words);
        GgufVocab {
            model: "gpt2".into(),
            pre: pre.map(str::to_owned),
            tokens: (0..size).map(|id| self.text(id)).collect(),
            token_types: Some((0..size).map(|id| kind(id) as i32).collect()),
            merges: Some(merges.collect()),
            ..GgufVocab::default()
        }
    }
}

/// The text of a tokenizer.json.
pub(crate) fn to_json(model: &BytePair, roles: &Roles) -> Result<String, TextError> {
    let mut vocab = Map::new();
    for (id, _) in (0u32..).zip(&model.tokens) {
        vocab.entry(model.text(id)).or_insert(json!(id));
    }
    let mut specials: Vec<_> = model.specials.iter().collect();
    specials.sort_by_key(|special| special.id);
    let added = specials.into_iter().map(|special| {
        json!({
            "id": special.id,
            "content": special.text,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": special.control,
        })
    });
    let mut steps: Vec<Value> = Vec::new();
    for pattern in model.patterns() {
        let pattern = json!({ "Regex": pattern });
        steps.push(json!({
            "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false
        }));
    }
    let byte_level = |use_regex: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": use_regex,
        })
    };
    steps.push(byte_level(false));
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
        "post_processor": template_processing(&roles.frame, |id| model.text(id)),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": model.whole_words,
            "vocab": vocab,
            "merges": model.merges(),
        },
    });
    Ok(document.to_string())
}
