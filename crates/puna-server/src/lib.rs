//! Language models over HTTP: OpenAI's, Ollama's and Anthropic's APIs, and a web page.
//!
//! ```text
//! connection ─> guard ─> endpoint (openai, ollama, anthropic) ─> Ask ─> generation ─> Scheduler
//!                              │ fields, prompt, sampling, tools              │ tokens
//!                              └── answer (whole or stream) <── Happenings <──┘
//! ```
//! Endpoints differ in names and in the form of answers; what happens in between is one path. Every
//! field of a request works or is refused by name, and every error is an object with `message`,
//! `type`, `param` and `code`.

mod anthropic;
mod api_error;
mod app;
mod body;
mod clock;
mod config;
mod error;
mod fields;
mod gbnf;
mod generation;
mod guard;
mod json;
mod log;
mod metrics;
mod model;
mod ollama;
mod openai;
mod openapi;
mod pages;
mod prompt;
mod routes;
mod sampling;
mod server;
mod studio;
mod tokenize;
mod tools;

pub use config::{Exposure, PromptLog, ServerConfig};
pub use error::{ServerError, Source};
pub use model::{Loader, ModelFacts, ModelSpec, Served};
pub use server::{Server, serve};
pub use studio::Planner;
