//! Byte-level BPE: tiktoken's rank files (Llama 3) and the `gpt2` vocabularies inside GGUF files.
//!
//! One engine for both: a rank file merges whatever concatenation has the lowest rank, a GGUF
//! lists its merges. `tokenizer.json` files go through the `tokenizers` crate instead, which is
//! their reference. Sources: openai/tiktoken (`src/lib.rs`), llama.cpp (`src/llama-vocab.cpp`).

pub(crate) mod alphabet;
pub(crate) mod export;
mod merge;
pub(crate) mod split;
pub(crate) mod tiktoken;

use std::collections::HashMap;

use self::split::Splitter;
use crate::TextError;
use crate::specials::{Fragment, LiteralMatcher};
use crate::tokenizer::{AddedToken, DecodeSpecials};

/// Longest run of whitespace, or of anything else, that is split as one text: Meta's code cuts
/// there, since the pattern's cost grows with the square of such runs (`_split_whitespaces_or_
/// nonwhitespaces` of meta-llama/llama3).
const LONGEST_RUN: usize = 25_000;

/// In which order pairs merge.
#[derive(Debug, Clone)]
pub(crate) enum MergeOrder {
    /// By the id of the merged token.
    Rank,
    /// By a list.
    Pairs(MergePairs),
}

/// (left id, right id) to (place in the list of merges, merged id).
pub(crate) type MergePairs = HashMap<(u32, u32), (u32, u32)>;

/// A token beside the byte-level vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Special {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Control tokens are not read from plain text; others (user-defined) are.
    pub(crate) control: bool,
}

/// A byte-level vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct BytePair {
    /// Bytes of each ordinary token; empty where the id is a special token.
    pub(crate) tokens: Vec<Vec<u8>>,
    lookup: HashMap<Vec<u8>, u32>,
    pub(crate) order: MergeOrder,
    byte_ids: Box<[Option<u32>; 256]>,
    splitter: Splitter,
    pub(crate) whole_words: bool,
    pub(crate) specials: Vec<Special>,
    special_index: HashMap<u32, usize>,
    plain: LiteralMatcher,
    rendered: LiteralMatcher,
    /// Stands for bytes without a token.
    pub(crate) unknown: Option<u32>,
}

impl BytePair {
    /// A vocabulary from its parts; of equal tokens the first is used.
    pub(crate) fn new(
        tokens: Vec<Vec<u8>>,
        order: MergeOrder,
        splitter: Splitter,
        specials: Vec<Special>,
    ) -> Result<Self, TextError> {
        let mut lookup = HashMap::with_capacity(tokens.len());
        for (id, token) in (0u32..).zip(&tokens).filter(|(_, token)| !token.is_empty()) {
            lookup.entry(token.clone()).or_insert(id);
        }
        let mut byte_ids = Box::new([None; 256]);
        for byte in 0..=255u8 {
            byte_ids[usize::from(byte)] = lookup.get([byte].as_slice()).copied();
        }
        let mut model = Self {
            tokens,
            lookup,
            order,
            byte_ids,
            splitter,
            whole_words: false,
            specials,
            special_index: HashMap::new(),
            plain: LiteralMatcher::new([])?,
            rendered: LiteralMatcher::new([])?,
            unknown: None,
        };
        model.index()?;
        Ok(model)
    }

    fn index(&mut self) -> Result<(), TextError> {
        let all = || self.specials.iter().map(|s| (s.text.as_str(), s.id, s.control));
        self.rendered = LiteralMatcher::new(all().map(|(text, id, _)| (text, id)))?;
        self.plain = LiteralMatcher::new(all().filter(|s| !s.2).map(|(text, id, _)| (text, id)))?;
        self.special_index = self.specials.iter().enumerate().map(|(i, s)| (s.id, i)).collect();
        Ok(())
    }

    /// A word that is a token as a whole is taken as it is.
    pub(crate) fn with_whole_words(mut self) -> Self {
        self.whole_words = true;
        self
    }

    /// Adds tokens from the files beside the vocabulary.
    pub(crate) fn add_tokens(&mut self, tokens: &[AddedToken]) -> Result<(), TextError> {
        for token in tokens.iter().filter(|t| !self.special_index.contains_key(&t.id)) {
            let (id, text) = (token.id, token.text.clone());
            self.specials.push(Special { id, text, control: token.special });
        }
        self.index()
    }

    /// The first byte without a token.
    pub(crate) fn missing_byte(&self) -> Option<u8> {
        (0..=255).find(|&byte| self.byte_ids[usize::from(byte)].is_none())
    }

    /// Ids of a text in which control tokens mean nothing.
    pub(crate) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text, &self.plain)
    }

    /// Ids of a rendered template, in which every special token counts.
    pub(crate) fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text, &self.rendered)
    }

    fn encode(&self, text: &str, literals: &LiteralMatcher) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for fragment in literals.split(text) {
            match fragment {
                Fragment::Token(id, _) => ids.push(id),
                Fragment::Text(text) => {
                    for run in limited_runs(text) {
                        for word in self.splitter.words(run)? {
                            self.encode_word(word.as_bytes(), &mut ids)?;
                        }
                    }
                }
            }
        }
        Ok(ids)
    }

    fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) -> Result<(), TextError> {
        if let Some(&id) = self.lookup.get(word).filter(|_| self.whole_words) {
            ids.push(id);
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(word.len());
        for &byte in word {
            let id = self.byte_ids[usize::from(byte)].or(self.unknown);
            bytes.push(id.ok_or(TextError::NoTokenForByte { byte })?);
        }
        merge::merge(self, word, &bytes, ids);
        Ok(())
    }

    /// One more than the highest id.
    pub(crate) fn vocab_size(&self) -> usize {
        let specials = self.specials.iter().map(|s| s.id as usize + 1).max().unwrap_or(0);
        self.tokens.len().max(specials)
    }

    /// The special token of an id.
    pub(crate) fn special(&self, id: u32) -> Option<&Special> {
        self.specials.get(*self.special_index.get(&id)?)
    }

    /// A token's bytes.
    pub(crate) fn token_bytes(&self, id: u32) -> Result<&[u8], TextError> {
        if let Some(special) = self.special(id) {
            return Ok(special.text.as_bytes());
        }
        match self.tokens.get(id as usize) {
            Some(token) => Ok(token),
            None => Err(TextError::UnknownId { id, vocab: self.vocab_size() }),
        }
    }

    /// Whether an id's text is left out when special tokens are skipped.
    pub(crate) fn is_skipped(&self, id: u32, specials: DecodeSpecials) -> bool {
        specials == DecodeSpecials::Skip && self.special(id).is_some_and(|s| s.control)
    }

    /// The id of a token by its text, in the byte alphabet or as it is.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        let special = self.specials.iter().find(|s| s.text == token).map(|s| s.id);
        special
            .or_else(|| self.lookup.get(&alphabet::decode(token)?).copied())
            .or_else(|| self.lookup.get(token.as_bytes()).copied())
    }

    /// The patterns that cut text into words.
    pub(crate) fn patterns(&self) -> Vec<&str> {
        self.splitter.patterns()
    }
}

/// Cuts runs of more than [`LONGEST_RUN`] whitespace or other characters.
fn limited_runs(text: &str) -> Vec<&str> {
    let mut runs = Vec::new();
    let (mut start, mut length, mut space) = (0, 0, None);
    for (position, c) in text.char_indices() {
        if space == Some(c.is_whitespace()) {
            length += 1;
        } else {
            (length, space) = (1, Some(c.is_whitespace()));
        }
        if length > LONGEST_RUN {
            runs.push(&text[start..position]);
            (start, length) = (position, 1);
        }
    }
    runs.push(&text[start..]);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_the_limit_only() {
        let text = "a".repeat(LONGEST_RUN) + " " + &"b".repeat(LONGEST_RUN + 1);
        let lengths: Vec<usize> = limited_runs(&text).iter().map(|r| r.len()).collect();
        assert_eq!(lengths, [2 * LONGEST_RUN + 1, 1]);
        assert_eq!(limited_runs(""), [""]);
    }

    #[test]
    fn listed_merges_apply_in_the_order_of_the_list() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"].map(|t| t.as_bytes().to_vec()).to_vec();
        let pairs = HashMap::from([((1, 2), (0, 4)), ((0, 1), (1, 3)), ((0, 4), (2, 5))]);
        let splitter = Splitter::new(&[split::GPT2]).unwrap();
        let model = BytePair::new(tokens, MergeOrder::Pairs(pairs), splitter, vec![]).unwrap();
        assert_eq!(model.encode_plain("abc").unwrap(), [5]);
        assert_eq!(model.encode_plain("abb").unwrap(), [3, 1]);
        let error = model.encode_plain("x").unwrap_err();
        assert!(matches!(error, TextError::NoTokenForByte { byte: b'x' }));
    }
}
