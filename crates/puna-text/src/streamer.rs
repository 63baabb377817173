//! Text in the pieces a reader sees, as transformers' `TextStreamer` cuts them.
//!
//! Everything at a line end and after a CJK character, else up to the last space. Unlike
//! transformers' class, which starts decoding afresh after each line and so loses the spaces
//! there, the pieces together are exactly the decoded text. Source of the rule and of the ranges:
//! `transformers/generation/streamers.py`.

use crate::TextError;
use crate::stream::TokenStream;
use crate::tokenizer::{DecodeSpecials, Tokenizer};

/// Holds text back until a word is whole.
#[derive(Debug, Clone)]
pub struct TextStreamer<'a> {
    stream: TokenStream<'a>,
    held: String,
}

impl<'a> TextStreamer<'a> {
    /// A streamer at the beginning of a sequence; special tokens leave no text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { stream: tokenizer.stream(DecodeSpecials::Skip), held: String::new() }
    }

    /// The text that `id` makes ready to show, if any.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        if let Some(text) = self.stream.push(id)? {
            self.held.push_str(&text);
        }
        let whole = self.held.ends_with('\n') || self.held.ends_with(is_cjk);
        let ready = match self.held.rfind(' ') {
            _ if whole => self.held.len(),
            Some(space) => space + 1,
            None => 0,
        };
        let rest = self.held.split_off(ready);
        let text = std::mem::replace(&mut self.held, rest);
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// What is left once no more ids come.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn end(&mut self) -> Result<Option<String>, TextError> {
        let mut text = std::mem::take(&mut self.held);
        text.extend(self.stream.finish()?);
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// The Unicode blocks that `TextStreamer._is_chinese_char` lists.
fn is_cjk(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B820..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}
