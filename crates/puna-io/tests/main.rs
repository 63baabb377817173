//! Integration tests of puna-io: golden checkpoints, hostile files, writing.

mod gguf;
mod gguf_builder;
mod gguf_hostile;
mod gguf_writing;
mod hostile;
mod hub;
mod hub_hostile;
mod hub_server;
mod layouts;
mod support;
mod writing;
