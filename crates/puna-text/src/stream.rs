//! Ids to text while they come: only what no later id can change.
//!
//! Byte-level vocabularies and SentencePiece decode as a state machine, so that the pieces
//! together are exactly the decoded whole. The decoders of a tokenizer.json are arbitrary chains
//! of rules: there a short context is decoded again at each id, and the text beyond what was
//! given before is handed out once it does not end in a broken character. (One case can differ
//! from decoding at once: byte tokens that turn out to be broken after part of their run was
//! valid and given out; the library then replaces the whole run.)

use crate::TextError;
use crate::sentencepiece::PieceDecoder;
use crate::tokenizer::{DecodeSpecials, Engine, Tokenizer};

/// Incremental decoder of one sequence.
#[derive(Debug, Clone)]
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    specials: DecodeSpecials,
    state: State<'a>,
}

#[derive(Debug, Clone)]
enum State<'a> {
    Pieces(PieceDecoder<'a>),
    /// Bytes that do not make a character yet.
    Bytes(Vec<u8>),
    /// Ids still needed as context, of which the first `given` are out, as the text `shown`.
    Window {
        ids: Vec<u32>,
        given: usize,
        shown: String,
    },
}

impl<'a> TokenStream<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, specials: DecodeSpecials) -> Self {
        let window = || State::Window { ids: Vec::new(), given: 0, shown: String::new() };
        let state = match &tokenizer.engine {
            Engine::SentencePiece(model) => State::Pieces(PieceDecoder::new(model, specials)),
            Engine::BytePair(_) => State::Bytes(Vec::new()),
            Engine::Fast(fast) if fast.byte_level => State::Bytes(Vec::new()),
            Engine::Fast(_) => window(),
        };
        Self { tokenizer, specials, state }
    }

    /// The text that `id` makes final, if any; never part of a character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        let mut out = String::new();
        match &mut self.state {
            State::Pieces(decoder) => decoder.push(id, &mut out)?,
            State::Bytes(pending) => {
                match &self.tokenizer.engine {
                    Engine::BytePair(model) if !model.is_skipped(id, self.specials) => {
                        pending.extend_from_slice(model.token_bytes(id)?);
                    }
                    Engine::Fast(fast) if !fast.is_skipped(id, self.specials) => {
                        pending.extend(fast.token_bytes(id));
                    }
                    _ => {}
                }
                drain(pending, &mut out);
            }
            State::Window { ids, given, shown } => {
                ids.push(id);
                let text = self.tokenizer.decode(ids, self.specials)?;
                if !text.ends_with(char::REPLACEMENT_CHARACTER) {
                    out.push_str(fresh(&text, shown));
                    advance(self.tokenizer, self.specials, (ids, given, shown), text)?;
                }
            }
        }
        Ok(Some(out).filter(|text| !text.is_empty()))
    }

    /// The rest, once no more ids come; a broken character becomes U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<Option<String>, TextError> {
        let mut out = String::new();
        match &mut self.state {
            State::Pieces(decoder) => decoder.finish(&mut out),
            State::Bytes(pending) => {
                out.push_str(&String::from_utf8_lossy(&std::mem::take(pending)))
            }
            State::Window { ids, given, shown } => {
                if *given < ids.len() {
                    let text = self.tokenizer.decode(ids, self.specials)?;
                    out.push_str(fresh(&text, shown));
                    *given = ids.len();
                    *shown = text;
                }
            }
        }
        Ok(Some(out).filter(|text| !text.is_empty()))
    }
}

/// What `text` has beyond `shown`; where a rule rewrote what was shown, what follows it in length.
fn fresh<'t>(text: &'t str, shown: &str) -> &'t str {
    let common = text.bytes().zip(shown.bytes()).take_while(|(a, b)| a == b).count();
    let mut at = if common == shown.len() { common } else { shown.len().min(text.len()) };
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}

/// Moves the window: the ids given before stay as context only as long as the newer ones alone
/// give no text, since a decoder may treat the first visible token in its own way.
fn advance(
    tokenizer: &Tokenizer,
    specials: DecodeSpecials,
    window: (&mut Vec<u32>, &mut usize, &mut String),
    text: String,
) -> Result<(), TextError> {
    let (ids, given, shown) = window;
    let newer = tokenizer.decode(&ids[*given..], specials)?;
    if newer.is_empty() || *given == 0 {
        *shown = text;
    } else {
        ids.drain(..*given);
        *shown = newer;
    }
    *given = ids.len();
    Ok(())
}

/// Takes the finished characters from the front of `pending`; a broken sequence becomes U+FFFD
/// as in `String::from_utf8_lossy`.
fn drain(pending: &mut Vec<u8>, out: &mut String) {
    loop {
        let (used, broken) = match std::str::from_utf8(pending) {
            Ok(_) => (pending.len(), None),
            Err(error) => (error.valid_up_to(), error.error_len()),
        };
        out.push_str(&String::from_utf8_lossy(&pending[..used]));
        pending.drain(..used + broken.unwrap_or(0));
        match broken {
            Some(_) => out.push(char::REPLACEMENT_CHARACTER),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_waits_and_a_broken_one_does_not() {
        let mut pending = "é".as_bytes()[..1].to_vec();
        let mut out = String::new();
        drain(&mut pending, &mut out);
        assert_eq!((out.as_str(), pending.len()), ("", 1));
        pending.extend(b"a\xFFb");
        drain(&mut pending, &mut out);
        assert_eq!((out.as_str(), pending.len()), ("\u{FFFD}a\u{FFFD}b", 0));
    }
}
