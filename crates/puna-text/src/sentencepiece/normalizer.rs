//! SentencePiece's normalizer: character map, whitespace rules, dummy prefix.
//!
//! A port of `Normalizer::Normalize` (normalizer.cc, google/sentencepiece 0.2) without its
//! alignment table, which nothing here needs.

use super::charsmap::CharsMap;
use super::proto::NormalizerSpec;
use crate::specials::{Fragment, LiteralMatcher};

/// U+2581, which stands for a space inside pieces.
pub(crate) const SPACE: char = '\u{2581}';

/// Where the dummy space goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DummySpace {
    None,
    Before,
    After,
}

/// The normalizer of one model.
#[derive(Debug, Clone)]
pub(crate) struct Normalizer {
    pub(crate) charsmap: CharsMap,
    pub(crate) spec: NormalizerSpec,
    pub(crate) whitespace_as_suffix: bool,
}

impl Normalizer {
    /// Where this model puts its dummy space.
    pub(crate) fn dummy(&self) -> DummySpace {
        match (self.spec.add_dummy_prefix, self.whitespace_as_suffix) {
            (false, _) => DummySpace::None,
            (true, false) => DummySpace::Before,
            (true, true) => DummySpace::After,
        }
    }

    /// The text as the model segments it; `symbols` are user-defined and never rewritten.
    pub(crate) fn normalize(
        &self,
        text: &str,
        symbols: &LiteralMatcher,
        dummy: DummySpace,
    ) -> String {
        let strip = self.spec.remove_extra_whitespaces;
        let mut out = String::with_capacity(text.len() + 8);
        let mut after_space = strip;
        let mut begun = !strip && !text.is_empty();
        if begun && dummy == DummySpace::Before {
            out.push(self.space());
        }
        for fragment in symbols.split(text) {
            match fragment {
                Fragment::Token(_, symbol) => {
                    self.append(symbol, &mut out, (&mut after_space, &mut begun), dummy);
                }
                Fragment::Text(mut rest) => {
                    while let Some(first) = rest.chars().next() {
                        let plain = (&rest[..first.len_utf8()], first.len_utf8());
                        let (mapped, taken) = self.charsmap.longest_prefix(rest).unwrap_or(plain);
                        self.append(mapped, &mut out, (&mut after_space, &mut begun), dummy);
                        rest = &rest[taken.max(1)..];
                    }
                }
            }
        }
        let space = self.space();
        if strip {
            while out.ends_with(space) {
                out.pop();
            }
        }
        if begun && dummy == DummySpace::After {
            out.push(space);
        }
        out
    }

    /// Appends what one normalized prefix gives. `state`: whether the last one ended in a space
    /// (only where extra whitespace is removed), and whether anything was appended.
    fn append(
        &self,
        mapped: &str,
        out: &mut String,
        state: (&mut bool, &mut bool),
        dummy: DummySpace,
    ) {
        let (after_space, begun) = state;
        let kept = if *after_space { mapped.trim_start_matches(' ') } else { mapped };
        if kept.is_empty() {
            // an all-whitespace text stays empty where whitespace is removed
            return;
        }
        if !*begun {
            *begun = true;
            if dummy == DummySpace::Before {
                out.push(self.space());
            }
        }
        if self.spec.escape_whitespaces {
            out.extend(kept.chars().map(|c| if c == ' ' { SPACE } else { c }));
        } else {
            out.push_str(kept);
        }
        *after_space = self.spec.remove_extra_whitespaces && kept.ends_with(' ');
    }

    fn space(&self) -> char {
        if self.spec.escape_whitespaces { SPACE } else { ' ' }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalizer(strip: bool) -> Normalizer {
        let spec = NormalizerSpec { remove_extra_whitespaces: strip, ..NormalizerSpec::default() };
        Normalizer { charsmap: CharsMap::default(), spec, whitespace_as_suffix: false }
    }

    #[test]
    fn spaces_become_marks_and_one_is_put_before() {
        let none = LiteralMatcher::new([]).unwrap();
        let n = normalizer(false);
        assert_eq!(n.normalize(" a  b ", &none, DummySpace::Before), "▁▁a▁▁b▁");
        assert_eq!(n.normalize("", &none, DummySpace::Before), "");
    }

    #[test]
    fn extra_whitespace_is_removed_where_the_model_says_so() {
        let none = LiteralMatcher::new([]).unwrap();
        let n = normalizer(true);
        assert_eq!(n.normalize("  a   b ", &none, DummySpace::Before), "▁a▁b");
        assert_eq!(n.normalize("   ", &none, DummySpace::Before), "");
    }
}
