//! A tokenizer.json as a GGUF vocabulary.
//!
//! Byte-level BPE becomes `gpt2`; BPE with byte fallback, which is how SentencePiece models are
//! converted, becomes `llama` with scores from the order of the merges: the earlier a piece can be
//! merged, the higher. The whole file goes along under puna's own key, since neither kind holds
//! its normalizer, its added tokens' rules or its post-processor.

use std::collections::HashMap;

use serde_json::Value;

use super::Fast;
use crate::TextError;
use crate::bytepair::split::{DIGIT, GPT2, PreTokenizer};
use crate::gguf::GgufVocab;
use crate::sentencepiece::byte_of;
use crate::sentencepiece::proto::PieceKind;

impl Fast {
    /// The vocabulary; the roles are set by the caller.
    pub(crate) fn to_gguf_vocab(&self) -> Result<GgufVocab, TextError> {
        let json = self.to_json()?;
        let document: Value = serde_json::from_str(&json)?;
        let model = &document["model"];
        let fallback = model["byte_fallback"] == Value::Bool(true);
        if model["type"] != "BPE" || !(self.byte_level || fallback) {
            let reason = "only byte-level BPE and BPE with byte fallback have a place there";
            return Err(TextError::Inexpressible { target: "a GGUF vocabulary", reason });
        }
        let merges = merges(model);
        let mut vocab = self.tokens(model["unk_token"].as_str());
        vocab.tokenizer_json = Some(json);
        if self.byte_level {
            vocab.model = "gpt2".into();
            let whole_words = model["ignore_merges"] == Value::Bool(true);
            let patterns = patterns(&document["pre_tokenizer"]);
            let name = patterns.and_then(|p| PreTokenizer::name_of(&p, whole_words));
            vocab.pre = name.map(str::to_owned);
            let line = |(left, right): (&str, &str)| format!("{left} {right}");
            vocab.merges = Some(merges.into_iter().map(line).collect());
        } else {
            vocab.model = "llama".into();
            vocab.pre = Some("default".into());
            vocab.scores = Some(scores(&vocab.tokens, &merges));
            vocab.add_space_prefix = Some(adds_space(&document));
        }
        Ok(vocab)
    }

    /// Tokens and their kinds by id; ids without a token are filled up.
    fn tokens(&self, unknown: Option<&str>) -> GgufVocab {
        let size = u32::try_from(self.vocab_size).unwrap_or(u32::MAX);
        let mut vocab = GgufVocab::default();
        let mut kinds = Vec::new();
        for id in 0..size {
            let text = self.token(id);
            let kind = match (self.added.get(&id), &text) {
                (_, None) => PieceKind::Unused,
                (_, Some(text)) if !self.byte_level && Some(&text[..]) == unknown => {
                    PieceKind::Unknown
                }
                (Some((_, true)), _) => PieceKind::Control,
                (Some((_, false)), _) => PieceKind::UserDefined,
                (None, Some(text)) if !self.byte_level && byte_of(text).is_some() => {
                    PieceKind::Byte
                }
                _ => PieceKind::Normal,
            };
            kinds.push(kind as i32);
            vocab.tokens.push(text.unwrap_or_else(|| format!("[PAD{id}]")));
        }
        vocab.token_types = Some(kinds);
        vocab
    }
}

/// The merges of a BPE model.
fn merges(model: &Value) -> Vec<(&str, &str)> {
    let list = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(pair).collect()
}

/// A merge in either way of writing: two texts, or one with a space.
fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(halves) => Some((halves.first()?.as_str()?, halves.get(1)?.as_str()?)),
        _ => None,
    }
}

/// Scores that merge in the order of the list. Pieces that nothing merges into keep 0: their
/// score is never looked at.
fn scores(tokens: &[String], merges: &[(&str, &str)]) -> Vec<f32> {
    let mut first: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        first.entry([*left, *right].concat()).or_insert(rank);
    }
    tokens.iter().map(|token| first.get(token).map_or(0.0, |&rank| -(rank as f32) - 1.0)).collect()
}

/// Whether a space is put before a text.
fn adds_space(document: &Value) -> bool {
    let text = [&document["normalizer"], &document["pre_tokenizer"]].map(Value::to_string).concat();
    let metaspace = text.contains("\"Metaspace\"") && !text.contains("\"never\"");
    text.contains("\"Prepend\"") || metaspace
}

/// The patterns of a pre-tokenizer; `None` if it does something else too.
fn patterns(pre_tokenizer: &Value) -> Option<Vec<&str>> {
    match pre_tokenizer["type"].as_str()? {
        "Sequence" => {
            let steps = pre_tokenizer["pretokenizers"].as_array()?;
            let lists: Option<Vec<Vec<&str>>> = steps.iter().map(patterns).collect();
            Some(lists?.concat())
        }
        "ByteLevel" if pre_tokenizer["use_regex"] == Value::Bool(false) => Some(Vec::new()),
        "ByteLevel" => Some(vec![GPT2]),
        "Digits" if pre_tokenizer["individual_digits"] == Value::Bool(true) => Some(vec![DIGIT]),
        "Split" if pre_tokenizer["behavior"] == "Isolated" => {
            Some(vec![pre_tokenizer["pattern"]["Regex"].as_str()?])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_merge_scores_higher() {
        let tokens = ["a", "b", "ab", "abb"].map(str::to_owned);
        let scores = scores(&tokens, &[("a", "b"), ("ab", "b")]);
        assert_eq!(scores, [0.0, 0.0, -1.0, -2.0]);
    }
}
