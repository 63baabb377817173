//! Read and write checkpoints: safetensors, PyTorch, Meta, GGUF, the Hub.
//!
//! [`Checkpoint::open`] takes a folder or a file, finds out which container it is, and gives
//! tensors by the names its files use, mapped from disk where the file allows. What the names
//! mean is the model layer's business.

pub mod atomic;
pub mod bytes;
pub mod checkpoint;
pub mod dtype;
pub mod error;
pub mod gguf;
pub mod hub;
mod map;
mod meta;
mod pickle;
pub mod pytorch;
pub mod safetensors;
mod sha256;
mod shard_index;
mod tensor_file;
pub mod write;

pub use atomic::AtomicFile;
pub use bytes::{StoredTensor, TensorBytes, TensorInfo};
pub use checkpoint::{Checkpoint, Container};
pub use dtype::Dtype;
pub use error::IoError;
pub use gguf::{Gguf, GgufWriter, Value as GgufValue};
pub use sha256::{Sha256, hex};
