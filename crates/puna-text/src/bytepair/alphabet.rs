//! GPT-2's byte alphabet: a printable character for each of the 256 bytes.
//!
//! Byte-level vocabularies are stored as text; bytes that print stand for themselves, the others
//! take the characters from U+0100 on, in order. Source: `bytes_to_unicode` of openai/gpt-2.

/// Whether a byte stands for itself.
fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character of a byte.
pub(crate) fn char_of(byte: u8) -> char {
    if prints(byte) {
        return char::from(byte);
    }
    // 0..=0x20 come first, then 0x7F..=0xA0, then 0xAD
    let index = match byte {
        0..=0x20 => u32::from(byte),
        0x7F..=0xA0 => 0x21 + u32::from(byte) - 0x7F,
        _ => 0x21 + 0x22,
    };
    char::from_u32(0x100 + index).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte of a character; `None` outside the alphabet.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|&b| prints(b)),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Bytes written in the alphabet.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char_of(b)).collect()
}

/// The bytes of text in the alphabet; `None` if a character is outside of it.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xAD)), ('Ġ', 'Ċ', 'Ń'));
    }
}
