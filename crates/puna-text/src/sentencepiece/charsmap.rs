//! The precompiled character map of SentencePiece's normalizer (`nmt_nfkc` and its kin).
//!
//! A blob: u32 size of a darts-clone double-array trie, the trie's units (u32 each), then
//! NUL-terminated replacement strings; a key's value is the offset of its replacement. Every
//! index is checked, since the blob comes from a file. Source: normalizer.cc of
//! google/sentencepiece and darts.h of s-yata/darts-clone (formulas of a unit's fields).

use crate::TextError;

/// Replaces the longest known prefix of a text.
#[derive(Debug, Clone, Default)]
pub(crate) struct CharsMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharsMap {
    /// Splits a blob; an empty one maps nothing.
    pub(crate) fn parse(blob: &[u8]) -> Result<Self, TextError> {
        if blob.is_empty() {
            return Ok(Self::default());
        }
        let invalid = |expected| {
            TextError::invalid("normalizer_spec.precompiled_charsmap", expected, blob.len())
        };
        let size = blob.first_chunk::<4>().ok_or_else(|| invalid("at least 4 bytes"))?;
        let size = u32::from_le_bytes(*size) as usize;
        let rest = &blob[4..];
        if !size.is_multiple_of(4) || size > rest.len() {
            return Err(invalid("a blob that holds its whole trie"));
        }
        let (trie, replacements) = rest.split_at(size);
        let units = trie.chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]]));
        Ok(Self { units: units.collect(), replacements: replacements.to_vec() })
    }

    /// The replacement of the longest prefix of `text` that has one, and that prefix's bytes.
    pub(crate) fn longest_prefix(&self, text: &str) -> Option<(&str, usize)> {
        let mut unit = *self.units.first()?;
        let mut node = offset(unit);
        let mut best = None;
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            node ^= byte as usize;
            unit = *self.units.get(node)?;
            if unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.units.get(node)? & 0x7FFF_FFFF;
                best = Some((value as usize, index + 1));
            }
        }
        let (start, length) = best?;
        let tail = self.replacements.get(start..)?;
        let end = tail.iter().position(|&b| b == 0)?;
        if !text.is_char_boundary(length) {
            return None;
        }
        Some((std::str::from_utf8(&tail[..end]).ok()?, length))
    }
}

/// Distance to a unit's children.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trie_that_points_outside_is_no_match() {
        let mut blob = 4u32.to_le_bytes().to_vec();
        blob.extend(u32::MAX.to_le_bytes());
        let map = CharsMap::parse(&blob).unwrap();
        assert_eq!(map.longest_prefix("a"), None);
    }
}
