//! Integration tests of puna-config, one binary.

mod golden;
mod hf;
mod rope;
mod support;
