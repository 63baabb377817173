//! What can go wrong between a checkpoint and a decoder.

use std::path::PathBuf;

use puna_config::ConfigError;
use puna_io::IoError;
use puna_nn::NnError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The config says something that puna does not run, or contradicts itself.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file that holds the config.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ConfigError>,
    },
    /// The config file is missing or unreadable.
    #[error("{}: {source}", path.display())]
    ConfigFile {
        /// The file looked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A layer refused its input.
    #[error(transparent)]
    Layer(#[from] NnError),
    /// A tensor that the config calls for is not in the checkpoint.
    #[error("{}: tensor {tensor} is missing", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the files.
        tensor: String,
    },
    /// A tensor has another shape than the config says.
    #[error("{}: tensor {tensor} has shape {got:?}, the config says {expected:?}", path.display())]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the files.
        tensor: String,
        /// From the config.
        expected: Vec<usize>,
        /// From the file.
        got: Vec<usize>,
    },
    /// A tensor is stored in a type that its role does not allow.
    #[error("{}: tensor {tensor} is stored as {dtype}, which cannot be used as {role}", path.display())]
    Dtype {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the files.
        tensor: String,
        /// The stored type.
        dtype: &'static str,
        /// What it was wanted for.
        role: &'static str,
    },
    /// A quantized tensor's values are outside what its format allows.
    #[error("{}: tensor {tensor}: {problem}", path.display())]
    Quantized {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the files.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The checkpoint holds no embedding under any known name.
    #[error("{}: no token embedding found; this is not a LLaMA-family checkpoint", path.display())]
    NoEmbedding {
        /// The checkpoint.
        path: PathBuf,
    },
    /// More tokens than the model can take.
    #[error("a forward pass of no tokens was asked for")]
    NoTokens,
    /// A type that the target of a conversion cannot hold or puna cannot write.
    #[error("{dtype} cannot be written here; choose another --outtype or a GGUF target")]
    CannotWrite {
        /// The type.
        dtype: &'static str,
    },
    /// The target of a conversion cannot express the model.
    #[error("this model cannot be written as {target}: {source}")]
    Inexpressible {
        /// The target's name.
        target: &'static str,
        /// What it cannot say.
        source: Box<ConfigError>,
    },
    /// A GPU was asked for that this program cannot use.
    #[error("this puna was built without CUDA")]
    BuiltWithoutCuda,
    /// A GPU could not be opened.
    #[error("cuda:{index} cannot be opened: {source}")]
    NoDevice {
        /// Its number.
        index: usize,
        /// What CUDA said.
        source: Box<candle_core::Error>,
    },
    /// A sequence with an adapter came to a decoder on a GPU.
    #[error("adapters run on the CPU, and this model is on a GPU")]
    AdapterOnGpu,
    /// The tokenizer is broken or does not fit the model.
    #[error(transparent)]
    Text(#[from] puna_text::TextError),
}
