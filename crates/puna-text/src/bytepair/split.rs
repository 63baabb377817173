//! How byte-level vocabularies cut text into words before merging.
//!
//! A list of regular expressions applied one after another: each cuts what the one before it left
//! into matches and the gaps between them. Patterns are facts of the models (published in their
//! tokenizer files; the names are llama.cpp's `tokenizer.ggml.pre`); text falls apart into the
//! same words only with the same pattern, so that an unknown name is an error and never a guess.

use fancy_regex::Regex;

use crate::TextError;

/// Llama 3's pattern (also Falcon 3, DBRX, Smaug).
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: Llama 3's with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2's.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Mistral's Tekken.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o's (Llama 4).
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// One digit at a time.
pub(crate) const DIGIT: &str = r"\p{N}";

/// What else a pre-tokenizer's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PreTokenizer {
    pub(crate) patterns: &'static [&'static str],
    /// A word that is a token as a whole is taken as it is, whatever the merges say.
    pub(crate) whole_words: bool,
    /// Whether llama.cpp adds bos where the file does not say.
    pub(crate) add_bos: bool,
}

impl PreTokenizer {
    /// By llama.cpp's name; none at all means GPT-2, as in the oldest files.
    pub(crate) fn named(name: Option<&str>) -> Result<Self, TextError> {
        let (patterns, whole_words): (&'static [&'static str], bool) = match name {
            None | Some("gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" | "jina-v2-en") => {
                (&[GPT2], false)
            }
            Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "dbrx" | "smaug-bpe") => {
                (&[LLAMA3], matches!(name, Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3")))
            }
            Some("qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez") => (&[QWEN2], false),
            Some("tekken" | "pixtral") => (&[TEKKEN], true),
            Some("gpt-4o" | "llama4") => (&[GPT4O], false),
            Some("smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone") => {
                (&[DIGIT, GPT2], false)
            }
            Some(other) => return Err(TextError::UnknownPreTokenizer { pre: other.into() }),
        };
        Ok(Self { patterns, whole_words, add_bos: whole_words })
    }

    /// The name under which llama.cpp knows these patterns.
    pub(crate) fn name_of(patterns: &[&str], whole_words: bool) -> Option<&'static str> {
        match (patterns, whole_words) {
            ([LLAMA3], true) => Some("llama-bpe"),
            ([LLAMA3], false) => Some("dbrx"),
            ([QWEN2], false) => Some("qwen2"),
            ([GPT2], false) => Some("gpt-2"),
            ([TEKKEN], true) => Some("tekken"),
            ([GPT4O], false) => Some("gpt-4o"),
            ([DIGIT, GPT2], false) => Some("smollm"),
            _ => None,
        }
    }
}

/// Compiled patterns.
#[derive(Debug, Clone)]
pub(crate) struct Splitter {
    patterns: Vec<Regex>,
}

impl Splitter {
    pub(crate) fn new(patterns: &[&str]) -> Result<Self, TextError> {
        let compile = |pattern: &&str| {
            Regex::new(pattern).map_err(|source| TextError::Pattern {
                pattern: (*pattern).to_owned(),
                source: Box::new(source),
            })
        };
        Ok(Self { patterns: patterns.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// The words of a text, in order; together they are the text.
    pub(crate) fn words<'a>(&self, text: &'a str) -> Result<Vec<&'a str>, TextError> {
        let mut words = vec![text];
        for pattern in &self.patterns {
            let mut finer = Vec::with_capacity(words.len() * 2);
            for word in words {
                cut(pattern, word, &mut finer)?;
            }
            words = finer;
        }
        Ok(words)
    }

    pub(crate) fn patterns(&self) -> Vec<&str> {
        self.patterns.iter().map(Regex::as_str).collect()
    }
}

fn cut<'a>(pattern: &Regex, text: &'a str, out: &mut Vec<&'a str>) -> Result<(), TextError> {
    let mut end = 0;
    for found in pattern.find_iter(text) {
        let found = found.map_err(|source| TextError::Pattern {
            pattern: pattern.as_str().to_owned(),
            source: Box::new(source),
        })?;
        if found.start() > end {
            out.push(&text[end..found.start()]);
        }
        if !found.range().is_empty() {
            out.push(found.as_str());
        }
        end = found.end();
    }
    if end < text.len() {
        out.push(&text[end..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_cut_by_threes_in_llama3_and_one_by_one_in_qwen2() {
        let words = |p| Splitter::new(&[p]).unwrap().words("a 12345  b").unwrap().concat();
        assert_eq!(words(LLAMA3), "a 12345  b");
        let llama = Splitter::new(&[LLAMA3]).unwrap();
        assert_eq!(llama.words("a 12345  b").unwrap(), ["a", " ", "123", "45", " ", " b"]);
        let smollm = Splitter::new(&[DIGIT, GPT2]).unwrap();
        assert_eq!(smollm.words("a 12!").unwrap(), ["a", " ", "1", "2", "!"]);
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_named() {
        let error = PreTokenizer::named(Some("klingon")).unwrap_err();
        assert_eq!(error.to_string(), "tokenizer.ggml.pre `klingon` is not known");
    }
}
