//! Numbers as a picture's marks and labels write them.

/// A whole number with its thousands apart.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

/// A count in a few digits: 512, 16,384, 32.8 M, 1.20 B.
pub fn short(value: f64) -> String {
    match value {
        v if v < 1e5 => grouped(v),
        v if v < 1e6 => format!("{:.0} k", v / 1e3),
        v if v < 1e9 => format!("{:.1} M", v / 1e6),
        v if v < 1e12 => format!("{:.2} B", v / 1e9),
        v => format!("{:.2} T", v / 1e12),
    }
}

/// A number with its power of ten: 1e18, 2.15e18.
pub fn power_of_ten(value: f64) -> String {
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((digits, exponent)) if digits.contains('.') => {
            format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!(grouped(0.0), "0");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(short(16_384.0), "16,384");
        assert_eq!(short(524_288.0), "524 k");
        assert_eq!(short(1.2e9), "1.20 B");
    }

    #[test]
    fn powers_of_ten_have_no_needless_digits() {
        assert_eq!(power_of_ten(1e18), "1e18");
        assert_eq!(power_of_ten(2.15e18), "2.15e18");
        assert_eq!(power_of_ten(0.0005), "5e-4");
    }
}
