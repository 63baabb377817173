//! SentencePiece models: BPE (Llama 1 and 2, Mistral, Gemma) and Unigram (T5), with byte fallback.
//!
//! Ids and text are exactly those of `SentencePieceProcessor::Encode` and `Decode`
//! (google/sentencepiece 0.2). The library itself is C++; its models are small and its
//! algorithms short, so they are written again here rather than linked.

mod bpe;
mod charsmap;
mod decode;
pub(crate) mod export;
mod normalizer;
pub(crate) mod proto;
mod unigram;

use std::collections::HashMap;

pub(crate) use self::decode::PieceDecoder;
pub(crate) use self::normalizer::SPACE;

use self::charsmap::CharsMap;
use self::normalizer::{DummySpace, Normalizer};
use self::proto::{ModelProto, ModelType, NormalizerSpec, Piece, PieceKind};
use crate::TextError;
use crate::specials::{Fragment, LiteralMatcher};

/// Ids that added tokens may lie beyond the model's own pieces.
const MOST_ADDED: usize = 1 << 20;

/// A SentencePiece model, ready to encode and decode.
#[derive(Debug, Clone)]
pub(crate) struct SentencePiece {
    pub(crate) pieces: Vec<Piece>,
    /// Normal, user-defined and unused pieces: what segmentation may produce.
    lookup: HashMap<String, u32>,
    /// Control, unknown and byte pieces: known by name only.
    reserved: HashMap<String, u32>,
    /// User-defined symbols, which stand for themselves in any text.
    symbols: LiteralMatcher,
    /// Control and unknown tokens, which only rendered templates may spell out.
    controls: LiteralMatcher,
    pub(crate) unknown: u32,
    unk_surface: String,
    /// Id of each byte's piece, where the model falls back to bytes.
    bytes: Option<Box<[u32; 256]>>,
    model_type: ModelType,
    normalizer: Normalizer,
    /// Lowest score of a normal piece.
    lowest_score: f32,
    /// Bytes of the longest piece.
    longest_piece: usize,
    pub(crate) named: NamedPieces,
}

/// Names of the special pieces, as the model's trainer recorded them.
#[derive(Debug, Clone)]
pub(crate) struct NamedPieces {
    pub(crate) bos: String,
    pub(crate) eos: String,
    pub(crate) pad: String,
}

impl SentencePiece {
    /// Reads a `.model` file's bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, TextError> {
        let proto = ModelProto::parse(bytes)?;
        let unknowns = proto.pieces.iter().filter(|p| p.kind == PieceKind::Unknown).count();
        if unknowns != 1 {
            return Err(TextError::invalid("pieces", "exactly one unknown piece", unknowns));
        }
        let fallback = proto.trainer.byte_fallback;
        let model = Self::new(proto)?;
        if fallback && model.bytes.is_none() {
            let expected = "a piece for each of the 256 bytes (byte_fallback is set)";
            return Err(TextError::invalid("pieces", expected, "fewer"));
        }
        Ok(model)
    }

    /// A model from its parts. Of pieces with the same text the first one is found.
    pub(crate) fn new(proto: ModelProto) -> Result<Self, TextError> {
        let normalizer = Normalizer {
            charsmap: CharsMap::parse(&proto.normalizer.charsmap)?,
            spec: proto.normalizer,
            whitespace_as_suffix: proto.trainer.whitespace_as_suffix,
        };
        let mut model = Self {
            pieces: proto.pieces,
            lookup: HashMap::new(),
            reserved: HashMap::new(),
            symbols: LiteralMatcher::new([])?,
            controls: LiteralMatcher::new([])?,
            unknown: 0,
            unk_surface: proto.trainer.unk_surface,
            bytes: None,
            model_type: proto.trainer.model_type,
            normalizer,
            lowest_score: 0.0,
            longest_piece: 0,
            named: NamedPieces {
                bos: proto.trainer.bos_piece,
                eos: proto.trainer.eos_piece,
                pad: proto.trainer.pad_piece,
            },
        };
        model.index(proto.trainer.byte_fallback)?;
        Ok(model)
    }

    /// Builds the tables from `pieces`.
    fn index(&mut self, byte_fallback: bool) -> Result<(), TextError> {
        let mut bytes = [None; 256];
        self.lowest_score = f32::MAX;
        self.lookup.clear();
        self.reserved.clear();
        for (id, piece) in (0u32..).zip(&self.pieces) {
            if piece.kind == PieceKind::Unknown {
                self.unknown = id;
            }
            if piece.text.is_empty() {
                continue;
            }
            if let (PieceKind::Byte, Some(byte)) = (piece.kind, byte_of(&piece.text)) {
                bytes[usize::from(byte)].get_or_insert(id);
            }
            if piece.kind == PieceKind::Normal {
                self.lowest_score = self.lowest_score.min(piece.score);
            }
            let table = match piece.kind {
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => &mut self.lookup,
                PieceKind::Control | PieceKind::Unknown | PieceKind::Byte => &mut self.reserved,
            };
            table.entry(piece.text.clone()).or_insert(id);
        }
        self.longest_piece = self.lookup.keys().map(String::len).max().unwrap_or(0);
        self.bytes = None;
        if byte_fallback && bytes.iter().all(Option::is_some) {
            self.bytes = Some(Box::new(bytes.map(Option::unwrap_or_default)));
        }
        let of_kinds = |kinds: &'static [PieceKind]| {
            let ids = (0u32..).zip(&self.pieces).filter(|(_, p)| kinds.contains(&p.kind));
            ids.map(|(id, p)| (p.text.as_str(), id))
        };
        self.symbols = LiteralMatcher::new(of_kinds(&[PieceKind::UserDefined]))?;
        let controls = of_kinds(&[PieceKind::Control, PieceKind::Unknown]);
        self.controls = LiteralMatcher::new(controls)?;
        Ok(())
    }

    /// Adds tokens that stand beside the model (`added_tokens.json`): `(id, text, special)`.
    pub(crate) fn add_tokens(
        &mut self,
        tokens: &[crate::tokenizer::AddedToken],
    ) -> Result<(), TextError> {
        let limit = self.pieces.len() + MOST_ADDED;
        for token in tokens {
            let index = token.id as usize;
            if index >= limit {
                let key = format!("added token `{}`", token.text);
                return Err(TextError::invalid(key, "an id near the vocabulary's end", token.id));
            }
            if index >= self.pieces.len() {
                let filler = Piece { kind: PieceKind::Unused, ..Piece::default() };
                self.pieces.resize(index + 1, filler);
            }
            let piece = &mut self.pieces[index];
            if piece.text == token.text && piece.kind != PieceKind::Normal {
                continue;
            }
            piece.text.clone_from(&token.text);
            piece.kind = if token.special { PieceKind::Control } else { PieceKind::UserDefined };
        }
        self.index(self.bytes.is_some())
    }

    /// The id of a piece by its exact text; the unknown id where there is none.
    fn piece_to_id(&self, piece: &str) -> u32 {
        self.id(piece).unwrap_or(self.unknown)
    }

    /// The id of a token by its exact text.
    pub(crate) fn id(&self, piece: &str) -> Option<u32> {
        self.reserved.get(piece).or_else(|| self.lookup.get(piece)).copied()
    }

    /// The id of a control piece.
    pub(crate) fn control_id(&self, piece: &str) -> Option<u32> {
        let id = *self.reserved.get(piece)?;
        (self.pieces[id as usize].kind == PieceKind::Control).then_some(id)
    }

    /// Ids of a text in which control tokens mean nothing, as the library encodes.
    pub(crate) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        self.encode_into(text, self.normalizer.dummy(), &mut ids)?;
        Ok(ids)
    }

    /// Ids of a rendered template: control tokens spelled out become their ids, and each text
    /// between them is encoded on its own, as Meta's and llama.cpp's code do. A text after a
    /// control token gets the dummy space only if it does not bring its own: `</s><s>[INST]`
    /// (Llama 2) needs it, `[INST] Hi` with `[INST]` a token (Mistral v3) does not.
    pub(crate) fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        for fragment in self.controls.split(text) {
            match fragment {
                Fragment::Token(id, _) => ids.push(id),
                Fragment::Text(text) => {
                    let own_space = !ids.is_empty() && text.starts_with(' ');
                    let dummy = if own_space { DummySpace::None } else { self.normalizer.dummy() };
                    self.encode_into(text, dummy, &mut ids)?;
                }
            }
        }
        Ok(ids)
    }

    fn encode_into(
        &self,
        text: &str,
        dummy: DummySpace,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let normalized = self.normalizer.normalize(text, &self.symbols, dummy);
        let segments = match self.model_type {
            ModelType::Bpe => bpe::segment(self, &normalized),
            ModelType::Unigram => unigram::segment(self, &normalized),
        };
        let mut after_unknown = false;
        for (piece, id) in segments {
            let unknown = id == self.unknown;
            match &self.bytes {
                Some(bytes) if unknown => {
                    ids.extend(piece.bytes().map(|byte| bytes[usize::from(byte)]));
                }
                // a run of unknown characters is one unknown token
                None if unknown && after_unknown => {}
                _ => ids.push(id),
            }
            after_unknown = unknown;
        }
        Ok(())
    }

    /// The piece of an id.
    pub(crate) fn piece(&self, id: u32) -> Result<&Piece, TextError> {
        let vocab = self.pieces.len();
        self.pieces.get(id as usize).ok_or(TextError::UnknownId { id, vocab })
    }

    /// The byte that a byte piece stands for.
    pub(crate) fn byte(&self, id: u32) -> Option<u8> {
        let piece = self.pieces.get(id as usize)?;
        if piece.kind == PieceKind::Byte { byte_of(&piece.text) } else { None }
    }

    /// A token's own bytes, with spaces for their marks.
    pub(crate) fn token_bytes(&self, id: u32) -> Result<Vec<u8>, TextError> {
        let piece = self.piece(id)?;
        Ok(match self.byte(id) {
            Some(byte) => vec![byte],
            None => piece.text.replace(SPACE, " ").into_bytes(),
        })
    }

    /// Whether text begins with a dummy space.
    pub(crate) fn adds_space_prefix(&self) -> bool {
        self.normalizer.spec.add_dummy_prefix
    }

    /// The normalizer's settings.
    pub(crate) fn normalizer_spec(&self) -> &NormalizerSpec {
        &self.normalizer.spec
    }

    /// Whether characters without a piece become byte pieces.
    pub(crate) fn has_byte_fallback(&self) -> bool {
        self.bytes.is_some()
    }
}

/// The byte that `<0xNN>` spells.
pub(crate) fn byte_of(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}
