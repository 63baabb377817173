//! Integration tests of puna-io: golden checkpoints, hostile files, writing.

mod gguf;
mod gguf_builder;
mod gguf_hostile;
mod gguf_writing;
mod hostile;
mod layouts;
mod support;
mod writing;
