//! Reads SentencePiece's `ModelProto` from protobuf bytes.
//!
//! Six messages with two dozen fields do not need a protobuf library or generated code. Lengths
//! are checked against what is left before anything is taken, nothing is allocated ahead, and
//! unknown fields are skipped, as protobuf asks. Source: sentencepiece_model.proto of
//! google/sentencepiece 0.2.

use crate::TextError;

/// Role of a piece; the numbers are SentencePiece's and GGUF's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PieceKind {
    #[default]
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl PieceKind {
    /// From the number in a file.
    pub(crate) fn from_number(value: i64) -> Option<Self> {
        Some(match value {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// One vocabulary entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: PieceKind,
}

/// How text is segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelType {
    Unigram,
    Bpe,
}

/// `TrainerSpec`: the fields that matter after training.
#[derive(Debug, Clone)]
pub(crate) struct TrainerSpec {
    pub(crate) model_type: ModelType,
    pub(crate) byte_fallback: bool,
    pub(crate) whitespace_as_suffix: bool,
    pub(crate) unk_surface: String,
    pub(crate) bos_piece: String,
    pub(crate) eos_piece: String,
    pub(crate) pad_piece: String,
}

impl Default for TrainerSpec {
    fn default() -> Self {
        Self {
            model_type: ModelType::Unigram,
            byte_fallback: false,
            whitespace_as_suffix: false,
            unk_surface: " \u{2047} ".into(),
            bos_piece: "<s>".into(),
            eos_piece: "</s>".into(),
            pad_piece: "<pad>".into(),
        }
    }
}

/// `NormalizerSpec`.
#[derive(Debug, Clone)]
pub(crate) struct NormalizerSpec {
    pub(crate) charsmap: Vec<u8>,
    pub(crate) add_dummy_prefix: bool,
    pub(crate) remove_extra_whitespaces: bool,
    pub(crate) escape_whitespaces: bool,
}

impl Default for NormalizerSpec {
    fn default() -> Self {
        Self {
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

/// `ModelProto`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelProto {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) trainer: TrainerSpec,
    pub(crate) normalizer: NormalizerSpec,
}

impl ModelProto {
    /// Parses a whole file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, TextError> {
        let mut model = Self::default();
        let mut reader = Reader { bytes, position: 0, base: 0 };
        while let Some((number, field)) = reader.next()? {
            match number {
                1 => model.pieces.push(parse_piece(field.message(&reader)?)?),
                2 => model.trainer = parse_trainer(field.message(&reader)?)?,
                3 => model.normalizer = parse_normalizer(field.message(&reader)?)?,
                _ => {}
            }
        }
        Ok(model)
    }
}

fn parse_piece(mut reader: Reader<'_>) -> Result<Piece, TextError> {
    let mut piece = Piece::default();
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => piece.text = field.string(&reader)?,
            2 => piece.score = field.float(&reader)?,
            3 => {
                let value = field.integer(&reader)?;
                piece.kind = PieceKind::from_number(value)
                    .ok_or_else(|| TextError::invalid("pieces.type", "1 to 6", value))?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn parse_trainer(mut reader: Reader<'_>) -> Result<TrainerSpec, TextError> {
    let mut spec = TrainerSpec::default();
    while let Some((number, field)) = reader.next()? {
        match number {
            3 => {
                spec.model_type = match field.integer(&reader)? {
                    1 => ModelType::Unigram,
                    2 => ModelType::Bpe,
                    other => {
                        let expected = "1 (unigram) or 2 (bpe)";
                        return Err(TextError::invalid("trainer_spec.model_type", expected, other));
                    }
                }
            }
            24 => spec.whitespace_as_suffix = field.integer(&reader)? != 0,
            35 => spec.byte_fallback = field.integer(&reader)? != 0,
            44 => spec.unk_surface = field.string(&reader)?,
            46 => spec.bos_piece = field.string(&reader)?,
            47 => spec.eos_piece = field.string(&reader)?,
            48 => spec.pad_piece = field.string(&reader)?,
            _ => {}
        }
    }
    Ok(spec)
}

fn parse_normalizer(mut reader: Reader<'_>) -> Result<NormalizerSpec, TextError> {
    let mut spec = NormalizerSpec::default();
    while let Some((number, field)) = reader.next()? {
        match number {
            2 => spec.charsmap = field.bytes(&reader)?.to_vec(),
            3 => spec.add_dummy_prefix = field.integer(&reader)? != 0,
            4 => spec.remove_extra_whitespaces = field.integer(&reader)? != 0,
            5 => spec.escape_whitespaces = field.integer(&reader)? != 0,
            _ => {}
        }
    }
    Ok(spec)
}

/// A field's value by wire type.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes { data: &'a [u8], base: usize },
}

impl<'a> Field<'a> {
    fn integer(&self, reader: &Reader<'_>) -> Result<i64, TextError> {
        match self {
            Self::Varint(value) => Ok(*value as i64),
            _ => Err(reader.error("an integer field")),
        }
    }

    fn float(&self, reader: &Reader<'_>) -> Result<f32, TextError> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(*bytes)),
            _ => Err(reader.error("a float field")),
        }
    }

    fn bytes(&self, reader: &Reader<'_>) -> Result<&'a [u8], TextError> {
        match self {
            Self::Bytes { data, .. } => Ok(data),
            _ => Err(reader.error("a field of bytes")),
        }
    }

    fn string(&self, reader: &Reader<'_>) -> Result<String, TextError> {
        let bytes = self.bytes(reader)?.to_vec();
        String::from_utf8(bytes).map_err(|_| reader.error("text in UTF-8"))
    }

    fn message(&self, reader: &Reader<'_>) -> Result<Reader<'a>, TextError> {
        match self {
            Self::Bytes { data, base } => Ok(Reader { bytes: data, position: 0, base: *base }),
            _ => Err(reader.error("a message")),
        }
    }
}

/// Bytes of one message.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    /// Offset of `bytes` in the file, for messages.
    base: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, expected: &'static str) -> TextError {
        TextError::Protobuf { offset: self.base + self.position, expected }
    }

    /// The next field's number and value; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, TextError> {
        if self.position == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| self.error("a shorter field"))?;
                let data = self.take(length)?;
                Field::Bytes { data, base: self.base + self.position - length }
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            _ => return Err(self.error("a known wire type")),
        };
        Ok(Some((key >> 3, field)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], TextError> {
        let rest = &self.bytes[self.position..];
        if length > rest.len() {
            return Err(self.error("the rest of a field (the file is cut off or damaged)"));
        }
        self.position += length;
        Ok(&rest[..length])
    }

    fn varint(&mut self) -> Result<u64, TextError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("an integer of at most ten bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_file_is_an_error_not_an_allocation() {
        // field 1, bytes, length 2^63
        let bomb = [0x0A, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert!(matches!(ModelProto::parse(&bomb), Err(TextError::Protobuf { .. })));
    }

    #[test]
    fn a_piece_is_read_with_score_and_kind() {
        // pieces { piece: "<s>" score: -1.5 type: CONTROL }
        let mut inner = vec![0x0A, 3, b'<', b's', b'>', 0x15];
        inner.extend((-1.5f32).to_le_bytes());
        inner.extend([0x18, 3]);
        let mut bytes = vec![0x0A, inner.len() as u8];
        bytes.extend(inner);
        let model = ModelProto::parse(&bytes).unwrap();
        let expected = Piece { text: "<s>".into(), score: -1.5, kind: PieceKind::Control };
        assert_eq!(model.pieces, [expected]);
    }
}
