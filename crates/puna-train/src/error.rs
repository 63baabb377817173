//! What can go wrong in a run.

use std::path::PathBuf;

use puna_data::{DataError, SftError};
use puna_io::IoError;
use puna_model::ModelError;
use puna_nn::NnError;
use puna_peft::PeftError;

use crate::log::LogError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A recipe, a model's config or a template cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A recipe is no TOML, has an unknown key or a value of the wrong kind.
    #[error("{}: {problem}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        problem: String,
    },
    /// A value of the recipe makes no sense.
    #[error("{key} = {value}: {expected}")]
    Setting {
        /// The key, as `section.key`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A shape of a sweep is none that a decoder can have.
    #[error("sweep.shape gives no model")]
    Shape(#[source] Box<puna_config::ConfigError>),
    /// An adapter cannot be built, loaded or saved.
    #[error(transparent)]
    Adapter(Box<PeftError>),
    /// The tokenizer of the data knows more tokens than the model has rows for.
    #[error("{} has {tokens} tokens, but the embedding of the model only {rows} rows", path.display())]
    Vocabulary {
        /// Data or tokenizer.
        path: PathBuf,
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// The output folder has checkpoints already.
    #[error("{} holds a run that has come to step {step}", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
        /// Its newest checkpoint.
        step: u64,
    },
    /// Another process writes into the output folder.
    #[error("another puna train is at work in {}", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("{} holds no checkpoint to resume from", path.display())]
    NothingToResume {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint is not whole.
    #[error("checkpoint {} is damaged", path.display())]
    Damaged {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with which file.
        source: Box<IoError>,
    },
    /// A run cannot go on with a recipe, or with data, that gives its rows another content.
    #[error(
        "checkpoint {}: its run was begun with {key} = {was}, not {is}; its rows would be others",
        path.display()
    )]
    Changed {
        /// Its folder.
        path: PathBuf,
        /// The setting.
        key: &'static str,
        /// Its value, or what it named, when the run began.
        was: String,
        /// What it is now.
        is: String,
    },
    /// A checkpoint does not belong to the recipe.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file or folder of the run cannot be written, renamed or removed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// An example of a classification cannot be used.
    #[error("{}: example {number} {problem}", path.display())]
    Example {
        /// The file.
        path: PathBuf,
        /// Its number in the file, from 1, or its line.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An output folder is of a run with another recipe.
    #[error("{} is not what this recipe says", path.display())]
    OtherRecipe {
        /// The recipe in the output.
        path: PathBuf,
    },
    /// A run was told to stop.
    #[error("stopped")]
    Stopped,
    /// The loss or the gradient is no number any more; the update was not made.
    #[error(
        "step {step}: the {what} is {value} on rows {first_row} to {last_row} of the data; \
         nothing was updated"
    )]
    NotFinite {
        /// The step that was not made.
        step: u64,
        /// Loss or norm of the gradient.
        what: &'static str,
        /// Its value.
        value: f64,
        /// First row of the batch.
        first_row: u64,
        /// Last row of the batch.
        last_row: u64,
    },
    /// A batch has no target at all.
    #[error("rows {first_row} to {last_row} of the data have nothing to predict")]
    NoTargets {
        /// First row of the batch.
        first_row: u64,
        /// Last row of the batch.
        last_row: u64,
    },
    /// One of several processes of a puna that was built without MPI.
    #[error("one of {processes} processes, but puna was built without the feature mpi")]
    NoMpi {
        /// Processes that were started.
        processes: usize,
    },
    /// MPI does not work.
    #[error("MPI {problem}")]
    Mpi {
        /// What is wrong.
        problem: &'static str,
    },
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The conversations.
    #[error(transparent)]
    Sft(#[from] SftError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] puna_text::TextError),
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The records.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<puna_config::ConfigError> for TrainError {
    fn from(source: puna_config::ConfigError) -> Self {
        Self::Shape(Box::new(source))
    }
}

impl From<NnError> for TrainError {
    fn from(error: NnError) -> Self {
        Self::Model(error.into())
    }
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        NnError::from(error).into()
    }
}

impl From<PeftError> for TrainError {
    fn from(error: PeftError) -> Self {
        Self::Adapter(Box::new(error))
    }
}
