//! What can go wrong with an adapter.

use std::path::PathBuf;

use puna_io::IoError;
use puna_model::ModelError;
use puna_nn::NnError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeftError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder cannot be made or written.
    #[error("cannot write {path}")]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder has no adapter.
    #[error(
        "{path} has no adapter: expected adapter_config.json with adapter_model.safetensors (peft), \
         adapter.safetensors or pytorch_adapter.bin (adapters), or bitfit_config.json"
    )]
    NoAdapter {
        /// The folder.
        path: PathBuf,
    },
    /// A configuration is wrong or asks for what is not there.
    #[error("{path}: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A setting of a method is wrong.
    #[error("adapter.{key} = {value}: expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// A tensor of an adapter is missing, or does not fit.
    #[error("{path}: tensor {tensor}: {problem}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// Nothing of the model is adapted.
    #[error("no module of the model matches {targets}; it has {known}")]
    NoTarget {
        /// What was looked for.
        targets: String,
        /// Some modules of the model.
        known: String,
    },
    /// An adapter was trained for another model.
    #[error("{path}: was trained for another model (its sizes or norms differ)")]
    OtherBase {
        /// Its configuration.
        path: PathBuf,
    },
    /// Two adapters cannot be used together, or a scale cannot be applied.
    #[error("{problem}")]
    Combination {
        /// Why.
        problem: String,
    },
    /// A file has a wrong form.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A layer refused.
    #[error(transparent)]
    Nn(#[from] NnError),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<candle_core::Error> for PeftError {
    fn from(error: candle_core::Error) -> Self {
        PeftError::Nn(error.into())
    }
}
