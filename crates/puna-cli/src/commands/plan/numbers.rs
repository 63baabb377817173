//! Numbers of a plan as people read them.

/// GiB of bytes with two decimals.
pub(super) fn gib(bytes: f64) -> String {
    format!("{:.2} GiB", bytes / puna_laws::GIB)
}

/// Days, or hours below two days, or years beyond two.
pub(super) fn days(days: f64) -> String {
    match days {
        d if d < 0.1 => format!("{:.1} minutes", d * 1440.0),
        d if d < 2.0 => format!("{:.1} hours", d * 24.0),
        d if d > 730.0 => format!("{} days ({:.0} years)", whole(d), d / 365.25),
        d => format!("{d:.1} days"),
    }
}

/// A number without decimals, in groups of three.
pub(super) fn whole(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 1e15 => crate::units::grouped(v.round() as u64),
        v => format!("{v:.2e}"),
    }
}

/// Energy.
pub(super) fn energy(kwh: f64) -> String {
    match kwh {
        k if k >= 1e6 => format!("{:.1} GWh", k / 1e6),
        k if k >= 1e3 => format!("{:.1} MWh", k / 1e3),
        k => format!("{k:.1} kWh"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_energies_have_the_unit_one_thinks_in() {
        assert_eq!(days(7.0), "7.0 days");
        assert_eq!(days(0.5), "12.0 hours");
        assert_eq!(days(7305.0), "7,305 days (20 years)");
        assert_eq!(energy(449_839.0), "449.8 MWh");
        assert_eq!(whole(1_344.0), "1,344");
    }
}
