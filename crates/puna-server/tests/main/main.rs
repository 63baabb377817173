//! A server on a socket of its own, with the model that the binary embeds, asked as clients ask.

#![expect(clippy::unwrap_used, reason = "the tests' own helpers panic as the tests do")]

mod access;
mod dialects;
mod errors;
mod grammars;
mod http;
mod lifecycle;
mod openai;
mod pages;
mod running;
mod streaming;
mod studio;
