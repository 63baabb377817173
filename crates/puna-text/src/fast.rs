//! `tokenizer.json` through the `tokenizers` crate, which is the reference of that format.
//!
//! What is added here: the bos and eos that its post-processor puts around a text are found once
//! by probing and then put by the caller, so that every engine treats them alike; truncation and
//! padding written into the file are taken out, since nothing may be cut silently; and a panic
//! inside the library, which a malformed file can cause, becomes an error.

pub(crate) mod export;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::{AddedToken as LibraryToken, DecoderWrapper, Tokenizer as Library};

use crate::TextError;
use crate::bytepair::alphabet;
use crate::sentencepiece;
use crate::tokenizer::{AddedToken, DecodeSpecials};

/// A `tokenizer.json`, loaded.
#[derive(Debug, Clone)]
pub(crate) struct Fast {
    inner: Library,
    /// Added tokens: id to (text, special).
    added: HashMap<u32, (String, bool)>,
    /// Whether decoding concatenates bytes, so that it can be done token by token.
    pub(crate) byte_level: bool,
    vocab_size: usize,
}

/// What the post-processor puts before and after a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) prefix: Vec<u32>,
    pub(crate) suffix: Vec<u32>,
}

impl Fast {
    /// Parses a file's bytes.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, TextError> {
        let mut library = guarded("read the file", || Library::from_bytes(json))?;
        guarded("turn truncation off", || library.with_truncation(None).map(|_| ()))?;
        library.with_padding(None);
        let mut fast =
            Self { inner: library, added: HashMap::new(), byte_level: false, vocab_size: 0 };
        fast.index();
        Ok(fast)
    }

    fn index(&mut self) {
        let added = self.inner.get_added_tokens_decoder();
        self.added = added.into_iter().map(|(id, t)| (id, (t.content, t.special))).collect();
        self.byte_level = matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let vocab = self.inner.get_vocab(true);
        let highest = vocab.values().chain(self.added.keys()).max();
        self.vocab_size = highest.map_or(0, |&id| id as usize + 1);
    }

    /// Adds the tokens that the files beside it list and it lacks, in the order of their ids.
    pub(crate) fn add_tokens(&mut self, tokens: &[AddedToken]) -> Result<(), TextError> {
        for token in tokens {
            if self.inner.token_to_id(&token.text).is_some() {
                continue;
            }
            let new = LibraryToken::from(token.text.clone(), token.special).normalized(false);
            guarded("add a token", || self.inner.add_tokens([new]).map(|_| ()))?;
            let given = self.inner.token_to_id(&token.text);
            if given != Some(token.id) {
                let key = format!("added token `{}`", token.text);
                let got = format!("{} (tokenizer.json would give {given:?})", token.id);
                return Err(TextError::invalid(key, "the next free id", got));
            }
        }
        self.index();
        Ok(())
    }

    /// Ids without what the post-processor adds.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = guarded("encode", || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the post-processor puts around a text.
    pub(crate) fn frame(&self) -> Result<Frame, TextError> {
        for probe in ["a", " ", "the", "0"] {
            let plain = self.encode(probe)?;
            let framed = guarded("encode", || self.inner.encode_fast(probe, true))?;
            let framed = framed.get_ids();
            if plain.is_empty() {
                continue;
            }
            if let Some(at) = framed.windows(plain.len()).position(|window| window == plain) {
                let (prefix, rest) = framed.split_at(at);
                return Ok(Frame { prefix: prefix.into(), suffix: rest[plain.len()..].into() });
            }
        }
        Ok(Frame::default())
    }

    pub(crate) fn decode(
        &self,
        ids: &[u32],
        specials: DecodeSpecials,
    ) -> Result<String, TextError> {
        guarded("decode", || self.inner.decode(ids, specials == DecodeSpecials::Skip))
    }

    pub(crate) fn is_skipped(&self, id: u32, specials: DecodeSpecials) -> bool {
        specials == DecodeSpecials::Skip && self.added.get(&id).is_some_and(|(_, special)| *special)
    }

    /// A token's own bytes. Ids without a token have none, as in the library's decoding.
    pub(crate) fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        if self.byte_level {
            return alphabet::decode(&token).unwrap_or_else(|| token.into_bytes());
        }
        if self.added.contains_key(&id) {
            return token.into_bytes();
        }
        match sentencepiece::byte_of(&token) {
            Some(byte) => vec![byte],
            None => token.replace(sentencepiece::SPACE, " ").into_bytes(),
        }
    }

    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The first special added token among `names`.
    pub(crate) fn special_named(&self, names: &[&str]) -> Option<u32> {
        let is_special = |id: &u32| self.added.get(id).is_some_and(|(_, special)| *special);
        names.iter().filter_map(|name| self.id(name)).find(is_special)
    }

    /// The file's text.
    pub(crate) fn to_json(&self) -> Result<String, TextError> {
        guarded("write the file", || self.inner.to_string(false))
    }
}

/// Runs the library, with its errors and panics as ours.
pub(crate) fn guarded<T>(
    step: &'static str,
    run: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TextError> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|source| TextError::Library { step, source }),
        Err(_) => Err(TextError::LibraryPanic { step }),
    }
}
