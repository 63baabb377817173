//! Which documents were there before.

use std::collections::HashSet;

use puna_io::Sha256;

use super::lsh::Lsh;
use super::minhash::{Signature, signature};
use super::options::Duplicates;

/// What identifies a text.
#[derive(Debug)]
pub(crate) struct Fingerprint {
    /// SHA-256 of the text itself.
    pub(crate) text: [u8; 32],
    /// 128 bits of the SHA-256 of the text with each run of white space as one space.
    pub(crate) words: u128,
    /// For near duplicates.
    pub(crate) signature: Option<Signature>,
}

impl Fingerprint {
    pub(crate) fn new(text: &str, duplicates: Duplicates) -> Self {
        let mut hash = Sha256::default();
        for (index, word) in text.split_whitespace().enumerate() {
            if index > 0 {
                hash.update(b" ");
            }
            hash.update(word.as_bytes());
        }
        let mut words = [0; 16];
        words.copy_from_slice(&hash.finish()[..16]);
        let near = matches!(duplicates, Duplicates::DropNear { .. });
        Self {
            text: Sha256::of(text.as_bytes()),
            words: u128::from_le_bytes(words),
            signature: near.then(|| signature(text)).flatten(),
        }
    }

    /// A number in 0..1 that depends on the text only, and is the same for equal texts.
    pub(crate) fn fraction(&self) -> f64 {
        // The 53 bits that a float has.
        (self.words >> 75) as f64 / (1u64 << 53) as f64
    }
}

/// Kinds of duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicate {
    Exact,
    Near,
}

/// The documents kept so far.
#[derive(Debug)]
pub(crate) struct Seen {
    exact: Option<HashSet<u128>>,
    near: Option<Lsh>,
}

impl Seen {
    pub(crate) fn new(duplicates: Duplicates) -> Self {
        let exact = (duplicates != Duplicates::Keep).then(HashSet::new);
        let near = match duplicates {
            Duplicates::DropNear { threshold } => Some(Lsh::new(threshold)),
            _ => None,
        };
        Self { exact, near }
    }

    /// Whether a document was there before; if not it is remembered.
    pub(crate) fn check(&mut self, fingerprint: &mut Fingerprint) -> Option<Duplicate> {
        if let Some(exact) = &mut self.exact
            && !exact.insert(fingerprint.words)
        {
            return Some(Duplicate::Exact);
        }
        let signature = fingerprint.signature.take()?;
        self.near.as_mut()?.is_duplicate(signature).then_some(Duplicate::Near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_makes_no_difference_and_a_letter_does() {
        let mut seen = Seen::new(Duplicates::DropExact);
        let mut check = |text| seen.check(&mut Fingerprint::new(text, Duplicates::DropExact));
        assert_eq!(check("a llama"), None);
        assert_eq!(check(" a\n\tllama\n"), Some(Duplicate::Exact));
        assert_eq!(check("a Llama"), None);
    }

    #[test]
    fn fractions_are_spread_evenly() {
        let below = (0..1000)
            .filter(|i| Fingerprint::new(&i.to_string(), Duplicates::Keep).fraction() < 0.1)
            .count();
        assert!((70..130).contains(&below), "{below} of 1000 below 0.1");
    }
}
