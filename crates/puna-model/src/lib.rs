//! The one decoder, loaded from and saved to any checkpoint dialect.
//!
//! LLaMA, Mistral, Mixtral, Gemma, Qwen and Phi are one [`Decoder`] with different values of
//! `DecoderConfig`; what their files call things is in one module, `dialect`. A file per
//! architecture, as candle-transformers has, repeats the same thousand lines sixteen times.

pub mod convert;
mod decoder;
mod device;
mod dialect;
mod error;
pub mod export;
mod float;
mod gguf_meta;
mod loader;
mod model;
mod quantized;
mod slot;
mod vocabulary;

pub use candle_core::Device;
pub use decoder::{Decoder, Logits, Recompute, Segment, Stage, TokenRows, Trainable, TrainingPass};
pub use device::{DeviceChoice, cuda_device};
pub use dialect::{Dialect, GgufExperts, Location, Part, RowOrder, module_path};
pub use error::ModelError;
pub use float::to_f32 as floats;
pub use gguf_meta::GgufView;
pub use model::{LoadOptions, Model, WeightLayout, read_config};
pub use puna_kernels::KvType;
pub use puna_nn::ops::LossSum;
pub use puna_nn::{AdapterSet, KvBlock, KvCache, Parameter, Precision};
pub use puna_nn::{Expert, LayerSlot, Slot};
pub use slot::{matrix_shape, slots};
pub use vocabulary::{chat_template, tokenizer};
