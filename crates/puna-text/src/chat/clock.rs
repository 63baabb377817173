//! A date and time of day for templates that print one.
//!
//! The caller gives it, so that rendering is a pure function; only the `strftime` codes that
//! templates use are known. The calendar arithmetic is Howard Hinnant's `civil_from_days`.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const SECONDS_PER_DAY: i64 = 86_400;

/// A point in time, in the proleptic Gregorian calendar without a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CivilTime {
    /// Days since 1970-01-01.
    days: i64,
    /// Seconds since midnight.
    seconds: i64,
}

impl CivilTime {
    /// From seconds since 1970-01-01 00:00 (of whatever time zone is meant).
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self {
            days: seconds.div_euclid(SECONDS_PER_DAY),
            seconds: seconds.rem_euclid(SECONDS_PER_DAY),
        }
    }

    /// Seconds since 1970-01-01 00:00.
    pub fn unix_seconds(self) -> i64 {
        self.days * SECONDS_PER_DAY + self.seconds
    }

    /// The system's clock, in UTC.
    pub fn now_utc() -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_seconds(i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX))
    }

    /// Year, month (1 to 12) and day (1 to 31).
    fn date(self) -> (i64, usize, i64) {
        let shifted = self.days + 719_468; // days since 0000-03-01
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153; // 0 is March
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        (year_of_era + era * 400 + carry, usize::try_from(month).unwrap_or(1), day)
    }

    /// Formats as `strftime`; unknown codes are kept as they are.
    pub fn format(self, format: &str) -> String {
        let (year, month, day) = self.date();
        let month_name = MONTHS[(month - 1).min(11)];
        let weekday = WEEKDAYS[usize::try_from(self.days.rem_euclid(7)).unwrap_or(0)];
        let (hour, minute, second) =
            (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let hour12 = (hour + 11) % 12 + 1;
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            let code = if c == '%' { rest.next() } else { None };
            match code {
                None => out.push(c),
                Some('Y') => out.push_str(&year.to_string()),
                Some('y') => out.push_str(&format!("{:02}", year.rem_euclid(100))),
                Some('m') => out.push_str(&format!("{month:02}")),
                Some('d') => out.push_str(&format!("{day:02}")),
                Some('e') => out.push_str(&format!("{day:2}")),
                Some('B') => out.push_str(month_name),
                Some('b' | 'h') => out.push_str(&month_name[..3]),
                Some('A') => out.push_str(weekday),
                Some('a') => out.push_str(&weekday[..3]),
                Some('H') => out.push_str(&format!("{hour:02}")),
                Some('I') => out.push_str(&format!("{hour12:02}")),
                Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('M') => out.push_str(&format!("{minute:02}")),
                Some('S') => out.push_str(&format!("{second:02}")),
                Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
                Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
                Some('%') => out.push('%'),
                Some(other) => out.extend(['%', other]),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_have_their_names() {
        let format = |seconds, f| CivilTime::from_unix_seconds(seconds).format(f);
        assert_eq!(format(0, "%A %d %B %Y"), "Thursday 01 January 1970");
        assert_eq!(format(1_721_952_000, "%d %b %Y"), "26 Jul 2024");
        assert_eq!(format(951_827_696, "%F %T %I%p %q%%"), "2000-02-29 12:34:56 12PM %q%");
        assert_eq!(format(-1, "%F %H:%M"), "1969-12-31 23:59");
    }
}
