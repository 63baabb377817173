//! Numbers as people type them: `70B`, `1.4T`, `5.76e23`, and as tables print them.
//!
//! A count is a positive finite number; zero, negative numbers and NaN are refused where they are
//! read, so that no formula behind them has to ask.

use crate::error::{LawError, Result};

/// Suffixes of counts; capital and small letters mean the same.
const SUFFIXES: [(char, f64); 4] = [('T', 1e12), ('B', 1e9), ('M', 1e6), ('K', 1e3)];

/// Reads a positive number with an optional suffix K, M, B or T; `_` may separate digits.
///
/// # Errors
/// [`LawError::NotANumber`] for any other text, [`LawError::NotPositive`] for zero, negative
/// numbers, infinities and NaN.
///
/// # Examples
/// ```
/// assert_eq!(puna_laws::parse_count("70B")?, 7e10);
/// assert_eq!(puna_laws::parse_count("5.76e23")?, 5.76e23);
/// assert!(puna_laws::parse_count("-3").is_err());
/// # Ok::<(), puna_laws::LawError>(())
/// ```
pub fn parse_count(text: &str) -> Result<f64> {
    let not_a_number = || LawError::NotANumber { text: text.to_owned() };
    let plain = text.trim().replace('_', "");
    let last = plain.chars().last().ok_or_else(not_a_number)?;
    let suffix = SUFFIXES.iter().find(|(letter, _)| letter.eq_ignore_ascii_case(&last));
    let (digits, factor) = match suffix {
        Some((_, factor)) => (&plain[..plain.len() - 1], *factor),
        None => (plain.as_str(), 1.0),
    };
    let number: f64 = digits.trim_end().parse().map_err(|_| not_a_number())?;
    positive(text, number * factor)
}

/// `value`, if it is a positive finite number.
///
/// # Errors
/// [`LawError::NotPositive`], which quotes `text`.
pub(crate) fn positive(text: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(LawError::NotPositive { text: text.to_owned() })
}

/// A count with three digits and a suffix: `72.2B`, `1.33T`, `950K`; powers of ten beyond.
///
/// # Examples
/// ```
/// assert_eq!(puna_laws::short_count(7.22487e10), "72.2B");
/// assert_eq!(puna_laws::short_count(5.76e23), "5.76e23");
/// ```
#[must_use]
pub fn short_count(value: f64) -> String {
    const TOO_LARGE: f64 = 9.995e14;
    if !(1.0..TOO_LARGE).contains(&value) {
        return short_power(value);
    }
    // 999.96M is 1.00B: the unit is that of the rounded number.
    let rounded = round_digits(value, 3);
    match SUFFIXES.iter().find(|(_, factor)| rounded >= *factor) {
        Some((suffix, factor)) => format!("{}{suffix}", three_digits(rounded / factor)),
        None => three_digits(rounded),
    }
}

/// A large number as `5.76e23`.
#[must_use]
pub fn short_power(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    format!("{value:.2e}")
}

fn round_digits(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits - 1 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// `5.88`, `58.8` or `588`.
fn three_digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_with_and_without_suffixes() {
        let cases = [
            ("70B", 70e9),
            ("70b", 70e9),
            ("1.4T", 1.4e12),
            ("1e9", 1e9),
            ("100_000", 1e5),
            ("125M", 125e6),
            ("15k", 15e3),
            ("5.76e23", 5.76e23),
        ];
        for (text, expected) in cases {
            let got = parse_count(text).unwrap();
            assert!((got / expected - 1.0).abs() < 1e-12, "{text}: {got}");
        }
    }

    #[test]
    fn what_is_no_positive_number_is_refused() {
        for text in ["", "B", "seven", "7BB", "1.2.3", "7 billion", "0x10"] {
            assert!(matches!(parse_count(text), Err(LawError::NotANumber { .. })), "{text}");
        }
        for text in ["0", "-7B", "nan", "inf", "1e400", "-0"] {
            assert!(matches!(parse_count(text), Err(LawError::NotPositive { .. })), "{text}");
        }
    }

    #[test]
    fn counts_are_written_with_three_digits() {
        let cases = [
            (7.22487e10, "72.2B"),
            (1.32874e12, "1.33T"),
            (9.9996e8, "1.00B"),
            (13_015_864_320.0, "13.0B"),
            (512.0, "512"),
            (1.2e15, "1.20e15"),
        ];
        for (value, expected) in cases {
            assert_eq!(short_count(value), expected);
        }
    }
}
