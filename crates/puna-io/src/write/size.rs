//! Sizes as users write them.

use crate::IoError;

/// Parses `5GB`, `500MB`, `200KB` (powers of 1000), `2GiB`, `512MiB`, `64KiB` (powers of 1024) or
/// plain bytes, `1000` or `1000B`; a fraction as in `1.5GB` is allowed, case does not matter.
///
/// # Errors
/// The text is no such size, or the size is zero or above 2⁶³ bytes.
pub fn parse_size(text: &str) -> Result<u64, IoError> {
    let syntax = || IoError::SizeSyntax { text: text.to_owned() };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1000,
        "mb" | "m" => 1000 * 1000,
        "gb" | "g" => 1000 * 1000 * 1000,
        "tb" | "t" => 1000 * 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(syntax()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit).ok_or_else(syntax)?,
        Err(_) => {
            let number: f64 = number.parse().map_err(|_| syntax())?;
            (number * unit as f64) as u64 // saturates
        }
    };
    if bytes == 0 || bytes > i64::MAX as u64 { Err(syntax()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("500MB", 500_000_000),
            ("200KB", 200_000),
            ("2GiB", 2 << 30),
            ("1.5gb", 1_500_000_000),
            (" 64 kib ", 65_536),
            ("1000", 1000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text).expect(text), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "GB", "5XB", "-1GB", "1e9", "0", "0.0GB", "1.2.3MB", "99999999999TB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
