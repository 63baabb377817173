//! Integration tests: the golden cases of tokenizers and chat formats, properties, hostile input.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stderr, reason = "skipped cases and counts are to be seen")]

mod chat;
mod gguf;
mod golden;
mod hostile;
mod properties;
mod streaming;
mod tokenizers;
