//! Integration tests of puna-config, one binary.

mod account;
mod golden;
mod hf;
mod rope;
mod support;
