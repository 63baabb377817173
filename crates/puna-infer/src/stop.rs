//! When a sequence ends, and finding stop strings in text that comes in pieces.

/// What ends a sequence besides its length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// End-of-sequence ids: all that `generation_config.json` lists.
    pub eos: Vec<u32>,
    /// Further ids that end the sequence.
    pub token_ids: Vec<u32>,
    /// Strings that end the sequence wherever they appear in the new text; the text from the string
    /// on is not emitted.
    pub strings: Vec<String>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model chose an end-of-sequence token.
    Eos(u32),
    /// The model chose one of the extra stop tokens.
    StopToken(u32),
    /// A stop string appeared in the text.
    StopString(String),
    /// The new tokens asked for are there, or the context is full.
    Length,
    /// The consumer asked to stop.
    Cancelled,
    /// The job's time was over ([`crate::Job::deadline`]).
    Deadline,
}

impl FinishReason {
    /// `stop`, `length`, `cancelled` or `deadline`: OpenAI's words, and two it has none for.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Eos(_) | Self::StopToken(_) | Self::StopString(_) => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
        }
    }
}

impl StopOptions {
    /// Why `token` ends the sequence, if it does.
    pub(crate) fn token_reason(&self, token: u32) -> Option<FinishReason> {
        if self.eos.contains(&token) {
            Some(FinishReason::Eos(token))
        } else if self.token_ids.contains(&token) {
            Some(FinishReason::StopToken(token))
        } else {
            None
        }
    }
}

/// Finds stop strings across piece boundaries.
///
/// The result does not depend on how the text is cut into pieces: the string whose end comes first
/// wins, the longest one among those that end together. Text that may be the beginning of a stop
/// string is held back until that is decided.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    strings: Vec<String>,
    held: String,
}

/// What came of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// Text that is certainly before any stop string.
    pub text: String,
    /// The stop string found, if one was; nothing comes after it.
    pub stop: Option<String>,
}

impl StopMatcher {
    /// A matcher of `strings`, none of them empty.
    pub fn new(strings: &[String]) -> Self {
        Self { strings: strings.to_vec(), held: String::new() }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Matched {
        self.held.push_str(piece);
        let mut text = std::mem::take(&mut self.held);
        // Earliest end; among equal ends the earliest start.
        let ranges = self
            .strings
            .iter()
            .filter_map(|s| text.find(s.as_str()).map(|start| (start + s.len(), start, s)));
        if let Some((_, start, stop)) = ranges.min() {
            let stop = stop.clone();
            text.truncate(start);
            return Matched { text, stop: Some(stop) };
        }
        let keep = text.len() - self.undecided(&text);
        self.held = text.split_off(keep);
        Matched { text, stop: None }
    }

    /// The text held back, once no more is coming.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes of the longest end of `text` that begins a stop string.
    fn undecided(&self, text: &str) -> usize {
        let longest = self.strings.iter().map(|s| s.len().saturating_sub(1)).max().unwrap_or(0);
        let from = text.len().saturating_sub(longest);
        (from..text.len())
            .filter(|&at| text.is_char_boundary(at))
            .find(|&at| self.strings.iter().any(|s| s.starts_with(&text[at..])))
            .map_or(0, |at| text.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use super::{Matched, StopMatcher};

    fn run(strings: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let strings: Vec<String> = strings.iter().map(ToString::to_string).collect();
        let mut matcher = StopMatcher::new(&strings);
        let mut out = String::new();
        for piece in pieces {
            let Matched { text, stop } = matcher.push(piece);
            out += &text;
            if stop.is_some() {
                return (out, stop);
            }
        }
        out += &matcher.finish();
        (out, None)
    }

    #[test]
    fn a_stop_string_across_pieces_is_found_and_nothing_of_it_emitted() {
        let (text, stop) = run(&["</s>"], &["Hi <", "/", "s", "> more"]);
        assert_eq!((text.as_str(), stop.as_deref()), ("Hi ", Some("</s>")));
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_emitted_at_once() {
        let mut matcher = StopMatcher::new(&["</s>".to_string()]);
        assert_eq!(matcher.push("a</").text, "a");
        assert_eq!(matcher.push("b").text, "</b");
    }

    #[test]
    fn a_held_beginning_is_given_back_at_the_end() {
        assert_eq!(run(&["stop"], &["sto"]), ("sto".to_string(), None));
    }

    #[test]
    fn overlapping_beginnings_are_all_considered() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]).0, "a");
    }

    #[test]
    fn the_string_that_ends_first_wins_even_inside_a_longer_one() {
        assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".to_string(), Some("bc".to_string())));
    }

    #[test]
    fn the_result_does_not_depend_on_the_pieces() {
        let text = "über abcabd ab-bc 的abx";
        for strings in [vec!["abd", "bc"], vec!["b ab", "ab", "abd"], vec!["的a"], vec!["zz"]] {
            let whole = run(&strings, &[text]);
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let single: Vec<&str> = chars.iter().map(String::as_str).collect();
            assert_eq!(run(&strings, &single), whole, "{strings:?}");
            let pairs: Vec<String> = chars.chunks(2).map(<[String]>::concat).collect();
            let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
            assert_eq!(run(&strings, &pairs), whole, "{strings:?}");
        }
    }
}
