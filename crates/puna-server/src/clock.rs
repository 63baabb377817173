//! The time of day, for the `created` of answers.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Now, as Ollama writes it: RFC 3339 in UTC with nanoseconds.
pub(crate) fn rfc3339() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339_of(now.as_secs(), now.subsec_nanos())
}

/// A time so many seconds from now, likewise.
pub(crate) fn rfc3339_in(seconds: u64) -> String {
    rfc3339_of(unix_secs().saturating_add(seconds), 0)
}

fn rfc3339_of(secs: u64, nanos: u32) -> String {
    let (days, second) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(super::rfc3339_of(0, 5), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(super::rfc3339_of(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(super::rfc3339_of(1_735_689_599, 0), "2024-12-31T23:59:59.000000000Z");
    }
}
