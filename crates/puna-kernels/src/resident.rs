//! Resident memory of this process, as Linux tells it.
//!
//! Read from `/proc/self/status`; elsewhere unknown, as `getrusage` would need a C binding.

/// Resident memory now, in bytes.
pub fn rss_bytes() -> Option<u64> {
    field(&status()?, "VmRSS:")
}

/// Largest resident memory so far, in bytes.
pub fn peak_rss_bytes() -> Option<u64> {
    field(&status()?, "VmHWM:")
}

fn status() -> Option<String> {
    std::fs::read_to_string("/proc/self/status").ok()
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_kib() {
        let status = "VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\nVmLib: many kB\n";
        assert_eq!(field(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(field(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(field(status, "VmLib:"), None);
        assert_eq!(field(status, "VmSwap:"), None);
    }

    #[test]
    fn the_peak_is_not_below_what_was_resident_before() {
        if let Some(now) = rss_bytes() {
            assert!(now > 0);
            assert!(peak_rss_bytes() >= Some(now));
        }
    }
}
