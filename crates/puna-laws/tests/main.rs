//! Tests of puna-laws against published and reference numbers, and on planted laws.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod main {
    mod fits;
    mod intervals;
    mod pictures;
    mod published;
    mod reference;
}
