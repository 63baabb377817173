//! Numbers as people read them; units are always written.

/// Bytes in GiB, MiB or KiB.
pub(crate) fn bytes(bytes: u64) -> String {
    const STEPS: [(&str, f64); 3] =
        [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
    let value = bytes as f64;
    match STEPS.iter().find(|(_, size)| value >= *size) {
        Some((unit, size)) => format!("{:.2} {unit}", value / size),
        None => format!("{bytes} bytes"),
    }
}

/// A count with the short form in front where it is long: `5.48 M (5,475,584)`.
pub(crate) fn count(count: u64) -> String {
    const STEPS: [(&str, f64); 3] = [("T", 1e12), ("B", 1e9), ("M", 1e6)];
    let value = count as f64;
    match STEPS.iter().find(|(_, size)| value >= *size) {
        Some((unit, size)) => format!("{:.2} {unit} ({})", value / size, grouped(count)),
        None => grouped(count),
    }
}

/// Digits in groups of three.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_carry_their_unit() {
        assert_eq!(bytes(6 << 20), "6.00 MiB");
        assert_eq!(bytes(12), "12 bytes");
        assert_eq!(count(5_475_584), "5.48 M (5,475,584)");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(999), "999");
    }
}
