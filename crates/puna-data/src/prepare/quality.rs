//! Simple filters on single documents, after C4 (Raffel et al. 2020) and Gopher (Rae et al. 2021,
//! appendix A), with the numbers left to the user.

use std::collections::HashSet;

use super::options::Quality;

/// Why a document was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Empty,
    TooShort,
    TooLong,
    Symbols,
    RepeatedLines,
}

/// The first filter that a text fails.
pub(crate) fn judge(quality: &Quality, text: &str) -> Option<Reason> {
    let (mut chars, mut spaces, mut symbols) = (0usize, 0usize, 0usize);
    for c in text.chars() {
        chars += 1;
        if c.is_whitespace() {
            spaces += 1;
        } else if !c.is_alphanumeric() {
            symbols += 1;
        }
    }
    if chars == spaces {
        return Some(Reason::Empty);
    }
    if chars < quality.min_chars {
        return Some(Reason::TooShort);
    }
    if quality.max_chars.is_some_and(|most| chars > most) {
        return Some(Reason::TooLong);
    }
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    if quality.max_symbols.is_some_and(|most| share(symbols, chars) > most) {
        return Some(Reason::Symbols);
    }
    if let Some(most) = quality.max_repeated_lines {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut seen = HashSet::new();
        let (mut all, mut repeated) = (0, 0);
        for line in lines {
            all += 1;
            repeated += usize::from(!seen.insert(line));
        }
        if share(repeated, all) > most {
            return Some(Reason::RepeatedLines);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_drops_what_it_is_for() {
        let any = Quality::default();
        assert_eq!(judge(&any, " \n\u{3000}"), Some(Reason::Empty));
        assert_eq!(judge(&any, "x"), None);
        let quality = Quality {
            min_chars: 5,
            max_chars: Some(40),
            max_symbols: Some(0.25),
            max_repeated_lines: Some(0.5),
        };
        assert_eq!(judge(&quality, "héé!"), Some(Reason::TooShort));
        assert_eq!(judge(&quality, &"ab ".repeat(14)), Some(Reason::TooLong));
        assert_eq!(judge(&quality, "a{}<;x"), Some(Reason::Symbols));
        assert_eq!(judge(&quality, "same\nsame\nsame\n"), Some(Reason::RepeatedLines));
        assert_eq!(judge(&quality, "same\nsame\n\nother\n"), None);
    }
}
