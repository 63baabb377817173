//! Integration tests of puna-config, one binary.

mod account;
mod gguf;
mod gguf_file;
mod golden;
mod hf;
mod hf_refused;
mod hostile;
mod meta;
mod rope;
mod round_trip;
mod support;
