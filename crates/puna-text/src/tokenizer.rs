//! The tokenizer that everything else uses, whatever file it came from.
//!
//! One type over three engines, closed as an enum: a match shows every case where they differ.
//! Bos and eos are put here and nowhere else, so that no text gets them twice.

mod load;
mod sidecar;

use serde_json::{Map, Value, json};

use crate::TextError;
use crate::bytepair::{self, BytePair};
use crate::fast::{Fast, Frame};
use crate::gguf::GgufVocab;
use crate::sentencepiece::proto::PieceKind;
use crate::sentencepiece::{self, PieceDecoder, SentencePiece};
use crate::stream::TokenStream;

pub(crate) use self::load::read as read_file;
pub(crate) use self::sidecar::{AddedToken, object as read_object};

/// Whether encoding puts bos and eos around the text, as the tokenizer's own settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// As its post-processor, or `add_bos_token` and `add_eos_token`, say.
    Add,
    /// Neither.
    Omit,
}

/// What decoding does with special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeSpecials {
    /// They leave no text.
    Skip,
    /// They are written out.
    Keep,
    /// As the file format's library does unless told otherwise: SentencePiece and llama.cpp skip
    /// control tokens, tiktoken and `tokenizers` (`skip_special_tokens=False`) keep them.
    AsLibrary,
}

/// What kind of file a tokenizer came from; its library's conventions hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerKind {
    /// `tokenizer.json` (the `tokenizers` library).
    TokenizerJson,
    /// A SentencePiece `.model`.
    SentencePiece,
    /// A tiktoken rank file with Llama 3's special tokens.
    Tiktoken,
    /// `tokenizer.ggml.model = llama` in a GGUF.
    GgufLlama,
    /// `tokenizer.ggml.model = gpt2` in a GGUF.
    GgufGpt2,
}

/// The engine.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Fast(Box<Fast>),
    SentencePiece(Box<SentencePiece>),
    BytePair(Box<BytePair>),
}

/// Ids with a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
    pub(crate) pad: Option<u32>,
    pub(crate) unk: Option<u32>,
    /// What goes around an encoded text.
    pub(crate) frame: Frame,
}

/// Text to ids and back.
///
/// # Examples
/// ```no_run
/// use puna_text::{DecodeSpecials, SpecialTokens, Tokenizer};
/// # fn main() -> Result<(), puna_text::TextError> {
/// let tokenizer = Tokenizer::from_path("models/llama-2".as_ref())?;
/// let ids = tokenizer.encode("Hello, world!", SpecialTokens::Add)?;
/// assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip)?, "Hello, world!");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(crate) engine: Engine,
    pub(crate) roles: Roles,
    kind: TokenizerKind,
}

impl Tokenizer {
    /// Encodes a text.
    ///
    /// Special tokens that are spelled out inside it are treated as the file format's library
    /// does: `tokenizer.json` makes them special, SentencePiece, tiktoken and GGUF read them as
    /// plain text (user-defined tokens aside). See [`Tokenizer::encode_rendered`] for templates.
    ///
    /// # Errors
    /// If the vocabulary cannot express the text, or the library fails.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let body = match &self.engine {
            Engine::Fast(fast) => fast.encode(text)?,
            Engine::SentencePiece(model) => model.encode_plain(text)?,
            Engine::BytePair(model) => model.encode_plain(text)?,
        };
        if special == SpecialTokens::Omit {
            return Ok(body);
        }
        let frame = &self.roles.frame;
        Ok([frame.prefix.as_slice(), &body, &frame.suffix].concat())
    }

    /// Encodes the text of a rendered chat template: special tokens spelled out in it become
    /// their ids. Where the tokenizer puts a bos and the template did not, one is put; never two.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_rendered(&self, rendered: &str) -> Result<Vec<u32>, TextError> {
        let body = match &self.engine {
            Engine::Fast(fast) => fast.encode(rendered)?,
            Engine::SentencePiece(model) => model.encode_rendered(rendered)?,
            Engine::BytePair(model) => model.encode_rendered(rendered)?,
        };
        let prefix = &self.roles.frame.prefix;
        match prefix.first() {
            Some(bos) if body.first() != Some(bos) => Ok([prefix.as_slice(), &body].concat()),
            _ => Ok(body),
        }
    }

    /// Decodes ids, exactly as the file format's library does; broken UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// [`TextError::UnknownId`] for an id outside the vocabulary (`tokenizer.json` has no such
    /// error: its library leaves unknown ids out, which is kept).
    pub fn decode(&self, ids: &[u32], specials: DecodeSpecials) -> Result<String, TextError> {
        let specials = self.resolve(specials);
        match &self.engine {
            Engine::Fast(fast) => fast.decode(ids, specials),
            Engine::SentencePiece(model) => {
                let mut decoder = PieceDecoder::new(model, specials);
                let mut out = String::new();
                for &id in ids {
                    decoder.push(id, &mut out)?;
                }
                decoder.finish(&mut out);
                Ok(out)
            }
            Engine::BytePair(model) => {
                let mut bytes = Vec::new();
                for &id in ids.iter().filter(|&&id| !model.is_skipped(id, specials)) {
                    bytes.extend_from_slice(model.token_bytes(id)?);
                }
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// An incremental decoder, for text that is shown while it is generated.
    pub fn stream(&self, specials: DecodeSpecials) -> TokenStream<'_> {
        TokenStream::new(self, self.resolve(specials))
    }

    /// Skip or keep, for this kind of file.
    fn resolve(&self, specials: DecodeSpecials) -> DecodeSpecials {
        match (specials, self.kind) {
            (DecodeSpecials::AsLibrary, TokenizerKind::TokenizerJson | TokenizerKind::Tiktoken) => {
                DecodeSpecials::Keep
            }
            (DecodeSpecials::AsLibrary, _) => DecodeSpecials::Skip,
            (chosen, _) => chosen,
        }
    }

    /// The bytes that a token stands for, by itself; possibly part of a character only.
    ///
    /// # Errors
    /// [`TextError::UnknownId`] for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Result<Vec<u8>, TextError> {
        if id as usize >= self.vocab_size() {
            return Err(TextError::UnknownId { id, vocab: self.vocab_size() });
        }
        match &self.engine {
            Engine::Fast(fast) => Ok(fast.token_bytes(id)),
            Engine::SentencePiece(model) => model.token_bytes(id),
            Engine::BytePair(model) => model.token_bytes(id).map(<[u8]>::to_vec),
        }
    }

    /// A token as its vocabulary writes it (U+2581 for a space, or in the byte alphabet).
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.engine {
            Engine::Fast(fast) => fast.token(id),
            Engine::SentencePiece(model) => model.piece(id).ok().map(|p| p.text.clone()),
            Engine::BytePair(model) => match model.special(id) {
                Some(special) => Some(special.text.clone()),
                None => model.tokens.get(id as usize).map(|t| bytepair::alphabet::encode(t)),
            },
        }
    }

    /// The id of a token, written as its vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Fast(fast) => fast.id(token),
            Engine::SentencePiece(model) => model.id(token),
            Engine::BytePair(model) => model.id(token),
        }
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        match &self.engine {
            Engine::Fast(fast) => fast.vocab_size(),
            Engine::SentencePiece(model) => model.pieces.len(),
            Engine::BytePair(model) => model.vocab_size(),
        }
    }

    /// The token that begins a text, whether or not encoding puts it.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The tokens that end a text, the main one first; empty where none is known.
    pub fn eos(&self) -> Vec<u32> {
        self.roles.eos.clone()
    }

    /// The text of bos as chat templates are given it; empty where there is none.
    pub fn bos_text(&self) -> String {
        self.bos().and_then(|id| self.token(id)).unwrap_or_default()
    }

    /// The text of the main eos as chat templates are given it; empty where there is none.
    pub fn eos_text(&self) -> String {
        self.roles.eos.first().and_then(|&id| self.token(id)).unwrap_or_default()
    }

    /// The padding token.
    pub fn pad(&self) -> Option<u32> {
        self.roles.pad
    }

    /// The token for what the vocabulary lacks.
    pub fn unk(&self) -> Option<u32> {
        self.roles.unk
    }

    /// Whether [`SpecialTokens::Add`] puts a bos.
    pub fn adds_bos(&self) -> bool {
        self.roles.bos.is_some_and(|bos| self.roles.frame.prefix.contains(&bos))
    }

    /// What kind of file this came from.
    pub fn kind(&self) -> TokenizerKind {
        self.kind
    }

    /// Checks that a model's embedding has a row for every token.
    ///
    /// # Errors
    /// [`TextError::VocabMismatch`] with the token of the highest id.
    pub fn check_vocab(&self, model_vocab_rows: usize) -> Result<(), TextError> {
        let size = self.vocab_size();
        if size <= model_vocab_rows {
            return Ok(());
        }
        let id = u32::try_from(size - 1).unwrap_or(u32::MAX);
        let token = self.token(id).unwrap_or_default();
        Err(TextError::VocabMismatch { token, id, rows: model_vocab_rows })
    }

    /// The vocabulary for a GGUF file.
    ///
    /// # Errors
    /// [`TextError::Inexpressible`] if it is neither SentencePiece-like BPE with byte fallback nor
    /// byte-level BPE.
    pub fn to_gguf_vocab(&self) -> Result<GgufVocab, TextError> {
        let mut vocab = match &self.engine {
            Engine::Fast(fast) => fast.to_gguf_vocab()?,
            Engine::SentencePiece(model) => model.to_gguf_vocab()?,
            Engine::BytePair(model) => model.to_gguf_vocab(),
        };
        let roles = &self.roles;
        vocab.bos = roles.bos;
        vocab.eos = roles.eos.first().copied();
        vocab.extra_eos = roles.eos.iter().skip(1).copied().collect();
        vocab.pad = roles.pad;
        vocab.unk = roles.unk;
        vocab.add_bos = Some(self.adds_bos());
        vocab.add_eos = Some(!roles.frame.suffix.is_empty());
        Ok(vocab)
    }

    /// The tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::Inexpressible`] for SentencePiece models that are not BPE with byte fallback.
    pub fn to_tokenizer_json(&self) -> Result<String, TextError> {
        match &self.engine {
            Engine::Fast(fast) => fast.to_json(),
            Engine::SentencePiece(model) => sentencepiece::export::to_json(model, &self.roles),
            Engine::BytePair(model) => bytepair::export::to_json(model, &self.roles),
        }
    }

    /// Whether a token has a role beside text: control, unknown, special added tokens.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.engine {
            Engine::Fast(fast) => fast.is_skipped(id, DecodeSpecials::Skip),
            Engine::SentencePiece(model) => model
                .piece(id)
                .is_ok_and(|p| matches!(p.kind, PieceKind::Control | PieceKind::Unknown)),
            Engine::BytePair(model) => model.is_skipped(id, DecodeSpecials::Skip),
        }
    }
}

/// A post-processor that puts the frame around a text; null for none.
pub(crate) fn template_processing(frame: &Frame, token: impl Fn(u32) -> String) -> Value {
    if *frame == Frame::default() {
        return Value::Null;
    }
    let special =
        |id: u32, kind: u32| json!({ "SpecialToken": { "id": token(id), "type_id": kind } });
    let framed = |name: &str, kind: u32| {
        let mut parts: Vec<Value> = frame.prefix.iter().map(|&id| special(id, kind)).collect();
        parts.push(json!({ "Sequence": { "id": name, "type_id": kind } }));
        parts.extend(frame.suffix.iter().map(|&id| special(id, kind)));
        parts
    };
    let mut tokens = Map::new();
    for &id in frame.prefix.iter().chain(&frame.suffix) {
        let text = token(id);
        tokens.insert(text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    let pair = [framed("A", 0), framed("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": framed("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}
