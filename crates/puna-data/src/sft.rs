//! Conversations for supervised fine-tuning: from json and jsonl to packed rows.
//!
//! ```text
//! Alpaca, ShareGPT, OpenAI messages ─ SftReader ─> Conversation ─ split ─> train, validation
//! Conversation ─ Renderer (the model's own chat template) ─> Document (tokens, what is trained)
//! Documents ─ packing ─> SftRows: a RowSource, documents out of each other's sight
//! ```
//! The text and the tokens of a prompt are those that `puna chat` sends for the same messages.
//! Nothing is cut or left out without being counted in an [`SftReport`].

mod alpaca;
mod conversation;
mod document;
mod error;
mod layout;
mod pack;
mod read;
mod render;
mod rows;
mod tools;
mod turns;

#[cfg(test)]
mod tests;

pub use conversation::{Conversation, Side, split};
pub use document::{Document, TrainOn};
pub use error::{At, Place, SftError};
pub use layout::{Columns, SftFormat};
pub use pack::Packing;
pub use read::{SftFile, SftReader, Unusable};
pub use render::Renderer;
pub use rows::{SftOptions, SftReport, SftRows, TooLong};
pub use tools::ToolStyle;
