//! Tests of puna-laws against published and reference numbers, and on planted laws.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod main {
    mod checks;
    mod claims;
    mod fits;
    mod intervals;
    mod machines;
    mod own_sweep;
    mod pictures;
    mod published;
    mod reference;
}
