//! Text in and out of token ids: tokenizers and chat templates.
//!
//! ```text
//! tokenizer.json ──> fast           (the `tokenizers` crate)   ─┐
//! *.model (protobuf) > sentencepiece (BPE, Unigram)             ├─> Tokenizer ─> TokenStream ─> TextStreamer
//! *.model (ranks) ──> bytepair       (tiktoken, GGUF "gpt2")    ─┘
//! messages ─> ChatTemplate (Jinja or built in) ─> text ─> Tokenizer::encode_rendered ─> ids
//! ```
//! Each engine gives exactly the ids and the text of its format's reference library. A leaf crate:
//! nothing here knows of models or tensors.

mod bytepair;
mod chat;
mod error;
mod fast;
mod gguf;
mod sentencepiece;
mod specials;
mod stream;
mod streamer;
mod tokenizer;
mod train;

pub use chat::builtin::{Builtin, alpaca_prompt};
pub use chat::clock::CivilTime;
pub use chat::vendor::{VendorFormat, encode_chat};
pub use chat::{ChatTemplate, GenerationPrompt, RenderInput};
pub use error::TextError;
pub use gguf::GgufVocab;
pub use stream::TokenStream;
pub use streamer::TextStreamer;
pub use tokenizer::{DecodeSpecials, SpecialTokens, Tokenizer, TokenizerKind};
pub use train::{MOST_TRAINING_BYTES, SMALLEST_VOCAB, TrainedTokenizer, train_bpe};
