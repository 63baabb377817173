//! Finds tokens that are written out in a text, such as `<|eot_id|>` in a rendered template.
//!
//! Leftmost first, the longest where several begin, as tiktoken's alternation over sorted names,
//! llama.cpp and SentencePiece's prefix matcher all do. Aho-Corasick keeps that linear in the
//! text however many tokens a file declares.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::TextError;

/// A set of literal tokens.
#[derive(Debug, Clone)]
pub(crate) struct LiteralMatcher {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

/// A stretch of text between or of literal tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    Text(&'a str),
    Token(u32, &'a str),
}

impl LiteralMatcher {
    /// A matcher of `(text, id)` pairs; empty texts match nothing.
    pub(crate) fn new<'a>(
        tokens: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Result<Self, TextError> {
        let (texts, ids): (Vec<&str>, Vec<u32>) =
            tokens.into_iter().filter(|(text, _)| !text.is_empty()).unzip();
        let automaton = if texts.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(&texts);
            Some(built.map_err(|e| TextError::invalid("special tokens", "a smaller set", e))?)
        };
        Ok(Self { automaton, ids })
    }

    /// `text` cut at the literal tokens in it, in order, without empty fragments.
    pub(crate) fn split<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        let mut end = 0;
        if let Some(automaton) = &self.automaton {
            for found in automaton.find_iter(text) {
                if found.start() > end {
                    fragments.push(Fragment::Text(&text[end..found.start()]));
                }
                let id = self.ids[found.pattern().as_usize()];
                fragments.push(Fragment::Token(id, &text[found.range()]));
                end = found.end();
            }
        }
        if end < text.len() {
            fragments.push(Fragment::Text(&text[end..]));
        }
        fragments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_at_the_leftmost_place_wins() {
        let matcher = LiteralMatcher::new([("<|a", 1), ("<|a|>", 2), ("", 3)]).unwrap();
        let expected =
            [Fragment::Text("x"), Fragment::Token(2, "<|a|>"), Fragment::Token(1, "<|a")];
        assert_eq!(matcher.split("x<|a|><|a"), expected);
    }
}
