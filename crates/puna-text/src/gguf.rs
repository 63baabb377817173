//! The vocabulary inside a GGUF file, as plain data.
//!
//! The file format itself is another crate's matter; this is the contract between them. Keys are
//! those of the GGUF specification under `tokenizer.ggml.*`.

use std::collections::HashMap;

use crate::TextError;
use crate::bytepair::split::{PreTokenizer, Splitter};
use crate::bytepair::{BytePair, MergeOrder, MergePairs, Special, alphabet};
use crate::sentencepiece::SentencePiece;
use crate::sentencepiece::byte_of;
use crate::sentencepiece::proto::{
    ModelProto, ModelType, NormalizerSpec, Piece, PieceKind, TrainerSpec,
};

/// `tokenizer.ggml.*` of a GGUF file. Vectors are indexed by token id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufVocab {
    /// `model`: `llama` (SentencePiece) or `gpt2` (byte-level BPE).
    pub model: String,
    /// `pre`: how `gpt2` vocabularies cut text into words.
    pub pre: Option<String>,
    /// `tokens`: texts, with U+2581 for spaces (`llama`) or in the byte alphabet (`gpt2`).
    pub tokens: Vec<String>,
    /// `scores`: `llama` only; the highest merges first.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `merges`: `gpt2` only; `left right`, the earliest first.
    pub merges: Option<Vec<String>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`: `llama` only.
    pub add_space_prefix: Option<bool>,
    /// Further ids that end a text (`eot_token_id`, `eom_token_id`).
    pub extra_eos: Vec<u32>,
    /// `puna.tokenizer.json`: the whole tokenizer.json that the vocabulary came from; where it is
    /// there it decides, since the other keys cannot say everything.
    pub tokenizer_json: Option<String>,
}

impl GgufVocab {
    /// Checks that what is indexed by id belongs together.
    pub(crate) fn validate(&self) -> Result<(), TextError> {
        let count = self.tokens.len();
        let same = |key: &str, length: Option<usize>| match length {
            Some(length) if length != count => {
                let expected = "as many entries as tokenizer.ggml.tokens";
                let got = format!("{length} for {count} tokens");
                Err(TextError::invalid(format!("tokenizer.ggml.{key}"), expected, got))
            }
            _ => Ok(()),
        };
        same("scores", self.scores.as_ref().map(Vec::len))?;
        same("token_type", self.token_types.as_ref().map(Vec::len))?;
        let ids =
            [("bos", self.bos), ("eos", self.eos), ("unknown", self.unk), ("padding", self.pad)];
        for (name, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                let key = format!("tokenizer.ggml.{name}_token_id");
                return Err(TextError::invalid(key, "the id of a token", id));
            }
        }
        Ok(())
    }

    /// The kind of a token; guessed from its text where the file does not say.
    fn kind(&self, id: usize) -> Result<PieceKind, TextError> {
        if let Some(types) = &self.token_types {
            let value = i64::from(types[id]);
            return PieceKind::from_number(value)
                .ok_or_else(|| TextError::invalid("tokenizer.ggml.token_type", "1 to 6", value));
        }
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        let is_control = [self.bos, self.eos, self.pad].contains(&Some(id));
        Ok(match &self.tokens[id as usize] {
            _ if Some(id) == self.unk => PieceKind::Unknown,
            _ if is_control => PieceKind::Control,
            text if byte_of(text).is_some() => PieceKind::Byte,
            _ => PieceKind::Normal,
        })
    }

    /// The engine of a `llama` vocabulary.
    pub(crate) fn to_sentencepiece(&self) -> Result<SentencePiece, TextError> {
        let scores = self.scores.as_deref().unwrap_or_default();
        let piece = |(id, text): (usize, &String)| -> Result<Piece, TextError> {
            let score = scores.get(id).copied().unwrap_or(0.0);
            Ok(Piece { text: text.clone(), score, kind: self.kind(id)? })
        };
        let trainer = TrainerSpec {
            model_type: ModelType::Bpe,
            byte_fallback: true,
            ..TrainerSpec::default()
        };
        let normalizer = NormalizerSpec {
            add_dummy_prefix: self.add_space_prefix.unwrap_or(true),
            remove_extra_whitespaces: false,
            ..NormalizerSpec::default()
        };
        let pieces = self.tokens.iter().enumerate().map(piece).collect::<Result<_, _>>()?;
        SentencePiece::new(ModelProto { pieces, trainer, normalizer })
    }

    /// The engine of a `gpt2` vocabulary, and whether its pre-tokenizer adds bos by default.
    pub(crate) fn to_byte_pair(&self) -> Result<(BytePair, bool), TextError> {
        let pre = PreTokenizer::named(self.pre.as_deref())?;
        let mut tokens = Vec::with_capacity(self.tokens.len());
        let mut specials = Vec::new();
        for ((index, text), id) in self.tokens.iter().enumerate().zip(0u32..) {
            let kind = self.kind(index)?;
            let control = matches!(kind, PieceKind::Control | PieceKind::Unknown);
            if control || kind == PieceKind::UserDefined {
                specials.push(Special { id, text: text.clone(), control });
                tokens.push(Vec::new());
            } else {
                tokens.push(alphabet::decode(text).unwrap_or_else(|| text.clone().into_bytes()));
            }
        }
        let order = MergeOrder::Pairs(self.pairs()?);
        let mut model = BytePair::new(tokens, order, Splitter::new(pre.patterns)?, specials)?;
        model.whole_words = pre.whole_words;
        model.unknown = self.unk;
        Ok((model, pre.add_bos))
    }

    /// The merges, by ids.
    fn pairs(&self) -> Result<MergePairs, TextError> {
        let merges = self.merges.as_deref().ok_or_else(|| {
            TextError::invalid("tokenizer.ggml.merges", "the merges of a gpt2 vocabulary", "none")
        })?;
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(self.tokens.len());
        for (text, id) in self.tokens.iter().zip(0u32..) {
            ids.entry(text).or_insert(id);
        }
        let mut pairs = HashMap::with_capacity(merges.len());
        let mut merged = String::new();
        for (merge, rank) in merges.iter().zip(0u32..) {
            let halves = merge.split_once(' ').ok_or_else(|| {
                TextError::invalid("tokenizer.ggml.merges", "two tokens and a space", merge)
            })?;
            merged.clear();
            merged.extend([halves.0, halves.1]);
            let find = |text: &str| {
                ids.get(text).copied().ok_or_else(|| {
                    let key = format!("tokenizer.ggml.merges: `{merge}`");
                    TextError::invalid(key, "halves and whole that are tokens", text)
                })
            };
            let key = (find(halves.0)?, find(halves.1)?);
            pairs.entry(key).or_insert((rank, find(&merged)?));
        }
        Ok(pairs)
    }
}
