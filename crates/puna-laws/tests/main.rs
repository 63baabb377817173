//! Tests of puna-laws against published and reference numbers, and on planted laws.

mod main {
    mod published;
    mod reference;
}
