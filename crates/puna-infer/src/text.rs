//! From tokens to the text a reader sees: decoding, stop strings, word ends.
//!
//! Three stages in a row, each of which may hold text back: the tokenizer's incremental decoder
//! (never half a UTF-8 sequence), [`StopMatcher`] (never the beginning of a stop string) and the
//! flow (`TextFlow::Words`: only whole words). Stop strings are looked for before words are
//! assembled, so that generation ends at the token that completes one.

use crate::error::{InferError, Source};
use crate::stop::StopMatcher;

/// Turns the tokens of one sequence into text, piece by piece.
pub trait PieceStream {
    /// The text that `token` makes final, if any.
    ///
    /// # Errors
    /// The tokenizer's own error.
    fn push(&mut self, token: u32) -> Result<Option<String>, Source>;

    /// What is left once no more tokens come (a broken character becomes U+FFFD).
    ///
    /// # Errors
    /// The tokenizer's own error.
    fn finish(&mut self) -> Result<Option<String>, Source>;
}

/// A tokenizer's decoding side.
pub trait Detokenizer: Send + Sync {
    /// Decoder of one sequence.
    type Stream<'a>: PieceStream
    where
        Self: 'a;

    /// Whether there is any text: without it stop strings are an error.
    const GIVES_TEXT: bool = true;

    /// A decoder at the beginning of a sequence.
    fn stream(&self) -> Self::Stream<'_>;
}

/// Special tokens leave no text.
impl Detokenizer for puna_text::Tokenizer {
    type Stream<'a> = puna_text::TokenStream<'a>;

    fn stream(&self) -> Self::Stream<'_> {
        self.stream(puna_text::DecodeSpecials::Skip)
    }
}

impl PieceStream for puna_text::TokenStream<'_> {
    fn push(&mut self, token: u32) -> Result<Option<String>, Source> {
        Ok(self.push(token)?)
    }

    fn finish(&mut self) -> Result<Option<String>, Source> {
        Ok(self.finish()?)
    }
}

/// No text at all: for callers that want token ids only.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokensOnly;

impl Detokenizer for TokensOnly {
    type Stream<'a> = Self;
    const GIVES_TEXT: bool = false;

    fn stream(&self) -> Self {
        Self
    }
}

impl PieceStream for TokensOnly {
    fn push(&mut self, _token: u32) -> Result<Option<String>, Source> {
        Ok(None)
    }

    fn finish(&mut self) -> Result<Option<String>, Source> {
        Ok(None)
    }
}

/// When text is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextFlow {
    /// At word ends, after each CJK character and at line ends, as transformers' `TextStreamer`.
    #[default]
    Words,
    /// As soon as it is decoded.
    Tokens,
}

/// Text that may still grow into a longer word.
#[derive(Debug, Clone)]
struct WordBuffer {
    flow: TextFlow,
    held: String,
}

impl WordBuffer {
    /// Takes a piece and gives what is whole: everything if it ends in a line end or a CJK
    /// character, else up to the last space.
    fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let whole = self.held.ends_with('\n') || self.held.ends_with(is_cjk);
        let keep = match self.flow {
            TextFlow::Tokens => self.held.len(),
            TextFlow::Words if whole => self.held.len(),
            TextFlow::Words => self.held.rfind(' ').map_or(0, |space| space + 1),
        };
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }
}

/// CJK ideographs: the Unicode blocks that `TextStreamer._is_chinese_char` lists.
fn is_cjk(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B820..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

/// What a token did to the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Text to hand over now.
    pub(crate) text: Option<String>,
    /// The stop string that ended the text.
    pub(crate) stop: Option<String>,
}

/// The three stages of one sequence.
pub(crate) struct TextPipeline<S> {
    stream: S,
    stops: StopMatcher,
    words: WordBuffer,
    /// The new text so far, whatever the flow has handed over.
    pub(crate) text: String,
}

impl<S: PieceStream> TextPipeline<S> {
    pub(crate) fn new(stream: S, stop_strings: &[String], flow: TextFlow) -> Self {
        Self {
            stream,
            stops: StopMatcher::new(stop_strings),
            words: WordBuffer { flow, held: String::new() },
            text: String::new(),
        }
    }

    /// A token of the prompt: its text is shown but not searched for stop strings.
    pub(crate) fn push_prompt(&mut self, token: u32) -> Result<Option<String>, InferError> {
        let piece = self.stream.push(token).map_err(InferError::Text)?;
        Ok(piece.map(|piece| self.words.push(&piece)).filter(|text| !text.is_empty()))
    }

    /// A new token.
    pub(crate) fn push(&mut self, token: u32) -> Result<Shown, InferError> {
        match self.stream.push(token).map_err(InferError::Text)? {
            Some(piece) => Ok(self.show(&piece)),
            None => Ok(Shown::default()),
        }
    }

    /// Everything held back; after a stop string only the words before it.
    pub(crate) fn finish(&mut self, shown: Shown) -> Result<Shown, InferError> {
        let mut text = shown.text.unwrap_or_default();
        let mut stop = shown.stop;
        if stop.is_none() {
            let piece = self.stream.finish().map_err(InferError::Text)?.unwrap_or_default();
            let last = self.show(&piece);
            text += &last.text.unwrap_or_default();
            stop = last.stop;
        }
        if stop.is_none() {
            let held = self.stops.finish();
            self.text += &held;
            text += &self.words.push(&held);
        }
        text += &std::mem::take(&mut self.words.held);
        Ok(Shown { text: (!text.is_empty()).then_some(text), stop })
    }

    fn show(&mut self, piece: &str) -> Shown {
        let matched = self.stops.push(piece);
        self.text += &matched.text;
        let text = self.words.push(&matched.text);
        Shown { text: (!text.is_empty()).then_some(text), stop: matched.stop }
    }
}

#[cfg(test)]
mod tests {
    use super::{TextFlow, WordBuffer};

    fn words(pieces: &[&str]) -> Vec<String> {
        let mut buffer = WordBuffer { flow: TextFlow::Words, held: String::new() };
        pieces.iter().map(|piece| buffer.push(piece)).collect()
    }

    #[test]
    fn words_are_handed_over_at_the_space_after_them() {
        assert_eq!(words(&["Hel", "lo wor", "ld ", "x"]), ["", "Hello ", "world ", ""]);
    }

    #[test]
    fn line_ends_and_cjk_characters_are_handed_over_at_once() {
        assert_eq!(words(&["a\n", "你", "好b", "c 的"]), ["a\n", "你", "", "好bc 的"]);
    }
}
