//! Ids back to text, one at a time, as `SentencePieceProcessor::Decode` does for all at once.
//!
//! Byte pieces are gathered into characters; each byte that belongs to none becomes its own
//! U+FFFD. The dummy space of the first piece is dropped. The decoder emits what no later id can
//! change, so that its concatenated output is the library's text.

use super::{PieceKind, SPACE, SentencePiece};
use crate::TextError;
use crate::tokenizer::DecodeSpecials;

/// Decoder of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct PieceDecoder<'a> {
    model: &'a SentencePiece,
    specials: DecodeSpecials,
    /// Bytes that may still become a character.
    pending: Vec<u8>,
    /// Whether nothing was emitted yet, so that a leading space is the dummy one.
    at_start: bool,
}

impl<'a> PieceDecoder<'a> {
    pub(crate) fn new(model: &'a SentencePiece, specials: DecodeSpecials) -> Self {
        Self { model, specials, pending: Vec::new(), at_start: true }
    }

    /// Appends the text that `id` makes final.
    pub(crate) fn push(&mut self, id: u32, out: &mut String) -> Result<(), TextError> {
        let piece = self.model.piece(id)?;
        if let Some(byte) = self.model.byte(id) {
            self.pending.push(byte);
            self.drain(Run::Open, out);
            return Ok(());
        }
        self.drain(Run::Ended, out);
        match piece.kind {
            PieceKind::Control => {
                if self.specials == DecodeSpecials::Keep {
                    out.push_str(&piece.text);
                }
            }
            PieceKind::Unknown => {
                out.push_str(&self.model.unk_surface);
                self.at_start = false;
            }
            _ => self.push_piece(&piece.text, out),
        }
        Ok(())
    }

    fn push_piece(&mut self, piece: &str, out: &mut String) {
        let spec = self.model.normalizer_spec();
        let mut rest = piece;
        if self.at_start && (spec.add_dummy_prefix || spec.remove_extra_whitespaces) {
            if let Some(stripped) = rest.strip_prefix(SPACE) {
                rest = stripped;
                // removed extra whitespace: every leading space goes, not only the first
                self.at_start = spec.remove_extra_whitespaces && rest.is_empty();
            } else {
                self.at_start = rest.is_empty();
            }
        } else {
            self.at_start = false;
        }
        out.extend(rest.chars().map(|c| if c == SPACE { ' ' } else { c }));
    }

    /// Emits the bytes that are waiting at the end of a sequence.
    pub(crate) fn finish(&mut self, out: &mut String) {
        self.drain(Run::Ended, out);
    }

    /// Emits the characters at the front of the pending bytes.
    fn drain(&mut self, run: Run, out: &mut String) {
        let mut used = 0;
        while used < self.pending.len() {
            match std::str::from_utf8(&self.pending[used..]) {
                Ok(text) => {
                    out.push_str(text);
                    used = self.pending.len();
                }
                Err(error) => {
                    let valid = &self.pending[used..used + error.valid_up_to()];
                    out.push_str(&String::from_utf8_lossy(valid));
                    used += error.valid_up_to();
                    if error.error_len().is_none() && run == Run::Open {
                        break;
                    }
                    out.push(char::REPLACEMENT_CHARACTER);
                    used += 1;
                }
            }
        }
        self.at_start &= used == 0;
        self.pending.drain(..used);
    }
}

/// Whether more bytes may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Open,
    Ended,
}
