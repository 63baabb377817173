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

/// Reads a count as an argument: `70B`, `1.4T`, `5.76e23`; positive.
pub(crate) fn read_count(text: &str) -> Result<f64, String> {
    puna_laws::parse_count(text).map_err(|error| error.to_string())
}

/// A time as people say it: `45 s`, `12 min`, `3.2 h`, `4.1 days`.
pub(crate) fn duration(time: std::time::Duration) -> String {
    match time.as_secs_f64() {
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5_970.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
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
        let said = [45, 720, 11_520, 354_240].map(|s| duration(std::time::Duration::from_secs(s)));
        assert_eq!(said, ["45 s", "12 min", "3.2 h", "4.1 days"]);
    }
}
