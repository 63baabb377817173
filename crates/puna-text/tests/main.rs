//! Integration tests: the golden cases of tokenizers and chat formats, properties, hostile input.

mod chat;
mod gguf;
mod golden;
mod hostile;
mod properties;
mod streaming;
mod tokenizers;
