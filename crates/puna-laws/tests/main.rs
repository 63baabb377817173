//! Tests of puna-laws against published and reference numbers, and on planted laws.

mod main {
    mod fits;
    mod intervals;
    mod pictures;
    mod published;
    mod reference;
}
